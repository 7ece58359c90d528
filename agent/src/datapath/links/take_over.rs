//! Links of another version of the agent.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::super::error::DatapathError;
use super::super::hook::Hook;
use super::{Links, listing, remove_pin};

impl Links {
    /// Puts the new programs in the place of those that a folder of another version
    /// records on these interfaces, each at once. The first thing that fails keeps no
    /// other from being replaced.
    pub(in super::super) fn take_over(
        &mut self,
        from: &Path,
        of_these: &dyn Fn(u32) -> bool,
    ) -> Result<(), DatapathError> {
        let mut taken = self.filters.take_over(from, of_these, &mut self.ebpf);
        for (ifindex, hook, path) in pins(&from.join("links"))? {
            if of_these(ifindex) {
                taken = taken.and(self.take_over_one(ifindex, hook, &path));
            }
        }
        taken
    }

    /// The pin moves first. What is pinned here is decided by tables that are complete,
    /// so whoever finds it may put the new program under it.
    fn take_over_one(&mut self, ifindex: u32, hook: Hook, pin: &Path) -> Result<(), DatapathError> {
        if self.links.contains_key(&(ifindex, hook)) {
            return remove_pin(pin);
        }
        let path = self.folder.join(hook.file(ifindex));
        fs::rename(pin, &path).map_err(|source| DatapathError::File {
            operation: "moving",
            path: pin.to_owned(),
            source,
        })?;
        self.adopt_one(ifindex, hook, &path)
    }

    /// Says which interfaces programs of another version guard. Nothing is attached there.
    pub(in super::super) fn leave(&mut self, interfaces: BTreeSet<u32>) {
        self.left = interfaces;
    }
}

/// The links that are pinned in a folder; none where there is no folder.
pub(in super::super) fn pins(folder: &Path) -> Result<Vec<(u32, Hook, PathBuf)>, DatapathError> {
    let mut pins = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(pins),
        entries => entries.map_err(|e| listing(folder, e))?,
    };
    for entry in entries {
        let path = entry.map_err(|e| listing(folder, e))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some((ifindex, hook)) = name.and_then(Hook::parse) {
            pins.push((ifindex, hook, path));
        }
    }
    Ok(pins)
}
