//! Who owns each address.

use std::sync::Arc;

use ringfence_ebpf::abi::Addr;
use smallvec::SmallVec;

use crate::intern::{HashMap, Text};

use super::groups::PodId;

/// What says that an address is a node's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeClaim {
    /// The node, if it is known which.
    pub(crate) node: Option<Text>,
    /// Whether the Node's `status.addresses` shows it.
    pub(crate) in_status: bool,
}

/// A Service that shows an address.
///
/// Whose own address it is stands before those that name it: nobody can take the
/// first place, and with it the address's name, by the name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceClaim {
    /// Whether it isn't the Service's own cluster IP.
    pub(crate) foreign: bool,
    /// `namespace/name`.
    pub(crate) name: Text,
    /// IANA protocol number and port, sorted; none if it doesn't fit into its
    /// namespace's share.
    pub(crate) ports: Arc<[(u16, u16)]>,
}

impl ServiceClaim {
    /// Whether its ports aren't known.
    pub(crate) fn is_unlisted(&self) -> bool {
        self.ports.is_empty()
    }
}

/// Who claims each address: several pods may show the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    pods: HashMap<Addr, SmallVec<[PodId; 2]>>,
    nodes: HashMap<Addr, Vec<NodeClaim>>,
    /// The Services that show each address, in order.
    services: HashMap<Addr, SmallVec<[ServiceClaim; 1]>>,
}

impl Owners {
    /// The pods that show an address, in no order.
    pub(crate) fn pods(&self, addr: &Addr) -> &[PodId] {
        self.pods.get(addr).map_or(&[], |pods| pods)
    }

    /// What says that an address is a node's.
    pub(crate) fn nodes(&self, addr: &Addr) -> &[NodeClaim] {
        self.nodes.get(addr).map_or(&[], Vec::as_slice)
    }

    /// The Services that show an address, in order: one external address may
    /// serve several.
    pub(crate) fn services(&self, addr: &Addr) -> &[ServiceClaim] {
        self.services.get(addr).map_or(&[], |claims| claims)
    }

    /// How many addresses pods and nodes have, at most: one that is of both counts twice.
    pub(super) fn len(&self) -> usize {
        self.pods.len() + self.nodes.len()
    }

    /// Every address that a Service shows, in no order.
    pub(crate) fn of_services(&self) -> impl Iterator<Item = Addr> + '_ {
        self.services.keys().copied()
    }

    /// Every address that a node claims, in no order.
    pub(crate) fn of_nodes(&self) -> impl Iterator<Item = Addr> + '_ {
        self.nodes.keys().copied()
    }

    /// Every address that a pod or a node claims, each once, in no order.
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
