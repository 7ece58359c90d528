//! The last good state of every object in a folder or file of manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence_policy::config::Config;
use ringfence_policy::index::Index;
use ringfence_policy::model::{Object, ObjectError, ObjectKey};

use super::file::{self, Entry, FileRead, Invalid, Unread};
use super::split::{self, decode};
use super::unread;
use super::walk::{Stamp, Walk};
use super::{ManifestError, ManifestErrors};

/// A file written less than this ago may still be incomplete: reading a truncated one would remove
/// policies for a moment. Likewise, a missing file isn't considered deleted at once, since tools
/// may replace files by removing them first.
const SETTLE: Duration = Duration::from_millis(40);

const EMPTY: &str = "empty: its objects stay in force; delete the file to remove them";

/// Used at start, when there is no earlier state that could stay in force.
const SAYS_NOTHING: &str =
    "empty, perhaps because its writer failed: delete it, or add a comment if that is intended";

/// Objects by file, each in the last form that parsed.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    files: BTreeMap<PathBuf, FileState>,
    /// The file that an object is taken from if several contain it: the one that contained it
    /// first.
    owners: BTreeMap<ObjectKey, PathBuf>,
    /// Errors of the folder rather than of one file.
    walk_errors: Vec<ManifestError>,
    duplicates: Vec<ManifestError>,
}

#[derive(Default, Debug)]
struct FileState {
    stamp: Option<Stamp>,
    entries: Vec<Entry>,
    invalid: Vec<Invalid>,
    unread: Vec<Unread>,
    errors: Vec<ManifestError>,
    /// Whether the file is blank.
    is_blank: bool,
    /// When the file was first seen to be missing.
    missing: Option<Instant>,
}

/// The result of [`Store::refresh`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refresh {
    /// Whether objects or problems may have changed.
    pub changed: bool,
    /// Whether a file was created, changed or removed so recently that it was left for later: look
    /// again soon.
    pub unsettled: bool,
}

impl Store {
    /// Reads a folder or a file for the first time. Fails on any error, so that no partial state is
    /// enforced.
    pub fn open(root: &Path) -> Result<Self, ManifestErrors> {
        let mut store = Self::new(root);
        store.read(Duration::ZERO);
        store.complete()
    }

    /// Reads the content of a pipe once; `name` is its name in errors.
    pub fn of_bytes(name: &Path, bytes: Vec<u8>) -> Result<Self, ManifestErrors> {
        let mut store = Self::new(name);
        store.read_text(name, None, decode(bytes));
        store.find_duplicates();
        store.complete()
    }

    /// Returns the store if nothing is wrong with it.
    fn complete(self) -> Result<Self, ManifestErrors> {
        let mut problems = self.problems();
        let blank = self.files.iter().filter(|(_, state)| state.is_blank);
        problems.extend(blank.map(|(path, _)| ManifestError::of_file(path, SAYS_NOTHING)));
        problems.sort();
        if problems.is_empty() {
            Ok(self)
        } else {
            Err(ManifestErrors(problems))
        }
    }

    fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            files: BTreeMap::new(),
            owners: BTreeMap::new(),
            walk_errors: Vec::new(),
            duplicates: Vec::new(),
        }
    }

    /// Reads again what changed on disk. Never fails: what can't be read keeps its last good state
    /// and is listed in [`Store::problems`].
    pub fn refresh(&mut self) -> Refresh {
        self.read(SETTLE)
    }

    fn read(&mut self, settle: Duration) -> Refresh {
        let walk = Walk::of(&self.root);
        let mut refresh = Refresh {
            changed: walk.errors != self.walk_errors,
            unsettled: false,
        };
        self.drop_missing(&walk, settle, &mut refresh);
        for (path, stamp) in &walk.files {
            let state = self.files.get(path);
            if state.is_some_and(|state| state.stamp.as_ref() == Some(stamp)) {
                continue;
            }
            if stamp.age().is_some_and(|age| age < settle) {
                refresh.unsettled = true;
                continue;
            }
            self.read_file(path, stamp);
            refresh.changed = true;
            refresh.unsettled |= self.files.get(path).is_some_and(FileState::is_missing);
        }
        self.walk_errors = walk.errors;
        self.find_duplicates();
        refresh
    }

    fn drop_missing(&mut self, walk: &Walk, settle: Duration, refresh: &mut Refresh) {
        let now = Instant::now();
        self.files.retain(|path, state| {
            if walk.files.contains_key(path) || walk.is_unsure_of(path) {
                state.missing = None;
                return true;
            }
            // A file that was moved must release its objects to the new name at once.
            refresh.changed |= state.missing.is_none();
            let since = *state.missing.get_or_insert(now);
            let is_gone = now.duration_since(since) >= settle;
            refresh.changed |= is_gone;
            refresh.unsettled |= !is_gone;
            !is_gone
        });
    }

    fn read_file(&mut self, path: &Path, stamp: &Stamp) {
        match fs::read(path) {
            Ok(bytes) => self.read_text(path, Some(stamp), decode(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(state) = self.files.get_mut(path) {
                    state.missing = Some(Instant::now());
                }
            }
            // No stamp: an I/O error may go away without a change of the file.
            Err(error) => self.read_text(path, None, Err(error.to_string())),
        }
    }

    fn read_text(&mut self, path: &Path, stamp: Option<&Stamp>, text: Result<String, String>) {
        let state = self.files.entry(path.to_owned()).or_default();
        state.stamp = stamp.cloned();
        state.is_blank = text.as_ref().is_ok_and(|text| split::is_empty(text));
        match text {
            // The shell truncates a file before the command that fills it has written anything, and
            // a writer may die in between: an empty file states nothing.
            Ok(_) if state.is_blank && state.has_objects() => {
                state.errors = vec![ManifestError::of_file(path, EMPTY)];
            }
            Ok(text) => state.take(file::read(path, &text)),
            Err(message) => state.errors = vec![ManifestError::of_file(path, message)],
        }
    }

    /// Assigns every object to one file and reports the others.
    fn find_duplicates(&mut self) {
        let mut owners: BTreeMap<ObjectKey, PathBuf> = BTreeMap::new();
        self.duplicates.clear();
        // Files that have just gone missing come last: if their objects are in another file, they
        // were moved.
        let (missing, present): (Vec<_>, Vec<_>) =
            (self.files.iter()).partition(|(_, state)| state.is_missing());
        for (path, state) in present.into_iter().chain(missing) {
            for entry in &state.entries {
                let owner = self
                    .owners
                    .get(&entry.key)
                    .filter(|owner| self.holds(owner, &entry.key));
                let owner = owners
                    .entry(entry.key.clone())
                    .or_insert_with(|| owner.unwrap_or(path).clone());
                if owner != path && !state.is_missing() {
                    self.duplicates.push(ManifestError {
                        document: Some(entry.document),
                        object: Some(entry.key.to_string()),
                        ..ManifestError::of_file(path, format!("also in {}", owner.display()))
                    });
                }
            }
        }
        self.owners = owners;
    }

    fn holds(&self, path: &Path, key: &ObjectKey) -> bool {
        self.files
            .get(path)
            .filter(|state| !state.is_missing())
            .is_some_and(|state| state.entries.iter().any(|entry| &entry.key == key))
    }

    /// Returns all present errors, in order of files.
    pub fn problems(&self) -> Vec<ManifestError> {
        let mut problems: Vec<_> = self
            .walk_errors
            .iter()
            .chain(self.files.values().flat_map(|state| &state.errors))
            .chain(&self.duplicates)
            .cloned()
            .collect();
        problems.sort();
        problems
    }

    /// Reports whether the folder itself could be read the last time.
    pub fn is_connected(&self) -> bool {
        self.walk_errors.iter().all(|error| error.file != self.root)
    }

    /// Returns all objects in their last good form.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<Object>)> {
        self.files.iter().flat_map(move |(path, state)| {
            let entries = state.entries.iter();
            let own = entries.filter(move |entry| self.owners.get(&entry.key) == Some(path));
            own.map(|entry| (&entry.key, &entry.object))
        })
    }

    /// Returns the policies whose newest form can't be used.
    pub fn invalid(&self) -> impl Iterator<Item = (&ObjectKey, &ObjectError)> {
        let invalid = self.files.values().flat_map(|state| &state.invalid);
        invalid.map(|invalid| (&invalid.key, &invalid.error))
    }

    /// Describes objects that may create pods and aren't among [`Store::objects`], one line per
    /// kind.
    pub fn unread(&self) -> Vec<String> {
        unread::lines(self.files.values().flat_map(|state| &state.unread), |key| {
            self.owners.contains_key(key)
        })
    }

    /// Describes a store that contains nothing that is read.
    pub fn emptiness(&self) -> Option<String> {
        let root = self.root.display();
        match (self.files.is_empty(), self.owners.is_empty()) {
            (true, _) => Some(format!(
                "{root}: no manifests found (files that end in .yaml, .yml or .json)"
            )),
            (false, true) => Some(format!("{root}: contains nothing that is read")),
            (false, false) => None,
        }
    }

    /// Creates a new index: all objects in their last good form, and policies that never had one
    /// closed.
    pub fn index(&self, config: &Config) -> Index {
        let mut index = Index::new(config.clone());
        for (_, object) in self.objects() {
            index.apply(Object::clone(object));
        }
        for (_, error) in self.invalid() {
            index.apply_closed(error);
        }
        index
    }
}

impl FileState {
    const fn is_missing(&self) -> bool {
        self.missing.is_some()
    }

    const fn has_objects(&self) -> bool {
        !self.entries.is_empty() || !self.invalid.is_empty()
    }

    /// Takes over a file's new content, and keeps earlier objects that may still be in the file.
    fn take(&mut self, read: FileRead) {
        let FileRead {
            mut entries,
            mut invalid,
            unread,
            errors,
            complete,
        } = read;
        {
            let now: BTreeSet<&ObjectKey> = entries.iter().map(|entry| &entry.key).collect();
            let broken: BTreeSet<&ObjectKey> = invalid.iter().map(|invalid| &invalid.key).collect();
            self.entries.retain(|entry| {
                !now.contains(&entry.key) && (!complete || broken.contains(&entry.key))
            });
            self.invalid
                .retain(|old| !complete && !now.contains(&old.key) && !broken.contains(&old.key));
        }
        entries.append(&mut self.entries);
        invalid.append(&mut self.invalid);
        *self = Self {
            stamp: self.stamp.take(),
            entries,
            invalid,
            unread,
            errors,
            is_blank: self.is_blank,
            missing: None,
        };
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
