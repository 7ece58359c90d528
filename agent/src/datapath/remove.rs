//! `ringfence uninstall`: removes every trace, links and filters first.

use std::fs;
use std::path::{Path, PathBuf};

use aya::programs::links::PinnedLink;
use ringfence_hooks::PROGRAM_PINS;
use serde::Serialize;

use super::error::DatapathError;
use super::lock::Lock;
use super::{predecessors, preflight};

/// Number of removed objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Removed {
    /// Pinned links: removing the last reference to a link detaches its program.
    pub links: usize,
    /// Filters on clsact qdiscs.
    pub filters: usize,
    /// Pinned maps.
    pub maps: usize,
}

/// Removes all pins of every ABI version below the pin directory, and the directory itself. A
/// missing directory isn't an error.
///
/// # Errors
/// Names the file that couldn't be removed; earlier removals persist.
pub fn uninstall(pin_dir: &Path) -> Result<Removed, DatapathError> {
    let mut removed = Removed::default();
    if !pin_dir.exists() {
        return Ok(removed);
    }
    // On any other filesystem these files would belong to somebody else.
    preflight::bpffs(pin_dir)?;
    for (_, version) in predecessors::versions(pin_dir)? {
        let _lock = Lock::take(&version)?;
        removed.filters += ringfence_hooks::uninstall(&version)?;
        let links = version.join("links");
        if links.exists() {
            for link in list(&links)? {
                detach(&link)?;
                removed.links += 1;
            }
            fs::remove_dir(&links).map_err(|error| file("removing", &links, error))?;
        }
        let programs = version.join(PROGRAM_PINS);
        if programs.exists() {
            for program in list(&programs)? {
                delete(&program)?;
            }
            fs::remove_dir(&programs).map_err(|error| file("removing", &programs, error))?;
        }
        for map in list(&version)? {
            delete(&map)?;
            removed.maps += 1;
        }
        fs::remove_dir(&version).map_err(|error| file("removing", &version, error))?;
    }
    // Only if the directory is ours alone: a mount point can't be removed.
    if list(pin_dir)?.is_empty() {
        let _ = fs::remove_dir(pin_dir);
    }
    Ok(removed)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
        .map_err(|error| file("listing", folder, error))
}

/// Removes a pinned link. The kernel detaches asynchronously if the last reference was a pin, but
/// synchronously if it was a descriptor.
fn detach(path: &Path) -> Result<(), DatapathError> {
    let held = PinnedLink::from_pin(path);
    delete(path)?;
    drop(held);
    Ok(())
}

fn delete(path: &Path) -> Result<(), DatapathError> {
    fs::remove_file(path).map_err(|error| file("removing", path, error))
}

fn file(operation: &'static str, path: &Path, source: std::io::Error) -> DatapathError {
    DatapathError::File {
        operation,
        path: path.to_owned(),
        source,
    }
}
