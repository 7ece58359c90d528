//! Validation of NetworkPolicies beyond what their types enforce.
//!
//! Follows the API server's validation, so a file that `kubectl apply` would reject is rejected
//! here with the same field.

use ipnet::IpNet;

use super::{
    IntOrString, IpBlock, LabelSelector, NetworkPolicyPort, NetworkPolicySpec, Operator, Peer,
    Requirement,
};

/// A field and what is wrong with it.
pub(super) type Fault = (String, String);

pub(super) fn fault(field: impl Into<String>, message: impl Into<String>) -> Result<(), Fault> {
    Err((field.into(), message.into()))
}

/// Checks a whole spec; field paths start at `spec`.
pub(super) fn spec(spec: &NetworkPolicySpec) -> Result<(), Fault> {
    selector(&spec.pod_selector, "spec.podSelector")?;
    for (i, rule) in spec.ingress.iter().enumerate() {
        peers(&rule.from, &format!("spec.ingress[{i}].from"))?;
        ports(&rule.ports, &format!("spec.ingress[{i}].ports"))?;
    }
    for (i, rule) in spec.egress.iter().enumerate() {
        peers(&rule.to, &format!("spec.egress[{i}].to"))?;
        ports(&rule.ports, &format!("spec.egress[{i}].ports"))?;
    }
    Ok(())
}

fn peers(peers: &[Peer], path: &str) -> Result<(), Fault> {
    for (i, peer) in peers.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match &peer.ip_block {
            Some(_) if selects => fault(path.clone(), "ipBlock excludes selectors in one peer")?,
            Some(block) => ip_block(block, &format!("{path}.ipBlock"))?,
            None if !selects => fault(path.clone(), "a peer must have a selector or an ipBlock")?,
            None => {}
        }
        if let Some(s) = &peer.pod_selector {
            selector(s, &format!("{path}.podSelector"))?;
        }
        if let Some(s) = &peer.namespace_selector {
            selector(s, &format!("{path}.namespaceSelector"))?;
        }
    }
    Ok(())
}

fn ip_block(block: &IpBlock, path: &str) -> Result<(), Fault> {
    cidr(&block.cidr, &format!("{path}.cidr"))?;
    for (i, except) in block.except.iter().enumerate() {
        let path = format!("{path}.except[{i}]");
        cidr(except, &path)?;
        // Matches the API server: excluding the whole block would leave nothing of it.
        let is_less = except.prefix_len() > block.cidr.prefix_len();
        if !is_less || !block.cidr.contains(except) {
            let message = format!("{except} is not a part of {}, and less than it", block.cidr);
            fault(path, message)?;
        }
    }
    Ok(())
}

/// Rejects IPv4-mapped addresses: the tables use that form for IPv4, and no packet on the wire
/// carries them as IPv6.
pub(super) fn cidr(cidr: &IpNet, path: &str) -> Result<(), Fault> {
    match cidr {
        IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.network().to_ipv4_mapped().is_some() => fault(
            path,
            format!("{cidr} is IPv4 in disguise, write it as IPv4"),
        ),
        _ => Ok(()),
    }
}

fn ports(ports: &[NetworkPolicyPort], path: &str) -> Result<(), Fault> {
    for (i, port) in ports.iter().enumerate() {
        let path = format!("{path}[{i}]");
        match &port.port {
            Some(IntOrString::Int(n)) => number(*n, &format!("{path}.port"))?,
            Some(IntOrString::String(name)) if !is_port_name(name) => fault(
                format!("{path}.port"),
                format!("{name:?} is neither a number nor a port name"),
            )?,
            _ => {}
        }
        let Some(end) = port.end_port else { continue };
        let path = format!("{path}.endPort");
        number(end, &path)?;
        match port.port {
            Some(IntOrString::Int(first)) if first <= end => {}
            Some(IntOrString::Int(first)) => fault(path, format!("{end} is below port {first}"))?,
            _ => fault(path, "needs a numeric port")?,
        }
    }
    Ok(())
}

pub(super) fn number(n: i64, path: &str) -> Result<(), Fault> {
    if (1..=65535).contains(&n) {
        return Ok(());
    }
    fault(path, format!("{n} is not in 1..=65535"))
}

/// Checks a selector that isn't part of an object.
pub(crate) fn check_selector(selector: &LabelSelector) -> Result<(), (String, String)> {
    self::selector(selector, "selector")
}

/// Checks a selector; field paths start at `path`.
pub(super) fn selector(selector: &LabelSelector, path: &str) -> Result<(), Fault> {
    for (key, value) in &selector.match_labels {
        let path = format!("{path}.matchLabels.{key}");
        label_key(key, &path)?;
        label_value(value, &path)?;
    }
    for (i, requirement) in selector.match_expressions.iter().enumerate() {
        self::requirement(requirement, &format!("{path}.matchExpressions[{i}]"))?;
    }
    Ok(())
}

fn requirement(requirement: &Requirement, path: &str) -> Result<(), Fault> {
    label_key(&requirement.key, &format!("{path}.key"))?;
    let values = format!("{path}.values");
    let wants = matches!(requirement.operator, Operator::In | Operator::NotIn);
    match (wants, requirement.values.is_empty()) {
        (true, true) => fault(values, "must not be empty with In and NotIn")?,
        (false, false) => fault(values, "must be empty with Exists and DoesNotExist")?,
        _ => {}
    }
    for (i, value) in requirement.values.iter().enumerate() {
        label_value(value, &format!("{path}.values[{i}]"))?;
    }
    Ok(())
}

fn label_key(key: &str, path: &str) -> Result<(), Fault> {
    let (prefix, name) = key.split_once('/').unwrap_or(("a", key));
    let prefix_ok = prefix.len() <= 253 && prefix.split('.').all(is_dns_label);
    if prefix_ok && is_word(name) {
        return Ok(());
    }
    fault(path, format!("{key:?} is not a label key"))
}

fn label_value(value: &str, path: &str) -> Result<(), Fault> {
    if value.is_empty() || is_word(value) {
        return Ok(());
    }
    fault(path, format!("{value:?} is not a label value"))
}

fn is_word(s: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    s.len() <= 63
        && edge(s.chars().next())
        && edge(s.chars().next_back())
        && (s.chars()).all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// Reports whether a text is a DNS label, the form of namespace names (RFC 1123).
pub(crate) fn is_dns_label(s: &str) -> bool {
    (1..=63).contains(&s.len())
        && !s.starts_with('-')
        && !s.ends_with('-')
        && (s.bytes()).all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Reports whether a text is a port name (RFC 6335): at most 15 characters, at least one letter,
/// no `--`.
pub(crate) fn is_port_name(s: &str) -> bool {
    is_dns_label(s)
        && s.len() <= 15
        && !s.contains("--")
        && s.bytes().any(|b| b.is_ascii_lowercase())
}
