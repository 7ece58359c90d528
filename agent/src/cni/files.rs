//! Operations on files of the node: each creation, change or removal is atomic.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tempfile::{NamedTempFile, TempPath};

/// Prefix of the names of files that are being written. Runtimes don't read them.
const PARTIAL: &str = ".ringfence-new-";

/// How often a plugin is called if its file is busy.
const TRIES: u32 = 100;

/// A failed operation on a file.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {source}", path.display())]
pub struct FileError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

pub(super) fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError {
        operation,
        path,
        source,
    }
}

/// Maps a missing file to `None`.
pub(super) fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates a file or replaces an old one.
pub(super) fn write(path: &Path, text: &[u8], mode: u32) -> Result<(), FileError> {
    let fresh = partial(path, text, mode, None).map_err(failed("writing", path))?;
    fresh
        .persist(path)
        .map_err(|error| failed("writing", path)(error.error))?;
    sync(path)
}

/// Changes a file's content from one text to another, and keeps its mode and owner. Returns false
/// if somebody else has written the file meanwhile, whose version then stays.
pub(super) fn change(path: &Path, from: &str, to: &str) -> Result<bool, FileError> {
    // For a symlink, the target is changed.
    let path = &fs::canonicalize(path).map_err(failed("inspecting", path))?;
    let meta = fs::metadata(path).map_err(failed("inspecting", path))?;
    let fresh = partial(path, to.as_bytes(), meta.mode() & 0o7777, Some(&meta));
    let fresh = fresh.map_err(failed("rewriting", path))?;
    let done = match swap(&fresh, path) {
        Ok(()) => {
            // The old file now has the temporary name. If its content isn't what was edited, its
            // owner was faster: it is moved back.
            let was = fs::read(&fresh).map_err(failed("reading", path))?;
            if was != from.as_bytes() {
                swap(&fresh, path).map_err(failed("restoring", path))?;
                return Ok(false);
            }
            Ok(())
        }
        // The filesystem doesn't support exchanging files.
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
            if fs::read(path).map_err(failed("reading", path))? != from.as_bytes() {
                return Ok(false);
            }
            fresh.persist(path).map_err(|error| error.error)
        }
        Err(error) => Err(error),
    };
    done.map_err(failed("rewriting", path))?;
    sync(path).map(|()| true)
}

fn swap(a: &Path, b: &Path) -> io::Result<()> {
    renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE).map_err(io::Error::from)
}

/// Creates a temporary file in the same folder, written and synced.
fn partial(
    beside: &Path,
    text: &[u8],
    mode: u32,
    owner: Option<&fs::Metadata>,
) -> io::Result<TempPath> {
    let folder = beside.parent().unwrap_or(Path::new("."));
    let mut file = NamedTempFile::with_prefix_in(PARTIAL, folder)?;
    file.write_all(text)?;
    let own = file.as_file().metadata()?;
    if let Some(owner) = owner.filter(|owner| (owner.uid(), owner.gid()) != (own.uid(), own.gid()))
    {
        fchown(file.as_file(), Some(owner.uid()), Some(owner.gid()))?;
    }
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    // Closed, since a file that is open for writing can't be executed.
    Ok(file.into_temp_path())
}

/// Makes changes to names in a file's folder durable.
fn sync(path: &Path) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(failed("syncing", folder))
}

/// Renames a file within its folder.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(failed("renaming", from))?;
    sync(to)
}

/// Removes a file; returns whether it existed.
pub(super) fn remove(path: &Path) -> Result<bool, FileError> {
    let removed = if_there(fs::remove_file(path)).map_err(failed("removing", path))?;
    Ok(removed.is_some())
}

/// Removes partial files left by a process that was killed.
pub(super) fn sweep(folder: &Path) -> Result<(), FileError> {
    for path in list(folder)? {
        let name = path.file_name().unwrap_or_default();
        if name.as_encoded_bytes().starts_with(PARTIAL.as_bytes()) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Lists a folder; a missing folder is empty.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let listed = if_there(fs::read_dir(folder)).and_then(|entries| {
        let entries = entries.into_iter().flatten();
        entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect()
    });
    listed.map_err(failed("listing", folder))
}

/// Installs the plugin's binary unless it is already present and executable. A binary that doesn't
/// report its supported CNI versions isn't installed.
pub(super) fn place(plugin: &Path, to: &Path) -> Result<(), FileError> {
    let wanted = fs::read(plugin).map_err(failed("reading", plugin))?;
    let there = if_there(fs::metadata(to)).map_err(failed("inspecting", to))?;
    let is_fit = |meta: &fs::Metadata| meta.is_file() && meta.mode() & 0o111 == 0o111;
    if there.is_some_and(|meta| is_fit(&meta)) {
        let there = if_there(fs::read(to)).map_err(failed("reading", to))?;
        if there.is_some_and(|there| there == wanted) {
            return Ok(());
        }
    }
    let fresh = partial(to, &wanted, 0o755, None).map_err(failed("writing", to))?;
    answers(&fresh).map_err(failed("trying", plugin))?;
    fresh
        .persist(to)
        .map_err(|error| failed("writing", to)(error.error))?;
    sync(to)
}

/// Checks that a plugin can be called here.
fn answers(plugin: &Path) -> io::Result<()> {
    let mut version = Command::new(plugin);
    let version = version
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::null());
    let mut tries = 0;
    let asked = loop {
        match version.output() {
            // A child process that another thread is spawning still holds the file open for
            // writing.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && tries < TRIES => {
                tries += 1;
                sleep(Duration::from_millis(5));
            }
            asked => break asked?,
        }
    };
    if asked.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&asked.stdout);
    Err(io::Error::other(format!("{}: {said}", asked.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let mut names: Vec<String> = list(folder).unwrap().iter().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_change_that_lost_a_race_undoes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.conflist");
        fs::write(&path, "one").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(change(&path, "one", "two").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        let inode = fs::metadata(&path).unwrap().ino();
        assert!(!change(&path, "one", "three").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(
            fs::metadata(&path).unwrap().ino(),
            inode,
            "its owner's own file"
        );
        assert_eq!(names(dir.path()), ["a.conflist"]);
    }

    #[test]
    fn of_a_link_the_target_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("a.conflist"));
        fs::write(&target, "one").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(change(&link, "one", "two").unwrap());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "two");
    }

    #[test]
    fn what_was_left_half_written_is_swept_away_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".ringfence-new-x", ".ringfence", "a.conf"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        sweep(dir.path()).unwrap();
        assert_eq!(names(dir.path()), [".ringfence", "a.conf"]);
        sweep(&dir.path().join("none")).unwrap();
    }

    #[test]
    fn a_binary_is_put_in_its_place_only_if_it_can_be_called() {
        let dir = tempfile::tempdir().unwrap();
        let (plugin, to) = (dir.path().join("plugin"), dir.path().join("bin"));
        assert!(place(&plugin, &to).is_err());
        fs::write(&plugin, "#!/bin/sh\n[ $CNI_COMMAND = VERSION ]\n").unwrap();
        place(&plugin, &to).unwrap();
        let meta = fs::metadata(&to).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o755);
        place(&plugin, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().ino(), meta.ino(), "it was equal");
        // A binary that can't be called leaves the old one in place.
        fs::write(&plugin, "#!/bin/sh\nexit 1\n").unwrap();
        assert!(place(&plugin, &to).is_err());
        assert_eq!(fs::metadata(&to).unwrap().ino(), meta.ino());
        assert_eq!(names(dir.path()), ["bin", "plugin"]);
    }
}
