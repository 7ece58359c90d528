//! What kube-proxy does for a Service, in nftables. Pure.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// One address and port of a Service: its ClusterIP, an external address, or a
/// node's address with a NodePort.
#[derive(Clone, Debug)]
pub struct Dnat {
    /// Where clients send to.
    pub address: IpAddr,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The Service's port.
    pub port: u16,
    /// The backends, of the same family, which take turns; calls are rejected
    /// where there is none.
    pub to: Vec<SocketAddr>,
    /// Whether the backend sees the node's address instead of the client's, as
    /// with `externalTrafficPolicy: Cluster`. A pod that reaches itself sees the
    /// node's in any case.
    pub masquerade: bool,
}

/// The bit of the mark that kube-proxy sets in packets that it will masquerade; it leaves
/// the others alone.
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
    text.push_str("}\nchain rejected {\n");
    for rule in rules.iter().filter(|rule| rule.to.is_empty()) {
        let _ = writeln!(text, "{} reject", matching(rule));
    }
    text.push_str("}\nchain hairpins {\n");
    for own in rules.iter().flat_map(|rule| &rule.to).map(SocketAddr::ip) {
        let family = family(own);
        let _ = writeln!(
            text,
            "{family} saddr {own} {family} daddr {own} ct status dnat masquerade"
        );
    }
    let _ = write!(
        text,
        "}}\n\
         chain forward {{\ntype filter hook forward priority filter;\njump rejected\n}}\n\
         chain filter-output {{\ntype filter hook output priority filter;\njump rejected\n}}\n\
         chain prerouting {{\ntype nat hook prerouting priority dstnat;\njump services\n}}\n\
         chain output {{\ntype nat hook output priority -100;\njump services\n}}\n\
         chain postrouting {{\ntype nat hook postrouting priority srcnat;\n\
         meta mark and {MARK} == {MARK} masquerade\njump hairpins\n}}\n}}\n"
    );
    text
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// What is sent to the Service.
fn matching(rule: &Dnat) -> String {
    let Dnat {
        address,
        protocol,
        port,
        ..
    } = rule;
    format!(
        "{} daddr {address} {protocol} dport {port}",
        family(*address)
    )
}

fn lines(rule: &Dnat) -> String {
    let mut text = String::new();
    let mark = if rule.masquerade {
        format!("meta mark set meta mark or {MARK} ")
    } else {
        String::new()
    };
    for (done, backend) in rule.to.iter().enumerate() {
        // As kube-proxy, each rule takes an even share of what is left; in turn,
        // where kube-proxy draws lots, so that tests know who is next.
        let left = rule.to.len() - done;
        let share = match left {
            1 => String::new(),
            _ => format!("numgen inc mod {left} 0 "),
        };
        let to = format!("dnat {} to {backend}", family(rule.address));
        let _ = writeln!(text, "{} {share}{mark}{to}", matching(rule));
    }
    text
}
