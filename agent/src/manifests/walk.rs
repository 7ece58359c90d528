//! Finds the files in a folder of manifests, or a single file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::ManifestError;

/// Metadata that detects that a file has changed since it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Device and inode: a ConfigMap's swap changes them and nothing else.
    inode: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds of the last change of the content and of the inode.
    times: (i64, i64, i64, i64),
    /// Used by [`Stamp::age`].
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            inode: (meta.dev(), meta.ino()),
            size: meta.size(),
            times: (
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            ),
            modified: meta.modified().ok(),
        }
    }

    /// Returns the time since the last write; none if that is in the future by the clock.
    pub fn age(&self) -> Option<std::time::Duration> {
        self.modified?.elapsed().ok()
    }
}

/// The result of a walk.
#[derive(Default, Debug)]
pub struct Walk {
    /// Manifest files by path as seen, in order.
    pub files: BTreeMap<PathBuf, Stamp>,
    /// Folders and files that couldn't be read: the known state below them stays.
    pub errors: Vec<ManifestError>,
}

impl Walk {
    /// Walks `root`, or takes `root` itself if it is a file, whatever its name. Hidden names are
    /// skipped: editors use them for swap files, and a ConfigMap for `..data`, whose files are
    /// linked at the top.
    pub fn of(root: &Path) -> Self {
        let mut walk = Self::default();
        let mut above = BTreeSet::new();
        match fs::metadata(root) {
            Ok(meta) if meta.is_dir() => walk.folder(root, &meta, &mut above),
            Ok(meta) if meta.is_file() => {
                walk.files.insert(root.to_owned(), Stamp::of(&meta));
            }
            Ok(_) => walk.fail(root, "neither a folder nor a file"),
            Err(error) => walk.fail(root, error.to_string()),
        }
        walk
    }

    /// Reports whether a folder or file that contains `path` couldn't be read.
    pub fn is_unsure_of(&self, path: &Path) -> bool {
        self.errors
            .iter()
            .any(|error| path.starts_with(&error.file))
    }

    fn fail(&mut self, path: &Path, message: impl Into<String>) {
        self.errors.push(ManifestError::of_file(path, message));
    }

    /// Walks a folder. `above` contains the folders on the way down, so that a link to one of them
    /// ends there, and one to a sibling is followed.
    fn folder(&mut self, path: &Path, meta: &fs::Metadata, above: &mut BTreeSet<(u64, u64)>) {
        let inode = (meta.dev(), meta.ino());
        if !above.insert(inode) {
            return;
        }
        match fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) => self.entry(&entry.path(), above),
                        Err(error) => self.fail(path, error.to_string()),
                    }
                }
            }
            Err(error) => self.fail(path, error.to_string()),
        }
        above.remove(&inode);
    }

    fn entry(&mut self, path: &Path, above: &mut BTreeSet<(u64, u64)>) {
        if path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
        {
            return;
        }
        // Follows links.
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => self.folder(path, &meta, above),
            Ok(meta) if meta.is_file() && is_manifest(path) => {
                self.files.insert(path.to_owned(), Stamp::of(&meta));
            }
            Ok(_) => {}
            // Removed since the folder was listed, or a dangling link: no file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.fail(path, error.to_string()),
        }
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| ["yaml", "yml", "json"].contains(&extension))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(root: &Path) -> Vec<String> {
        let walk = Walk::of(root);
        assert_eq!(walk.errors, []);
        walk.files
            .keys()
            .map(|path| path.strip_prefix(root).unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn manifests_are_found_in_subfolders_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("b/c")).unwrap();
        for name in [
            "a.yaml",
            "b/c/x.yml",
            "b/y.json",
            "README.md",
            ".a.yaml.swp",
            ".hidden.yaml",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(names(dir.path()), ["a.yaml", "b/c/x.yml", "b/y.json"]);
    }

    #[test]
    fn a_config_map_folder_shows_each_file_once_and_its_swap_as_a_change() {
        let dir = tempfile::tempdir().unwrap();
        for version in ["..1", "..2"] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("a.yaml"), "same").unwrap();
        }
        symlink("..1", dir.path().join("..data")).unwrap();
        symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
        assert_eq!(names(dir.path()), ["a.yaml"]);
        let before = Walk::of(dir.path()).files;
        symlink("..2", dir.path().join("..tmp")).unwrap();
        fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
        assert_ne!(before, Walk::of(dir.path()).files);
    }

    #[test]
    fn a_link_to_a_folder_above_ends_the_walk_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(dir.path().join("a.yaml"), "").unwrap();
        symlink("..", dir.path().join("b/up")).unwrap();
        symlink("gone", dir.path().join("dangling.yaml")).unwrap();
        assert_eq!(names(dir.path()), ["a.yaml"]);
    }

    #[test]
    fn a_file_is_itself_whatever_it_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(".bundle");
        fs::write(&file, "").unwrap();
        let walk = Walk::of(&file);
        assert_eq!(walk.files.keys().collect::<Vec<_>>(), [&file]);
        let walk = Walk::of(Path::new("/dev/null"));
        assert_eq!((walk.files.len(), walk.errors.len()), (0, 1));
    }

    #[test]
    fn a_missing_folder_is_an_error_and_leaves_everything_below_it_unsure() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("gone");
        let walk = Walk::of(&root);
        assert_eq!(walk.errors.len(), 1);
        assert!(walk.is_unsure_of(&root.join("a.yaml")));
        assert!(!walk.is_unsure_of(dir.path()));
    }
}
