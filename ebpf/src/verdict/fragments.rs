//! Fragments: those that follow pass if the first one did.
//!
//! What an allowed first fragment leaves lies among the flows that aren't replied, as
//! one whose ports are the packet's identification: so its place is bounded as theirs
//! are, by endpoint, kind and pair of ends.

use core::hint::cold_path;

use super::path::Path;
use super::{Tables, Track, Verdict};
use crate::abi::{EndpointWorld, Flow, FlowKey, Stat};
use crate::conntrack;

/// Seconds for which Linux keeps what it can't put together yet (`IP_FRAG_TIME`).
const PATIENCE: u32 = 30;

impl<T: Tables> Path<'_, T> {
    #[inline(always)]
    fn put_fragment_key(&self, key: &mut FlowKey) {
        let (hook, endpoint) = (self.hook as u32, self.endpoint.id);
        self.packet
            .put_fragment_key(hook, self.direction, endpoint, key);
    }

    /// Lets the fragments follow that belong to a packet that passes.
    #[inline(always)]
    pub(super) fn followed(&self, track: &mut Track, verdict: Verdict) -> Verdict {
        if self.packet.first_fragment && verdict.passes(self.noted) {
            cold_path();
            self.follow(track, verdict.service);
        }
        verdict
    }

    /// Lets the fragments follow that belong to a packet which both ends allow, past the
    /// receiver and, as far as its egress has a say here, past the sender.
    #[inline(never)]
    pub(super) fn followed_to_pod(&self, track: &mut Track) {
        self.follow(track, false);
        if self.senders_egress_counts()
            && let Some(sender) = self.sender()
        {
            self.of_sender(sender).follow(track, false);
        }
    }

    /// Lets later fragments follow a first one that has passed. What `track` held is
    /// of no meaning any more.
    #[inline(never)]
    pub(super) fn follow(&self, track: &mut Track, service: bool) {
        self.put_fragment_key(&mut track.key);
        let clock = self.context.clock;
        let mut held = u64::from(self.packet.fragment_len);
        track.tag = self.tables.tag(&track.key);
        // A second first fragment mustn't uncover what the first one held.
        if let Some(first) = self.tables.opening(track.tag, &track.key, clock)
            && !first.expired(clock)
        {
            held = held.max(first.bytes[0].get());
        }
        let peer = self.tables.identity(&track.key.remote).workload;
        track.flow.set(&Flow {
            timeout: PATIENCE,
            // Bytes of the packet that what follows may not overlap.
            bytes: [held, 0],
            flags: if service { Flow::SERVICE } else { 0 },
            ..conntrack::opened(self.direction, 0, self.half.epoch, peer, 0, clock.now)
        });
        if !self.tables.open(track.tag, &track.key, &track.flow, clock) {
            self.tables.count(Stat::FragmentsNotStored);
        }
    }

    /// The verdict on a later fragment whose first one has passed.
    ///
    /// One that overlaps the first could rewrite the ports by which that was
    /// decided; whatever its receiver makes of it, it doesn't get there.
    #[inline(always)]
    pub(super) fn follows(&self) -> Option<Verdict> {
        if self.packet.fragment_at == 0 || self.half.flags & EndpointWorld::QUARANTINE != 0 {
            return None;
        }
        let mut key = FlowKey::EMPTY;
        self.put_fragment_key(&mut key);
        let clock = self.context.clock;
        let tag = self.tables.tag(&key);
        let first = self.tables.opening(tag, &key, clock)?;
        let fresh = !first.expired(clock);
        let behind = u64::from(self.packet.fragment_at) >= first.bytes[0].get();
        (fresh && behind && first.epoch.get() == self.half.epoch).then_some(Verdict {
            service: first.flags.get() & Flow::SERVICE != 0,
            ..Verdict::ALLOW
        })
    }
}
