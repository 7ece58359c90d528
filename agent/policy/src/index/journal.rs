//! What has changed since the compiler last looked.

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

/// Something that is summed up over many pods, and that the policies of others
/// are worked out from.
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
    /// What a value that came or went in a namespace concerns.
    pub(crate) fn values(key: &str, namespace: &str) -> [Self; 2] {
        [Some(namespace.into()), None].map(|namespace| Self::Values(key.into(), namespace))
    }
}

/// What has changed. Things are named, not copied: what became of them is
/// looked up when the compiler comes.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Of the last look: a compiler that doesn't know this number, since it
    /// looked at another index or another looked since, starts from scratch.
    pub(crate) looked: u64,
    /// Nobody looks: nothing is noted.
    pub(crate) idle: bool,
    pub(crate) groups: HashSet<GroupId>,
    pub(crate) pods: HashSet<PodId>,
    pub(crate) addresses: HashSet<Addr>,
    /// Pods' ranges, and balancers' addresses in them.
    pub(crate) ranges: HashSet<Prefix>,
    pub(crate) facts: HashSet<Fact>,
    pub(crate) policies: HashSet<Key>,
    pub(crate) cluster_policies: HashSet<Text>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Journal {
    /// An empty one that is noted in from now on.
    pub(crate) fn listening() -> Self {
        Self {
            idle: false,
            looked: NEXT.fetch_add(1, Ordering::Relaxed),
            ..Self::default()
        }
    }

    /// Notes a change in one of the sets.
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

/// A copy of an index is another index: nobody has looked at it.
impl Clone for Journal {
    fn clone(&self) -> Self {
        Self::default()
    }
}
