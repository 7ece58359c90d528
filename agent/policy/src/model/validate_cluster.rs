//! Validation of ClusterNetworkPolicies beyond what their types enforce.
//!
//! Follows the limits and rules of the API's CustomResourceDefinition, so anything the API server
//! would reject is rejected here with the same field. More lenient in cases that can't be
//! misread: `tcp: {}` means the whole protocol, an empty `protocols` counts as absent, and lists
//! may contain duplicates.

use super::{
    Action, ClusterNetworkPolicySpec, ClusterPeer, NamespacedPods, PortOrRange, ProtocolMatch,
    Subject,
    validate::{Fault, cidr, fault, is_port_name, number, selector},
};

/// The maximum length of any list in the spec.
const MOST: usize = 25;
/// The maximum length of a rule's name, in characters.
const LONGEST_NAME: usize = 100;
/// The highest valid priority; the lowest is 0.
pub(super) const LAST_PRIORITY: i64 = 1000;

/// The fields that rules of both directions share.
struct Rule<'a> {
    name: Option<&'a str>,
    action: Action,
    peers: &'a [ClusterPeer],
    protocols: &'a [ProtocolMatch],
    egress: bool,
    /// Whether the rule has fields this version can't read, so its peers may be incomplete.
    unread: bool,
}

/// Checks a whole spec; field paths start at `spec`.
pub(super) fn spec(spec: &ClusterNetworkPolicySpec) -> Result<(), Fault> {
    if !(0..=LAST_PRIORITY).contains(&spec.priority) {
        let message = format!("{} is not in 0..={LAST_PRIORITY}", spec.priority);
        fault("spec.priority", message)?;
    }
    subject(&spec.subject, "spec.subject")?;
    at_most(spec.ingress.len(), "spec.ingress")?;
    for (i, r) in spec.ingress.iter().enumerate() {
        let rule = Rule {
            name: r.name.as_deref(),
            action: r.action,
            peers: &r.from,
            protocols: &r.protocols,
            egress: false,
            unread: r.unread.is_some(),
        };
        rule.check(&format!("spec.ingress[{i}]"))?;
    }
    at_most(spec.egress.len(), "spec.egress")?;
    for (i, r) in spec.egress.iter().enumerate() {
        let rule = Rule {
            name: r.name.as_deref(),
            action: r.action,
            peers: &r.to,
            protocols: &r.protocols,
            egress: true,
            unread: r.unread.is_some(),
        };
        rule.check(&format!("spec.egress[{i}]"))?;
    }
    Ok(())
}

/// Checks a subject; field paths start at `path`.
pub(super) fn subject(subject: &Subject, path: &str) -> Result<(), Fault> {
    let set = [subject.namespaces.is_some(), subject.pods.is_some()];
    exactly_one(&set, path, "namespaces and pods")?;
    if let Some(s) = &subject.namespaces {
        selector(s, &format!("{path}.namespaces"))?;
    }
    match &subject.pods {
        Some(pods) => namespaced(pods, &format!("{path}.pods")),
        None => Ok(()),
    }
}

impl Rule<'_> {
    fn check(&self, path: &str) -> Result<(), Fault> {
        if self.name.is_some_and(|n| n.chars().count() > LONGEST_NAME) {
            let message = format!("is longer than {LONGEST_NAME} characters");
            fault(format!("{path}.name"), message)?;
        }
        let peers = format!("{path}.{}", if self.egress { "to" } else { "from" });
        if self.peers.is_empty() && !self.unread {
            fault(peers.clone(), "must name at least one peer")?;
        }
        at_most(self.peers.len(), &peers)?;
        for (i, peer) in self.peers.iter().enumerate() {
            self.peer(peer, &format!("{peers}[{i}]"))?;
        }
        let protocols = format!("{path}.protocols");
        at_most(self.protocols.len(), &protocols)?;
        for (i, protocol) in self.protocols.iter().enumerate() {
            self.protocol(protocol, &format!("{protocols}[{i}]"))?;
        }
        Ok(())
    }

    fn peer(&self, peer: &ClusterPeer, path: &str) -> Result<(), Fault> {
        if !self.egress {
            only_pods(peer, path)?;
        }
        let set = [
            peer.namespaces.is_some(),
            peer.pods.is_some(),
            peer.nodes.is_some(),
            !peer.networks.is_empty(),
            !peer.domain_names.is_empty(),
        ];
        exactly_one(&set, path, "the kinds of peers")?;
        if let Some(s) = &peer.namespaces {
            selector(s, &format!("{path}.namespaces"))?;
        }
        if let Some(pods) = &peer.pods {
            namespaced(pods, &format!("{path}.pods"))?;
        }
        if let Some(s) = &peer.nodes {
            selector(s, &format!("{path}.nodes"))?;
        }
        at_most(peer.networks.len(), &format!("{path}.networks"))?;
        for (i, network) in peer.networks.iter().enumerate() {
            cidr(network, &format!("{path}.networks[{i}]"))?;
        }
        self.domain_names(&peer.domain_names, &format!("{path}.domainNames"))
    }

    fn domain_names(&self, names: &[String], path: &str) -> Result<(), Fault> {
        if !names.is_empty() && self.action != Action::Accept {
            fault(path, "only an Accept rule may have domain names")?;
        }
        at_most(names.len(), path)?;
        for (i, name) in names.iter().enumerate() {
            if !is_domain_name(name) {
                fault(
                    format!("{path}[{i}]"),
                    format!("{name:?} is not a domain name"),
                )?;
            }
        }
        Ok(())
    }

    fn protocol(&self, protocol: &ProtocolMatch, path: &str) -> Result<(), Fault> {
        let ports = [
            ("tcp", &protocol.tcp),
            ("udp", &protocol.udp),
            ("sctp", &protocol.sctp),
        ];
        let [tcp, udp, sctp] = ports.map(|(_, p)| p.is_some());
        let named = protocol.destination_named_port.as_deref();
        exactly_one(
            &[tcp, udp, sctp, named.is_some()],
            path,
            "tcp, udp, sctp and destinationNamedPort",
        )?;
        for (name, ports) in ports {
            let port = ports.as_ref().and_then(|p| p.destination_port.as_ref());
            if let Some(port) = port {
                self::port(port, &format!("{path}.{name}.destinationPort"))?;
            }
        }
        match named {
            Some(name) => self.named_port(name, &format!("{path}.destinationNamedPort")),
            None => Ok(()),
        }
    }

    /// Checks a named port; only pods have them.
    fn named_port(&self, name: &str, path: &str) -> Result<(), Fault> {
        if !is_port_name(name) {
            fault(path, format!("{name:?} is not a port name"))?;
        }
        let others = |p: &ClusterPeer| {
            p.nodes.is_some() || !p.networks.is_empty() || !p.domain_names.is_empty()
        };
        if self.egress && self.peers.iter().any(others) {
            let message = "is for pods: the rule may have no nodes, networks or domainNames";
            fault(path, message)?;
        }
        Ok(())
    }
}

fn only_pods(peer: &ClusterPeer, path: &str) -> Result<(), Fault> {
    for (field, set) in [
        ("nodes", peer.nodes.is_some()),
        ("networks", !peer.networks.is_empty()),
        ("domainNames", !peer.domain_names.is_empty()),
    ] {
        if set {
            fault(format!("{path}.{field}"), "is for egress rules only")?;
        }
    }
    Ok(())
}

fn namespaced(pods: &NamespacedPods, path: &str) -> Result<(), Fault> {
    selector(
        &pods.namespace_selector,
        &format!("{path}.namespaceSelector"),
    )?;
    selector(&pods.pod_selector, &format!("{path}.podSelector"))
}

fn port(port: &PortOrRange, path: &str) -> Result<(), Fault> {
    let set = [port.number.is_some(), port.range.is_some()];
    exactly_one(&set, path, "number and range")?;
    if let Some(n) = port.number {
        number(n, &format!("{path}.number"))?;
    }
    let Some(range) = port.range else {
        return Ok(());
    };
    let path = format!("{path}.range");
    number(range.start, &format!("{path}.start"))?;
    number(range.end, &format!("{path}.end"))?;
    if range.start >= range.end {
        let message = format!("start {} is not below end {}", range.start, range.end);
        fault(path, message)?;
    }
    Ok(())
}

fn exactly_one(set: &[bool], path: &str, of: &str) -> Result<(), Fault> {
    match set.iter().filter(|s| **s).count() {
        1 => Ok(()),
        n => fault(path, format!("exactly one of {of} must be set, found {n}")),
    }
}

fn at_most(length: usize, path: &str) -> Result<(), Fault> {
    match length {
        0..=MOST => Ok(()),
        n => fault(path, format!("has {n} items, at most {MOST} are allowed")),
    }
}

/// Reports whether a name is an optional `*.`, at least two labels, and an optional final dot.
fn is_domain_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    let name = name.strip_suffix('.').unwrap_or(name);
    name.contains('.') && name.split('.').all(is_domain_label)
}

fn is_domain_label(label: &str) -> bool {
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = label.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && (bytes.iter()).all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_name_has_two_labels_and_its_wildcard_stands_first() {
        for name in ["a.b", "*.a.b", "a.b.", "A-1.b_2.c", "*.a.b.c."] {
            assert!(is_domain_name(name), "{name}");
        }
        for name in [
            "", ".", "a", "a.", "*.a", "*a.b", "a.*.b", "a..b", ".a.b", "-a.b", "a-.b", "a.b_",
            "a.b..", "*.*.a.b", "a b.c", "ä.b",
        ] {
            assert!(!is_domain_name(name), "{name}");
        }
    }
}
