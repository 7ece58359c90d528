//! ClusterNetworkPolicies with all that they may hold.

use serde_json::{Value, json};

use super::{Dice, policies};

const ACTIONS: [&str; 5] = ["Accept", "Accept", "Deny", "Deny", "Pass"];

/// Few, so that many are equal; the ends of what there is among them.
const PRIORITIES: [u32; 9] = [0, 1, 5, 5, 10, 10, 100, 999, 1000];

/// One policy. Its CIDRs are drawn near the pods of `objects`.
pub fn policy(dice: &mut Dice, name: &str, objects: &[Value]) -> Value {
    let tier = dice.pick(&["Admin", "Baseline"]);
    let mut object = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": tier, "priority": dice.choose(&PRIORITIES), "subject": subject(dice)},
    });
    let spec = &mut object["spec"];
    for way in ["ingress", "egress"] {
        match dice.below(20) {
            0..4 => {}
            4 => spec[way] = json!([]),
            5 => spec[way] = Value::Null,
            _ => spec[way] = rules(dice, way, tier, objects),
        }
    }
    if dice.chance(7) {
        spoil(dice, spec);
    }
    if dice.chance(12) {
        modernize(dice, spec);
    }
    if dice.chance(35) {
        let mode = dice.pick(&["audit", "audit", "audit", "audit", "enforce", "Audit"]);
        object["metadata"]["annotations"] = json!({"ringfence.dev/mode": mode});
    }
    object
}

fn subject(dice: &mut Dice) -> Value {
    match dice.below(20) {
        0..5 => json!({"namespaces": {}}),
        5..10 => json!({"namespaces": policies::namespace_selector(dice)}),
        _ => pods(dice),
    }
}

fn pods(dice: &mut Dice) -> Value {
    let mut pods = json!({"podSelector": policies::pod_selector(dice)});
    if dice.chance(65) {
        pods["namespaceSelector"] = policies::namespace_selector(dice);
    }
    json!({"pods": pods})
}

/// A few rules, at times with one for everybody behind them or before.
fn rules(dice: &mut Dice, way: &str, tier: &str, objects: &[Value]) -> Value {
    let count = dice.between(1, 3);
    let mut all: Vec<Value> = (0..count)
        .map(|_| {
            let action = dice.pick(&ACTIONS);
            rule(dice, way, action, objects)
        })
        .collect();
    match dice.below(20) {
        // An exception from a general rule, decided by the next tier.
        0..3 => {
            all.insert(0, rule(dice, way, "Pass", objects));
            all.push(everybody(way, "Deny"));
        }
        // Only what it names itself is decided here.
        9..12 => all.push(everybody(way, "Pass")),
        3 => all.push(everybody(way, "Accept")),
        4 => all.insert(0, everybody(way, "Accept")),
        5..9 if tier == "Baseline" => all.push(everybody(way, "Deny")),
        _ => {}
    }
    Value::Array(all)
}

/// One rule of a direction, `ingress` or `egress`, that does what `action` says.
pub fn rule(dice: &mut Dice, way: &str, action: &str, objects: &[Value]) -> Value {
    let count = dice.between(1, 2);
    let peers: Vec<Value> = (0..count)
        .map(|_| peer(dice, way, action, objects))
        .collect();
    // Port names only for peers that can have some.
    let wide = ["nodes", "networks", "domainNames"];
    let names = !peers
        .iter()
        .any(|p| wide.iter().any(|w| p.get(w).is_some()));
    let mut rule = json!({"action": action, key(way): peers});
    if dice.chance(30) {
        rule["name"] = json!("a rule");
    }
    match dice.below(20) {
        0..9 => {}
        9 => rule["protocols"] = json!([]),
        _ => {
            let count = dice.between(1, 3);
            rule["protocols"] = (0..count).map(|_| protocol(dice, names)).collect();
        }
    }
    rule
}

/// A rule of a direction for all that can be named in it.
pub fn everybody(way: &str, action: &str) -> Value {
    let mut peers = vec![json!({"namespaces": {}})];
    if way == "egress" {
        peers.push(json!({"networks": ["0.0.0.0/0", "::/0"]}));
    }
    json!({"action": action, key(way): peers})
}

fn key(way: &str) -> &'static str {
    if way == "ingress" { "from" } else { "to" }
}

fn peer(dice: &mut Dice, way: &str, action: &str, objects: &[Value]) -> Value {
    let kinds = if way == "ingress" { 10 } else { 20 };
    match dice.below(kinds) {
        0..4 => json!({"namespaces": policies::namespace_selector(dice)}),
        4..10 => pods(dice),
        10..13 => json!({"nodes": nodes(dice)}),
        13 if action == "Accept" => json!({"domainNames": ["example.com", "*.example.org"]}),
        _ => {
            let count = dice.between(1, 3);
            let mut networks: Vec<String> =
                (0..count).map(|_| policies::cidr(dice, objects)).collect();
            // The list is a set.
            networks.sort();
            networks.dedup();
            json!({"networks": networks})
        }
    }
}

fn nodes(dice: &mut Dice) -> Value {
    let words: [(&str, &[&str]); 2] = [("zone", &["one", "two"]), ("tier", &["front", "back"])];
    policies::selector(dice, &words)
}

fn protocol(dice: &mut Dice, names: bool) -> Value {
    if names && dice.chance(40) {
        let name = dice.pick(&["http", "http", "grpc", "dns", "dns-tcp", "sig"]);
        return json!({"destinationNamedPort": name});
    }
    let key = dice.pick(&["tcp", "tcp", "udp", "sctp"]);
    match dice.below(10) {
        0..2 => json!({key: {}}),
        2..7 => {
            let number = dice.choose(&[53, 80, 80, 443, 8080, 9090, 132, 5353]);
            json!({key: {"destinationPort": {"number": number}}})
        }
        _ => {
            let ranges = [
                (80, 443),
                (8000, 8100),
                (255, 256),
                (1, 65535),
                (256, 511),
                (1, 255),
            ];
            let (start, end) = dice.choose(&ranges);
            json!({key: {"destinationPort": {"range": {"start": start, "end": end}}}})
        }
    }
}

/// Puts something into a policy's spec that only a newer API knows.
fn modernize(dice: &mut Dice, spec: &mut Value) {
    if dice.chance(10) {
        spec["subject"] = dice.choose(&[json!({}), json!({"accounts": {}})]).clone();
        return;
    }
    let way = dice.pick(&["ingress", "egress"]);
    let action = dice.pick(&["Accept", "Deny", "Pass"]);
    let mut rule = everybody(way, action);
    let place = &mut rule[key(way)];
    match dice.below(6) {
        0 => place[0] = json!({}),
        1 => place[0] = json!({"accounts": {"matchLabels": {"app": "a"}}}),
        2 => place[0] = json!({"namespaces": {"matchNames": ["bank"]}}),
        3 => place[0] = json!({"pods": {"podSelector": {}, "accounts": {}}}),
        4 => rule["protocols"] = json!([{"icmp": {}}]),
        _ => rule["protocols"] = json!([{"tcp": {"flags": ["SYN"]}}]),
    }
    match spec.get_mut(way).and_then(Value::as_array_mut) {
        Some(rules) => {
            let at = dice.below(rules.len() + 1);
            rules.insert(at, rule);
        }
        None => spec[way] = json!([rule]),
    }
}

/// Makes a policy's spec one that the API server would refuse.
fn spoil(dice: &mut Dice, spec: &mut Value) {
    let bad = json!({"matchExpressions": [{"key": "app", "operator": "Is"}]});
    match dice.below(14) {
        0..2 | 4 => spec["tier"] = json!("admin"),
        2..4 => spec["priority"] = dice.choose(&[json!(1001), json!(-1), json!("5")]).clone(),
        5 => spec["subject"] = json!({"namespaces": {}, "pods": {"podSelector": {}}}),
        6 => spec["subject"] = json!({"pods": {"podSelector": bad}}),
        7 => spec["rules"] = json!([]),
        _ => {
            let way = dice.pick(&["ingress", "egress"]);
            let rule = spoilt_rule(dice, way, &bad);
            match spec.get_mut(way).and_then(Value::as_array_mut) {
                // In front, so that whoever takes it for valid lets much in.
                Some(rules) => rules.insert(0, rule),
                None => spec[way] = json!([rule]),
            }
        }
    }
}

fn spoilt_rule(dice: &mut Dice, way: &str, bad: &Value) -> Value {
    let peers = key(way);
    let mut rule = everybody(way, "Accept");
    match dice.below(13) {
        0 => rule["action"] = json!("Allow"),
        1 | 2 => rule["more"] = json!(true),
        3 => rule[peers] = json!([]),
        4 => rule[peers][0] = json!({}),
        5 => rule[peers][0] = json!({"namespaces": {}, "pods": {"podSelector": {}}}),
        6 => rule[peers][0] = json!({"namespaces": bad}),
        7 => rule[peers][0] = json!({"networks": ["10.0.0.0/33"]}),
        8 => rule["protocols"] = json!([{"tcp": {}, "udp": {}}]),
        9 => rule["protocols"] = json!([{"tcp": {"destinationPort": {"number": 65536}}}]),
        10 => {
            let range = json!({"range": {"start": 80, "end": 80}});
            rule["protocols"] = json!([{"tcp": {"destinationPort": range}}]);
        }
        11 => {
            rule[peers][0] = json!({"nodes": {}});
            rule["protocols"] = json!([{"destinationNamedPort": "http"}]);
        }
        _ => {
            rule["action"] = json!("Deny");
            rule[peers] = json!([{"domainNames": ["example.com"]}]);
        }
    }
    rule
}
