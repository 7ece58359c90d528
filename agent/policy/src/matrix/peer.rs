//! Addresses as callers and callees.
//!
//! Policies' blocks may cut a CIDR into parts, and it may contain addresses of pods and nodes.
//! Between one such boundary and the next nothing changes, so the first address of each stretch
//! represents all of it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use ringfence_ebpf::abi::Addr;

use crate::{
    index::groups::PodId,
    prefix::{self, V4_ROOT},
    snapshot::{AddressInfo, Pod, Snapshot},
};

use super::judge;

/// All addresses of a CIDR that are equivalent for every pod.
#[derive(Debug)]
pub(super) struct Spot {
    /// Their owners and classes, in each snapshot.
    pub(super) sights: Vec<AddressInfo>,
    /// The pod that owns them, if all of them belong to a single pod, in each snapshot: a pod
    /// always reaches itself.
    only: Vec<Option<PodId>>,
}

impl Spot {
    /// Returns how these addresses are exempt from a pod's policy.
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

/// Whether policy applies between addresses and a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exempt {
    /// Policy applies.
    No,
    /// The addresses are the pod's own.
    Itself,
    /// The addresses belong to the node that runs the pod: only ClusterNetworkPolicies apply, and
    /// only to packets that the pod sends.
    Node,
}

/// Returns the kinds of addresses within a CIDR; never empty.
pub(super) fn spots(snapshots: &[&Snapshot], net: &IpNet) -> Vec<Spot> {
    let mut kinds: BTreeMap<Vec<AddressInfo>, Vec<Option<PodId>>> = BTreeMap::new();
    for addr in stretches(snapshots, net) {
        let mut sights: Vec<AddressInfo> = snapshots.iter().map(|s| s.sight(&addr)).collect();
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

/// Returns the first and last address, in the 128-bit form of the tables.
fn range(net: &IpNet) -> (u128, u128) {
    let (addr, len) = prefix::of(net);
    let first = u128::from_be_bytes(addr.octets());
    let hosts = u128::MAX.checked_shr(len.into()).unwrap_or(0);
    (first, first | hosts)
}

/// Returns the first address of every stretch of a CIDR within which nothing changes.
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
    // The tables place IPv4 within IPv6, but no IPv6 packet carries those addresses.
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
