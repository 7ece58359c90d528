//! Signals when the folder of manifests may have changed.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Signals changes below a folder for as long as it lives.
///
/// It is only a hint: missed changes (a full queue, a folder that didn't exist yet, another file
/// system behind a link) are found by the regular rescan.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    recursive: RecursiveMode,
    signal: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the watched folder.
    inode: Option<(u64, u64)>,
}

impl Watch {
    /// Watches `path` and everything below it.
    pub fn tree(path: &Path, signal: Arc<Notify>) -> Self {
        Self::new(path, RecursiveMode::Recursive, signal)
    }

    /// Watches a folder of manifests and everything below it, or for a file its folder, since a
    /// replaced file has a new inode.
    pub fn manifests(path: &Path, signal: Arc<Notify>) -> Self {
        match path.parent() {
            Some(folder) if path.is_file() && folder.as_os_str().is_empty() => {
                Self::folder(Path::new("."), signal)
            }
            Some(folder) if path.is_file() => Self::folder(folder, signal),
            _ => Self::tree(path, signal),
        }
    }

    /// Watches only `path` itself: what is created in it and removed.
    pub fn folder(path: &Path, signal: Arc<Notify>) -> Self {
        Self::new(path, RecursiveMode::NonRecursive, signal)
    }

    fn new(path: &Path, recursive: RecursiveMode, signal: Arc<Notify>) -> Self {
        let mut watch = Self {
            path: path.to_owned(),
            recursive,
            signal,
            watcher: None,
            inode: None,
        };
        watch.ensure();
        watch
    }

    /// Starts watching if that failed earlier, for example because the folder was missing, and
    /// restarts if the folder was replaced: inotify follows the folder, not its name.
    pub fn ensure(&mut self) {
        let inode = std::fs::metadata(&self.path)
            .map(|meta| (meta.dev(), meta.ino()))
            .ok();
        if self.watcher.is_some() && self.inode == inode {
            return;
        }
        self.watcher = match self.start() {
            Ok(watcher) => {
                // Something may have changed while there was no watch.
                self.signal.notify_one();
                Some(watcher)
            }
            Err(error) => {
                tracing::debug!(path = %self.path.display(), "not watched: {error}");
                None
            }
        };
        self.inode = inode;
    }

    fn start(&self) -> notify::Result<RecommendedWatcher> {
        let signal = Arc::clone(&self.signal);
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // Our own reading of the files causes events, too.
                if !event.is_ok_and(|event| event.kind.is_access()) {
                    signal.notify_one();
                }
            })?;
        watcher.watch(&self.path, self.recursive)?;
        Ok(watcher)
    }
}
