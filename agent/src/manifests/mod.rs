//! A folder of Kubernetes YAML as a source of policy.
//!
//! [`document`] turns text into values, [`file`] turns values into objects, [`walk`] finds the
//! files, [`Store`] keeps the last good state of each object, and [`Watch`] signals when to look
//! again. Only `walk`, `store` and `watch` do I/O.

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

/// An error in a manifest, and its position.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ManifestError {
    /// The file or folder.
    pub file: PathBuf,
    /// The number of the YAML document in it, from 1.
    pub document: Option<usize>,
    /// The number of the item, if the document is a List, from 1.
    pub item: Option<usize>,
    /// Kind, namespace and name, as far as they could be read.
    pub object: Option<String>,
    /// The field, for example `spec.ingress[0].from[1].ipBlock.cidr`.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl ManifestError {
    /// Creates an error about a whole file or folder.
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

/// All errors in a folder of manifests at start, one per line.
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
