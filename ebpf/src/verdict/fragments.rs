//! Fragments: later fragments pass if the first one did.
//!
//! An allowed first fragment adds an entry to the unanswered connections, with the packet's
//! identification in place of ports. So the same limits apply to it: per endpoint, kind and pair of
//! ends.

use core::hint::cold_path;

use super::path::Path;
use super::{Pending, Tables, Verdict};
use crate::abi::{Connection, ConnectionKey, EndpointRules, Stat};
use crate::conntrack;

/// Seconds for which Linux keeps an incomplete packet (`IP_FRAG_TIME`).
const PATIENCE: u32 = 30;

impl<T: Tables> Path<'_, T> {
    #[inline(always)]
    fn put_fragment_key(&self, key: &mut ConnectionKey) {
        let (hook, endpoint) = (self.hook as u32, self.endpoint.id);
        self.packet
            .put_fragment_key(hook, self.direction, endpoint, key);
    }

    /// Allows the later fragments of a packet that passes.
    #[inline(always)]
    pub(super) fn track_if_first(&self, pending: &mut Pending, verdict: Verdict) -> Verdict {
        if self.packet.first_fragment && verdict.passes(self.denial) {
            cold_path();
            self.track_fragments(pending, verdict.service);
        }
        verdict
    }

    /// Allows the later fragments of a packet that both ends allow: for the receiver and, if the
    /// sender's egress is decided here, also for the sender.
    #[inline(never)]
    pub(super) fn track_if_first_to_pod(&self, pending: &mut Pending) {
        self.track_fragments(pending, false);
        if self.senders_egress_counts()
            && let Some(sender) = self.sender()
        {
            self.of_sender(sender).track_fragments(pending, false);
        }
    }

    /// Allows later fragments to follow a first one that has passed. Overwrites `pending`.
    #[inline(never)]
    pub(super) fn track_fragments(&self, pending: &mut Pending, service: bool) {
        self.put_fragment_key(&mut pending.key);
        let clock = self.context.clock;
        let mut held = u64::from(self.packet.fragment_len);
        pending.tag = self.tables.tag(&pending.key);
        // A second first fragment mustn't shrink the bytes covered by the first one.
        if let Some(first) = self.tables.opening(pending.tag, &pending.key, clock)
            && !first.expired(clock)
        {
            held = held.max(first.bytes[0].get());
        }
        let peer = self.tables.identity(&pending.key.remote).workload;
        pending.connection.set(&Connection {
            timeout: PATIENCE,
            // Bytes of the packet that later fragments may not overlap.
            bytes: [held, 0],
            flags: if service { Connection::SERVICE } else { 0 },
            ..conntrack::opened(self.direction, 0, self.rules.epoch, peer, 0, clock.now)
        });
        if !self
            .tables
            .open(pending.tag, &pending.key, &pending.connection, clock)
        {
            self.tables.count(Stat::FragmentsNotStored);
        }
    }

    /// Returns the verdict on a later fragment whose first one has passed.
    ///
    /// A fragment that overlaps the first could rewrite the ports on which that verdict was
    /// based. Receivers differ in how they treat it, so it is never let through.
    #[inline(always)]
    pub(super) fn of_first_fragment(&self) -> Option<Verdict> {
        if self.packet.fragment_at == 0 || self.rules.flags & EndpointRules::QUARANTINE != 0 {
            return None;
        }
        let mut key = ConnectionKey::EMPTY;
        self.put_fragment_key(&mut key);
        let clock = self.context.clock;
        let tag = self.tables.tag(&key);
        let first = self.tables.opening(tag, &key, clock)?;
        let fresh = !first.expired(clock);
        let behind = u64::from(self.packet.fragment_at) >= first.bytes[0].get();
        (fresh && behind && first.epoch.get() == self.rules.epoch).then_some(Verdict {
            service: first.flags.get() & Connection::SERVICE != 0,
            ..Verdict::ALLOW
        })
    }
}
