//! What the agent tells the plugin, in a file that survives both the agent and a reboot.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::remove::gone;

/// The name of the file.
const FILE: &str = "node.json";

/// How a node treats its pods, as last written by its agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// The pin directory of one ABI version. After a reboot it is empty until the agent has
    /// loaded its programs.
    pub pins: PathBuf,
    /// Whether programs are attached as filters on clsact qdiscs.
    pub clsact: bool,
    /// Whether denied packets are dropped.
    pub mode: Mode,
    /// Whether pods that the agent doesn't know pass (`--unknown-pods allow`).
    pub unknown_pass: bool,
    /// Namespaces whose pods pass while they are unknown (`--unknown-exempt`).
    pub exempt: BTreeSet<String>,
}

/// Whether denied packets are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Denied packets are dropped.
    Enforce,
    /// Denied packets are only counted.
    Audit,
}

/// How a pod is treated while its policy isn't known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unknown {
    /// No packets pass.
    Close,
    /// All packets pass and are counted.
    Count,
    /// All packets pass.
    Pass,
}

impl Node {
    /// Reads the file; `None` if no agent has run, or it was uninstalled.
    ///
    /// # Errors
    /// If the file can't be read or parsed.
    pub fn read(state: &Path) -> io::Result<Option<Self>> {
        match fs::read(state.join(FILE)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the file, and creates its folders, accessible to root only. After a crash either
    /// the old or the new file is there.
    ///
    /// # Errors
    /// If a file operation fails; the old file then stays.
    pub fn write(&self, state: &Path) -> io::Result<()> {
        make(state)?;
        make(&state.join(super::ENDPOINTS))?;
        put(state, FILE, &serde_json::to_vec(self)?, true)
    }

    /// Removes the file, if it exists.
    pub(crate) fn remove(state: &Path) -> io::Result<()> {
        let path = state.join(FILE);
        gone(fs::remove_file(&path), &path)
    }

    /// Returns how a namespace's pods are treated while their policy isn't known.
    pub fn treats(&self, namespace: &str) -> Unknown {
        match self.mode {
            _ if self.unknown_pass || self.exempt.contains(namespace) => Unknown::Pass,
            Mode::Enforce => Unknown::Close,
            Mode::Audit => Unknown::Count,
        }
    }
}

fn make(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Writes a file atomically. With `lasting`, it also survives a crash of the machine.
pub(crate) fn put(folder: &Path, name: &str, text: &[u8], lasting: bool) -> io::Result<()> {
    let mut file = NamedTempFile::with_prefix_in(".new-", folder)?;
    file.write_all(text)?;
    if lasting {
        file.as_file().sync_all()?;
    }
    file.persist(folder.join(name))?;
    if lasting {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_wrote_is_read_and_a_broken_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        assert_eq!(Node::read(&state).unwrap(), None);
        let node = Node {
            pins: "/sys/fs/bpf/ringfence/v1".into(),
            clsact: false,
            mode: Mode::Enforce,
            unknown_pass: false,
            exempt: BTreeSet::from(["kube-system".to_owned()]),
        };
        node.write(&state).unwrap();
        node.write(&state).unwrap();
        assert_eq!(Node::read(&state).unwrap(), Some(node.clone()));
        assert_eq!(node.treats("kube-system"), Unknown::Pass);
        assert_eq!(node.treats("shop"), Unknown::Close);
        let audit = Node {
            mode: Mode::Audit,
            ..node
        };
        assert_eq!(audit.treats("shop"), Unknown::Count);
        assert_eq!(audit.treats("kube-system"), Unknown::Pass);
        fs::write(state.join(FILE), "{").unwrap();
        assert!(Node::read(&state).is_err());
        let left: Vec<_> = fs::read_dir(&state).unwrap().collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
