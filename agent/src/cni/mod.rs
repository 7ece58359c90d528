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

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ringfence_api::{CniStatus, Way};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::manifests::Watch;
use install::Installer;

pub use install::{Install, InstallError};
pub(crate) use page::register;
pub use remove::from as remove_from;

/// Interval between checks when nothing happens.
const PERIOD: Duration = Duration::from_secs(5);
/// Wait after an event, for a file to be written completely.
const WRITTEN: Duration = Duration::from_millis(10);

/// Says how the runtime learns of the plugin.
pub(crate) fn by(way: &Way) -> &str {
    match way {
        Way::List => "by its entry in the list",
        Way::DropIn => "by the drop-in folder",
        Way::Both => "by its entry and the drop-in folder",
        Way::Other(word) => word,
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
