//! The owners of each address.

use std::sync::Arc;

use ringfence_ebpf::abi::Addr;
use smallvec::SmallVec;

use crate::intern::{HashMap, Text};

use super::groups::PodId;

/// The basis on which an address counts as a node's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeClaim {
    /// The node, if known.
    pub(crate) node: Option<Text>,
    /// Whether it is listed in the Node's `status.addresses`.
    pub(crate) in_status: bool,
}

/// A Service that shows an address.
///
/// Services sort first at their own addresses, before those that list the address: no choice of a
/// Service's name can take the first position, and with it the address's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceClaim {
    /// Whether it isn't the Service's own cluster IP.
    pub(crate) foreign: bool,
    /// `namespace/name`.
    pub(crate) name: Text,
    /// IANA protocol number and port, sorted; empty if they don't fit into the share of the
    /// Service's namespace.
    pub(crate) ports: Arc<[(u16, u16)]>,
}

impl ServiceClaim {
    /// Reports whether its ports are unknown.
    pub(crate) fn is_unlisted(&self) -> bool {
        self.ports.is_empty()
    }
}

/// The claimants of each address: several pods may show the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    pods: HashMap<Addr, SmallVec<[PodId; 2]>>,
    nodes: HashMap<Addr, Vec<NodeClaim>>,
    /// The Services that show each address, in order.
    services: HashMap<Addr, SmallVec<[ServiceClaim; 1]>>,
}

impl Owners {
    /// Returns the pods that show an address, in no order.
    pub(crate) fn pods(&self, addr: &Addr) -> &[PodId] {
        self.pods.get(addr).map_or(&[], |pods| pods)
    }

    /// Returns the nodes' claims to an address.
    pub(crate) fn nodes(&self, addr: &Addr) -> &[NodeClaim] {
        self.nodes.get(addr).map_or(&[], Vec::as_slice)
    }

    /// Returns the Services that show an address, in order: one external address may serve several.
    pub(crate) fn services(&self, addr: &Addr) -> &[ServiceClaim] {
        self.services.get(addr).map_or(&[], |claims| claims)
    }

    /// Returns an upper bound on the number of addresses of pods and nodes: an address of both
    /// counts twice.
    pub(super) fn len(&self) -> usize {
        self.pods.len() + self.nodes.len()
    }

    /// Returns every address that a Service shows, in no order.
    pub(crate) fn of_services(&self) -> impl Iterator<Item = Addr> + '_ {
        self.services.keys().copied()
    }

    /// Returns every address that a node claims, in no order.
    pub(crate) fn of_nodes(&self) -> impl Iterator<Item = Addr> + '_ {
        self.nodes.keys().copied()
    }

    /// Returns every address that a pod or a node claims, once each, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = Addr> + '_ {
        let nodes = self
            .nodes
            .keys()
            .filter(|addr| !self.pods.contains_key(addr));
        self.pods.keys().chain(nodes).copied()
    }

    pub(super) fn add_pod(&mut self, addr: Addr, pod: PodId) {
        self.pods.entry(addr).or_default().push(pod);
    }

    pub(super) fn remove_pod(&mut self, addr: &Addr, pod: PodId) {
        if let Some(pods) = self.pods.get_mut(addr) {
            pods.retain(|p| *p != pod);
            if pods.is_empty() {
                self.pods.remove(addr);
            }
        }
    }

    pub(super) fn add_service(&mut self, addr: Addr, claim: ServiceClaim) {
        let claims = self.services.entry(addr).or_default();
        if let Err(at) = claims.binary_search(&claim) {
            claims.insert(at, claim);
        }
    }

    pub(super) fn remove_service(&mut self, addr: &Addr, name: &str) {
        if let Some(claims) = self.services.get_mut(addr) {
            claims.retain(|claim| *claim.name != *name);
            if claims.is_empty() {
                self.services.remove(addr);
            }
        }
    }

    pub(super) fn add_node(&mut self, addr: Addr, claim: NodeClaim) {
        self.nodes.entry(addr).or_default().push(claim);
    }

    pub(super) fn remove_node(&mut self, addr: &Addr, claim: &NodeClaim) {
        if let Some(claims) = self.nodes.get_mut(addr) {
            if let Some(at) = claims.iter().position(|c| c == claim) {
                claims.swap_remove(at);
            }
            if claims.is_empty() {
                self.nodes.remove(addr);
            }
        }
    }
}
