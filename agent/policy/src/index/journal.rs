//! The changes since the compiler's last update.

use std::sync::atomic::{AtomicU64, Ordering};

use ringfence_ebpf::abi::Addr;

use crate::{
    intern::{HashSet, Text},
    prefix::Prefix,
};

use super::{
    Key,
    groups::{GroupId, PodId},
};

/// Something aggregated over many pods that other pods' policies depend on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Fact {
    /// The values in use of an egress label, in one namespace or in any.
    Values(Box<str>, Option<Box<str>>),
    /// The ports that a service's pods declare: namespace, service.
    Declared(Box<str>, Box<str>),
    /// The services of a type: namespace, type.
    Type(Box<str>, Box<str>),
    /// A Namespace's labels.
    Namespace(Box<str>),
    /// The way to cluster DNS.
    Dns,
    /// The Services of a namespace that can be called at nodes.
    Doors(Box<str>),
    /// Whether there is room for the labels about a workload: namespace, service.
    Room(Box<str>, Box<str>),
}

impl Fact {
    /// Returns the facts affected by a value that was added or removed in a namespace.
    pub(crate) fn values(key: &str, namespace: &str) -> [Self; 2] {
        [Some(namespace.into()), None].map(|namespace| Self::Values(key.into(), namespace))
    }
}

/// The changes. They are recorded as names, not copies; the compiler looks up the current state.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Number of the last update. A compiler that doesn't know this number starts from scratch: it
    /// was last updated from another index, or another compiler has used this index since.
    pub(crate) looked: u64,
    /// No compiler follows this index: nothing is recorded.
    pub(crate) idle: bool,
    pub(crate) groups: HashSet<GroupId>,
    pub(crate) pods: HashSet<PodId>,
    pub(crate) addresses: HashSet<Addr>,
    /// Pod ranges, and balancers' addresses in them.
    pub(crate) ranges: HashSet<Prefix>,
    pub(crate) facts: HashSet<Fact>,
    pub(crate) policies: HashSet<Key>,
    pub(crate) cluster_policies: HashSet<Text>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Journal {
    /// Returns an empty journal that records changes.
    pub(crate) fn listening() -> Self {
        Self {
            idle: false,
            looked: NEXT.fetch_add(1, Ordering::Relaxed),
            ..Self::default()
        }
    }

    /// Records a change in one of the sets.
    pub(crate) fn note<T: std::hash::Hash + Eq>(
        &mut self,
        set: fn(&mut Self) -> &mut HashSet<T>,
        item: T,
    ) {
        if !self.idle {
            set(self).insert(item);
        }
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            looked: 0,
            idle: true,
            groups: HashSet::default(),
            pods: HashSet::default(),
            addresses: HashSet::default(),
            ranges: HashSet::default(),
            facts: HashSet::default(),
            policies: HashSet::default(),
            cluster_policies: HashSet::default(),
        }
    }
}

/// A copy of an index counts as another index, which no compiler follows.
impl Clone for Journal {
    fn clone(&self) -> Self {
        Self::default()
    }
}
