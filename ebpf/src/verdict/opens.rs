//! The connection that an allowed packet opens or confirms.

use super::older::Whose;
use super::path::{Known, Path};
use super::{Pending, Policy, Tables};
use crate::abi::{Connection, Direction, EndpointRules, Stat};
use crate::conntrack::{self, State};
use crate::packet::{mark, protocol};
use crate::shared::SharedConnection;

/// The properties of a connection that an allowed packet opens.
#[derive(Clone, Copy, Debug)]
pub(super) struct New {
    /// Workload of the peer.
    pub(super) peer: u32,
    /// Bits of [`Connection`]'s constants.
    pub(super) flags: u8,
    /// The counter to increment.
    pub(super) stat: Stat,
    /// The policy decision, if the packet opens a connection in its own direction.
    pub(super) asked: Policy,
}

impl<T: Tables> Path<'_, T> {
    /// Tracks an allowed packet's connection under the key in `pending`. An adopted packet is
    /// tracked as the reply of a connection that its other end opened before the hooks saw it.
    #[inline(never)]
    pub(super) fn open(&self, pending: &mut Pending, known: Known, adopted: bool) {
        if known == Known::Untracked || self.rules.flags & EndpointRules::QUARANTINE != 0 {
            return;
        }
        if known == Known::Something && self.confirm(pending) {
            return;
        }
        let whose = if adopted {
            Whose::OTHERS
        } else if !self.packet.is(mark::OPENS) {
            return;
        } else if self.may_be_older() {
            self.whose(pending)
        } else {
            Whose::SENDERS
        };
        match whose {
            Whose::NOBODYS => return,
            Whose::OTHERS => self.adopt(pending),
            _ => self.begin(pending, whose == Whose::EITHERS),
        }
        self.store(pending, known, pending.new.stat);
    }

    /// Builds the connection that the packet opens.
    #[inline(always)]
    fn begin(&self, pending: &mut Pending, either: bool) {
        let clock = self.context.clock;
        let opened = conntrack::opened(
            self.direction,
            self.packet.protocol,
            self.epoch(pending),
            pending.new.peer,
            self.context.len,
            clock.now,
        );
        let flags = pending.new.flags | if either { Connection::EITHER } else { 0 };
        let numbers = match self.direction {
            Direction::Ingress => [self.packet.numbers, 0],
            Direction::Egress => [0, self.packet.numbers],
        };
        pending.connection.set(&Connection {
            flags,
            numbers,
            minute: clock.minute(),
            ..opened
        });
    }

    /// Returns the epoch to store in a connection that is being opened or confirmed.
    #[inline(always)]
    fn epoch(&self, pending: &Pending) -> u32 {
        let audited = pending.audited || pending.new.stat as u32 == Stat::ConnectionsAudited as u32;
        self.rules.epoch | if audited { Connection::AUDITED } else { 0 }
    }

    #[inline(always)]
    fn store(&self, pending: &mut Pending, known: Known, stat: Stat) {
        if known != Known::Nothing {
            // A connection on reused ports overwrites the old entry, in whichever table it is.
            pending.tag = self.tables.tag(&pending.key);
            if let Some(old) = self.tables.connection(pending.tag, &pending.key) {
                if !self.outlives(old) {
                    old.copy(&pending.connection);
                    self.tables.count(stat);
                    return;
                }
                if self.packet.protocol != protocol::TCP {
                    return;
                }
                // Store the new connection beside the old one until it is answered.
            }
        }
        let clock = self.context.clock;
        let stored = self
            .tables
            .open(pending.tag, &pending.key, &pending.connection, clock);
        self.tables.count(if stored {
            stat
        } else {
            Stat::ConnectionsNotStored
        });
    }

    /// Reports whether a live connection survives a packet that asks for a new one on its ports:
    /// its far end rejects a stray SYN, and answers the SYN of a real new connection
    /// (RFC 9293, 3.10.7.4; RFC 9260, 5.2.2).
    #[inline(always)]
    fn outlives(&self, old: &SharedConnection) -> bool {
        let state = old.state.get();
        let lives = state == State::Replied as u8
            || state == State::OpenerDone as u8
            || state == State::OtherDone as u8;
        lives
            && self.packet.is(mark::STARTS)
            && !old.expired(self.context.clock)
            && self.is_current(old.epoch.get())
            && (self.packet.protocol == protocol::TCP
                || old.opened_by.get() == self.direction as u8)
    }

    /// Confirms a live connection after a full decision on its opener's packet, so that it
    /// continues. Returns whether there is such a connection.
    #[inline(never)]
    fn confirm(&self, pending: &Pending) -> bool {
        let new = &pending.new;
        let confirmed = |connection: &SharedConnection| {
            let clock = self.context.clock;
            let by_opener = connection.opened_by.get() == self.direction as u8;
            let flags = connection.flags.get();
            if !by_opener || !self.packet.is(mark::BY_OPENER) || connection.expired(clock) {
                return false;
            }
            if flags & Connection::EITHER != 0 && !self.is_current(connection.epoch.get()) {
                return false;
            }
            connection.epoch.set(self.epoch(pending));
            connection.minute.set(clock.minute());
            connection.peer.set(new.peer);
            connection
                .flags
                .set(new.flags | flags & (Connection::PICKED_UP | Connection::EITHER));
            conntrack::advance(
                connection,
                self.direction,
                self.packet,
                self.context.len,
                clock.now,
            );
            true
        };
        if let Some(connection) = self.tables.connection(pending.tag, &pending.key) {
            return confirmed(connection);
        }
        let clock = self.context.clock;
        match self.tables.opening(pending.tag, &pending.key, clock) {
            Some(connection) => confirmed(connection),
            None => false,
        }
    }

    /// Builds the connection for an unknown packet that is assumed to be a reply on it.
    #[inline(never)]
    fn adopt(&self, pending: &mut Pending) {
        let context = self.context;
        let opened = conntrack::opened(
            self.direction.reverse(),
            self.packet.protocol,
            self.epoch(pending),
            pending.new.peer,
            0,
            context.clock.now,
        );
        pending.connection.set(&Connection {
            packets: [0; 2],
            state: State::PickedUp as u8,
            flags: pending.new.flags,
            // If audited, the connection is counted with its opener's first packet.
            minute: context.clock.minute().wrapping_sub(1),
            ..opened
        });
        conntrack::advance(
            &pending.connection,
            self.direction,
            self.packet,
            context.len,
            context.clock.now,
        );
    }
}
