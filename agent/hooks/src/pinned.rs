//! The programs of a pod's hooks, pinned by the agent: a process that may open them can
//! attach them without loading anything, even while no agent runs.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use aya::programs::SchedClassifier;

use crate::clsact::Filters;
use crate::tcx::{self, AttachLock};
use crate::{Attach, Hook, HookError, Programs, chain};

/// The folder of pinned programs, below the pin directory of one ABI version.
pub const PROGRAM_PINS: &str = "programs";
/// Suffix of a pin that isn't in its final place yet.
const FRESH: &str = "-new";

/// The pinned programs of a pod's hooks.
#[derive(Debug)]
pub struct Pinned {
    folder: PathBuf,
    from_pod: SchedClassifier,
    to_pod: SchedClassifier,
}

impl Programs for Pinned {
    fn of_hook(&mut self, hook: Hook) -> Result<&mut SchedClassifier, HookError> {
        match hook {
            Hook::FromPod => Ok(&mut self.from_pod),
            Hook::ToPod => Ok(&mut self.to_pod),
            _ => {
                let operation = format!("finding program {}", hook.program());
                Err(HookError::said(operation, "it isn't pinned".to_owned()))
            }
        }
    }
}

impl Pinned {
    /// Pins the programs of a pod's hooks, replacing those of an earlier agent.
    ///
    /// # Errors
    /// If a program isn't loaded, or can't be pinned.
    pub fn pin(folder: &Path, programs: &mut impl Programs) -> Result<(), HookError> {
        let place = folder.join(PROGRAM_PINS);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&place)
            .map_err(|error| HookError::file("creating", &place, error))?;
        for hook in Hook::POD {
            let path = place.join(hook.program());
            let fresh = place.join(hook.program().to_owned() + FRESH);
            remove(&fresh)?;
            programs.of_hook(hook)?.pin(&fresh).map_err(|error| {
                HookError::said(format!("pinning {}", fresh.display()), chain(&error))
            })?;
            fs::rename(&fresh, &path)
                .map_err(|error| HookError::file("renaming", &fresh, error))?;
        }
        Ok(())
    }

    /// Opens the pinned programs; `None` if they aren't pinned, as after a reboot.
    ///
    /// # Errors
    /// If a pin can't be opened.
    pub fn open(folder: &Path) -> Result<Option<Self>, HookError> {
        let open = |hook: Hook| {
            let path = folder.join(PROGRAM_PINS).join(hook.program());
            if !path.exists() {
                return Ok(None);
            }
            SchedClassifier::from_pin(&path)
                .map(Some)
                .map_err(|error| HookError::program(format!("opening {}", path.display()), &error))
        };
        let (Some(from_pod), Some(to_pod)) = (open(Hook::FromPod)?, open(Hook::ToPod)?) else {
            return Ok(None);
        };
        Ok(Some(Self {
            folder: folder.to_owned(),
            from_pod,
            to_pod,
        }))
    }

    /// Attaches both programs first on a pod's device, unless they are already attached. While
    /// the device has no slot, they keep it closed.
    ///
    /// # Errors
    /// If the kernel refuses, or another program's filter stays in front of ours.
    pub fn attach(&mut self, ifindex: u32, name: &str, way: Attach) -> Result<(), HookError> {
        let folder = self.folder.clone();
        let _turn = AttachLock::take(&folder)?;
        if way.by_clsact() {
            let mut filters = Filters::open(&folder)?;
            return Hook::POD.into_iter().try_for_each(|hook| {
                filters.find(ifindex, hook)?;
                filters.attach(ifindex, name, hook, self)
            });
        }
        for hook in Hook::POD {
            let program = self.of_hook(hook)?;
            if !tcx::is_attached(id(program, hook)?, ifindex, hook)? {
                tcx::attach_first(program, &tcx::links(&folder), ifindex, name, hook)?;
            }
        }
        Ok(())
    }

    /// Detaches both programs from a device.
    ///
    /// # Errors
    /// If a pin or a filter can't be removed.
    pub fn detach(folder: &Path, ifindex: u32) -> Result<(), HookError> {
        let _turn = AttachLock::take(folder)?;
        let mut filters = Filters::open(folder)?;
        for hook in Hook::POD {
            tcx::unpin(&tcx::links(folder).join(hook.file(ifindex)))?;
            if filters.find(ifindex, hook)? {
                filters.detach(ifindex, hook)?;
            }
        }
        Ok(())
    }
}

/// Returns the hooks of a pod's device on which no program of ours is attached.
///
/// # Errors
/// If the device can't be queried.
pub fn missing(folder: &Path, ifindex: u32, way: Attach) -> Result<Vec<Hook>, HookError> {
    let _turn = AttachLock::take(folder)?;
    let mut filters = Filters::open(folder)?;
    let mut missing = Vec::new();
    for hook in Hook::POD {
        let stands = if way.by_clsact() {
            filters.find(ifindex, hook)?
        } else {
            tcx::stands(ifindex, hook)?
        };
        if !stands {
            missing.push(hook);
        }
    }
    Ok(missing)
}

fn id(program: &SchedClassifier, hook: Hook) -> Result<u32, HookError> {
    let info = program.info().map_err(|error| {
        HookError::program(format!("asking for the id of {}", hook.program()), &error)
    })?;
    Ok(info.id())
}

fn remove(path: &Path) -> Result<(), HookError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(HookError::file("removing", path, error))
        }
        _ => Ok(()),
    }
}
