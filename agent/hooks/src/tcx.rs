//! tcx links: attach first, pin, detach. Linux 6.6 or later.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::{Hook, HookError, chain, query};

/// Suffix of a pin that isn't in its final place yet. Not a dot: bpffs reserves those.
const FRESH: &str = "-new";

/// The lock for attaching: held by the agent or by a plugin, never by both at once.
#[derive(Debug)]
pub struct AttachLock(#[allow(dead_code, reason = "held for its drop")] Flock<File>);

impl AttachLock {
    /// Waits for the lock. `folder` is the pin directory of one ABI version. A holder
    /// attaches the programs of one device, then releases the lock; the kernel releases it
    /// if the holder dies.
    ///
    /// # Errors
    /// If the folder of links doesn't exist.
    pub fn take(folder: &Path) -> Result<Self, HookError> {
        let links = links(folder);
        let file = File::open(&links).map_err(|error| HookError::file("opening", &links, error))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map(Self)
            .map_err(|(_, errno)| HookError::file("locking", &links, errno.into()))
    }
}

/// Returns the folder of pinned links, below the pin directory of one ABI version.
pub fn links(folder: &Path) -> PathBuf {
    folder.join("links")
}

/// Returns the pinned links in a folder; none if there is no folder. Files with other
/// names are skipped.
///
/// # Errors
/// If the folder can't be listed.
pub fn pins(links: &Path) -> Result<Vec<(u32, Hook, PathBuf)>, HookError> {
    let mut pins = Vec::new();
    if !links.exists() {
        return Ok(pins);
    }
    for path in list(links)? {
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some((ifindex, hook)) = name.and_then(Hook::parse) {
            pins.push((ifindex, hook, path));
        }
    }
    Ok(pins)
}

/// Removes the pins left by a process that was killed before it could rename them.
///
/// # Errors
/// If the folder can't be listed, or a pin can't be removed.
pub fn remove_leftovers(links: &Path) -> Result<(), HookError> {
    for path in list(links)? {
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.ends_with(FRESH)) {
            remove_pin(&path)?;
        }
    }
    Ok(())
}

/// Attaches a program first on a hook and pins its link. The program may already be there,
/// under another link.
///
/// # Errors
/// If the kernel refuses, with `EEXIST` if the program is already on the hook; or if
/// the interface was renamed or is gone.
pub fn attach_first(
    program: &mut SchedClassifier,
    links: &Path,
    ifindex: u32,
    name: &str,
    hook: Hook,
) -> Result<FdLink, HookError> {
    let operation = || format!("attaching {} to {name}", hook.program());
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(name, hook.attach_type(), first)
        .map_err(|error| HookError::program(operation(), &error))?;
    let link: FdLink = program
        .take_link(id)
        .map_err(|error| HookError::program(operation(), &error))?
        .try_into()
        .map_err(|error: LinkError| HookError::link(operation(), &error))?;
    // The name may have passed to another interface since it was looked up.
    if nix::net::if_::if_nametoindex(name).ok() != Some(ifindex) {
        let message = "the interface was renamed meanwhile".to_owned();
        return Err(HookError::said(operation(), message));
    }
    // Rename into place, so that there is always a pin.
    let path = links.join(hook.file(ifindex));
    let fresh = links.join(hook.file(ifindex) + FRESH);
    let pinned = link.pin(&fresh).map_err(|error| {
        let operation = format!("pinning {}", fresh.display());
        HookError::said(operation, chain(&error))
    })?;
    fs::rename(&fresh, &path).map_err(|error| HookError::file("renaming", &fresh, error))?;
    Ok(FdLink::from(pinned))
}

/// Replaces the program of a pinned link, atomically. Returns `None` if the interface is
/// gone; the pin is then removed.
///
/// # Errors
/// If the pin isn't a link, or the kernel refuses.
pub fn replace(
    program: &mut SchedClassifier,
    pin: &Path,
    hook: Hook,
) -> Result<Option<FdLink>, HookError> {
    let operation = || format!("putting {} under {}", hook.program(), pin.display());
    let link = PinnedLink::from_pin(pin).map_err(|error| HookError::link(operation(), &error))?;
    let link: SchedClassifierLink = FdLink::from(link)
        .try_into()
        .map_err(|error: LinkError| HookError::link(operation(), &error))?;
    let id = match program.attach_to_link(link) {
        Ok(id) => id,
        Err(error) => {
            let error = HookError::program(operation(), &error);
            // The interface is gone, and with it everything that the link guarded.
            if error.errno() == Some(Errno::ENOLINK) {
                remove_pin(pin)?;
                return Ok(None);
            }
            return Err(error);
        }
    };
    program
        .take_link(id)
        .map_err(|error| HookError::program(operation(), &error))?
        .try_into()
        .map(Some)
        .map_err(|error: LinkError| HookError::link(operation(), &error))
}

/// Reports whether a program is on a hook of a device.
///
/// # Errors
/// If the device is gone, or this process may not query it.
pub fn is_attached(id: u32, ifindex: u32, hook: Hook) -> Result<bool, HookError> {
    Ok(on(ifindex, hook)?.contains(&id))
}

/// Reports whether a program with this hook's program name is on it, whichever agent loaded it.
///
/// # Errors
/// If the device is gone, or this process may not query it.
pub fn stands(ifindex: u32, hook: Hook) -> Result<bool, HookError> {
    let all = on(ifindex, hook)?;
    Ok(all
        .into_iter()
        .any(|id| query::name(id).as_deref() == Some(hook.program())))
}

fn on(ifindex: u32, hook: Hook) -> Result<Vec<u32>, HookError> {
    query::programs(ifindex, hook.attach_type()).map_err(|error| {
        let operation = format!("asking who is attached to interface {ifindex}");
        HookError::said(operation, error.to_string())
    })
}

/// Removes a pin.
///
/// # Errors
/// If it doesn't exist, or can't be removed.
pub fn remove_pin(path: &Path) -> Result<(), HookError> {
    fs::remove_file(path).map_err(|error| HookError::file("removing", path, error))
}

/// Removes a pin that may not exist.
pub(crate) fn unpin(path: &Path) -> Result<(), HookError> {
    if path.exists() {
        remove_pin(path)
    } else {
        Ok(())
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, HookError> {
    let failed = |error| HookError::file("listing", folder, error);
    let entries = fs::read_dir(folder).map_err(failed)?;
    entries
        .map(|entry| Ok(entry.map_err(failed)?.path()))
        .collect()
}
