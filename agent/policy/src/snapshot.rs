//! Everything compiled at once, for questions about many pods.

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
    /// In the order of their keys.
    pub(crate) pods: Vec<Pod>,
}

/// A live pod, or a workload that stands for its pods.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) id: PodId,
    /// `namespace/name`; where a workload and a pod share it, with the workload's kind.
    pub(crate) name: String,
    pub(crate) node: Option<Text>,
    pub(crate) policy: EndpointPolicy,
    /// How its addresses are seen by others, in their order.
    pub(crate) seen: Vec<Seen>,
}

/// One address of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Seen {
    pub(crate) is_v4: bool,
    pub(crate) class: u32,
}

/// What one address is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sight {
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

    /// The places of some pods, in their order here.
    pub(crate) fn places(&self, pods: &[PodId]) -> Vec<usize> {
        let wanted: HashSet<&PodId> = pods.iter().collect();
        let places = self.pods.iter().enumerate();
        let found = places.filter(|(_, pod)| wanted.contains(&pod.id));
        found.map(|(at, _)| at).collect()
    }

    /// What an address is. One that was made up is nobody's: where the pods will
    /// be that it stands for isn't known.
    pub(crate) fn sight(&self, addr: &Addr) -> Sight {
        let nobody = |class| Sight {
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
            Some(Owner::Pod(id)) => Sight {
                pod: Some(id),
                ..sight
            },
            Some(Owner::Node(claims)) => {
                let nodes = claims.iter().filter_map(|claim| claim.node.clone());
                let nodes: BTreeSet<Text> = nodes.collect();
                Sight {
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
    /// Of which family; none where they have none in common.
    pub(crate) is_v4: Option<bool>,
    /// Of the first pod's address and the other's.
    pub(crate) classes: [Option<u32>; 2],
}

/// What packets between two pods carry: of each family that both have, else their first
/// addresses. A call that is denied over one family may be allowed over the other.
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
