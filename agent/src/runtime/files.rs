//! A folder of small files; each is read once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A plugin's result or record takes a few kilobytes.
const LARGEST: u64 = 1 << 20;

/// Parses a file's text; returns nothing if it isn't about a pod.
type Parse<T> = fn(&[u8]) -> Result<Option<T>, String>;

/// The folder and its parsed files.
#[derive(Debug)]
pub(super) struct Files<T> {
    folder: PathBuf,
    parse: Parse<T>,
    read: BTreeMap<PathBuf, Entry<T>>,
}

/// A file as last read.
#[derive(Debug)]
struct Entry<T> {
    stamp: Stamp,
    /// The parsed content; an error if it can't be used.
    said: Result<Option<T>, String>,
}

/// Distinguishes versions of a file, since its writer may overwrite it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
}

impl<T> Files<T> {
    /// Creates a reader for a folder, which needn't exist yet.
    pub(super) const fn new(folder: PathBuf, parse: Parse<T>) -> Self {
        Self {
            folder,
            parse,
            read: BTreeMap::new(),
        }
    }

    /// Returns the folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads new and changed files.
    ///
    /// # Errors
    /// Fails if the folder can't be listed. A missing folder isn't an error: no pod has started
    /// yet.
    pub(super) fn look(&mut self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.read.clear();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut now = BTreeMap::new();
        for entry in entries {
            let path = entry?.path();
            // A file that is being written; it is renamed once it is complete.
            let name = path.file_name().unwrap_or_default();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let before = self.read.remove(&path);
            if let Some(entry) = self.refreshed(&path, before) {
                now.insert(path, entry);
            }
        }
        self.read = now;
        Ok(())
    }

    /// Returns the parsed contents, and when each file was written.
    pub(super) fn said(&self) -> impl Iterator<Item = (&T, SystemTime)> {
        self.read.values().filter_map(|entry| {
            let at = entry.stamp.modified.unwrap_or(SystemTime::UNIX_EPOCH);
            Some((entry.said.as_ref().ok()?.as_ref()?, at))
        })
    }

    /// Returns the files that can't be used: name and reason.
    pub(super) fn faults(&self) -> impl Iterator<Item = String> {
        self.read.iter().filter_map(|(path, entry)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let why = entry.said.as_ref().err()?;
            Some(format!("{}: {why}", name.escape_debug()))
        })
    }

    /// Returns the current entry of a file; none if the file is gone.
    fn refreshed(&self, path: &Path, before: Option<Entry<T>>) -> Option<Entry<T>> {
        let stamp = match fs::metadata(path) {
            Ok(meta) if meta.is_file() => Stamp {
                inode: meta.ino(),
                length: meta.len(),
                modified: meta.modified().ok(),
            },
            _ => return None,
        };
        if let Some(before) = before.filter(|before| before.stamp == stamp && before.said.is_ok()) {
            return Some(before);
        }
        let said = match read(path) {
            Ok(text) => (self.parse)(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error.to_string()),
        };
        Some(Entry { stamp, said })
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("more than {LARGEST} bytes")));
    }
    Ok(text)
}
