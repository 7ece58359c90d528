//! The cluster that the packet table is about, and who is who in it.
//!
//! Names of addresses are written down here by hand rather than taken from the
//! compiler: the counters' names are part of what the table checks.

use std::net::{IpAddr, Ipv6Addr};

use ringfence_policy::tables::Tables;
use serde_json::Value;

use crate::oracle::check;
#[cfg(feature = "nodes")]
use crate::testnet::Mode;

/// The objects, as a List: a manifest that the agent can read, too.
pub const MANIFEST: &str = include_str!("fixture.json");
/// The node whose pods are guarded.
pub const NODE: &str = "node-a";
/// Namespace of all pods.
pub const NAMESPACE: &str = "bank";
/// UDP ports that the node unpacks beside those that are compiled in.
pub const TUNNEL_PORTS: [u16; 2] = [8473, 6784];
/// A MAC of nobody's, as of a gateway.
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0xff, 0, 2];

/// A pod of the guarded node.
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    /// Its name, and the service's.
    pub name: &'static str,
    /// `namespace/service`.
    pub workload: &'static str,
    /// MAC of its interface: what a test network gives the pod at its place.
    pub mac: [u8; 6],
    /// What makes the rows readable, no more.
    last: u8,
    dual: bool,
}

const fn pod(name: &'static str, workload: &'static str, number: u8, dual: bool) -> Pod {
    Pod {
        name,
        workload,
        mac: [2, 0, 0, 0, number, 1],
        last: number - 1,
        dual,
    }
}

/// The guarded pods, in the order in which a test network shall be given them.
pub const PODS: [Pod; 6] = [
    pod("callee", "bank/callee", 1, true),
    pod("caller", "bank/caller", 2, true),
    pod("plain", "bank/plain", 3, true),
    pod("staged", "bank/staged", 4, true),
    pod("cut", "bank/cut", 5, true),
    pod("single", "bank/single", 6, false),
];

impl Pod {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let families: &[bool] = if self.dual { &[true, false] } else { &[true] };
        families.iter().map(|v4| address(self.name, *v4)).collect()
    }

    /// The link-local address made from its MAC (RFC 4291, appendix A).
    pub fn link_local(&self) -> IpAddr {
        let [a, b, c, d, e, f] = self.mac;
        Ipv6Addr::from([
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            a ^ 2,
            b,
            c,
            0xff,
            0xfe,
            d,
            e,
            f,
        ])
        .into()
    }
}

/// A guarded pod by name.
///
/// # Panics
/// If there is none: a slip of the pen in the table.
pub fn find(name: &str) -> Pod {
    let found = PODS.into_iter().find(|pod| pod.name == name);
    found.unwrap_or_else(|| panic!("no pod {name}"))
}

/// Everybody else whom packets come from or go to: name, how counters call
/// them, IPv4 and IPv6 address.
const OTHERS: [(&str, &str, &str, &str); 12] = [
    ("node", "node", "192.168.77.2", "fd77::2"),
    // The pod CIDR's .1, which is a bridge's own address.
    ("bridge", "node", "10.244.0.1", "fd00:10:244::1"),
    ("other-node", "node", "192.168.77.3", "fd77::3"),
    ("far", "bank/far", "10.244.1.10", "fd00:10:244:1::10"),
    // A Service's address.
    ("front", "bank/front", "10.96.0.7", "fd00:10:96::7"),
    // Addresses that Service `grab` shows: its own, and one that was nobody's. It
    // shows those of `plain` and `other-node` as well.
    ("grab", "bank/grab", "10.96.0.8", "fd00:10:96::8"),
    ("shown", "bank/grab", "203.0.113.77", "2001:db8:9::77"),
    // In the CIDR that `friends` admits on some ports.
    ("friend", "outside", "192.0.2.7", "2001:db8:5::7"),
    // In its exceptions.
    ("excepted", "outside", "192.0.2.200", "2001:db8:5::8007"),
    // Admitted on everything.
    ("trusted", "outside", "198.51.100.5", "2001:db8:6::5"),
    ("stranger", "outside", "203.0.113.9", "2001:db8:9::9"),
    ("router", "outside", "203.0.113.254", "2001:db8:9::fe"),
];

/// The address of a pod or of somebody else, by name.
///
/// # Panics
/// If there is none: a slip of the pen in the table.
pub fn address(name: &str, v4: bool) -> IpAddr {
    let text = match PODS.iter().find(|pod| pod.name == name) {
        Some(pod) if v4 => format!("10.244.0.1{}", pod.last),
        Some(pod) => format!("fd00:10:244::1{}", pod.last),
        None => {
            let other = OTHERS.iter().find(|other| other.0 == name);
            let other = other.unwrap_or_else(|| panic!("nobody is called {name}"));
            if v4 { other.2 } else { other.3 }.to_owned()
        }
    };
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is no address"))
}

/// How counters call the holder of an address.
pub fn workload_of(ip: IpAddr) -> &'static str {
    let pods = PODS.iter().flat_map(|pod| {
        let addresses = pod.addresses();
        addresses.into_iter().map(|own| (own, pod.workload))
    });
    let others = OTHERS
        .iter()
        .flat_map(|(name, workload, ..)| [true, false].map(|v4| (address(name, v4), *workload)));
    let mut all = pods.chain(others);
    all.find(|(own, _)| *own == ip)
        .map_or("outside", |(_, name)| name)
}

/// The guarded pod that has an address.
pub fn holder(ip: IpAddr) -> Option<Pod> {
    PODS.into_iter()
        .find(|pod| pod.addresses().contains(&ip) || pod.link_local() == ip)
}

/// The bridge of a test network whose pods hang on one.
#[cfg(feature = "nodes")]
pub const fn bridge() -> Mode {
    Mode::Bridge {
        v4: std::net::Ipv4Addr::new(10, 244, 0, 1),
        v4_len: 24,
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1),
        v6_len: 64,
    }
}

/// The objects.
///
/// # Panics
/// If the manifest isn't the List that it should be.
pub fn objects() -> Vec<Value> {
    let list: Value = serde_json::from_str(MANIFEST).expect("the fixture is JSON");
    list["items"]
        .as_array()
        .expect("the fixture is a List")
        .clone()
}

/// What the compiler makes of them: the tables of every level.
///
/// # Panics
/// If an object doesn't parse.
pub fn tables() -> Tables {
    check::compile(&objects(), Some(NODE)).expect("the fixture's objects are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_knows_every_address_by_the_name_that_the_table_expects() {
        let tables = tables();
        let known: Vec<(IpAddr, String)> = tables
            .identities
            .iter()
            .map(|(addr, (name, _))| (IpAddr::from(*addr), name.to_string()))
            .filter(|(ip, _)| !ip.to_string().ends_with(".0") && !ip.to_string().ends_with("::"))
            .collect();
        for (ip, name) in known {
            let expected = workload_of(ip);
            assert!(
                expected == name || (expected == "node" && name.starts_with("node")),
                "{ip} is {name}, the table says {expected}"
            );
        }
        assert_eq!(tables.endpoints.len(), PODS.len());
    }
}
