//! Where policy comes from: what changed there, told to the index.

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
        /// Its objects.
        store: Store,
        /// What the index was told of them.
        feed: Feed,
        /// Whether it was told anything yet.
        told: bool,
    },
    /// The API server's watches.
    Kubernetes(Inbox),
}

/// What a look at the source came to.
#[derive(Debug, Default)]
pub struct News {
    /// The index may differ from before.
    pub changed: bool,
    /// Something was too fresh to read: look again soon.
    pub unsettled: bool,
    /// What must be known before anything is enforced, and isn't yet.
    pub waits_for: Vec<&'static str>,
    /// When the first event of each kind came, where the source tells.
    pub since: BTreeMap<&'static str, Instant>,
}

impl Source {
    /// Reads a folder or a file for the first time; any error in it is refused.
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

    /// Brings an index to what the source says now.
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

    /// Whether it can be read.
    pub fn is_connected(&self) -> bool {
        match self {
            Self::Manifests { store, .. } => store.is_connected(),
            Self::Kubernetes(inbox) => inbox.board().is_connected(),
        }
    }

    /// What can't be read of it, one a line.
    pub fn invalid(&self) -> Vec<String> {
        match self {
            Self::Manifests { store, .. } => {
                let problems = store.problems();
                problems.iter().map(ManifestError::to_string).collect()
            }
            Self::Kubernetes(inbox) => inbox.invalid(),
        }
    }

    /// Whether what it says of many objects is worth working out only now and then.
    pub const fn is_large(&self) -> bool {
        matches!(self, Self::Kubernetes(_))
    }
}

impl Origin {
    /// As `status` names it.
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
