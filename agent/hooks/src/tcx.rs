//! tcx links: attach first, pin, let go. Linux 6.6 or later.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::{Hook, HookError, chain, query};

/// Marks a pin that isn't at its place yet. No dot: bpffs reserves those.
const FRESH: &str = "-new";

/// The right to attach: the agent's or a plugin's, never both at once.
#[derive(Debug)]
pub struct Turn(#[allow(dead_code, reason = "held for its drop")] Flock<File>);

impl Turn {
    /// Waits for it. `folder` is the pin directory of one ABI version. Whoever holds it
    /// attaches the programs of one device and gives it back, dying or not.
    ///
    /// # Errors
    /// If the folder of links isn't there.
    pub fn take(folder: &Path) -> Result<Self, HookError> {
        let links = links(folder);
        let file = File::open(&links).map_err(|error| HookError::file("opening", &links, error))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map(Self)
            .map_err(|(_, errno)| HookError::file("locking", &links, errno.into()))
    }
}

/// Where the pins of links are, below the pin directory of one ABI version.
pub fn links(folder: &Path) -> PathBuf {
    folder.join("links")
}

/// The pins of links in a folder of them; none where there is no folder. What is of
/// another name is passed over.
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

/// Removes pins of a process that was killed before it could rename them.
///
/// # Errors
/// If the folder can't be listed, or a pin not be removed.
pub fn remove_leftovers(links: &Path) -> Result<(), HookError> {
    for path in list(links)? {
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.ends_with(FRESH)) {
            remove_pin(&path)?;
        }
    }
    Ok(())
}

/// Attaches a program first on a hook and pins its link. It may stand there already, under
/// another link.
///
/// # Errors
/// If the kernel refuses, with `EEXIST` where the program is on the hook already; or if
/// the interface has another name or is gone.
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
    // The name may have gone to another interface since it was looked up.
    if nix::net::if_::if_nametoindex(name).ok() != Some(ifindex) {
        let message = "the interface was renamed meanwhile".to_owned();
        return Err(HookError::said(operation(), message));
    }
    // Renamed into place: there is no moment without a pin.
    let path = links.join(hook.file(ifindex));
    let fresh = links.join(hook.file(ifindex) + FRESH);
    let pinned = link.pin(&fresh).map_err(|error| {
        let operation = format!("pinning {}", fresh.display());
        HookError::said(operation, chain(&error))
    })?;
    fs::rename(&fresh, &path).map_err(|error| HookError::file("renaming", &fresh, error))?;
    Ok(FdLink::from(pinned))
}

/// Puts a program under a pinned link, atomically. None if the interface is gone, and the
/// pin with it.
///
/// # Errors
/// If the pin is no link, or the kernel refuses.
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
            // The interface is gone: so is everything that the link guarded.
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

/// Whether a program is on a hook of a device.
///
/// # Errors
/// If the device is gone, or may not be asked.
pub fn is_attached(id: u32, ifindex: u32, hook: Hook) -> Result<bool, HookError> {
    Ok(on(ifindex, hook)?.contains(&id))
}

/// Whether a program of this hook's name is on it, whichever agent loaded it.
///
/// # Errors
/// If the device is gone, or may not be asked.
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
/// If it isn't there, or can't be removed.
pub fn remove_pin(path: &Path) -> Result<(), HookError> {
    fs::remove_file(path).map_err(|error| HookError::file("removing", path, error))
}

/// Removes a pin that may not be there.
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
