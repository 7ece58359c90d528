//! The flow that a packet belongs to: found, asked about, confirmed, stored.

use core::hint::cold_path;

use super::path::{Known, Path};
use super::{Policy, Tables, Track};
use crate::abi::{Direction, EndpointWorld, Flow, FlowKey, Identity, Quota, Stat};
use crate::conntrack::{self, State};
use crate::packet::{self, Frame, Packet, mark};
use crate::shared::SharedFlow;

/// What the flow tables know of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// It belongs to a flow that policy allows; the flow's flags.
    Passes(u8),
    /// It belongs to a flow that policy has taken back.
    Revoked,
    /// It has to be decided in full.
    Absent(Known),
}

impl Found {
    const REVOKED: u32 = 1 << 8;
    const ABSENT: u32 = 1 << 9;

    /// As one number, what is known of an absent one left out: a function that the
    /// verifier walks by itself returns one register.
    #[inline(always)]
    const fn packed(self) -> u32 {
        match self {
            Self::Passes(flags) => flags as u32,
            Self::Revoked => Self::REVOKED,
            Self::Absent(_) => Self::ABSENT,
        }
    }

    /// From that number; what is absent is something.
    #[inline(always)]
    const fn unpacked(number: u32) -> Self {
        match number {
            Self::REVOKED => Self::Revoked,
            Self::ABSENT => Self::Absent(Known::Something),
            flags => Self::Passes(flags as u8),
        }
    }
}

/// What is noted of a flow that an allowed packet opens.
#[derive(Clone, Copy, Debug)]
pub(super) struct New {
    /// Workload of the peer.
    pub(super) peer: u32,
    /// Bits of [`Flow`]'s constants.
    pub(super) flags: u8,
    /// What counts it.
    pub(super) stat: Stat,
}

impl<T: Tables> Path<'_, T> {
    /// Looks for the flow that the packet belongs to; its key goes to `track`.
    #[inline(always)]
    pub(super) fn established(&self, track: &mut Track) -> Found {
        let packet = self.packet;
        packet.put_flow_key(self.direction, self.endpoint.id, &mut track.key);
        if packet.is(mark::STARTS) || self.half.flags & EndpointWorld::QUARANTINE != 0 {
            return Found::Absent(Known::Unasked);
        }
        track.tag = self.tables.tag(&track.key);
        let Some(flow) = self.tables.flow(track.tag, &track.key) else {
            cold_path();
            return self.not_replied(track);
        };
        match self.take_in(flow, &track.key) {
            Ok((flags, state)) => {
                if state == State::Closing as u8 {
                    cold_path();
                    // Room for those that live: what has ended is kept with the brief ones.
                    self.end(track, flow);
                }
                Found::Passes(flags)
            }
            Err(found) => found,
        }
    }

    #[inline(never)]
    fn end(&self, track: &Track, flow: &SharedFlow) {
        let clock = self.context.clock;
        if !self.tables.demote(track.tag, &track.key, flow, clock) {
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

    /// The same among the flows that aren't replied yet or no longer.
    #[inline(always)]
    fn not_replied(&self, track: &mut Track) -> Found {
        let clock = self.context.clock;
        match self.tables.opening(track.tag, &track.key, clock) {
            Some(flow) => Found::unpacked(self.not_replied_yet(track, flow)),
            None => Found::Absent(Known::Nothing),
        }
    }

    #[inline(never)]
    fn not_replied_yet(&self, track: &Track, flow: &SharedFlow) -> u32 {
        if flow.state.get() == State::PickedUp as u8
            && flow.opened_by.get() != self.direction as u8
            && !self.may_be_reply()
        {
            // Nobody but it says that there is a connection: no other flags.
            return Found::Absent(Known::Something).packed();
        }
        match self.take_in(flow, &track.key) {
            Ok((flags, state)) => {
                if state == State::Replied as u8 {
                    self.replied(track, flow);
                }
                Found::Passes(flags).packed()
            }
            Err(found) => found.packed(),
        }
    }

    /// Moves a flow to those that a flood can't push out, as many as this
    /// endpoint may have there; the others go on where they are.
    #[inline(never)]
    fn replied(&self, track: &Track, flow: &SharedFlow) {
        let (slot, clock) = (self.context.slot, self.context.clock);
        if !self.may_keep() {
            self.tables.count(Stat::FlowsOverQuota);
        } else if self
            .tables
            .promote(track.tag, &track.key, flow, slot, clock)
        {
            for slot in [slot, Quota::NODE] {
                if let Some(quota) = self.tables.quota(slot) {
                    quota.keep();
                }
            }
        } else {
            self.tables.count(Stat::FlowsNotStored);
        }
    }

    /// Whether the endpoint may keep one more replied flow.
    #[inline(always)]
    fn may_keep(&self) -> bool {
        let all = match self.tables.quota(Quota::NODE) {
            Some(all) => all.kept(self.tables.gone(Quota::NODE)),
            None => 0,
        };
        let slot = self.context.slot;
        let gone = self.tables.gone(slot);
        match self.tables.quota(slot) {
            Some(quota) => quota.may_keep(self.endpoint.id, gone, all),
            None => true,
        }
    }

    /// Takes the packet into a live flow that policy allows now; gives the flow's flags
    /// and [`State`], else what becomes of the packet.
    ///
    /// Where the epoch is old, the opener's packet is decided in full; the
    /// other side's only asks whether the opener would still be allowed. It must
    /// not be decided as if it opened something: that would turn a revoked
    /// flow into one of the other side's own.
    #[inline(always)]
    fn take_in(&self, flow: &SharedFlow, key: &FlowKey) -> Result<(u8, u8), Found> {
        let clock = self.context.clock;
        let by_opener = flow.opened_by.get() == self.direction as u8;
        let fits = if by_opener {
            mark::BY_OPENER
        } else {
            mark::BY_OTHER
        };
        if flow.expired(clock) || !self.packet.is(fits) {
            return Err(Found::Absent(Known::Something));
        }
        if flow.epoch.get() != self.half.epoch {
            cold_path();
            if by_opener {
                return Err(Found::Absent(Known::Something));
            }
            match self.again(flow, key) {
                Policy::Allow => flow.epoch.set(self.half.epoch),
                Policy::Deny if !self.auditing() => return Err(Found::Revoked),
                // Stays old until its opener speaks, who is then counted.
                Policy::Deny | Policy::Audit => {}
            }
        }
        let state = conntrack::advance(
            flow,
            self.direction,
            self.packet,
            self.context.len,
            clock.now,
        );
        Ok((flow.flags.get(), state))
    }

    /// Asks policy once more, in the direction in which the flow was opened.
    #[inline(never)]
    fn again(&self, flow: &SharedFlow, key: &FlowKey) -> Policy {
        let flags = flow.flags.get();
        let by_pod = flow.opened_by.get() == Direction::Egress as u8;
        let (direction, port) = if by_pod {
            (Direction::Egress, key.remote_port)
        } else {
            (Direction::Ingress, key.local_port)
        };
        let peer = self.judge(direction, &key.remote, key.protocol as u8, port);
        if flags & Flow::ALWAYS != 0 {
            return self.again_with_node(by_pod, peer.flags, key);
        }
        if flags & Flow::SERVICE != 0 && self.leads_to_service(peer.flags) {
            // Which backend it is shows in its opener's packets only.
            return Policy::Allow;
        }
        if flags & Flow::MASQUERADED != 0 {
            // Who it is shows in its opener's packets only: until then it stays old.
            return Policy::Audit;
        }
        peer.policy
    }

    /// Whether it is an ICMP error about a live flow of this endpoint, which
    /// path-MTU discovery can't do without.
    #[inline(never)]
    pub(super) fn related<F: Frame + ?Sized>(
        &self,
        frame: &F,
        inner: &mut Packet,
        key: &mut FlowKey,
    ) -> bool {
        if self.half.flags & EndpointWorld::QUARANTINE != 0 {
            return false;
        }
        if packet::quoted(frame, self.packet, inner).is_none() {
            return false;
        }
        // An error goes to the sender of the packet that it quotes; to anybody
        // else it would carry what it likes past policy.
        if !self.packet.destination.same(&inner.source) {
            return false;
        }
        if self.direction == Direction::Ingress && !self.may_report(inner) {
            return false;
        }
        // The packet that met the error went the other way.
        inner.put_flow_key(self.direction.reverse(), self.endpoint.id, key);
        let live = |flow: &SharedFlow| {
            flow.epoch.get() == self.half.epoch && !flow.expired(self.context.clock)
        };
        let tag = self.tables.tag(key);
        match self.tables.flow(tag, key) {
            Some(flow) => live(flow),
            None => self
                .tables
                .opening(tag, key, self.context.clock)
                .is_some_and(live),
        }
    }

    /// Whether the sender of an ICMP error can have seen the packet that it quotes, as
    /// far as this node can tell.
    ///
    /// This node has seen all that its pods send. A pod has only seen what was for it:
    /// it reports as the far end, under the address that the quoted packet went to (NAT
    /// rewrites the error's source as it does a reply's). Anybody else may be a router on
    /// the way, unless there is none: to another endpoint of this node.
    #[inline(never)]
    fn may_report(&self, quoted: &Packet) -> bool {
        let packet = self.packet;
        if self.context.by_node || packet.source.same(&quoted.destination) {
            return true;
        }
        if self.context.tag.slot() != 0 {
            return false;
        }
        let who = self.tables.identity(&packet.source);
        let is_pod = who.workload >= Identity::FIRST
            && who.flags & (Identity::IS_NODE | Identity::IS_SERVICE) == 0;
        !is_pod && self.tables.local(&quoted.destination) == 0
    }

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
        if adopted {
            self.adopt(track);
        } else if self.packet.is(mark::OPENS) {
            let opened = conntrack::opened(
                self.direction,
                self.packet.protocol,
                self.half.epoch,
                track.new.peer,
                self.context.len,
                self.context.clock.now,
            );
            let flags = track.new.flags;
            track.flow.set(&Flow { flags, ..opened });
        } else {
            return;
        }
        self.store(track, known, track.new.stat);
    }

    #[inline(always)]
    fn store(&self, track: &mut Track, known: Known, stat: Stat) {
        if known != Known::Nothing {
            // A reused port takes its old entry over, wherever that lies.
            track.tag = self.tables.tag(&track.key);
            if let Some(old) = self.tables.flow(track.tag, &track.key) {
                old.copy(&track.flow);
                self.tables.count(stat);
                return;
            }
        }
        let clock = self.context.clock;
        let stored = self.tables.open(track.tag, &track.key, &track.flow, clock);
        self.tables
            .count(if stored { stat } else { Stat::FlowsNotStored });
    }

    /// Confirms a live flow whose opener was decided anew: it goes on as it was.
    #[inline(never)]
    fn confirm(&self, track: &Track) -> bool {
        let new = &track.new;
        let confirmed = |flow: &SharedFlow| {
            let clock = self.context.clock;
            let by_opener = flow.opened_by.get() == self.direction as u8;
            if !by_opener || !self.packet.is(mark::BY_OPENER) || flow.expired(clock) {
                return false;
            }
            flow.epoch.set(self.half.epoch);
            flow.peer.set(new.peer);
            flow.flags.set(new.flags);
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
            self.half.epoch,
            track.new.peer,
            0,
            context.clock.now,
        );
        track.flow.set(&Flow {
            packets: [0; 2],
            state: State::PickedUp as u8,
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
