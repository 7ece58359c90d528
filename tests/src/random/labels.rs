//! Labels: plain ones for selectors, and those of the label allowlists.

use serde_json::{Value, json};

use super::Dice;

pub(super) type Map = serde_json::Map<String, Value>;

/// Namespaces that labels may speak of, there or not.
const SPACES: [&str; 5] = ["bank", "edge", "ops", "default", "kube-system"];

/// Services, whichever label names them.
pub(super) const SERVICES: [&str; 5] = [
    "ledger",
    "account",
    "service.api.foo",
    "service.api.bar",
    "service.cron.baz",
];

const MODES: [&str; 6] = ["enforce", "enforce", "audit", "audit", "off", "Enforced"];

/// Labels that selectors of pods ask for.
pub(super) fn plain_pod(dice: &mut Dice, into: &mut Map) {
    if dice.chance(70) {
        // The last is an empty string to Kubernetes.
        let value = dice.choose(&[
            Some("front"),
            Some("back"),
            Some("front"),
            Some("back"),
            None,
        ]);
        into.insert("tier".into(), json!(value));
    }
    if dice.chance(50) {
        into.insert("version".into(), json!(dice.pick(&["v1", "v2"])));
    }
}

/// Labels that selectors of namespaces ask for.
pub(super) fn plain_namespace(dice: &mut Dice, into: &mut Map) {
    if dice.chance(60) {
        into.insert("team".into(), json!(dice.pick(&["red", "blue"])));
    }
    if dice.chance(40) {
        into.insert("tier".into(), json!(dice.pick(&["front", "back"])));
    }
}

/// Labels that selectors of nodes ask for.
pub(super) fn plain_node(dice: &mut Dice, into: &mut Map) {
    if dice.chance(75) {
        into.insert("zone".into(), json!(dice.pick(&["one", "two"])));
    }
    if dice.chance(40) {
        into.insert("tier".into(), json!(dice.pick(&["front", "back"])));
    }
}

/// The labels that name a service, in all the ways there are.
pub(super) fn service(dice: &mut Dice, into: &mut Map) {
    let named = dice.pick(&SERVICES);
    match dice.below(10) {
        0..3 => {
            into.insert("ringfence.dev/service".into(), json!(named));
            if dice.chance(40) {
                into.insert("app".into(), json!(dice.pick(&SERVICES)));
            }
        }
        3..5 => {
            into.insert("app.kubernetes.io/name".into(), json!(named));
        }
        5..9 => {
            into.insert("app".into(), json!(named));
        }
        _ => {}
    }
    if dice.chance(15) {
        let given = dice.pick(&["api", "cron", "batch"]);
        into.insert("ringfence.dev/service-type".into(), json!(given));
    }
}

pub(super) fn modes_of_namespace(dice: &mut Dice, into: &mut Map) {
    for key in ["ringfence.dev/ingress", "ringfence.dev/egress"] {
        if dice.chance(18) {
            into.insert(key.into(), json!(dice.pick(&MODES)));
        }
    }
    if dice.chance(20) {
        let value = dice.pick(&["allow", "allow", "yes"]);
        into.insert("ringfence.dev/pod-overrides".into(), json!(value));
    }
}

pub(super) fn modes_of_pod(dice: &mut Dice, into: &mut Map) {
    for key in ["ringfence.dev/ingress", "ringfence.dev/egress"] {
        if dice.chance(25) {
            into.insert(key.into(), json!(dice.pick(&MODES)));
        }
    }
    if dice.chance(6) {
        let value = dice.pick(&["true", "true", "false"]);
        into.insert("ringfence.dev/quarantine".into(), json!(value));
    }
}

pub(super) fn is_mode(key: &str) -> bool {
    matches!(key, "ringfence.dev/ingress" | "ringfence.dev/egress")
}

/// Takes an object's modes away.
pub(super) fn without_modes(object: &mut Value) {
    if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
        labels.retain(|key, _| !is_mode(key));
    }
}

/// Whom a callee admits beyond its own namespace.
pub(super) fn callers(dice: &mut Dice, into: &mut Map, percent: usize) {
    let mut who = vec!["any_namespace", "outside_cluster", "all_nodes"];
    who.extend(SPACES);
    for who in who {
        if dice.chance(percent) {
            let value = dice.pick(&["true", "true", "true", "false", "TRUE"]);
            into.insert(format!("callers.ringfence.dev/{who}"), json!(value));
        }
    }
}

/// Whom a caller calls.
pub(super) fn egress(dice: &mut Dice, into: &mut Map) {
    if !dice.chance(60) {
        return;
    }
    for _ in 0..dice.between(1, 4) {
        let (base, listed) = if dice.chance(25) {
            let kind = dice.pick(&["api", "cron", "batch"]);
            ("egress-groups.ringfence.dev", kind)
        } else {
            ("egress.ringfence.dev", dice.pick(&SERVICES))
        };
        let front = match dice.below(20) {
            0..10 => String::new(),
            10..19 => format!("{}.", dice.pick(&SPACES)),
            // More than a namespace: no key at all.
            _ => "a.bank.".to_owned(),
        };
        into.insert(format!("{front}{base}/{listed}"), json!(value(dice)));
    }
}

fn value(dice: &mut Dice) -> String {
    const PARTS: [&str; 11] = [
        "80",
        "8080",
        "9090",
        "udp-53",
        "udp-5353",
        "sctp-132",
        "http",
        "grpc",
        "dns",
        "256",
        "udp-65535",
    ];
    match dice.below(20) {
        0..9 => "true".to_owned(),
        9..17 => {
            let count = dice.between(1, 3);
            let parts: Vec<&str> = (0..count).map(|_| dice.pick(&PARTS)).collect();
            parts.join("_")
        }
        _ => {
            (*dice.pick(&["TRUE", "", "70000", "8080_TRUE", "0", "80__8080", "80.http"])).to_owned()
        }
    }
}
