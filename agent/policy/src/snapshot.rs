//! A snapshot with everything compiled, for questions about many pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ringfence_ebpf::abi::Addr;

use crate::{
    index::{Index, Owner, PodEntry, Scope, groups::PodId},
    intern::{HashSet, Text},
    tables::{EndpointPolicy, Tables},
};

/// An index in which every live pod has an address, and its tables.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) index: Index,
    pub(crate) tables: Tables,
    /// In key order.
    pub(crate) pods: Vec<Pod>,
}

/// A live pod, or a workload that represents its pods.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) id: PodId,
    /// `namespace/name`, plus the kind if the entry is a workload and another entry has the same
    /// name.
    pub(crate) name: String,
    pub(crate) node: Option<Text>,
    pub(crate) policy: EndpointPolicy,
    /// How others see its addresses, in the order of the addresses.
    pub(crate) seen: Vec<Seen>,
}

/// One address of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Seen {
    pub(crate) is_v4: bool,
    pub(crate) class: u32,
}

/// The owner and class of one address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AddressInfo {
    pub(crate) class: u32,
    /// The pod that owns it.
    pub(crate) pod: Option<PodId>,
    /// The nodes that claim it, if no pod owns it.
    pub(crate) nodes: Vec<Text>,
}

impl Snapshot {
    pub(crate) fn new(given: &Index) -> Self {
        let index = given.with_made_up_addresses();
        let tables = index.compile(&Scope::Everything);
        let mut snapshot = Self {
            index,
            tables,
            pods: Vec::new(),
        };
        snapshot.pods = snapshot.list();
        snapshot
    }

    fn list(&self) -> Vec<Pod> {
        let mut live: Vec<_> = self.index.live().map(|(id, p)| (p.key(), id, p)).collect();
        live.sort_by(|a, b| a.0.cmp(&b.0));
        let mut times: BTreeMap<String, u32> = BTreeMap::new();
        for (key, ..) in &live {
            *times.entry(key.to_string()).or_default() += 1;
        }
        let pod = |(key, id, pod): (_, PodId, &PodEntry)| {
            let name = ToString::to_string(&key);
            let seen = |ip: &IpAddr| Seen {
                is_v4: ip.is_ipv4(),
                class: self.tables.class_of(&Addr::from(*ip)),
            };
            Some(Pod {
                id,
                name: match &pod.stand_in {
                    Some(kind) if times[&name] > 1 => format!("{name} ({kind})"),
                    _ => name,
                },
                node: pod.node.clone(),
                policy: self.tables.endpoints.get(&key)?.clone(),
                seen: self.index.addresses_of(id).iter().map(seen).collect(),
            })
        };
        live.into_iter().filter_map(pod).collect()
    }

    /// Returns the positions of the given pods, in this snapshot's order.
    pub(crate) fn places(&self, pods: &[PodId]) -> Vec<usize> {
        let wanted: HashSet<&PodId> = pods.iter().collect();
        let places = self.pods.iter().enumerate();
        let found = places.filter(|(_, pod)| wanted.contains(&pod.id));
        found.map(|(at, _)| at).collect()
    }

    /// Looks up an address. A made-up address has no owner: the future addresses of the pods it
    /// represents are unknown.
    pub(crate) fn sight(&self, addr: &Addr) -> AddressInfo {
        let nobody = |class| AddressInfo {
            class,
            pod: None,
            nodes: Vec::new(),
        };
        if self.index.made_up.contains(addr) {
            return nobody(self.tables.class_by_prefix(addr, 128));
        }
        let sight = nobody(self.tables.class_of(addr));
        match self.index.owner(addr) {
            None => sight,
            Some(Owner::Pod(id)) => AddressInfo {
                pod: Some(id),
                ..sight
            },
            Some(Owner::Node(claims)) => {
                let nodes = claims.iter().filter_map(|claim| claim.node.clone());
                let nodes: BTreeSet<Text> = nodes.collect();
                AddressInfo {
                    nodes: nodes.into_iter().collect(),
                    ..sight
                }
            }
        }
    }
}

/// The classes of the addresses that packets between two pods carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    /// The address family; `None` if the pods have none in common.
    pub(crate) is_v4: Option<bool>,
    /// Class of the first pod's address, then of the other pod's.
    pub(crate) classes: [Option<u32>; 2],
}

/// Returns what packets between two pods carry: one entry per family that both pods have,
/// otherwise the class of each pod's first address. A call denied over one family may be allowed
/// over the other.
pub(crate) fn carried(one: &[Seen], other: &[Seen]) -> impl Iterator<Item = Carried> {
    let first = |seen: &[Seen], is_v4| seen.iter().find(|s| s.is_v4 == is_v4).map(|s| s.class);
    let family = |is_v4| {
        let classes = [Some(first(one, is_v4)?), Some(first(other, is_v4)?)];
        let is_v4 = Some(is_v4);
        Some(Carried { is_v4, classes })
    };
    let both = [true, false].map(family);
    let none = both.iter().all(Option::is_none).then(|| Carried {
        is_v4: None,
        classes: [one, other].map(|seen| seen.first().map(|s| s.class)),
    });
    both.into_iter().flatten().chain(none)
}
