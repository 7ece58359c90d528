//! The flow that an allowed packet opens, or confirms.

use super::older::Whose;
use super::path::{Known, Path};
use super::{Policy, Tables, Track};
use crate::abi::{Direction, EndpointWorld, Flow, Stat};
use crate::conntrack::{self, State};
use crate::packet::{mark, protocol};
use crate::shared::SharedFlow;

/// What is noted of a flow that an allowed packet opens.
#[derive(Clone, Copy, Debug)]
pub(super) struct New {
    /// Workload of the peer.
    pub(super) peer: u32,
    /// Bits of [`Flow`]'s constants.
    pub(super) flags: u8,
    /// What counts it.
    pub(super) stat: Stat,
    /// What policy says of it, where it opens a connection in the direction of the packet.
    pub(super) asked: Policy,
}

impl<T: Tables> Path<'_, T> {
    /// Tracks an allowed packet's connection under the key in `track`; an adopted one as
    /// the reply of a connection that its other end opened before anybody looked.
    #[inline(never)]
    pub(super) fn open(&self, track: &mut Track, known: Known, adopted: bool) {
        if known == Known::Untracked || self.half.flags & EndpointWorld::QUARANTINE != 0 {
            return;
        }
        if known == Known::Something && self.confirm(track) {
            return;
        }
        let whose = if adopted {
            Whose::OTHERS
        } else if !self.packet.is(mark::OPENS) {
            return;
        } else if self.may_be_older() {
            self.whose(track)
        } else {
            Whose::SENDERS
        };
        match whose {
            Whose::NOBODYS => return,
            Whose::OTHERS => self.adopt(track),
            _ => self.begin(track, whose == Whose::EITHERS),
        }
        self.store(track, known, track.new.stat);
    }

    /// The flow that the packet opens.
    #[inline(always)]
    fn begin(&self, track: &mut Track, either: bool) {
        let clock = self.context.clock;
        let opened = conntrack::opened(
            self.direction,
            self.packet.protocol,
            self.epoch(track),
            track.new.peer,
            self.context.len,
            clock.now,
        );
        let flags = track.new.flags | if either { Flow::EITHER } else { 0 };
        let numbers = match self.direction {
            Direction::Ingress => [self.packet.numbers, 0],
            Direction::Egress => [0, self.packet.numbers],
        };
        track.flow.set(&Flow {
            flags,
            numbers,
            minute: clock.minute(),
            ..opened
        });
    }

    /// The epoch of a flow that is opened or confirmed now.
    #[inline(always)]
    fn epoch(&self, track: &Track) -> u32 {
        let audited = track.audited || track.new.stat as u32 == Stat::FlowsAudited as u32;
        self.half.epoch | if audited { Flow::AUDITED } else { 0 }
    }

    #[inline(always)]
    fn store(&self, track: &mut Track, known: Known, stat: Stat) {
        if known != Known::Nothing {
            // A reused port takes its old entry over, wherever that lies.
            track.tag = self.tables.tag(&track.key);
            if let Some(old) = self.tables.flow(track.tag, &track.key) {
                if !self.outlives(old) {
                    old.copy(&track.flow);
                    self.tables.count(stat);
                    return;
                }
                if self.packet.protocol != protocol::TCP {
                    return;
                }
                // Beside it, until it is answered.
            }
        }
        let clock = self.context.clock;
        let stored = self.tables.open(track.tag, &track.key, &track.flow, clock);
        self.tables
            .count(if stored { stat } else { Stat::FlowsNotStored });
    }

    /// Whether a live connection stays what it is under a packet that asks for a new one on
    /// its ports: its far end refuses a stray SYN, and answers one of a new connection
    /// (RFC 9293, 3.10.7.4; RFC 9260, 5.2.2).
    #[inline(always)]
    fn outlives(&self, old: &SharedFlow) -> bool {
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

    /// Confirms a live flow whose opener was decided anew: it goes on as it was.
    #[inline(never)]
    fn confirm(&self, track: &Track) -> bool {
        let new = &track.new;
        let confirmed = |flow: &SharedFlow| {
            let clock = self.context.clock;
            let by_opener = flow.opened_by.get() == self.direction as u8;
            let flags = flow.flags.get();
            if !by_opener || !self.packet.is(mark::BY_OPENER) || flow.expired(clock) {
                return false;
            }
            if flags & Flow::EITHER != 0 && !self.is_current(flow.epoch.get()) {
                return false;
            }
            flow.epoch.set(self.epoch(track));
            flow.minute.set(clock.minute());
            flow.peer.set(new.peer);
            flow.flags
                .set(new.flags | flags & (Flow::PICKED_UP | Flow::EITHER));
            conntrack::advance(
                flow,
                self.direction,
                self.packet,
                self.context.len,
                clock.now,
            );
            true
        };
        if let Some(flow) = self.tables.flow(track.tag, &track.key) {
            return confirmed(flow);
        }
        let clock = self.context.clock;
        match self.tables.opening(track.tag, &track.key, clock) {
            Some(flow) => confirmed(flow),
            None => false,
        }
    }

    /// The flow of which an unknown packet is taken for the reply.
    #[inline(never)]
    fn adopt(&self, track: &mut Track) {
        let context = self.context;
        let opened = conntrack::opened(
            self.direction.reverse(),
            self.packet.protocol,
            self.epoch(track),
            track.new.peer,
            0,
            context.clock.now,
        );
        track.flow.set(&Flow {
            packets: [0; 2],
            state: State::PickedUp as u8,
            flags: track.new.flags,
            // With its opener's first packet it is counted, if it is audited.
            minute: context.clock.minute().wrapping_sub(1),
            ..opened
        });
        conntrack::advance(
            &track.flow,
            self.direction,
            self.packet,
            context.len,
            context.clock.now,
        );
    }
}
