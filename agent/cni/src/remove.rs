//! Removal of the state folder.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::{DROP_IN, ENDPOINTS, Node};

/// Removes everything that the agent and the plugin have left in a state folder, and the
/// folder itself if nothing else is in it. The node's file is removed first: without it
/// the plugin lets every pod pass.
///
/// # Errors
/// Names the file that couldn't be removed.
pub fn remove_state(state: &Path) -> io::Result<()> {
    Node::remove(state)?;
    gone(fs::remove_file(state.join(DROP_IN)), &state.join(DROP_IN))?;
    let records = state.join(ENDPOINTS);
    gone(fs::remove_dir_all(&records), &records)?;
    // Temporary files of writers that were killed.
    for entry in fs::read_dir(state).into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if name.as_encoded_bytes().starts_with(b".new-") {
            gone(fs::remove_file(&path), &path)?;
        }
    }
    match fs::remove_dir(state) {
        // The folder contains files of others, or is a mount point.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy
            ) =>
        {
            Ok(())
        }
        removed => gone(removed, state),
    }
}

pub(crate) fn gone(removed: io::Result<()>, path: &Path) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            let said = format!("removing {}: {error}", path.display());
            Err(io::Error::new(error.kind(), said))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::Mode;

    #[test]
    fn nothing_of_a_state_folder_is_left_but_what_others_put_there() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("cni");
        remove_state(&state).unwrap();
        let node = Node {
            pins: "/p".into(),
            clsact: false,
            mode: Mode::Enforce,
            unknown_pass: false,
            exempt: BTreeSet::new(),
        };
        node.write(&state).unwrap();
        fs::write(state.join(ENDPOINTS).join("c-eth0.json"), "{}").unwrap();
        fs::write(state.join(DROP_IN), "").unwrap();
        fs::write(state.join(".new-a"), "").unwrap();
        fs::write(state.join("notes"), "").unwrap();
        remove_state(&state).unwrap();
        let left: Vec<_> = fs::read_dir(&state).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        fs::remove_file(state.join("notes")).unwrap();
        remove_state(&state).unwrap();
        assert!(!state.exists());
    }
}
