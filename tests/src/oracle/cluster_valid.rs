//! Whether a ClusterNetworkPolicy is one that the API server would have taken.

use serde_json::Value;

use super::address::Cidr;
use super::cluster_policy::{Action, Tier};
use super::object::{field, list, text};
use super::valid::{only, selector_fits};

const INGRESS_PEERS: [&str; 2] = ["namespaces", "pods"];
const EGRESS_PEERS: [&str; 5] = ["namespaces", "pods", "nodes", "networks", "domainNames"];

pub(super) fn is_valid(policy: &Value) -> bool {
    let spec = &policy["spec"];
    let rules = |way: &str, peers: &str, kinds: &[&str]| {
        field(spec, way).is_none_or(|rules| {
            let rules = rules.as_array();
            rules.is_some_and(|rules| rules.iter().all(|r| rule_fits(r, peers, kinds)))
        })
    };
    only(spec, &["tier", "priority", "subject", "ingress", "egress"])
        && tier(policy).is_some()
        && priority(policy).is_some()
        && (subject_fits(&spec["subject"]) || is_newer("subject", &spec["subject"]))
        && rules("ingress", "from", &INGRESS_PEERS)
        && rules("egress", "to", &EGRESS_PEERS)
}

pub(super) fn tier(policy: &Value) -> Option<Tier> {
    match text(policy, "/spec/tier") {
        "Admin" => Some(Tier::Admin),
        "Baseline" => Some(Tier::Baseline),
        _ => None,
    }
}

pub(super) fn priority(policy: &Value) -> Option<u64> {
    let given = policy.pointer("/spec/priority").and_then(Value::as_u64);
    given.filter(|n| *n <= 1000)
}

pub(super) fn action(rule: &Value) -> Option<Action> {
    match text(rule, "/action") {
        "Accept" => Some(Action::Accept),
        "Deny" => Some(Action::Deny),
        "Pass" => Some(Action::Pass),
        _ => None,
    }
}

/// Whether it can be told whom a policy is about.
pub(super) fn subject_fits(subject: &Value) -> bool {
    peer_fits(subject, &INGRESS_PEERS)
}

fn rule_fits(rule: &Value, peers: &str, kinds: &[&str]) -> bool {
    let Some(action) = action(rule) else {
        return false;
    };
    if is_newer(rule_of(peers), rule) {
        // Whatever else it says, it is closed by itself.
        return true;
    }
    let given = rule[peers].as_array().map_or(&[][..], Vec::as_slice);
    let protocols = list(rule, "/protocols");
    let has = |kind| given.iter().any(|peer| field(peer, kind).is_some());
    let named = |p: &Value| field(p, "destinationNamedPort").is_some();
    let nameless = has("nodes") || has("networks") || has("domainNames");
    only(rule, &["name", "action", peers, "protocols"])
        && !given.is_empty()
        && given.iter().all(|peer| peer_fits(peer, kinds))
        && protocols.iter().all(protocol_fits)
        && !(nameless && protocols.iter().any(named))
        && (action == Action::Accept || !has("domainNames"))
}

/// What a rule is called in [`FIELDS`] that has these peers.
pub(super) fn rule_of(peers: &str) -> &'static str {
    match peers {
        "from" => "ingress",
        _ => "egress",
    }
}

const PEER: &[&str] = &["namespaces", "pods", "nodes", "networks", "domainNames"];
const SELECTOR: &[&str] = &["matchLabels", "matchExpressions"];

/// Which fields may stand under a field, or in the items of its list.
const FIELDS: [(&str, &[&str]); 17] = [
    ("ingress", &["name", "action", "from", "protocols"]),
    ("egress", &["name", "action", "to", "protocols"]),
    ("subject", &["namespaces", "pods"]),
    ("from", PEER),
    ("to", PEER),
    ("pods", &["namespaceSelector", "podSelector"]),
    ("namespaces", SELECTOR),
    ("nodes", SELECTOR),
    ("namespaceSelector", SELECTOR),
    ("podSelector", SELECTOR),
    ("matchExpressions", &["key", "operator", "values"]),
    ("protocols", &["tcp", "udp", "sctp", "destinationNamedPort"]),
    ("tcp", &["destinationPort"]),
    ("udp", &["destinationPort"]),
    ("sctp", &["destinationPort"]),
    ("destinationPort", &["number", "range"]),
    ("range", &["start", "end"]),
];

/// Those of which exactly one must be set: none at all was one that somebody didn't know.
const ONE: [&str; 5] = ["subject", "from", "to", "protocols", "destinationPort"];

/// Whether something under a field is of an API that this version doesn't know.
pub(super) fn is_newer(name: &str, value: &Value) -> bool {
    let Some((_, known)) = FIELDS.iter().find(|(field, _)| *field == name) else {
        return false;
    };
    match value {
        Value::Array(items) => items.iter().any(|item| is_newer(name, item)),
        Value::Object(fields) => {
            let mut there = fields.iter().filter(|(_, value)| !value.is_null());
            ONE.contains(&name) && there.clone().next().is_none()
                || there.any(|(key, value)| !known.contains(&key.as_str()) || is_newer(key, value))
        }
        _ => false,
    }
}

/// The field of an object that has exactly one, of those known.
fn single<'a>(value: &'a Value, known: &[&'a str]) -> Option<(&'a str, &'a Value)> {
    let mut there = known.iter().filter_map(|k| Some((*k, field(value, k)?)));
    let found = there.next().filter(|_| there.next().is_none());
    found.filter(|_| only(value, known))
}

fn peer_fits(peer: &Value, kinds: &[&str]) -> bool {
    let texts = |given: &Value, fits: fn(&str) -> bool| {
        given.as_array().is_some_and(|items| {
            !items.is_empty() && items.iter().all(|i| i.as_str().is_some_and(fits))
        })
    };
    match single(peer, kinds) {
        Some(("namespaces" | "nodes", selector)) => selector_fits(Some(selector)),
        Some(("pods", pods)) => {
            only(pods, &["namespaceSelector", "podSelector"])
                && field(pods, "podSelector").is_some()
                && selector_fits(pods.get("podSelector"))
                && selector_fits(pods.get("namespaceSelector"))
        }
        Some(("networks", blocks)) => texts(blocks, |text| Cidr::parse(text).is_some()),
        Some((_, names)) => texts(names, |text| !text.is_empty()),
        None => false,
    }
}

fn protocol_fits(entry: &Value) -> bool {
    match single(entry, &["tcp", "udp", "sctp", "destinationNamedPort"]) {
        Some(("destinationNamedPort", name)) => name.as_str().is_some_and(|n| !n.is_empty()),
        Some((_, given)) => {
            only(given, &["destinationPort"])
                && field(given, "destinationPort").is_none_or(port_fits)
        }
        None => false,
    }
}

fn port_fits(port: &Value) -> bool {
    let number = |value: &Value| value.as_u64().filter(|n| (1..=65535).contains(n));
    match single(port, &["number", "range"]) {
        Some(("number", given)) => number(given).is_some(),
        Some((_, range)) => {
            let (start, end) = (number(&range["start"]), number(&range["end"]));
            only(range, &["start", "end"]) && start.is_some() && end.is_some() && start < end
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Whether a policy is fine after a value was put at a path of its spec.
    fn stands(path: &str, value: Value) -> bool {
        let mut policy = json!({"spec": {
            "tier": "Admin", "priority": 5, "subject": {"namespaces": {}},
            "ingress": [{"action": "Accept", "from": [{"namespaces": {}}], "protocols": [{"tcp": {}}]}],
            "egress": [{"action": "Accept", "to": [{"namespaces": {}}], "protocols": [{"tcp": {}}]}],
        }});
        let (parent, last) = path.rsplit_once('/').unwrap_or_default();
        if let Some(place) = policy["spec"].pointer_mut(parent) {
            match last.parse::<usize>() {
                Ok(index) => place[index] = value,
                Err(_) => place[last] = value,
            }
        }
        is_valid(&policy)
    }

    #[test]
    fn what_the_api_allows_is_valid() {
        let pods = json!({"pods": {"podSelector": {}}});
        let port = json!({"tcp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}});
        for (path, value) in [
            ("/tier", json!("Baseline")),
            ("/priority", json!(0)),
            ("/priority", json!(1000)),
            ("/subject", pods.clone()),
            ("/ingress", json!([])),
            ("/egress", Value::Null),
            ("/ingress/0/name", json!("a name")),
            ("/ingress/0/action", json!("Pass")),
            ("/ingress/0/from/0", pods),
            ("/ingress/0/protocols", json!([])),
            ("/ingress/0/protocols", Value::Null),
            (
                "/ingress/0/protocols/0",
                json!({"destinationNamedPort": "http"}),
            ),
            ("/egress/0/protocols/0", port),
            ("/egress/0/to/0", json!({"nodes": {}})),
            (
                "/egress/0/to/0",
                json!({"networks": ["10.0.0.1/8", "::/0"]}),
            ),
            ("/egress/0/to/0", json!({"domainNames": ["example.com"]})),
        ] {
            assert!(stands(path, value.clone()), "{path} {value}");
        }
    }

    #[test]
    fn what_the_api_refuses_is_not() {
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Is"}]});
        for (path, value) in [
            ("/more", json!(1)),
            ("/tier", json!("Middle")),
            ("/tier", Value::Null),
            ("/priority", json!(1001)),
            ("/priority", json!(-1)),
            ("/priority", json!("5")),
            (
                "/subject",
                json!({"namespaces": {}, "pods": {"podSelector": {}}}),
            ),
            ("/subject", json!({"namespaces": bad})),
            ("/ingress/0/action", json!("Allow")),
            ("/ingress/0/from", json!([])),
            ("/ingress/0/from", Value::Null),
            (
                "/ingress/0/from/0",
                json!({"namespaces": {}, "pods": {"podSelector": {}}}),
            ),
            ("/ingress/0/from/0", json!({"networks": ["10.0.0.0/8"]})),
            ("/ingress/0/from/0", json!({"pods": {"podSelector": bad}})),
            ("/egress/0/to", json!([])),
            ("/egress/0/to/0", json!({"networks": ["10.0.0.0/33"]})),
            ("/egress/0/to/0", json!({"networks": ["10.0.0.0"]})),
        ] {
            assert!(!stands(path, value.clone()), "{path} {value}");
        }
    }

    #[test]
    fn what_a_newer_api_may_allow_is_no_fault_of_the_policy() {
        for (path, value) in [
            ("/subject", json!({})),
            ("/subject", json!({"nodes": {}})),
            ("/subject", json!({"pods": {"podSelector": {}, "more": 1}})),
            ("/ingress/0/more", json!(1)),
            ("/ingress/0/to", json!([{"namespaces": {}}])),
            ("/ingress/0/from/0", json!({})),
            ("/ingress/0/from/0", json!({"namespaces": null})),
            ("/ingress/0/from/0", json!({"accounts": {}})),
            ("/egress/0/protocols/0", json!({"icmp": {}})),
            ("/egress/0/protocols/0", json!({"tcp": {"port": 80}})),
            (
                "/egress/0/protocols/0",
                json!({"udp": {"destinationPort": {}}}),
            ),
        ] {
            assert!(stands(path, value.clone()), "{path} {value}");
        }
    }

    #[test]
    fn a_protocol_has_one_field_and_ports_that_exist() {
        let range = |start: i32, end: i32| json!({"range": {"start": start, "end": end}});
        for port in [
            json!({"number": 0}),
            json!({"number": 65536}),
            json!({"number": 1, "range": {"start": 1, "end": 2}}),
            range(80, 80),
            range(81, 80),
            range(0, 80),
            range(80, 65536),
        ] {
            let protocol = json!({"udp": {"destinationPort": port}});
            assert!(!stands("/egress/0/protocols/0", protocol), "{port}");
        }
        for protocol in [
            json!({"tcp": {}, "udp": {}}),
            json!({"destinationNamedPort": ""}),
        ] {
            assert!(
                !stands("/ingress/0/protocols/0", protocol.clone()),
                "{protocol}"
            );
        }
    }

    #[test]
    fn names_of_ports_need_pods_and_domain_names_need_accept() {
        let named = json!([{"destinationNamedPort": "http"}]);
        for peer in [
            json!({"nodes": {}}),
            json!({"networks": ["10.0.0.0/8"]}),
            json!({"domainNames": ["example.com"]}),
        ] {
            let mixed = json!([{"namespaces": {}}, peer]);
            let rule = json!({"action": "Accept", "to": mixed, "protocols": named});
            assert!(!stands("/egress/0", rule), "{peer}");
        }
        for action in ["Deny", "Pass"] {
            let rule = json!({"action": action, "to": [{"domainNames": ["example.com"]}]});
            assert!(!stands("/egress/0", rule), "{action}");
        }
    }
}
