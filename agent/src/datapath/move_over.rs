//! From another version's hooks to these, once what these decide by is complete.

use std::collections::BTreeSet;

use ringfence_ebpf::abi::EndpointWorld;
use ringfence_policy::index::PodKey;
use ringfence_policy::tables::Tables;

use super::error::DatapathError;
use super::{Datapath, apply};

impl Datapath {
    /// Puts the new programs in the place of another version's, once what they decide by
    /// is `in_force`; until then for pods under quarantine alone, which waits for nothing.
    /// Whether nothing of the other version's is left to replace.
    pub(super) fn move_over(
        &mut self,
        tables: &Tables,
        in_force: bool,
    ) -> Result<bool, DatapathError> {
        if self.predecessors.is_empty() {
            return Ok(false);
        }
        let is_cut = |pod: &PodKey| {
            let policy = tables.endpoints.get(pod);
            policy.is_some_and(|policy| policy.flags & EndpointWorld::QUARANTINE != 0)
        };
        let cut = self.interfaces.iter().filter(|one| is_cut(&one.pod));
        let cut: BTreeSet<u32> = cut.map(|one| one.ifindex).collect();
        if in_force && !self.predecessors.shares_connections {
            let window = u64::try_from(self.options.pickup.as_nanos()).unwrap_or(u64::MAX);
            self.pickup_until = apply::monotonic()?.saturating_add(window);
            self.endpoints.pick_up(&mut self.maps, self.pickup_until)?;
        }
        let only = (!in_force).then_some(&cut);
        self.predecessors.move_over(&mut self.links, only)?;
        Ok(in_force)
    }

    /// From which other versions this agent takes over, and what of theirs goes on, in
    /// words; none once that is done.
    pub fn takes_over_from(&self) -> Option<String> {
        self.predecessors.words()
    }

    /// Removes what the other version pinned.
    pub(super) fn finish_move(&mut self) -> Result<(), DatapathError> {
        self.predecessors.finish(&mut self.links)
    }
}
