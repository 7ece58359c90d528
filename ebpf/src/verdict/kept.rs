//! Which answered flows are kept where nobody pushes them out, and for how long.

use super::path::Path;
use super::{Tables, Track};
use crate::abi::{Direction, EndpointWorld, Quota, Stat};
use crate::conntrack::{self, State};
use crate::packet::protocol;
use crate::shared::SharedFlow;

impl<T: Tables> Path<'_, T> {
    /// Moves a flow to those that a flood can't push out, as many as this endpoint may
    /// have there. The others go on where they are; whether the packet may pass.
    ///
    /// One that is pushed out there is decided anew with each packet. So a connection whose
    /// answers policy denies has to be kept, or doesn't come about.
    #[inline(never)]
    pub(super) fn replied(&self, track: &Track, flow: &SharedFlow) -> bool {
        let (slot, clock) = (self.context.slot, self.context.clock);
        let lasts = matches!(self.packet.protocol, protocol::TCP | protocol::SCTP);
        if !self.may_keep(lasts) {
            if self.tables.swap(track.tag, &track.key, flow, clock) {
                return true;
            }
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
            return true;
        } else {
            self.tables.count(Stat::FlowsNotStored);
        }
        let answers = if flow.opened_by.get() == Direction::Egress as u8 {
            EndpointWorld::INGRESS_ISOLATED
        } else {
            EndpointWorld::EGRESS_ISOLATED
        };
        if !lasts || self.half.flags & answers == 0 {
            return true;
        }
        conntrack::hold_back(flow, self.packet.protocol);
        false
    }

    /// Whether the endpoint may keep one more replied flow, of a protocol with connections
    /// or of another.
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

    /// Makes room for those that live: what has ended is kept with the brief ones, and a
    /// connection in whose place there is a new one goes.
    #[inline(never)]
    pub(super) fn turned(&self, track: &Track, flow: &SharedFlow, state: u8) {
        let clock = self.context.clock;
        if state == State::Closing as u8 {
            // There first: there is no moment without it.
            if !self.tables.open(track.tag, &track.key, flow, clock) {
                return;
            }
        } else if state != conntrack::ANSWERS_ANEW || !self.is_answered(track) {
            return;
        }
        // Only who takes it out counts it.
        if !self.tables.forget(track.tag, &track.key) {
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

    /// Whether the packet answers a SYN that came while its ports had a live connection:
    /// then that is over, and the new one goes on.
    #[inline(always)]
    fn is_answered(&self, track: &Track) -> bool {
        let clock = self.context.clock;
        let Some(new) = self.tables.opening(track.tag, &track.key, clock) else {
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
