//! Removes the plugin from the chain: its entries first, since a runtime that calls a plugin
//! without a binary starts no pod. The binary stays, for sandboxes whose configuration the runtime
//! remembers.

use std::fs;
use std::path::{Path, PathBuf};

use ringfence_cni::PLUGIN;

use super::choose::{counts, is_list};
use super::files::{self, FileError};
use super::install::{FILE, InstallError, LIST, SAVED, beside};
use super::list::{self, List};

/// Number of attempts to edit a list that somebody else keeps writing.
const TRIES: usize = 20;

/// Removes every entry from a configuration folder, and restores files that were converted to
/// lists. Returns the files that contained something of the plugin.
///
/// # Errors
/// Names the first file that is left with an entry; all others are done.
pub fn from(conf_dir: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let mut done = drop_ins(conf_dir, None)?;
    let mut left = Ok(());
    for path in files::list(conf_dir)? {
        if !counts(&path) || path.is_dir() {
            continue;
        }
        match entries(&path) {
            Ok(true) => done.push(path),
            Ok(false) => {}
            Err(error) => left = left.and(Err(error)),
        }
    }
    for path in files::list(conf_dir)? {
        let text = path.to_str().unwrap_or_default();
        if let Some(original) = text.strip_suffix(SAVED) {
            restore(Path::new(original))?;
            done.push(original.into());
        }
    }
    files::sweep(conf_dir)?;
    left.map(|()| done)
}

/// Removes the entries from one list; returns whether there were any.
fn entries(path: &Path) -> Result<bool, InstallError> {
    let refused = |source| InstallError::List {
        path: path.to_owned(),
        source,
        todo: "remove the entry of ringfence-cni by hand and try again",
    };
    for _ in 0..TRIES {
        let read = files::if_there(fs::read(path));
        let read = read.map_err(files::failed("reading", path))?;
        // A file that isn't text was never edited.
        let text = read.and_then(|bytes| String::from_utf8(bytes).ok());
        let Some(text) = text.filter(|text| is_list(path) && text.contains(PLUGIN)) else {
            return Ok(false);
        };
        match list::take(&text).map_err(refused)? {
            None => return Ok(false),
            Some(edited) if files::change(path, &text, &edited)? => return Ok(true),
            Some(_) => {}
        }
    }
    let busy = list::ListError::Syntax("it keeps being rewritten".to_owned());
    Err(refused(busy))
}

/// Restores a file with a single plugin in place of the list that was made from it. Leaves a list
/// to which others have added entries.
fn restore(original: &Path) -> Result<(), FileError> {
    let (made, saved) = (beside(original, LIST), beside(original, SAVED));
    let text = files::if_there(fs::read_to_string(&made));
    let text = text.map_err(files::failed("reading", &made))?;
    let others = text.map(|text| List::parse(&text).map_or(0, |list| list.others()));
    if others.is_some_and(|others| others > 1) {
        return files::remove(&saved).map(drop);
    }
    if original.exists() {
        // Its owner has written a new one.
        files::remove(&saved)?;
    } else {
        files::rename(&saved, original)?;
    }
    files::remove(&made).map(drop)
}

/// Removes the plugin's drop-ins except one, and the folders that this leaves empty. Returns the
/// removed files.
pub(super) fn drop_ins(conf_dir: &Path, but: Option<&Path>) -> Result<Vec<PathBuf>, FileError> {
    let mut done = Vec::new();
    for folder in files::list(conf_dir)? {
        let path = folder.join(FILE);
        if !folder.is_dir() || Some(path.as_path()) == but {
            continue;
        }
        let text = files::if_there(fs::read_to_string(&path));
        let text = text.map_err(files::failed("reading", &path))?;
        if text.is_some_and(|text| list::is_ours(&text).unwrap_or(false)) {
            files::remove(&path)?;
            files::sweep(&folder)?;
            // Fails if others' files are left in it.
            let _ = fs::remove_dir(&folder);
            done.push(path);
        }
    }
    Ok(done)
}
