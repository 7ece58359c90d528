//! Handling of ClusterNetworkPolicy fields from a newer API that this version can't read.
//!
//! The API (`ClusterNetworkPolicyIngressPeer`, `…EgressPeer`) requires rules with a peer of an
//! unknown kind to fail closed individually: an `Accept` rule matches nothing, and any other rule
//! denies everything. Unknown fields of a peer, a protocol or a rule are treated the same way,
//! since each may narrow the rule. A subject of an unknown kind may mean any pod: no rule then
//! accepts anything for any pod, and packets that the policy would pass on are denied.

use serde_json::{Map, Value, json};

/// The member of a rule that names the unreadable field.
const UNREAD: &str = "unread";

const PEERS: [&str; 5] = ["namespaces", "pods", "nodes", "networks", "domainNames"];
const PROTOCOLS: [&str; 4] = ["tcp", "udp", "sctp", "destinationNamedPort"];

/// Marks the unreadable rules of a spec and closes them.
pub(super) fn mark(spec: &mut Value) {
    let Value::Object(spec) = spec else { return };
    let subject = spec.get_mut("subject").and_then(|subject| {
        let field = in_subject(subject, "spec.subject")?;
        *subject = json!({"namespaces": {}});
        Some(field)
    });
    for (way, peers) in [("ingress", "from"), ("egress", "to")] {
        let Some(Value::Array(rules)) = spec.get_mut(way) else {
            continue;
        };
        for (i, rule) in rules.iter_mut().enumerate() {
            if let Value::Object(rule) = rule {
                let own = in_rule(rule, peers, &format!("spec.{way}[{i}]"));
                let names_some = rule.get(peers).and_then(Value::as_array);
                let names_some = names_some.is_some_and(|peers| !peers.is_empty());
                // A rule without peers makes the whole policy invalid.
                let subject = subject.as_deref().filter(|_| names_some);
                close(rule, own, subject);
            }
        }
    }
}

/// Closes a rule because of an unreadable field in the rule itself or in the subject.
fn close(rule: &mut Map<String, Value>, own: Option<String>, subject: Option<&str>) {
    let action = rule.get("action").and_then(Value::as_str);
    // An invalid action makes the whole policy invalid.
    let accepts = match action {
        Some("Accept") => true,
        Some("Deny" | "Pass") => false,
        _ => return,
    };
    let field = match (own, subject) {
        (Some(own), _) => {
            rule.retain(|member, _| matches!(member.as_str(), "name" | "action"));
            own
        }
        (None, Some(subject)) => subject.to_owned(),
        (None, None) => return,
    };
    if !accepts {
        rule.insert("action".into(), "Deny".into());
    }
    rule.insert(UNREAD.into(), field.into());
}

fn in_subject(subject: &Value, path: &str) -> Option<String> {
    one_of(subject, &PEERS[..2], path).or_else(|| in_pods(subject, path))
}

/// Returns the first unknown field of a rule.
fn in_rule(rule: &Map<String, Value>, peers: &str, path: &str) -> Option<String> {
    if rule.contains_key(UNREAD) {
        // A rule stored earlier already carries its mark.
        return None;
    }
    let known = ["name", "action", peers, "protocols"];
    let own = rule.keys().find(|key| !known.contains(&key.as_str()));
    let each = |list: &str, look: fn(&Value, &str) -> Option<String>| {
        let items = rule.get(list).and_then(Value::as_array).into_iter();
        let mut items = items.flatten().enumerate();
        items.find_map(|(i, item)| look(item, &format!("{path}.{list}[{i}]")))
    };
    own.map(|key| format!("{path}.{key}"))
        .or_else(|| each(peers, in_peer))
        .or_else(|| each("protocols", in_protocol))
}

fn in_peer(peer: &Value, path: &str) -> Option<String> {
    let nodes = || in_selector(peer.get("nodes")?, &format!("{path}.nodes"));
    one_of(peer, &PEERS, path)
        .or_else(|| in_pods(peer, path))
        .or_else(nodes)
}

/// Returns the first unknown field in a peer's or subject's pod selection.
fn in_pods(peer: &Value, path: &str) -> Option<String> {
    let namespaces = || in_selector(peer.get("namespaces")?, &format!("{path}.namespaces"));
    let pods = || {
        let (pods, path) = (peer.get("pods")?, format!("{path}.pods"));
        let selectors = ["namespaceSelector", "podSelector"];
        let selector = |name: &&str| in_selector(pods.get(*name)?, &format!("{path}.{name}"));
        other(pods, &selectors, &path).or_else(|| selectors.iter().find_map(selector))
    };
    namespaces().or_else(pods)
}

fn in_selector(selector: &Value, path: &str) -> Option<String> {
    let conditions = || {
        let list = selector.get("matchExpressions")?.as_array()?;
        let mut list = list.iter().enumerate();
        list.find_map(|(i, condition)| {
            let path = format!("{path}.matchExpressions[{i}]");
            other(condition, &["key", "operator", "values"], &path)
        })
    };
    other(selector, &["matchLabels", "matchExpressions"], path).or_else(conditions)
}

fn in_protocol(protocol: &Value, path: &str) -> Option<String> {
    let ports = || {
        PROTOCOLS[..3].iter().find_map(|name| {
            let (ports, path) = (protocol.get(name)?, format!("{path}.{name}"));
            let port = || in_port(ports.get("destinationPort")?, &path);
            other(ports, &["destinationPort"], &path).or_else(port)
        })
    };
    one_of(protocol, &PROTOCOLS, path).or_else(ports)
}

fn in_port(port: &Value, path: &str) -> Option<String> {
    let path = format!("{path}.destinationPort");
    let range = || {
        other(
            port.get("range")?,
            &["start", "end"],
            &format!("{path}.range"),
        )
    };
    one_of(port, &["number", "range"], &path).or_else(range)
}

/// Returns a field that isn't among the known ones. An empty object had a field that something
/// along the way didn't know and dropped.
fn one_of(value: &Value, known: &[&str], path: &str) -> Option<String> {
    let is_empty = value.as_object().is_some_and(Map::is_empty);
    match is_empty {
        true => Some(path.to_owned()),
        false => other(value, known, path),
    }
}

fn other(value: &Value, known: &[&str], path: &str) -> Option<String> {
    let mut fields = value.as_object()?.keys();
    let unknown = fields.find(|field| !known.contains(&field.as_str()))?;
    Some(format!("{path}.{unknown}"))
}
