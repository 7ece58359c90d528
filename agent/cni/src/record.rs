//! What the plugin tells the agent: which device belongs to which pod.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::node::put;
use crate::protocol::Attachment;

/// The folder of records, in the state folder.
pub const ENDPOINTS: &str = "endpoints";

/// One interface of one pod's sandbox, as it was created.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The container id of the sandbox.
    pub container: String,
    /// The interface's name in the pod.
    pub interface: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID, if the runtime provides it.
    pub uid: Option<String>,
    /// The file that names the pod's network namespace.
    pub netns: PathBuf,
    /// Name of the device on the node's side.
    pub device: String,
    /// MAC of the pod's side.
    pub mac: Option<String>,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether the device is open until the pod's policy is in force.
    pub open: bool,
}

impl Record {
    /// Writes the record, atomically.
    ///
    /// # Errors
    /// If a file operation fails.
    pub fn write(&self, state: &Path) -> io::Result<()> {
        let name = file(&self.container, &self.interface)?;
        let text = serde_json::to_vec(self)?;
        put(&state.join(ENDPOINTS), &name, &text, false)
    }

    /// Removes the record of an interface, if there is one.
    ///
    /// # Errors
    /// If a file operation fails.
    pub fn remove(state: &Path, container: &str, interface: &str) -> io::Result<()> {
        let path = state.join(ENDPOINTS).join(file(container, interface)?);
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes all records except those of the given attachments. Continues after errors.
    ///
    /// # Errors
    /// The last error.
    pub(crate) fn keep(state: &Path, valid: &[Attachment]) -> io::Result<()> {
        let kept = valid
            .iter()
            .map(|one| file(&one.container, &one.ifname))
            .collect::<io::Result<BTreeSet<String>>>()?;
        let entries = match fs::read_dir(state.join(ENDPOINTS)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let mut done = Ok(());
        for entry in entries {
            let removed = entry.and_then(|entry| {
                let name = entry.file_name();
                let is_kept = name.to_str().is_some_and(|name| kept.contains(name));
                if is_kept {
                    Ok(())
                } else {
                    fs::remove_file(entry.path())
                }
            });
            done = removed.and(done);
        }
        done
    }
}

/// Returns the file name of a record. Container ids and interface names consist of letters,
/// digits and `-_.` (section 2).
fn file(container: &str, interface: &str) -> io::Result<String> {
    let is_plain = |word: &str| {
        let mut bytes = word.bytes();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !word.is_empty() && !word.starts_with('.') && bytes.all(plain)
    };
    if is_plain(container) && is_plain(interface) {
        Ok(format!("{container}-{interface}.json"))
    } else {
        let said = format!("container {container:?} or interface {interface:?} is no name");
        Err(io::Error::new(ErrorKind::InvalidInput, said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(container: &str) -> Record {
        Record {
            container: container.to_owned(),
            interface: "eth0".to_owned(),
            namespace: "shop".to_owned(),
            name: "a".to_owned(),
            uid: None,
            netns: "/run/netns/a".into(),
            device: "veth1".to_owned(),
            mac: None,
            addresses: Vec::new(),
            open: false,
        }
    }

    fn names(state: &Path) -> Vec<String> {
        let entries = fs::read_dir(state.join(ENDPOINTS)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn records_come_and_go_and_no_name_leads_out_of_their_folder() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(ENDPOINTS)).unwrap();
        record("c1").write(dir.path()).unwrap();
        record("c1").write(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["c1-eth0.json"]);
        for bad in ["", "../c1", "c/1", ".c1", "c 1"] {
            assert!(record(bad).write(dir.path()).is_err(), "{bad:?}");
            assert!(Record::remove(dir.path(), bad, "eth0").is_err(), "{bad:?}");
        }
        Record::remove(dir.path(), "c1", "eth0").unwrap();
        Record::remove(dir.path(), "c1", "eth0").unwrap();
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn all_but_the_valid_ones_are_collected() {
        let dir = tempfile::tempdir().unwrap();
        Record::keep(dir.path(), &[]).unwrap();
        fs::create_dir(dir.path().join(ENDPOINTS)).unwrap();
        for container in ["c1", "c2", "c3"] {
            record(container).write(dir.path()).unwrap();
        }
        let valid = Attachment {
            container: "c2".to_owned(),
            ifname: "eth0".to_owned(),
        };
        Record::keep(dir.path(), &[valid]).unwrap();
        assert_eq!(names(dir.path()), ["c2-eth0.json"]);
    }
}
