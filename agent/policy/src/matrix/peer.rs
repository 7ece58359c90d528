//! Addresses as a caller and as a callee.
//!
//! A CIDR may be cut into parts by policies' blocks, and hold addresses of pods
//! and nodes. Between one beginning or end of such a part and the next nothing
//! changes, so the first address of each stretch speaks for all of it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use ringfence_ebpf::abi::Addr;

use crate::{
    index::groups::PodId,
    prefix::{self, V4_ROOT},
    snapshot::{Pod, Sight, Snapshot},
};

use super::judge;

/// All addresses of a CIDR that are the same to every pod.
#[derive(Debug)]
pub(super) struct Spot {
    /// What they are, in each snapshot.
    pub(super) sights: Vec<Sight>,
    /// The pod whose own they all are, if it is one, by its index in each
    /// snapshot: a pod always reaches itself.
    only: Vec<Option<PodId>>,
}

impl Spot {
    /// What these addresses are to a pod.
    pub(super) fn exempt(&self, snapshot: usize, pod: &Pod) -> Exempt {
        if self.only[snapshot] == Some(pod.id) {
            Exempt::Itself
        } else if judge::is_own_node(pod, &self.sights[snapshot].nodes) {
            Exempt::Node
        } else {
            Exempt::No
        }
    }
}

/// Whether policy has a say between addresses and a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exempt {
    /// It has.
    No,
    /// They are the pod's own.
    Itself,
    /// They are of the node that runs it: only ClusterNetworkPolicies have, and only on
    /// what the pod sends.
    Node,
}

/// The kinds of addresses within a CIDR; never none.
pub(super) fn spots(snapshots: &[&Snapshot], net: &IpNet) -> Vec<Spot> {
    let mut kinds: BTreeMap<Vec<Sight>, Vec<Option<PodId>>> = BTreeMap::new();
    for addr in stretches(snapshots, net) {
        let mut sights: Vec<Sight> = snapshots.iter().map(|s| s.sight(&addr)).collect();
        let pods: Vec<_> = sights.iter_mut().map(|sight| sight.pod.take()).collect();
        kinds
            .entry(sights)
            .and_modify(|only| {
                if *only != pods {
                    only.fill(None);
                }
            })
            .or_insert(pods);
    }
    let spots = kinds.into_iter();
    spots.map(|(sights, only)| Spot { sights, only }).collect()
}

/// First and last address, in the one form of the tables.
fn range(net: &IpNet) -> (u128, u128) {
    let (addr, len) = prefix::of(net);
    let first = u128::from_be_bytes(addr.octets());
    let hosts = u128::MAX.checked_shr(len.into()).unwrap_or(0);
    (first, first | hosts)
}

/// The first address of every stretch of a CIDR within which nothing changes.
pub(crate) fn stretches(snapshots: &[&Snapshot], net: &IpNet) -> impl Iterator<Item = Addr> {
    let (first, last) = range(net);
    let mut starts = BTreeSet::from([first]);
    let mut cut = |from: u128, to: u128| {
        starts.insert(from);
        starts.extend(to.checked_add(1));
    };
    let number = |addr: &Addr| u128::from_be_bytes(addr.octets());
    let within = Addr::v6(first.to_be_bytes())..=Addr::v6(last.to_be_bytes());
    for snapshot in snapshots {
        let prefixes = (*within.start(), 0)..=(*within.end(), 128);
        for ((addr, len), _) in snapshot.tables.cidrs.range(prefixes) {
            let from = number(addr);
            let hosts = u128::MAX.checked_shr(u32::from(*len)).unwrap_or(0);
            cut(from, from | hosts);
        }
        let exact = snapshot.tables.classes.range(within.clone());
        exact.for_each(|(addr, _)| cut(number(addr), number(addr)));
        let owned = snapshot.index.owners.all();
        let owned = owned.filter(|addr| within.contains(addr));
        owned.for_each(|addr| cut(number(&addr), number(&addr)));
    }
    // IPv4 lies within IPv6 in the tables, and no packet shows it there.
    let v4 = number(&V4_ROOT.0);
    let v4 = v4..=v4 | u128::from(u32::MAX);
    if matches!(net, IpNet::V6(_)) {
        cut(*v4.start(), *v4.end());
        starts.retain(|start| !v4.contains(start));
    }
    starts.retain(|start| (first..=last).contains(start));
    starts
        .into_iter()
        .map(|start| Addr::v6(start.to_be_bytes()))
}
