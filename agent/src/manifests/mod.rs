//! A folder of Kubernetes YAML as a source of policy.
//!
//! [`document`] turns text into values, [`file`] values into objects, [`walk`]
//! finds the files, [`Store`] keeps the last good state of each object, and
//! [`Watch`] says when to look again. Only `walk`, `store` and `watch` do I/O.

pub mod document;
pub mod feed;
pub mod file;
mod split;
pub mod store;
mod unread;
pub mod walk;
pub mod watch;

#[cfg(test)]
mod workload_tests;

use std::fmt;
use std::path::PathBuf;

pub use feed::Feed;
pub use store::{Refresh, Store};
pub use watch::Watch;

/// What is wrong with a manifest, and where.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ManifestError {
    /// The file, or folder.
    pub file: PathBuf,
    /// The YAML document in it, from 1.
    pub document: Option<usize>,
    /// The item of the List that the document is, from 1.
    pub item: Option<usize>,
    /// Kind, namespace and name, as far as they could be read.
    pub object: Option<String>,
    /// The field, as in `spec.ingress[0].from[1].ipBlock.cidr`.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl ManifestError {
    /// An error of a whole file or folder.
    pub fn of_file(file: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            document: None,
            item: None,
            object: None,
            field: None,
            message: message.into(),
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(document) = self.document {
            write!(f, ": document {document}")?;
        }
        if let Some(item) = self.item {
            write!(f, ", item {item}")?;
        }
        for part in [&self.object, &self.field].into_iter().flatten() {
            write!(f, ": {part}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ManifestError {}

/// Everything that is wrong with a folder of manifests at start, one a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", Lines(.0))]
pub struct ManifestErrors(pub Vec<ManifestError>);

struct Lines<'a>(&'a [ManifestError]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

/// What two objects may not share.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectKey {
    /// Kind.
    pub kind: String,
    /// Namespace; empty for kinds that have none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}
