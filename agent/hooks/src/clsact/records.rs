//! Records of our filters: empty folders on the bpffs, named after what they record.
//!
//! A filter can't be pinned, and outlives the agent without a pin. Its record is kept on
//! the bpffs, like pins, so that it is gone after a reboot, as the filter is.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::tc::Position;
use crate::Hook;
use crate::HookError;

/// One object that we own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Record {
    /// A filter.
    Filter(u32, Hook, Position),
    /// The clsact qdisc of a device that had none.
    Qdisc(u32),
    /// The network namespace of all other records, by its inode.
    Netns(u64),
}

impl Record {
    fn name(self) -> String {
        match self {
            Self::Filter(ifindex, hook, Position { priority, handle }) => {
                format!("{ifindex}-{}-{priority}-{handle:08x}", hook.program())
            }
            Self::Qdisc(ifindex) => format!("{ifindex}-qdisc"),
            Self::Netns(inode) => format!("netns-{inode}"),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        if let Some(inode) = name.strip_prefix("netns-") {
            return Some(Self::Netns(inode.parse().ok()?));
        }
        let parts: Vec<&str> = name.split('-').collect();
        match parts[..] {
            [ifindex, "qdisc"] => Some(Self::Qdisc(ifindex.parse().ok()?)),
            [ifindex, program, priority, handle] => {
                let hook = Hook::of_program(program)?;
                let priority = priority.parse().ok()?;
                let handle = u32::from_str_radix(handle, 16).ok()?;
                let place = Position { priority, handle };
                Some(Self::Filter(ifindex.parse().ok()?, hook, place))
            }
            _ => None,
        }
    }
}

/// The records of one pin directory.
#[derive(Debug)]
pub(super) struct Records {
    folder: PathBuf,
}

impl Records {
    /// Opens the records below the pin directory of one ABI version; there may be none.
    ///
    /// Rejects records of another network namespace: their filters can't be seen from here.
    pub(super) fn open(folder: &Path) -> Result<Self, HookError> {
        let records = Self {
            folder: folder.join("clsact"),
        };
        let here = netns()?;
        for record in records.list()? {
            if let Record::Netns(inode) = record
                && inode != here
            {
                return Err(HookError::OtherNetns {
                    folder: records.folder,
                    inode,
                });
            }
        }
        Ok(records)
    }

    pub(super) fn list(&self) -> Result<Vec<Record>, HookError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| HookError::file("listing", &self.folder, error))?,
        };
        let mut records = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| HookError::file("listing", &self.folder, error))?;
            records.extend(entry.file_name().to_str().and_then(Record::parse));
        }
        records.sort();
        Ok(records)
    }

    /// Adds a record. Called before the recorded object is created: an object that isn't
    /// recorded would stay forever.
    pub(super) fn add(&self, record: Record) -> Result<(), HookError> {
        make(&self.folder)?;
        make(&self.folder.join(Record::Netns(netns()?).name()))?;
        make(&self.folder.join(record.name()))
    }

    pub(super) fn remove(&self, record: Record) -> Result<(), HookError> {
        let path = self.folder.join(record.name());
        match fs::remove_dir(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(HookError::file("removing", &path, error))
            }
            _ => Ok(()),
        }
    }

    /// Removes the folder, which must contain only the namespace's record.
    pub(super) fn remove_folder(&self) -> Result<(), HookError> {
        for record in self.list()? {
            if matches!(record, Record::Netns(_)) {
                self.remove(record)?;
            }
        }
        match fs::remove_dir(&self.folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(HookError::file("removing", &self.folder, error))
            }
            _ => Ok(()),
        }
    }
}

fn make(folder: &Path) -> Result<(), HookError> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(HookError::file("creating", folder, error))
        }
        _ => Ok(()),
    }
}

/// Returns the inode of the calling thread's network namespace.
fn netns() -> Result<u64, HookError> {
    let path = Path::new("/proc/thread-self/ns/net");
    let inode = fs::metadata(path).map_err(|error| HookError::file("looking at", path, error))?;
    Ok(inode.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Position = Position {
        priority: 1,
        handle: 0x5246_0001,
    };

    #[test]
    fn what_was_recorded_is_read_back_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        assert_eq!(records.list().unwrap(), []);
        let ours = [
            Record::Filter(603, Hook::FromPod, PLACE),
            Record::Filter(603, Hook::ToPod, PLACE),
            Record::Qdisc(603),
        ];
        for record in ours {
            records.add(record).unwrap();
            records.add(record).unwrap();
        }
        let here = Record::Netns(netns().unwrap());
        let again = Records::open(dir.path()).unwrap();
        assert_eq!(again.list().unwrap(), [&ours[..], &[here]].concat());
        for record in ours {
            again.remove(record).unwrap();
            again.remove(record).unwrap();
        }
        again.remove_folder().unwrap();
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }

    #[test]
    fn records_of_another_namespace_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("clsact/netns-1")).unwrap();
        let error = Records::open(dir.path()).unwrap_err();
        assert!(
            error.to_string().contains("another network namespace"),
            "{error}"
        );
    }

    #[test]
    fn names_of_others_are_no_records() {
        for name in [
            "",
            "603",
            "603-else-1-2",
            "x-qdisc",
            "1-from_pod-1-zz",
            "netns-x",
        ] {
            assert_eq!(Record::parse(name), None, "{name}");
        }
    }
}
