//! NetworkPolicies with all that they may hold.

use serde_json::{Value, json};

use super::Dice;
use super::labels::{SERVICES, is_mode};

/// One policy of a namespace. Its CIDRs are drawn near the pods of `objects`.
pub(super) fn policy(dice: &mut Dice, namespace: &str, name: &str, objects: &[Value]) -> Value {
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": if dice.chance(45) { json!({}) } else { pod_selector(dice) }},
    });
    let spec = &mut object["spec"];
    for (way, peers) in [("ingress", "from"), ("egress", "to")] {
        match dice.below(20) {
            0..5 => {}
            5..7 => spec[way] = json!([]),
            _ => {
                let count = dice.between(1, 3);
                spec[way] = (0..count).map(|_| rule(dice, peers, objects)).collect();
            }
        }
    }
    if dice.chance(70) {
        spec["policyTypes"] = match dice.below(4) {
            0 => json!(["Ingress"]),
            1 => json!(["Egress"]),
            _ => json!(["Ingress", "Egress"]),
        };
    }
    if dice.chance(2) {
        spoil(dice, spec);
    }
    if dice.chance(30) {
        let mode = dice.pick(&["audit", "audit", "audit", "audit", "enforce", "Audit"]);
        object["metadata"]["annotations"] = json!({"ringfence.dev/mode": mode});
    }
    object
}

/// Makes a policy's spec one that the API server would refuse.
fn spoil(dice: &mut Dice, spec: &mut Value) {
    let bad = match dice.below(7) {
        0 => json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}),
        1 => json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.1.0/25"]}}]}),
        2 => json!({"ports": [{"port": 90, "endPort": 80}]}),
        3 => json!({"ports": [{"port": "http", "endPort": 80}]}),
        4 => json!({"form": [{"podSelector": {}}]}),
        5 => json!({"ports": [{"port": 0}]}),
        _ => {
            spec["podSelector"] = json!({"matchExpressions": [{"key": "app", "operator": "Is"}]});
            return;
        }
    };
    match spec.get_mut("ingress").and_then(Value::as_array_mut) {
        Some(rules) => rules.push(bad),
        None => spec["ingress"] = json!([bad]),
    }
}

/// One rule; `peers` is `from` or `to`.
pub fn rule(dice: &mut Dice, peers: &str, objects: &[Value]) -> Value {
    let mut rule = json!({});
    match dice.below(20) {
        0..3 => {}
        3 => rule[peers] = json!([]),
        _ => {
            let count = dice.between(1, 3);
            rule[peers] = (0..count).map(|_| peer(dice, objects)).collect();
        }
    }
    match dice.below(20) {
        0..8 => {}
        8 => rule["ports"] = json!([]),
        _ => {
            let count = dice.between(1, 3);
            rule["ports"] = (0..count).map(|_| port(dice)).collect();
        }
    }
    rule
}

fn peer(dice: &mut Dice, objects: &[Value]) -> Value {
    match dice.below(10) {
        0..3 => block(dice, objects),
        3..5 => json!({"podSelector": pod_selector(dice)}),
        5..7 => json!({"namespaceSelector": namespace_selector(dice)}),
        _ => json!({
            "namespaceSelector": namespace_selector(dice),
            "podSelector": pod_selector(dice),
        }),
    }
}

fn port(dice: &mut Dice) -> Value {
    let mut port = json!({});
    if dice.chance(65) {
        port["protocol"] = json!(dice.pick(&["TCP", "TCP", "UDP", "SCTP"]));
    }
    match dice.below(20) {
        0..2 => {}
        2..8 => port["port"] = json!(dice.pick(&["http", "http", "grpc", "dns", "dns-tcp", "sig"])),
        8..15 => port["port"] = json!(*dice.choose(&[53, 80, 80, 443, 8080, 9090, 132, 5353])),
        _ => {
            let (first, last) = *dice.choose(&[
                (80, 443),
                (8000, 8100),
                (255, 256),
                (200, 1100),
                (1, 65535),
                (65535, 65535),
                (256, 511),
                (1, 255),
            ]);
            port["port"] = json!(first);
            port["endPort"] = json!(last);
        }
    }
    port
}

pub(super) fn pod_selector(dice: &mut Dice) -> Value {
    selector(
        dice,
        &[
            ("app", &SERVICES),
            ("tier", &["front", "back"]),
            ("version", &["v1", "v2"]),
        ],
    )
}

pub(super) fn namespace_selector(dice: &mut Dice) -> Value {
    let spaces = ["bank", "edge", "ops", "default", "kube-system"];
    selector(
        dice,
        &[
            ("team", &["red", "blue"]),
            ("tier", &["front", "back"]),
            ("kubernetes.io/metadata.name", &spaces),
        ],
    )
}

pub(super) fn selector(dice: &mut Dice, words: &[(&str, &[&str])]) -> Value {
    let mut selector = json!({});
    if dice.chance(15) {
        return selector;
    }
    if dice.chance(60) {
        for _ in 0..dice.between(1, 2) {
            let (key, values) = dice.choose(words);
            // A template that came out empty: an empty string to Kubernetes.
            let value = (!dice.chance(4)).then(|| dice.pick(values));
            selector["matchLabels"][*key] = json!(value);
        }
    }
    if dice.chance(45) {
        let count = dice.between(1, 2);
        selector["matchExpressions"] = (0..count).map(|_| expression(dice, words)).collect();
    }
    selector
}

fn expression(dice: &mut Dice, words: &[(&str, &[&str])]) -> Value {
    let (key, values) = dice.choose(words);
    let operator = dice.pick(&["In", "NotIn", "Exists", "DoesNotExist"]);
    let mut expression = json!({"key": key, "operator": operator});
    if operator.ends_with("In") {
        let count = dice.between(1, 2);
        expression["values"] = (0..count).map(|_| json!(dice.pick(values))).collect();
    }
    expression
}

/// Blocks that nest, some with host bits set; index 0 holds all of its family.
const V4: [&str; 12] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.0.0/23",
    "10.0.0.0/24",
    "10.0.1.77/24",
    "10.0.0.0/29",
    "10.0.0.4/30",
    "192.0.2.0/24",
    "192.0.2.8/29",
    "203.0.113.0/24",
    "203.0.113.7/32",
];
const V6: [&str; 10] = [
    "::/0",
    "::/64",
    "8000::/1",
    "fd00::/16",
    "fd00::/62",
    "fd00:0:0:1::/64",
    "fd00::/125",
    "2001:db8::/32",
    "2001:db8:1::99/48",
    "2001:db8::8/125",
];

/// The blocks of a family, and every pod's address as one.
fn blocks(four: bool, objects: &[Value]) -> Vec<String> {
    let known = if four { &V4[..] } else { &V6[..] }.iter();
    let shown = objects
        .iter()
        .flat_map(|o| o["status"]["podIPs"].as_array());
    let shown = shown.flatten().filter_map(|ip| ip["ip"].as_str());
    let single = shown
        .filter(|ip| ip.contains('.') == four)
        .map(|ip| format!("{ip}/{}", if four { 32 } else { 128 }));
    known.map(|s| (*s).to_owned()).chain(single).collect()
}

/// Any block, mostly of IPv4.
pub(super) fn cidr(dice: &mut Dice, objects: &[Value]) -> String {
    let four = dice.chance(65);
    dice.choose(&blocks(four, objects)).clone()
}

fn block(dice: &mut Dice, objects: &[Value]) -> Value {
    let cidr = cidr(dice, objects);
    let pool = blocks(cidr.contains('.'), objects);
    let within: Vec<&String> = pool
        .iter()
        .filter(|p| crate::oracle::holds(&cidr, p))
        .collect();
    let mut block = json!({"cidr": cidr});
    if !within.is_empty() && dice.chance(55) {
        let count = dice.between(1, 3);
        block["except"] = (0..count).map(|_| json!(dice.choose(&within))).collect();
    }
    json!({"ipBlock": block})
}

/// Stages nearly all policies and modes, as a cluster that tries them out.
pub(super) fn stage_most(dice: &mut Dice, objects: &mut [Value]) {
    for object in objects {
        if matches!(
            object["kind"].as_str(),
            Some("NetworkPolicy" | "ClusterNetworkPolicy")
        ) {
            if dice.chance(85) {
                object["metadata"]["annotations"] = json!({"ringfence.dev/mode": "audit"});
            }
            continue;
        }
        let labels = object["metadata"]["labels"].as_object_mut();
        let modes = labels.into_iter().flatten().filter(|(key, _)| is_mode(key));
        for (_, mode) in modes {
            if *mode == "enforce" && dice.chance(85) {
                *mode = json!("audit");
            }
        }
    }
}
