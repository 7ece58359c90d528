//! Keeps the network plugin `ringfence-cni` in the node's chain of plugins, and removes it.
//!
//! Two things tell a runtime about a plugin: an entry in the network's list, which others own and
//! rewrite, and, from libcni 1.3 on, a file in the folder beside the list that has the network's
//! name. Which of them a runtime reads can't be queried. So both are written, and the plugin, which
//! may be called twice, leaves a marker when it is called through the file: then the entry is
//! removed. That proof is valid for as long as the agent runs. A starting agent discards it, since
//! another runtime may have been installed. A runtime that is replaced under a running agent by one
//! that reads no drop-ins isn't noticed until the agent's next start; meanwhile pods are closed by
//! the kernel's events, as without the plugin.
//!
//! Nothing is written while no network is configured: a list with this plugin alone would give pods
//! a network that doesn't exist. The binary is installed before the entry, and stays when the entry
//! is removed.
//!
//! `list`, `choose` and `pace` decide; `files`, `install` and `remove` do I/O.

mod choose;
mod files;
mod install;
mod list;
mod pace;
mod page;
mod remove;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::manifests::Watch;
use install::Installer;

pub use install::{Install, InstallError};
pub use remove::from as remove_from;

/// Interval between checks when nothing happens.
const PERIOD: Duration = Duration::from_secs(5);
/// Wait after an event, for a file to be written completely.
const WRITTEN: Duration = Duration::from_millis(10);

/// How the runtime learns of the plugin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// From an entry in the list.
    List,
    /// From the drop-in: the runtime has proven that it reads it.
    DropIn,
    /// From both, until a pod's start shows whether the runtime reads drop-ins.
    Both,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "by its entry in the list",
            Self::DropIn => "by the drop-in folder",
            Self::Both => "by its entry and the drop-in folder",
        })
    }
}

/// How the plugin is installed, as printed by `ringfence status -o json`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CniStatus {
    /// The network list that the runtime uses; none while no network is configured.
    pub list: Option<PathBuf>,
    /// How the runtime learns of the plugin; none while it doesn't.
    pub way: Option<Way>,
    /// How often the plugin was put back after somebody else removed it.
    pub rewrites: u64,
    /// Why the plugin isn't installed, or isn't of this version.
    pub error: Option<String>,
    /// Files before the list that no runtime accepts.
    pub faults: Vec<String>,
}

impl CniStatus {
    /// Reports whether pods that start now are closed by this version's plugin.
    pub const fn is_installed(&self) -> bool {
        self.way.is_some() && self.error.is_none()
    }

    /// Lists what a person should look into.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.error.iter().chain(&self.faults)
    }
}

impl fmt::Display for CniStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.list, self.way) {
            (Some(list), Some(way)) => write!(f, "in {} {way}", list.display())?,
            (None, None) if self.error.is_none() => {
                f.write_str("not installed: no network is configured yet")?;
            }
            _ => f.write_str("not installed")?,
        }
        match self.rewrites {
            0 => Ok(()),
            times => write!(f, ", put back {times} times"),
        }
    }
}

/// The installer's published status.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<CniStatus>>);

impl Board {
    /// Returns the present status.
    pub fn read(&self) -> CniStatus {
        let status = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        status.clone()
    }

    fn write(&self, status: CniStatus) {
        let mut before = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in status.problems() {
            if !before.problems().any(|one| one == problem) {
                tracing::warn!("network plugin: {problem}");
            }
        }
        if status.list.is_none() && before.list.is_some() {
            tracing::warn!("network plugin: no network is configured any more");
        }
        *before = status;
    }
}

/// Keeps the plugin installed. What it has installed stays when it ends.
pub async fn run(install: Install, board: Board) {
    let signal = Arc::new(Notify::new());
    let watch = |folder| Watch::folder(folder, Arc::clone(&signal));
    let mut watches = [
        Watch::tree(&install.conf_dir, Arc::clone(&signal)),
        watch(&install.bin_dir),
        watch(&install.entry.state_dir),
    ];
    let mut installer = Installer::new(install);
    loop {
        let looked = tokio::task::spawn_blocking(move || {
            let looked = installer.look(Instant::now());
            (installer, looked)
        });
        let (status, wait);
        (installer, (status, wait)) = match looked.await {
            Ok(looked) => looked,
            Err(error) => {
                tracing::error!("the plugin's installer ended: {error}");
                return;
            }
        };
        board.write(status);
        watches.iter_mut().for_each(Watch::ensure);
        match wait {
            Some(rest) => sleep(rest).await,
            // A timeout triggers another check, too.
            None => {
                let _ = timeout(PERIOD, signal.notified()).await;
            }
        }
        sleep(WRITTEN).await;
    }
}
