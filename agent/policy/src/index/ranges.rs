//! The cluster's pod ranges.
//!
//! An address in one of them without a known owner belongs to a pod that isn't known yet, and never
//! counts as outside. The ranges come from the operator's configuration, or else from the
//! `spec.podCIDRs` of all Nodes together. Balancers may have addresses in the same ranges: an
//! address in a Service's status isn't a pod's.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use ringfence_ebpf::abi::{Addr, Identity};

use crate::{
    model,
    prefix::{self, Prefix},
};

use super::Index;

/// The maximum number of ranges: two for each of 8,192 nodes. Further ones are ignored.
const MOST: usize = 16_384;
/// The maximum number of balancer addresses of one Service: one for each family and zone.
const MOST_BALANCERS: usize = 16;

/// The ranges, and the addresses in them that aren't pods'.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges {
    /// How many sources declare each range.
    said: BTreeMap<Prefix, u32>,
    /// How many Services show each address.
    balancers: BTreeMap<Addr, u32>,
}

impl Ranges {
    /// Reports whether a prefix lies in a range.
    pub(crate) fn hold(&self, (addr, len): &Prefix) -> bool {
        prefix::longest(&self.said, addr, *len).is_some()
    }

    /// Reports whether an address without a known owner belongs to a pod.
    pub(crate) fn are_pods(&self, addr: &Addr) -> bool {
        !self.balancers.contains_key(addr) && self.hold(&(*addr, 128))
    }

    /// Returns the ranges within a prefix.
    pub(crate) fn within(&self, prefix: &Prefix) -> impl Iterator<Item = Prefix> {
        let all = self.said.range(prefix::within(prefix));
        all.map(|(range, _)| *range)
    }

    /// Returns the balancers' addresses that lie in a range.
    pub(crate) fn balancers(&self) -> impl Iterator<Item = Addr> {
        let all = self.balancers.keys().copied();
        all.filter(|addr| self.hold(&(*addr, 128)))
    }

    /// Reports whether an address in a range is a balancer's.
    pub(crate) fn is_balancer(&self, addr: &Addr) -> bool {
        self.balancers.contains_key(addr) && self.hold(&(*addr, 128))
    }

    /// Returns the workload under which addresses of a prefix without a known owner are counted;
    /// `None` if a shorter prefix decides.
    pub(crate) fn entry(&self, prefix: &Prefix) -> Option<u32> {
        if prefix.1 == 128 && self.is_balancer(&prefix.0) {
            return Some(Identity::OUTSIDE);
        }
        self.said
            .contains_key(prefix)
            .then_some(Identity::UNKNOWN_POD)
    }

    /// Returns every prefix that has an entry.
    pub(crate) fn entries(&self) -> BTreeSet<Prefix> {
        let balancers = self.balancers().map(|addr| (addr, 128));
        self.said.keys().copied().chain(balancers).collect()
    }
}

/// Reports whether a block of addresses can be a pod range: no node and no cluster has larger ones.
pub fn can_be_pods(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() >= 8,
        // Below this lie `::1` and the IPv4-mapped addresses.
        IpNet::V6(net) => net.prefix_len() >= 16 && net.network().octets()[..2] != [0, 0],
    }
}

/// Returns the balancers' addresses in the status of a Service, up to the maximum.
pub(super) fn balancers(service: &model::Service) -> BTreeSet<Addr> {
    let all = service.balancers().into_iter().map(Addr::from);
    all.take(MOST_BALANCERS).collect()
}

impl Index {
    /// Reports whether an address counts as outside: it has no known owner and isn't a pod's.
    pub(crate) fn is_outside(&self, addr: &Addr) -> bool {
        self.owner(addr).is_none() && !self.ranges.are_pods(addr)
    }

    /// Reports whether an address belongs to an unknown pod.
    pub(crate) fn is_unknown(&self, addr: &Addr) -> bool {
        self.owner(addr).is_none() && self.ranges.are_pods(addr)
    }

    /// Returns the cluster's pod ranges, aggregated and sorted.
    pub fn pod_ranges(&self) -> Vec<IpNet> {
        let ranges: Vec<IpNet> = self.ranges.said.keys().filter_map(prefix::net).collect();
        IpNet::aggregate(&ranges)
    }

    /// Adds the ranges that the operator configured; they replace those of all Nodes.
    pub(super) fn take_given_ranges(&mut self) {
        for net in self.config.pod_cidrs.clone() {
            self.add_range(prefix::of(&net));
        }
    }

    /// Returns the valid ranges of a Node, and the refused ones.
    pub(super) fn ranges_of(&self, node: &model::Node) -> (Vec<Prefix>, Vec<IpNet>) {
        let (fit, refused): (Vec<IpNet>, Vec<IpNet>) =
            node.pod_cidrs().into_iter().partition(can_be_pods);
        match self.config.pod_cidrs.is_empty() {
            true => (fit.iter().map(prefix::of).collect(), refused),
            false => (Vec::new(), Vec::new()),
        }
    }

    pub(super) fn add_range(&mut self, range: Prefix) {
        let said = &mut self.ranges.said;
        let has_room = said.len() < MOST;
        match said.get_mut(&range) {
            Some(times) => *times += 1,
            None if has_room => {
                said.insert(range, 1);
                self.note_range(range);
            }
            None => {}
        }
    }

    pub(super) fn remove_range(&mut self, range: Prefix) {
        let said = &mut self.ranges.said;
        match said.get_mut(&range) {
            Some(1) => {
                said.remove(&range);
                self.note_range(range);
            }
            Some(times) => *times -= 1,
            None => {}
        }
    }

    /// Records a range that was added or removed; balancers in it are recorded one by one.
    fn note_range(&mut self, range: Prefix) {
        let from = (range.0)..;
        let concerned: Vec<Addr> = self
            .ranges
            .balancers
            .range(from)
            .map(|(addr, _)| *addr)
            .take_while(|addr| prefix::mask(addr, range.1) == range.0)
            .collect();
        self.journal.note(|j| &mut j.ranges, range);
        for addr in concerned {
            self.note_balancer(addr);
        }
    }

    fn note_balancer(&mut self, addr: Addr) {
        self.journal.note(|j| &mut j.ranges, (addr, 128));
        self.journal.note(|j| &mut j.addresses, addr);
    }

    /// Records the change of the balancers' addresses that a Service shows.
    pub(super) fn show_balancers(&mut self, before: &BTreeSet<Addr>, now: &BTreeSet<Addr>) {
        for addr in now.difference(before) {
            let times = self.ranges.balancers.entry(*addr).or_default();
            *times += 1;
            if *times == 1 {
                self.note_balancer(*addr);
            }
        }
        for addr in before.difference(now) {
            let Some(times) = self.ranges.balancers.get_mut(addr) else {
                continue;
            };
            *times -= 1;
            if *times == 0 {
                self.ranges.balancers.remove(addr);
                self.note_balancer(*addr);
            }
        }
    }
}
