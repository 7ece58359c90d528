//! What kube-proxy does for a Service, in nftables. Pure.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// One address and port of a Service: its ClusterIP, or a node's address with
/// a NodePort.
#[derive(Clone, Debug)]
pub struct Dnat {
    /// Where clients send to.
    pub address: IpAddr,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The Service's port.
    pub port: u16,
    /// The backends, of the same family.
    pub to: Vec<SocketAddr>,
    /// Whether the backend sees the node's address instead of the client's:
    /// `externalTrafficPolicy: Cluster`, and a pod that reaches itself.
    pub masquerade: bool,
}

/// The mark that kube-proxy gives packets that it will masquerade.
const MARK: &str = "0x4000";

/// The whole table; replaces the one before.
pub(super) fn table(rules: &[Dnat]) -> String {
    let mut text = String::from(
        "table inet kube-proxy\ndelete table inet kube-proxy\ntable inet kube-proxy {\n\
         chain services {\n",
    );
    for rule in rules {
        text.push_str(&lines(rule));
    }
    let _ = write!(
        text,
        "}}\n\
         chain prerouting {{\ntype nat hook prerouting priority dstnat;\njump services\n}}\n\
         chain output {{\ntype nat hook output priority -100;\njump services\n}}\n\
         chain postrouting {{\ntype nat hook postrouting priority srcnat;\n\
         meta mark {MARK} masquerade\n}}\n}}\n"
    );
    text
}

fn lines(rule: &Dnat) -> String {
    let mut text = String::new();
    let family = if rule.address.is_ipv4() { "ip" } else { "ip6" };
    let mark = if rule.masquerade {
        format!("meta mark set {MARK} ")
    } else {
        String::new()
    };
    for (done, backend) in rule.to.iter().enumerate() {
        // As kube-proxy: each rule takes an even share of what is left.
        let left = rule.to.len() - done;
        let share = match left {
            1 => String::new(),
            _ => format!("numgen random mod {left} 0 "),
        };
        let _ = writeln!(
            text,
            "{family} daddr {} {} dport {} {share}{mark}dnat {family} to {backend}",
            rule.address, rule.protocol, rule.port
        );
    }
    text
}
