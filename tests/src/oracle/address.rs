//! Addresses: CIDRs, nodes, and what is neither pod nor node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::Oracle;
use super::object::{list, name, text};

/// A CIDR as its family's width, its first address as a number, its length.
#[derive(Clone, Copy)]
pub(crate) struct Cidr {
    width: u32,
    first: u128,
    length: u32,
}

/// An address as its family's width and a number.
fn number(address: IpAddr) -> (u32, u128) {
    match address {
        IpAddr::V4(a) => (32, u128::from(u32::from(a))),
        IpAddr::V6(a) => (128, u128::from(a)),
    }
}

impl Cidr {
    /// Host bits may be set, as the API server lets them be; they mean nothing.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let (width, bits) = number(address.parse().ok()?);
        let length: u32 = length.parse().ok()?;
        if length > width {
            return None;
        }
        let shift = width - length;
        let first = if shift == 128 {
            0
        } else {
            bits >> shift << shift
        };
        Some(Self {
            width,
            first,
            length,
        })
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let (width, bits) = number(address);
        let shift = self.width - self.length;
        let same = |a: u128, b: u128| shift == 128 || a >> shift == b >> shift;
        width == self.width && same(bits, self.first)
    }

    /// Whether a node may have so many pods: else it says nothing.
    fn is_for_pods(&self) -> bool {
        match self.width {
            32 => self.length >= 8,
            _ => self.length >= 16 && self.first >> 112 != 0,
        }
    }

    /// Whether `other` is a part of this, smaller than the whole.
    pub(super) fn strictly_holds(&self, other: &Self) -> bool {
        other.length > self.length && self.contains(other.address(0))
    }

    fn address(&self, offset: u128) -> IpAddr {
        if self.width == 32 {
            Ipv4Addr::from((self.first + offset) as u32).into()
        } else {
            Ipv6Addr::from(self.first + offset).into()
        }
    }
}

/// All addresses of a Node object: those of its status, and the first two of
/// each of its pod CIDRs (the network's own, and commonly the bridge's).
fn node_addresses(node: &Value) -> Vec<IpAddr> {
    let shown = list(node, "/status/addresses").iter();
    let mut all: Vec<IpAddr> = shown
        .filter_map(|a| text(a, "/address").parse().ok())
        .collect();
    let blocks = list(node, "/spec/podCIDRs").iter();
    let blocks = blocks.filter_map(Value::as_str);
    for block in blocks.chain([text(node, "/spec/podCIDR")]) {
        let Some(cidr) = Cidr::parse(block) else {
            continue;
        };
        all.push(cidr.address(0));
        if cidr.length < cidr.width {
            all.push(cidr.address(1));
        }
    }
    all
}

impl Oracle<'_> {
    /// The node that is judged for, if an address is one of its own and no pod's.
    pub(super) fn this_node_at(&self, address: IpAddr) -> Option<&Value> {
        let mut own = self
            .of_kind("Node")
            .filter(|node| Some(name(node)) == self.node);
        let found = own.find(|node| node_addresses(node).contains(&address));
        found.filter(|_| self.holder(address).is_none())
    }

    fn is_this_node(&self, address: IpAddr) -> bool {
        self.of_kind("Node")
            .any(|node| Some(name(node)) == self.node && node_addresses(node).contains(&address))
    }

    fn is_a_node(&self, address: IpAddr) -> bool {
        self.of_kind("Node")
            .any(|node| node_addresses(node).contains(&address))
    }

    /// `all_nodes`: another node's address, which its NodePort traffic carries.
    pub(super) fn is_other_node(&self, address: IpAddr) -> bool {
        self.is_a_node(address) && !self.is_this_node(address)
    }

    /// `outside_cluster`: no known pod, no known node. This node's own address
    /// counts too: the node itself is told by where a packet came in, so a
    /// packet that is judged by it was masqueraded here, from outside.
    pub(super) fn is_outside(&self, address: IpAddr) -> bool {
        let is_nobodys = self.holder(address).is_none() && !self.is_a_node(address);
        self.is_this_node(address) || (is_nobodys && !self.is_to_be_a_pods(address))
    }

    /// An address that nodes give to pods. No pod shows it yet, or no longer; a
    /// balancer's address is no pod's, wherever it lies.
    fn is_to_be_a_pods(&self, address: IpAddr) -> bool {
        let is_balanced = self.of_kind("Service").any(|service| {
            let mut shown = list(service, "/status/loadBalancer/ingress").iter();
            shown.any(|one| text(one, "/ip").parse() == Ok(address))
        });
        let given = |node: &Value| {
            let blocks = list(node, "/spec/podCIDRs")
                .iter()
                .filter_map(Value::as_str);
            let mut blocks = blocks.chain([text(node, "/spec/podCIDR")]);
            blocks.any(|block| {
                Cidr::parse(block).is_some_and(|c| c.is_for_pods() && c.contains(address))
            })
        };
        !is_balanced && self.of_kind("Node").any(given)
    }
}
