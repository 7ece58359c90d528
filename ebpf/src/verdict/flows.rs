//! The flow that a packet belongs to: found, and asked about.

use core::hint::cold_path;

use super::memo::Asks;
use super::path::{Known, Path};
use super::{Policy, Tables, Track};
use crate::abi::{Direction, EndpointWorld, Flow, FlowKey, Reason};
use crate::conntrack::{self, State};
use crate::packet::mark;
use crate::shared::SharedFlow;

/// What the flow tables know of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// It belongs to a flow that policy allows; the flow's flags.
    Passes(u8),
    /// It belongs to a flow that policy has taken back, or that can't be kept.
    Denied(Reason),
    /// It has to be decided in full.
    Absent(Known),
}

impl Found {
    const REVOKED: u32 = 1 << 8;
    const ABSENT: u32 = 1 << 9;
    const REFUSED: u32 = 1 << 10;

    /// As one number, what is known of an absent one left out: a function that the
    /// verifier walks by itself returns one register.
    #[inline(always)]
    const fn packed(self) -> u32 {
        match self {
            Self::Passes(flags) => flags as u32,
            Self::Denied(Reason::ConnectionLimit) => Self::REFUSED,
            Self::Denied(_) => Self::REVOKED,
            Self::Absent(_) => Self::ABSENT,
        }
    }

    /// From that number; what is absent is something.
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
                if state > State::Replied as u8 {
                    cold_path();
                    self.turned(track, flow, state);
                }
                Found::Passes(flags)
            }
            Err(found) => found,
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
                let answered = state == State::Replied as u8
                    || state == State::OpenerDone as u8
                    || state == State::OtherDone as u8;
                if answered && !self.replied(track, flow) {
                    return Found::Denied(Reason::ConnectionLimit).packed();
                }
                Found::Passes(flags).packed()
            }
            Err(found) => found.packed(),
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
            match self.is_allowed_still(flow, key, by_opener) {
                Policy::Allow => {}
                Policy::Audit => return Err(Found::Absent(Known::Something)),
                Policy::Deny => return Err(Found::Denied(Reason::Policy)),
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

    /// Whether an epoch of a flow's is the one in force.
    #[inline(always)]
    pub(super) const fn is_current(&self, epoch: u32) -> bool {
        epoch & !Flow::AUDITED == self.half.epoch
    }

    /// Whether a flow that isn't plainly allowed in this epoch may go on; `Audit` if its
    /// packet has to be decided in full.
    #[inline(never)]
    fn is_allowed_still(&self, flow: &SharedFlow, key: &FlowKey, by_opener: bool) -> Policy {
        if self.is_current(flow.epoch.get()) {
            // What is only audited shows each minute: nobody waits for a pool's next
            // connection to see that it would be cut.
            let is_due = flow.minute.get() != self.context.clock.minute();
            return if by_opener && is_due {
                Policy::Audit
            } else {
                Policy::Allow
            };
        }
        if by_opener || flow.flags.get() & Flow::EITHER != 0 {
            return Policy::Audit;
        }
        match self.again(flow, key) {
            Policy::Allow => flow.epoch.set(self.half.epoch),
            Policy::Deny if !self.auditing() => return Policy::Deny,
            // Stays old until its opener speaks, who is then counted.
            Policy::Deny | Policy::Audit => {}
        }
        Policy::Allow
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
        let (ruleset, asks) = Asks::of(self.half, direction, key.protocol as u8, port);
        let with_node = flags & Flow::ALWAYS != 0;
        let ruleset = if with_node {
            self.tiers(direction)
        } else {
            ruleset
        };
        let peer = self.judge_by(ruleset, asks, &key.remote);
        if with_node {
            return self.again_with_node(by_pod, ruleset, &peer);
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
}
