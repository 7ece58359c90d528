//! One check of the node's network configuration, which adds what is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ringfence_cni::{DROP_IN, Entry, PLUGIN, Via};

use super::choose::{Network, choose, counts};
use super::files::{self, FileError};
use super::list::{self, List, ListError};
use super::pace::Pace;
use super::{CniStatus, Way, by, remove};

/// The plugin's file in the drop-in folder of a network.
pub(super) const FILE: &str = "ringfence.conf";
/// Suffix of the list that replaces a file with a single plugin: the list sorts right after that
/// file, and before any other that sorts after it.
pub(super) const LIST: &str = "-ringfence.conflist";
/// Suffix of the original file while it is out of use; runtimes don't read it.
pub(super) const SAVED: &str = ".ringfence-saved";
/// Wait after somebody else has changed a file first.
const AGAIN: Duration = Duration::from_millis(20);

/// What to install, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Install {
    /// Where the runtime finds its networks (`/etc/cni/net.d`).
    pub conf_dir: PathBuf,
    /// Where the runtime finds plugins (`/opt/cni/bin`).
    pub bin_dir: PathBuf,
    /// The plugin's binary.
    pub plugin: PathBuf,
    /// The plugin's configuration.
    pub entry: Entry,
}

/// Why the plugin isn't in the chain.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The entry can't be added to a list, or removed from it.
    #[error("{}: {source}; {todo}", path.display())]
    List {
        /// The list's file.
        path: PathBuf,
        /// The cause.
        source: ListError,
        /// The remedy.
        todo: &'static str,
    },
    /// The drop-in file belongs to somebody else.
    #[error(
        "{}: doesn't belong to {PLUGIN}; remove it so that the plugin's own can be written",
        .0.display()
    )]
    Foreign(PathBuf),
    /// A path can't be represented in JSON.
    #[error("the plugin's entry: {0}; use folders with UTF-8 names")]
    Entry(#[from] serde_json::Error),
}

/// Keeps the plugin in the chain.
#[derive(Debug)]
pub(super) struct Installer {
    install: Install,
    /// The list that was up to date after the last check, and whether by the drop-in alone.
    placed: Option<(PathBuf, bool)>,
    pace: Pace,
    rewrites: u64,
}

/// The necessary changes.
struct Plan {
    network: Network,
    /// The list for the entry, and its present text.
    target: PathBuf,
    text: String,
    /// The desired text; none if it is already up to date.
    edited: Option<String>,
    /// The drop-in; none if the list tells the runtime to read none.
    drop_in: Option<PathBuf>,
    /// Whether the runtime is known to read drop-ins.
    is_proven: bool,
}

impl Installer {
    /// Discards the proof that drop-ins are read: another runtime may have been installed since.
    pub(super) fn new(install: Install) -> Self {
        let state = &install.entry.state_dir;
        let begun = files::remove(&state.join(DROP_IN)).map(drop);
        for folder in [&install.conf_dir, &install.bin_dir] {
            if let Err(error) = files::sweep(folder) {
                tracing::warn!("{error}");
            }
        }
        if let Err(error) = begun {
            tracing::warn!("{error}");
        }
        Self {
            install,
            placed: None,
            pace: Pace::default(),
            rewrites: 0,
        }
    }

    /// Checks the configuration and adds what is missing. Returns the status, and after how long to
    /// check again, if not only after the next change.
    pub(super) fn look(&mut self, now: Instant) -> (CniStatus, Option<Duration>) {
        let mut status = CniStatus::default();
        let to = self.install.bin_dir.join(PLUGIN);
        let placed = files::place(&self.install.plugin, &to);
        let looked = if placed.is_err() && !to.exists() {
            // With an entry but without its binary, no pod would start.
            self.placed = None;
            remove::from(&self.install.conf_dir).map(|_| None)
        } else {
            self.keep(&mut status, now)
        };
        let error = placed.err().map(|error| error.to_string());
        let wait = looked.unwrap_or_else(|error| {
            status.error = Some(error.to_string());
            None
        });
        status.error = error.or(status.error);
        status.rewrites = self.rewrites;
        (status, wait)
    }

    fn keep(
        &mut self,
        status: &mut CniStatus,
        now: Instant,
    ) -> Result<Option<Duration>, InstallError> {
        let (network, faults) = choose(read(&self.install.conf_dir)?);
        status.faults = faults;
        let Some(network) = network else {
            return Ok(None);
        };
        let plan = self.plan(network)?;
        status.list = Some(plan.target.clone());
        let here = (plan.target.clone(), plan.is_proven);
        if self.is_missing(&plan)? {
            if self.placed.as_ref() == Some(&here) {
                let rest = self.pace.wait(now);
                if !rest.is_zero() {
                    return Ok(Some(rest));
                }
                self.pace.note(now);
                self.rewrites += 1;
                let list = plan.target.display();
                tracing::warn!(%list, "{PLUGIN} was removed from the chain; putting it back");
            }
            if !self.carry_out(&plan)? {
                return Ok(Some(AGAIN));
            }
        }
        let way = match (&plan.drop_in, plan.is_proven) {
            (None, _) => Way::List,
            (Some(_), false) => Way::Both,
            (Some(_), true) => Way::DropIn,
        };
        if self.placed.as_ref() != Some(&here) {
            tracing::info!(list = %plan.target.display(), "{PLUGIN} is in the chain: {}", by(&way));
        }
        self.placed = Some(here);
        status.way = Some(way);
        Ok(None)
    }

    fn plan(&self, network: Network) -> Result<Plan, InstallError> {
        let (target, text) = match &network {
            Network::List(path, text) => (path.clone(), Ok(text.clone())),
            Network::Single(path, text) => (beside(path, LIST), list::convert(text)),
        };
        let entry = self.install.entry.to_json(Via::List)?;
        let planned = text.and_then(|text| {
            let list = List::parse(&text)?;
            list.check_version()?;
            let name = list.reads_drop_ins().then(|| list.name.to_string());
            let is_proven = name.is_some() && self.install.entry.state_dir.join(DROP_IN).exists();
            let edited = if is_proven {
                list::take(&text)?
            } else {
                list::put(&text, &entry)?
            };
            Ok((text, edited, name, is_proven))
        });
        let (text, edited, name, is_proven) = planned.map_err(|source| InstallError::List {
            path: target.clone(),
            source,
            todo: "pods start without the plugin",
        })?;
        Ok(Plan {
            network,
            target,
            text,
            edited,
            drop_in: name.map(|name| self.install.conf_dir.join(name).join(FILE)),
            is_proven,
        })
    }

    fn is_missing(&self, plan: &Plan) -> Result<bool, InstallError> {
        let dropped = match &plan.drop_in {
            None => true,
            Some(path) => {
                let wanted = self.install.entry.to_json(Via::DropIn)?;
                match text_of(path)? {
                    Some(text) if list::are_equal(&text, &wanted).unwrap_or(false) => true,
                    Some(text) if !list::is_ours(&text).unwrap_or(false) => {
                        return Err(InstallError::Foreign(path.clone()));
                    }
                    _ => false,
                }
            }
        };
        let is_single = matches!(plan.network, Network::Single(..));
        Ok(!dropped || is_single || plan.edited.is_some())
    }

    /// Writes the drop-in first, since runtimes read drop-ins when a list changes. Returns false if
    /// somebody else has changed the list meanwhile.
    fn carry_out(&self, plan: &Plan) -> Result<bool, InstallError> {
        remove::drop_ins(&self.install.conf_dir, plan.drop_in.as_deref())?;
        if let Some(path) = &plan.drop_in {
            let folder = path.parent().unwrap_or(path);
            let made = fs::create_dir_all(folder);
            made.map_err(files::failed("creating", folder))?;
            let entry = self.install.entry.to_json(Via::DropIn)?;
            files::write(path, entry.as_bytes(), 0o644)?;
        }
        match (&plan.network, &plan.edited) {
            (Network::List(path, text), Some(edited)) => Ok(files::change(path, text, edited)?),
            (Network::List(..), None) => Ok(true),
            (Network::Single(path, text), edited) => {
                let edited = edited.as_ref().unwrap_or(&plan.text);
                replace(path, text, &plan.target, edited)
            }
        }
    }
}

/// Replaces a file with a single plugin by a list. Until the file is renamed, runtimes use it,
/// since it sorts first; after that, the list.
fn replace(path: &Path, text: &str, list: &Path, edited: &str) -> Result<bool, InstallError> {
    let mode = fs::metadata(path).map_err(files::failed("inspecting", path))?;
    files::write(list, edited.as_bytes(), mode.permissions().mode() & 0o7777)?;
    let saved = beside(path, SAVED);
    files::rename(path, &saved)?;
    if text_of(&saved)?.as_deref() == Some(text) {
        return Ok(true);
    }
    // Its owner was faster: it is checked again.
    files::rename(&saved, path)?;
    Ok(false)
}

/// Appends a suffix to a file name.
pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn text_of(path: &Path) -> Result<Option<String>, FileError> {
    files::if_there(fs::read_to_string(path)).map_err(files::failed("reading", path))
}

/// Reads the files of a folder that runtimes read.
fn read(folder: &Path) -> Result<Vec<super::choose::File>, FileError> {
    let mut files = Vec::new();
    for path in files::list(folder)? {
        if !counts(&path) || path.is_dir() {
            continue;
        }
        match files::if_there(fs::read_to_string(&path)) {
            Ok(None) if path.is_symlink() => files.push((path, Err("a dangling symlink".into()))),
            Ok(None) => {}
            Ok(Some(text)) => files.push((path, Ok(text))),
            Err(error) => files.push((path, Err(error.to_string()))),
        }
    }
    Ok(files)
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
