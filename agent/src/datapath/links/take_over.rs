//! Links of another version of the agent.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ringfence_hooks::{Hook, tcx};

use super::super::error::DatapathError;
use super::Links;

impl Links {
    /// Replaces the programs that a folder of another version records on these interfaces by the
    /// new ones, each atomically. Continues after an error.
    pub(in super::super) fn take_over(
        &mut self,
        from: &Path,
        of_these: &dyn Fn(u32) -> bool,
    ) -> Result<(), DatapathError> {
        let taken = self.filters.take_over(from, of_these, &mut self.ebpf);
        let mut taken = taken.map_err(DatapathError::from);
        for (ifindex, hook, path) in tcx::pins(&tcx::links(from))? {
            if of_these(ifindex) {
                taken = taken.and(self.take_over_one(ifindex, hook, &path));
            }
        }
        taken
    }

    /// Takes over one link. The pin moves first: programs pinned in the new folder use complete
    /// tables, so any agent that finds the pin may put the new program under it.
    fn take_over_one(&mut self, ifindex: u32, hook: Hook, pin: &Path) -> Result<(), DatapathError> {
        if self.links.contains_key(&(ifindex, hook)) {
            return Ok(tcx::remove_pin(pin)?);
        }
        let path = self.folder.join(hook.file(ifindex));
        fs::rename(pin, &path).map_err(|source| DatapathError::File {
            operation: "moving",
            path: pin.to_owned(),
            source,
        })?;
        self.adopt_one(ifindex, hook, &path)
    }

    /// Sets the interfaces that programs of another version guard. Nothing is attached there.
    pub(in super::super) fn leave(&mut self, interfaces: BTreeSet<u32>) {
        self.left = interfaces;
    }
}
