//! A pod of a test network, and how pods hang on the node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Ns, layout};

/// How pods hang on the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// As CNI's `ptp`: a host route per pod, one gateway address for all.
    Routed,
    /// As CNI's `bridge`: one subnet, the bridge is the gateway.
    Bridge {
        /// The bridge's IPv4 address.
        v4: Ipv4Addr,
        /// Prefix length of the pods' IPv4 subnet.
        v4_len: u8,
        /// The bridge's IPv6 address.
        v6: Ipv6Addr,
        /// Prefix length of the pods' IPv6 subnet.
        v6_len: u8,
    },
}

impl Mode {
    /// What pods of this mode use as gateway.
    pub fn gateway(self, v4: bool) -> IpAddr {
        match (self, v4) {
            (Self::Routed, true) => layout::GATEWAY_V4.into(),
            (Self::Routed, false) => layout::GATEWAY_V6.into(),
            (Self::Bridge { v4, .. }, true) => v4.into(),
            (Self::Bridge { v6, .. }, false) => v6.into(),
        }
    }
}

/// One pod's namespace and interface.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Unique in the network.
    pub name: String,
    /// Its namespace; the interface in it is `eth0`.
    pub ns: Ns,
    /// IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// MAC of the pod's side.
    pub mac: [u8; 6],
    /// Device in the node's namespace.
    pub host_device: String,
    /// MAC of the node's side.
    pub host_mac: [u8; 6],
}

impl Pod {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.map(IpAddr::from);
        v4.into_iter().chain(self.v6.map(IpAddr::from))
    }

    /// Its address of one family.
    pub fn address(&self, v4: bool) -> Option<IpAddr> {
        self.addresses().find(|address| address.is_ipv4() == v4)
    }
}
