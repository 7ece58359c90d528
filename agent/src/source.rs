//! Sources of policy, whose changes are fed to the index.

use std::collections::BTreeMap;
use std::time::Instant;

use ringfence_policy::index::Index;

use crate::kubernetes::Inbox;
use crate::manifests::{Feed, ManifestError, ManifestErrors, Store};
use crate::settings::Origin;

/// A source of policy.
#[derive(Debug)]
pub enum Source {
    /// A folder of manifests.
    Manifests {
        /// The folder's objects.
        store: Store,
        /// What the index has been given of them.
        feed: Feed,
        /// Whether the index has been given anything yet.
        told: bool,
    },
    /// The API server's watches.
    Kubernetes(Inbox),
}

/// The result of refreshing from the source.
#[derive(Debug, Default)]
pub struct News {
    /// The index may have changed.
    pub changed: bool,
    /// Something was too recent to read: look again soon.
    pub unsettled: bool,
    /// What must be known before anything is enforced, and isn't yet.
    pub waits_for: Vec<&'static str>,
    /// When the first event of each kind came, if the source records it.
    pub since: BTreeMap<&'static str, Instant>,
}

impl Source {
    /// Reads a folder or a file for the first time; fails on any error in it.
    pub fn manifests(folder: &std::path::Path) -> Result<Self, ManifestErrors> {
        let store = Store::open(folder)?;
        for line in store.emptiness().into_iter().chain(store.unread()) {
            tracing::warn!("{line}");
        }
        Ok(Self::Manifests {
            store,
            feed: Feed::default(),
            told: false,
        })
    }

    /// Brings an index up to date with the source.
    pub fn refresh(&mut self, index: &mut Index) -> News {
        match self {
            Self::Manifests { store, feed, told } => {
                let refresh = store.refresh();
                if refresh.changed || !*told {
                    feed.tell(store, index);
                    *told = true;
                }
                News {
                    changed: refresh.changed,
                    unsettled: refresh.unsettled,
                    ..News::default()
                }
            }
            Self::Kubernetes(inbox) => {
                let taken = inbox.drain(index);
                let kinds = inbox.waits_for();
                News {
                    changed: !taken.since.is_empty(),
                    unsettled: false,
                    waits_for: kinds.iter().map(|kind| kind.name()).collect(),
                    since: (taken.since.into_iter())
                        .map(|(kind, at)| (kind.name(), at))
                        .collect(),
                }
            }
        }
    }

    /// Reports whether the source can be read.
    pub fn is_connected(&self) -> bool {
        match self {
            Self::Manifests { store, .. } => store.is_connected(),
            Self::Kubernetes(inbox) => inbox.board().is_connected(),
        }
    }

    /// Lists what can't be read of the source, one item per line.
    pub fn invalid(&self) -> Vec<String> {
        match self {
            Self::Manifests { store, .. } => {
                let problems = store.problems();
                problems.iter().map(ManifestError::to_string).collect()
            }
            Self::Kubernetes(inbox) => inbox.invalid(),
        }
    }

    /// Reports whether the source is so large that reports about all its objects are computed only
    /// now and then.
    pub const fn is_large(&self) -> bool {
        matches!(self, Self::Kubernetes(_))
    }
}

impl Origin {
    /// Returns the source's name in `status`.
    pub fn describe(&self) -> String {
        match self {
            Self::Manifests(folder) => format!("manifests {}", folder.display()),
            Self::Kubernetes(access) => match &access.kubeconfig {
                Some(file) => format!("kubernetes {}", file.display()),
                None => "kubernetes".into(),
            },
        }
    }
}
