//! Looks up a packet's connection and checks that policy still allows it.

use core::hint::cold_path;

use super::memo::Asks;
use super::path::{Known, Path};
use super::{Pending, Policy, Tables};
use crate::abi::{Connection, ConnectionKey, Direction, EndpointRules, Reason};
use crate::conntrack::{self, State};
use crate::packet::mark;
use crate::shared::SharedConnection;

/// The result of looking up a packet's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// The packet belongs to a connection that policy allows; holds the connection's flags.
    Passes(u8),
    /// The packet belongs to a connection that policy has revoked, or that can't be kept.
    Denied(Reason),
    /// The packet needs a full decision.
    Absent(Known),
}

impl Found {
    const REVOKED: u32 = 1 << 8;
    const ABSENT: u32 = 1 << 9;
    const REFUSED: u32 = 1 << 10;

    /// Packs the result into one number, dropping the [`Known`] of an absent connection: a function
    /// that the verifier walks separately returns one register.
    #[inline(always)]
    const fn packed(self) -> u32 {
        match self {
            Self::Passes(flags) => flags as u32,
            Self::Denied(Reason::ConnectionLimit) => Self::REFUSED,
            Self::Denied(_) => Self::REVOKED,
            Self::Absent(_) => Self::ABSENT,
        }
    }

    /// Unpacks such a number; an absent connection becomes [`Known::Something`].
    #[inline(always)]
    const fn unpacked(number: u32) -> Self {
        match number {
            Self::REVOKED => Self::Denied(Reason::Policy),
            Self::REFUSED => Self::Denied(Reason::ConnectionLimit),
            Self::ABSENT => Self::Absent(Known::Something),
            flags => Self::Passes(flags as u8),
        }
    }
}

impl<T: Tables> Path<'_, T> {
    /// Looks up the connection that the packet belongs to; stores its key in `pending`.
    #[inline(always)]
    pub(super) fn established(&self, pending: &mut Pending) -> Found {
        let packet = self.packet;
        packet.put_connection_key(self.direction, self.endpoint.id, &mut pending.key);
        if packet.is(mark::STARTS) || self.rules.flags & EndpointRules::QUARANTINE != 0 {
            return Found::Absent(Known::Unasked);
        }
        pending.tag = self.tables.tag(&pending.key);
        let Some(connection) = self.tables.connection(pending.tag, &pending.key) else {
            cold_path();
            return self.not_replied(pending);
        };
        match self.take_in(connection, &pending.key) {
            Ok((flags, state)) => {
                if state > State::Replied as u8 {
                    cold_path();
                    self.turned(pending, connection, state);
                }
                Found::Passes(flags)
            }
            Err(found) => found,
        }
    }

    /// Looks up the packet among connections that aren't answered yet or are over.
    #[inline(always)]
    fn not_replied(&self, pending: &mut Pending) -> Found {
        let clock = self.context.clock;
        match self.tables.opening(pending.tag, &pending.key, clock) {
            Some(connection) => Found::unpacked(self.not_replied_yet(pending, connection)),
            None => Found::Absent(Known::Nothing),
        }
    }

    #[inline(never)]
    fn not_replied_yet(&self, pending: &Pending, connection: &SharedConnection) -> u32 {
        if connection.state.get() == State::PickedUp as u8
            && connection.opened_by.get() != self.direction as u8
            && !self.may_be_reply()
        {
            // Only this side's packets suggest that the connection exists, so only packets that may
            // be replies continue it.
            return Found::Absent(Known::Something).packed();
        }
        match self.take_in(connection, &pending.key) {
            Ok((flags, state)) => {
                let answered = state == State::Replied as u8
                    || state == State::OpenerDone as u8
                    || state == State::OtherDone as u8;
                if answered && !self.replied(pending, connection) {
                    return Found::Denied(Reason::ConnectionLimit).packed();
                }
                Found::Passes(flags).packed()
            }
            Err(found) => found.packed(),
        }
    }

    /// Accounts the packet to a live connection that policy still allows. Returns the connection's
    /// flags and [`State`], or else what to do with the packet.
    ///
    /// If the connection's epoch is old, the opener's packet needs a full decision. For the other
    /// side's packet, only the opener's permission is checked again. That packet must not be
    /// decided as if it opened a connection: it would turn a revoked connection into one opened by
    /// the other side.
    #[inline(always)]
    fn take_in(
        &self,
        connection: &SharedConnection,
        key: &ConnectionKey,
    ) -> Result<(u8, u8), Found> {
        let clock = self.context.clock;
        let by_opener = connection.opened_by.get() == self.direction as u8;
        let fits = if by_opener {
            mark::BY_OPENER
        } else {
            mark::BY_OTHER
        };
        if connection.expired(clock) || !self.packet.is(fits) {
            return Err(Found::Absent(Known::Something));
        }
        if connection.epoch.get() != self.rules.epoch {
            cold_path();
            match self.is_allowed_still(connection, key, by_opener) {
                Policy::Allow => {}
                Policy::Audit => return Err(Found::Absent(Known::Something)),
                Policy::Deny => return Err(Found::Denied(Reason::Policy)),
            }
        }
        let state = conntrack::advance(
            connection,
            self.direction,
            self.packet,
            self.context.len,
            clock.now,
        );
        Ok((connection.flags.get(), state))
    }

    /// Reports whether a connection's epoch is the current one.
    #[inline(always)]
    pub(super) const fn is_current(&self, epoch: u32) -> bool {
        epoch & !Connection::AUDITED == self.rules.epoch
    }

    /// Checks a connection that isn't recorded as plainly allowed in this epoch. Returns `Audit` if
    /// the packet needs a full decision.
    #[inline(never)]
    fn is_allowed_still(
        &self,
        connection: &SharedConnection,
        key: &ConnectionKey,
        by_opener: bool,
    ) -> Policy {
        if self.is_current(connection.epoch.get()) {
            // An audited connection is counted once a minute, so that a long-lived pooled
            // connection shows up too, and not only when the pool opens its next one.
            let is_due = connection.minute.get() != self.context.clock.minute();
            return if by_opener && is_due {
                Policy::Audit
            } else {
                Policy::Allow
            };
        }
        if by_opener || connection.flags.get() & Connection::EITHER != 0 {
            return Policy::Audit;
        }
        match self.again(connection, key) {
            Policy::Allow => connection.epoch.set(self.rules.epoch),
            Policy::Deny if !self.auditing() => return Policy::Deny,
            // Keep the old epoch until the opener sends a packet, which is then counted.
            Policy::Deny | Policy::Audit => {}
        }
        Policy::Allow
    }

    /// Evaluates policy again, in the direction in which the connection was opened.
    #[inline(never)]
    fn again(&self, connection: &SharedConnection, key: &ConnectionKey) -> Policy {
        let flags = connection.flags.get();
        let by_pod = connection.opened_by.get() == Direction::Egress as u8;
        let (direction, port) = if by_pod {
            (Direction::Egress, key.remote_port)
        } else {
            (Direction::Ingress, key.local_port)
        };
        let (ruleset, asks) = Asks::of(self.rules, direction, key.protocol as u8, port);
        let with_node = flags & Connection::ALWAYS != 0;
        let ruleset = if with_node {
            self.tiers(direction)
        } else {
            ruleset
        };
        let peer = self.judge_by(ruleset, asks, &key.remote);
        if with_node {
            return self.again_with_node(by_pod, ruleset, &peer);
        }
        if flags & Connection::SERVICE != 0 && self.leads_to_service(peer.flags) {
            // Only the opener's packets reveal the backend.
            return Policy::Allow;
        }
        if flags & Connection::MASQUERADED != 0 {
            // Only the opener's packets reveal the peer: keep the old epoch until then.
            return Policy::Audit;
        }
        peer.policy
    }
}
