//! How the namespaces are wired, as text for `ip -batch`. Pure.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::{Mode, Pod};

/// What pods use as their IPv4 gateway in routed mode.
pub(super) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// What pods use as their IPv6 gateway in routed mode.
pub(super) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The node's bridge in bridge mode.
pub(super) const BRIDGE: &str = "cni0";

/// The node's side of pods: devices, and routes in routed mode.
///
/// The peer of each veth is born inside the pod's namespace.
pub(super) fn node_side(pods: &[Pod], mode: Mode, node: &[IpAddr]) -> String {
    let mut batch = String::new();
    for pod in pods {
        let device = &pod.host_device;
        let _ = writeln!(
            batch,
            "link add {device} address {} type veth peer name eth0 address {} netns {}",
            mac(pod.host_mac),
            mac(pod.mac),
            pod.ns.path().display()
        );
        if let Mode::Bridge { .. } = mode {
            let _ = writeln!(batch, "link set {device} master {BRIDGE}");
        } else {
            let _ = writeln!(batch, "addr add {GATEWAY_V4}/32 dev {device} scope link");
            let _ = writeln!(batch, "addr add {GATEWAY_V6}/64 dev {device} nodad");
        }
        let _ = writeln!(batch, "link set {device} up");
        if mode == Mode::Routed {
            batch.push_str(&routes_to_pod(pod, node));
        }
    }
    batch
}

fn routes_to_pod(pod: &Pod, node: &[IpAddr]) -> String {
    let mut routes = String::new();
    for address in pod.addresses() {
        // The node's own packets carry the node's address, not the gateway's.
        let source = node.iter().find(|own| own.is_ipv4() == address.is_ipv4());
        let source = source.map(|own| format!(" src {own}")).unwrap_or_default();
        let device = &pod.host_device;
        let _ = writeln!(routes, "route add {} dev {device}{source}", host(address));
    }
    routes
}

/// The pod's side.
pub(super) fn pod_side(pod: &Pod, mode: Mode) -> String {
    let mut batch = String::new();
    for address in pod.addresses() {
        let length = match (mode, address) {
            (Mode::Bridge { v4_len, .. }, IpAddr::V4(_)) => v4_len,
            (Mode::Bridge { v6_len, .. }, IpAddr::V6(_)) => v6_len,
            (Mode::Routed, IpAddr::V4(_)) => 32,
            (Mode::Routed, IpAddr::V6(_)) => 128,
        };
        let _ = writeln!(
            batch,
            "addr add {address}/{length} dev eth0{}",
            nodad(address)
        );
    }
    batch.push_str("link set eth0 up\n");
    for address in pod.addresses() {
        let gateway = mode.gateway(address.is_ipv4());
        let _ = writeln!(batch, "route add default via {gateway} dev eth0 onlink");
    }
    batch
}

/// The node's bridge, with the pods' gateway addresses.
pub(super) fn bridge(mode: Mode) -> String {
    let Mode::Bridge {
        v4,
        v4_len,
        v6,
        v6_len,
    } = mode
    else {
        return String::new();
    };
    format!(
        "link add {BRIDGE} type bridge\n\
         addr add {v4}/{v4_len} dev {BRIDGE}\n\
         addr add {v6}/{v6_len} dev {BRIDGE} nodad\n\
         link set {BRIDGE} up\n"
    )
}

/// The node's uplink, whose other end is the outside's `eth0`.
pub(super) fn uplink(node: &[IpAddr], outside: &[IpAddr], outside_ns: &Path) -> String {
    let mut batch = format!(
        "link add eth0 type veth peer name eth0 netns {}\n",
        outside_ns.display()
    );
    batch.push_str(&end_of_uplink(node, outside));
    batch
}

/// Addresses and routes of one end of the uplink.
pub(super) fn end_of_uplink(own: &[IpAddr], others: &[IpAddr]) -> String {
    let mut batch = String::new();
    for address in own {
        let _ = writeln!(
            batch,
            "addr add {} dev eth0{}",
            host(*address),
            nodad(*address)
        );
    }
    batch.push_str("link set eth0 up\n");
    for address in others {
        let _ = writeln!(batch, "route add {} dev eth0", host(*address));
    }
    for v4 in [true, false] {
        let own = own.iter().find(|address| address.is_ipv4() == v4);
        let gateway = others.iter().find(|address| address.is_ipv4() == v4);
        if let (Some(own), Some(gateway)) = (own, gateway) {
            let _ = writeln!(
                batch,
                "route add default via {gateway} dev eth0 onlink src {own}"
            );
        }
    }
    batch
}

/// A MAC as people write it.
pub(super) fn mac(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

fn host(address: IpAddr) -> String {
    let length = if address.is_ipv4() { 32 } else { 128 };
    format!("{address}/{length}")
}

fn nodad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { " nodad" } else { "" }
}
