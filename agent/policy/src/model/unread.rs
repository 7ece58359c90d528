//! What a newer API says in a ClusterNetworkPolicy and this version can't read.
//!
//! The API (`ClusterNetworkPolicyIngressPeer`, `…EgressPeer`) asks for rules with a peer of
//! an unknown kind to fail closed, each by itself: one that accepts matches nothing, any
//! other denies everything. Unknown fields within a peer, of a protocol and of a rule are
//! taken alike, since each may be what narrows the rule. Whoever is meant by a subject of
//! an unknown kind may be any pod: of all pods nothing is accepted then, and what the
//! policy would pass on is denied.

use serde_json::{Map, Value, json};

/// The member of a rule that says which field couldn't be read.
const UNREAD: &str = "unread";

const PEERS: [&str; 5] = ["namespaces", "pods", "nodes", "networks", "domainNames"];
const PROTOCOLS: [&str; 4] = ["tcp", "udp", "sctp", "destinationNamedPort"];

/// Marks the rules of a spec that can't be read, and closes them.
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
                // Without peers it is an error of the whole policy.
                let subject = subject.as_deref().filter(|_| names_some);
                close(rule, own, subject);
            }
        }
    }
}

/// Closes a rule for a field of its own that can't be read, or of the subject.
fn close(rule: &mut Map<String, Value>, own: Option<String>, subject: Option<&str>) {
    let action = rule.get("action").and_then(Value::as_str);
    // What isn't an action at all is an error of the whole policy.
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

/// The first field of a rule that isn't known.
fn in_rule(rule: &Map<String, Value>, peers: &str, path: &str) -> Option<String> {
    if rule.contains_key(UNREAD) {
        // A form that was kept says so itself.
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

/// Of a peer or subject, what it says of pods.
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

/// A field that isn't among those known. What has no field at all had one that somebody
/// on the way didn't know.
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
