//! Moves from another version's hooks to this one's, once the tables of this one are complete.

use std::collections::BTreeSet;

use ringfence_ebpf::abi::EndpointRules;
use ringfence_policy::index::PodKey;
use ringfence_policy::tables::Tables;

use super::error::DatapathError;
use super::{Datapath, apply};

impl Datapath {
    /// Replaces another version's programs by the new ones once the new tables are `in_force`.
    /// Until then only replaces those of pods under quarantine, which can't wait. Returns whether
    /// all were replaced.
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
            policy.is_some_and(|policy| policy.flags & EndpointRules::QUARANTINE != 0)
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

    /// Returns a description of the other versions from which this agent takes over and of what is
    /// kept; none once that is complete.
    pub fn takes_over_from(&self) -> Option<String> {
        self.predecessors.words()
    }

    /// Removes everything that the other version pinned.
    pub(super) fn finish_move(&mut self) -> Result<(), DatapathError> {
        self.predecessors.finish(&mut self.links)
    }
}
