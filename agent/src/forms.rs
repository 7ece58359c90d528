//! The last valid forms of policies, on disk: those in force in place of a newer form that doesn't
//! parse or doesn't fit. Keeping them on disk lets them outlive the agent.
//!
//! Usually there are none, and no file. What can't be read back counts as absent: the newer form is
//! then closed, never open.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use ringfence_policy::index::KeptForm;
use serde::{Deserialize, Serialize};

/// Version of the file's format. Files of any other version are ignored.
const VERSION: u32 = 1;
/// Limit of all forms, in bytes.
const ALL: usize = 16 << 20;
/// Limit of the forms of one namespace, in bytes.
const ONE: usize = 2 << 20;
/// Size limit of the file, in bytes: allows for JSON syntax and escapes.
const LARGEST: u64 = 4 * ALL as u64;

const NAME: &str = "policies.json";
const NEW: &str = "policies.json.new";

/// Why forms can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FormsError {
    /// A system call failed.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another user could have written the file.
    #[error("{} must be accessible to this user alone (owner {owner}, mode {mode:o})", path.display())]
    NotOurs {
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
    /// The content isn't what an agent of this version writes.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    version: u32,
    forms: Vec<KeptForm>,
}

/// The folder of kept forms.
#[derive(Debug)]
pub struct Forms {
    folder: PathBuf,
    /// Whether the file may exist.
    written: bool,
}

impl Forms {
    /// Returns the folder next to an agent's socket: no two agents share one.
    pub fn beside(socket: &Path) -> Self {
        Self {
            folder: socket.with_extension("forms"),
            written: false,
        }
    }

    /// Returns the kept forms; empty if there are none.
    ///
    /// # Errors
    /// States why the present content isn't trusted.
    pub fn read(&mut self) -> Result<Vec<KeptForm>, FormsError> {
        let path = self.folder.join(NAME);
        let folder = match fs::symlink_metadata(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| failed("inspecting", &self.folder, error))?,
        };
        // Whatever is there is removed once there is nothing to keep.
        self.written = true;
        if !folder.is_dir() {
            return Err(content(&self.folder, "not a folder"));
        }
        is_ours(&self.folder, &folder)?;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(&path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| failed("opening", &path, error))?,
        };
        let meta = file.metadata();
        let meta = meta.map_err(|error| failed("inspecting", &path, error))?;
        is_ours(&path, &meta)?;
        if !meta.is_file() || meta.len() > LARGEST {
            return Err(content(&path, "not a file, or too large"));
        }
        let mut text = String::new();
        let read = file.take(LARGEST).read_to_string(&mut text);
        read.map_err(|error| failed("reading", &path, error))?;
        parse(&text).map_err(|reason| content(&path, &reason))
    }

    /// Replaces the kept forms, as far as they fit, and returns descriptions of those that don't.
    /// The file is replaced atomically: it is the old or the new one, whatever happens.
    ///
    /// # Errors
    /// Names the file and the operation; the old file stays.
    pub fn write(&mut self, forms: Vec<KeptForm>) -> Result<Vec<String>, FormsError> {
        let path = self.folder.join(NAME);
        if forms.is_empty() {
            return self.clear().map(|()| Vec::new());
        }
        let (forms, left_out) = fitting(forms);
        let page = Page {
            version: VERSION,
            forms,
        };
        let text = serde_json::to_vec(&page).map_err(|e| content(&path, &e.to_string()))?;
        self.make_folder()?;
        let new = self.folder.join(NEW);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("removing", &new, error));
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new);
        let mut file = file.map_err(|error| failed("creating", &new, error))?;
        let written = file.write_all(&text).and_then(|()| file.sync_all());
        written.map_err(|error| failed("writing", &new, error))?;
        fs::rename(&new, &path).map_err(|error| failed("renaming", &new, error))?;
        let folder = File::open(&self.folder).and_then(|folder| folder.sync_all());
        folder.map_err(|error| failed("syncing", &self.folder, error))?;
        self.written = true;
        Ok(left_out)
    }

    fn make_folder(&self) -> Result<(), FormsError> {
        let made = DirBuilder::new().mode(0o700).create(&self.folder);
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("creating", &self.folder, error));
            }
            _ => {}
        }
        let meta = fs::symlink_metadata(&self.folder);
        let meta = meta.map_err(|error| failed("inspecting", &self.folder, error))?;
        match meta.is_dir() {
            true => is_ours(&self.folder, &meta),
            false => Err(content(&self.folder, "not a folder")),
        }
    }

    fn clear(&mut self) -> Result<(), FormsError> {
        if self.written {
            self.remove()?;
            self.written = false;
        }
        Ok(())
    }

    /// Removes every trace.
    ///
    /// # Errors
    /// Names what couldn't be removed.
    pub fn remove(&self) -> Result<(), FormsError> {
        match fs::symlink_metadata(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The target of a symlink belongs to somebody else.
            Ok(meta) if !meta.is_dir() => return Err(content(&self.folder, "not a folder")),
            _ => {}
        }
        for name in [NAME, NEW] {
            let path = self.folder.join(name);
            gone(fs::remove_file(&path)).map_err(|error| failed("removing", &path, error))?;
        }
        gone(fs::remove_dir(&self.folder)).map_err(|error| failed("removing", &self.folder, error))
    }
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> FormsError {
    FormsError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

fn content(path: &Path, reason: &str) -> FormsError {
    FormsError::Content {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Checks that only this user can write there: anyone else could put policies in force.
fn is_ours(path: &Path, meta: &fs::Metadata) -> Result<(), FormsError> {
    let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
    match owner == geteuid().as_raw() && mode & 0o077 == 0 {
        true => Ok(()),
        false => Err(FormsError::NotOurs {
            path: path.to_owned(),
            owner,
            mode,
        }),
    }
}

fn parse(text: &str) -> Result<Vec<KeptForm>, String> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let head: Head = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if head.version != VERSION {
        return Err(format!("version {}, expected {VERSION}", head.version));
    }
    let page: Page = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(page.forms)
}

/// Selects the forms that fit, the smallest of each namespace first, and namespaces that need the
/// least space before others. Also returns what is left out.
fn fitting(forms: Vec<KeptForm>) -> (Vec<KeptForm>, Vec<String>) {
    let mut spaces: BTreeMap<String, Vec<(usize, KeptForm)>> = BTreeMap::new();
    for form in forms {
        let bytes = form.object.to_string().len();
        let own = spaces.entry(form.namespace.clone()).or_default();
        own.push((bytes, form));
    }
    let mut left_out = Vec::new();
    let mut sized: Vec<(usize, Vec<(usize, KeptForm)>)> = Vec::new();
    for mut own in spaces.into_values() {
        own.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
        let mut sum = 0;
        own.retain(|(bytes, form)| {
            let fits = sum + bytes <= ONE;
            if fits {
                sum += bytes;
            } else {
                left_out.push(form.describe());
            }
            fits
        });
        sized.push((sum, own));
    }
    sized.sort_by_key(|(sum, _)| *sum);
    let (mut kept, mut sum) = (Vec::new(), 0);
    for (bytes, form) in sized.into_iter().flat_map(|(_, own)| own) {
        if sum + bytes <= ALL {
            sum += bytes;
            kept.push(form);
        } else {
            left_out.push(form.describe());
        }
    }
    (kept, left_out)
}

#[cfg(test)]
#[path = "forms_tests.rs"]
mod tests;
