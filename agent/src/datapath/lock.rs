//! Allows one writer per pin directory: each agent relies on knowing what it wrote to the maps,
//! which isn't true if a second agent writes too.

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::DatapathError;

/// The lock on a pin directory; released when dropped, even by `kill -9`.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "held for its drop")] Flock<File>);

impl Lock {
    /// Takes the lock. Fails if another agent holds it.
    pub(super) fn take(folder: &Path) -> Result<Self, DatapathError> {
        let file = File::open(folder).map_err(|source| DatapathError::File {
            operation: "opening",
            path: folder.to_owned(),
            source,
        })?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Err(DatapathError::Locked {
                folder: folder.to_owned(),
            }),
            Err((_, errno)) => Err(DatapathError::File {
                operation: "locking",
                path: folder.to_owned(),
                source: errno.into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_writer_is_refused_until_the_first_one_lets_go() {
        let dir = tempfile::tempdir().expect("tempdir");
        let first = Lock::take(dir.path()).expect("nobody holds it");
        let error = Lock::take(dir.path()).expect_err("somebody holds it");
        assert!(error.to_string().contains("another agent"), "{error}");
        drop(first);
        Lock::take(dir.path()).expect("nobody holds it any more");
    }
}
