//! Which answered connections are protected from eviction, and for how long.

use super::path::Path;
use super::{Pending, Tables};
use crate::abi::{Direction, EndpointRules, Quota, Stat};
use crate::conntrack::{self, State};
use crate::packet::protocol;
use crate::shared::SharedConnection;

impl<T: Tables> Path<'_, T> {
    /// Moves an answered connection to the table that a flood can't evict from, within this
    /// endpoint's quota. A connection over the quota stays where it is. Returns whether the
    /// packet may pass.
    ///
    /// Once an unprotected connection is evicted, each of its packets needs a full decision. So if
    /// policy would deny a connection's answers, the connection has to be kept, or else is refused.
    #[inline(never)]
    pub(super) fn replied(&self, pending: &Pending, connection: &SharedConnection) -> bool {
        let (slot, clock) = (self.context.slot, self.context.clock);
        let lasts = matches!(self.packet.protocol, protocol::TCP | protocol::SCTP);
        if !self.may_keep(lasts) {
            if self
                .tables
                .swap(pending.tag, &pending.key, connection, clock)
            {
                return true;
            }
            self.tables.count(Stat::ConnectionsOverQuota);
        } else if self
            .tables
            .promote(pending.tag, &pending.key, connection, slot, clock)
        {
            for slot in [slot, Quota::NODE] {
                if let Some(quota) = self.tables.quota(slot) {
                    quota.keep();
                }
            }
            return true;
        } else {
            self.tables.count(Stat::ConnectionsNotStored);
        }
        let answers = if connection.opened_by.get() == Direction::Egress as u8 {
            EndpointRules::INGRESS_ISOLATED
        } else {
            EndpointRules::EGRESS_ISOLATED
        };
        if !lasts || self.rules.flags & answers == 0 {
            return true;
        }
        conntrack::hold_back(connection, self.packet.protocol);
        false
    }

    /// Reports whether the endpoint may keep one more replied connection; `lasts` is true for
    /// connection-oriented protocols.
    #[inline(always)]
    fn may_keep(&self, lasts: bool) -> bool {
        let all = match self.tables.quota(Quota::NODE) {
            Some(all) => all.kept(self.tables.gone(Quota::NODE)),
            None => 0,
        };
        let slot = self.context.slot;
        let gone = self.tables.gone(slot);
        let most = if lasts {
            Quota::REPLIED
        } else {
            Quota::REPLIED_BRIEF
        };
        match self.tables.quota(slot) {
            Some(quota) => quota.may_keep(self.endpoint.id, most, gone, all),
            None => true,
        }
    }

    /// Makes room for live connections: moves an ended connection to the unanswered ones, and
    /// removes a connection that was replaced by a new one on its ports.
    #[inline(never)]
    pub(super) fn turned(&self, pending: &Pending, connection: &SharedConnection, state: u8) {
        let clock = self.context.clock;
        if state == State::Closing as u8 {
            // Insert first, so that the connection is never missing from both tables.
            if !self
                .tables
                .open(pending.tag, &pending.key, connection, clock)
            {
                return;
            }
        } else if state != conntrack::ANSWERS_ANEW || !self.is_answered(pending) {
            return;
        }
        // Only the CPU that removed the entry adjusts the counts.
        if !self.tables.forget(pending.tag, &pending.key) {
            return;
        }
        if let Some(quota) = self.tables.quota(self.context.slot)
            && quota.endpoint.get() == self.endpoint.id
        {
            quota.let_go();
        }
        if let Some(all) = self.tables.quota(Quota::NODE) {
            all.let_go();
        }
    }

    /// Reports whether the packet answers a SYN that arrived while its ports had a live connection.
    /// If so, that connection is over, and the new one takes its place.
    #[inline(always)]
    fn is_answered(&self, pending: &Pending) -> bool {
        let clock = self.context.clock;
        let Some(new) = self.tables.opening(pending.tag, &pending.key, clock) else {
            return false;
        };
        let (direction, packet) = (self.direction, self.packet);
        if new.expired(clock) || !conntrack::answers(new, direction, packet) {
            return false;
        }
        conntrack::advance(new, direction, packet, self.context.len, clock.now);
        true
    }
}
