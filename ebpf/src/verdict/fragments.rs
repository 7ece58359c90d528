//! Fragments: those that follow pass if the first one did.

use super::path::Path;
use super::{Tables, Verdict};
use crate::abi::{EndpointWorld, Fragments, Stat};

/// Seconds for which Linux keeps what it can't put together yet (`IP_FRAG_TIME`).
const PATIENCE: u64 = 30;

impl<T: Tables> Path<'_, T> {
    /// Lets later fragments follow a first one that has passed.
    #[inline(never)]
    pub(super) fn follow(&self, service: bool) {
        let key = self.packet.fragment_key(self.hook as u32, self.endpoint.id);
        // A second first fragment mustn't uncover what the first one held.
        let held = match self.tables.fragments(&key) {
            Some(first) if first.held > self.packet.fragment_len => first.held,
            _ => self.packet.fragment_len,
        };
        let fragments = Fragments {
            since: self.context.clock.now,
            epoch: self.half.epoch,
            held,
            service: u32::from(service),
            pad: 0,
        };
        if !self.tables.keep_fragments(&key, &fragments) {
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
        let key = self.packet.fragment_key(self.hook as u32, self.endpoint.id);
        let first = self.tables.fragments(&key)?;
        let clock = self.context.clock;
        let fresh = clock.now.saturating_sub(first.since) <= PATIENCE * clock.second;
        let behind = u32::from(self.packet.fragment_at) >= first.held;
        (fresh && behind && first.epoch == self.half.epoch).then_some(Verdict {
            service: first.service != 0,
            ..Verdict::ALLOW
        })
    }
}
