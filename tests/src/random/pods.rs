//! Pods, in all the states in which pods are.

use serde_json::{Value, json};

use super::Dice;
use super::labels::{self, Map};
use super::topology::NODES;

/// Five to ten pods; in a quarter of the clusters two of them show one address.
pub(super) fn pods(dice: &mut Dice, spaces: &[&str]) -> Vec<Value> {
    let count = dice.between(5, 10);
    let mut all: Vec<Value> = (0..count).map(|number| pod(dice, spaces, number)).collect();
    while !all.iter().any(is_judged) {
        all[0] = pod(dice, spaces, 0);
    }
    if dice.chance(25) {
        let (old, new) = (dice.below(count), dice.below(count));
        if old != new && !is_host(&all[old]) && !is_host(&all[new]) {
            reuse(dice, &mut all, old, new);
        }
    }
    all
}

/// Without one on the judged node there would be nothing to ask.
fn is_judged(pod: &Value) -> bool {
    let here = pod["spec"]["nodeName"] == NODES[0] && pod["status"]["podIP"].is_string();
    here && !is_host(pod) && pod["status"]["phase"] == "Running"
}

fn is_host(pod: &Value) -> bool {
    pod["spec"]["hostNetwork"] == true
}

/// The old pod's addresses at the new one too, in one of the ways it happens.
fn reuse(dice: &mut Dice, all: &mut [Value], old: usize, new: usize) {
    for field in ["podIP", "podIPs"] {
        all[new]["status"][field] = all[old]["status"][field].clone();
    }
    let phase = dice.pick(&[
        "Succeeded",
        "Failed",
        "Running",
        "Running",
        "Running",
        "Pending",
    ]);
    all[old]["status"]["phase"] = json!(phase);
    all[new]["status"]["phase"] = json!("Running");
    let fresh = |pod: &mut Value, going: bool| {
        if let Some(meta) = pod["metadata"].as_object_mut() {
            meta.remove("deletionTimestamp");
            if going {
                meta.insert("deletionTimestamp".into(), json!("2026-01-01T00:00:00Z"));
            }
        }
    };
    let going = phase == "Running" && dice.chance(75);
    fresh(&mut all[old], going);
    fresh(&mut all[new], false);
}

/// One pod; `number` is in its name and addresses.
pub(super) fn pod(dice: &mut Dice, spaces: &[&str], number: usize) -> Value {
    let host = dice.chance(7);
    // More than half on the judged node.
    let node = if dice.chance(55) {
        0
    } else {
        dice.below(NODES.len())
    };
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("pod-{number}"),
            "namespace": dice.choose(spaces),
            "uid": format!("uid-{:04x}", dice.bits() & 0xffff),
            "labels": all_labels(dice),
        },
        "spec": {"nodeName": NODES[node], "containers": containers(dice)},
        "status": status(dice, node, number, host),
    });
    if dice.chance(15) {
        object["spec"]["initContainers"] = init_containers(dice);
    }
    if host {
        object["spec"]["hostNetwork"] = json!(true);
    }
    if dice.chance(8) {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    if dice.chance(60) {
        object["metadata"]["ownerReferences"] = owner(dice, NODES[node]);
    }
    if dice.chance(5) {
        object["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "static"});
        let service = dice.pick(&labels::SERVICES);
        object["metadata"]["name"] = json!(format!("{service}.{number}-{}", NODES[node]));
    }
    object
}

fn all_labels(dice: &mut Dice) -> Value {
    let mut found = Map::new();
    labels::plain_pod(dice, &mut found);
    labels::service(dice, &mut found);
    labels::modes_of_pod(dice, &mut found);
    labels::callers(dice, &mut found, 12);
    labels::egress(dice, &mut found);
    Value::Object(found)
}

fn owner(dice: &mut Dice, node: &str) -> Value {
    let service = dice.pick(&labels::SERVICES);
    let (kind, name) = match dice.below(20) {
        0..12 => ("ReplicaSet", format!("{service}-5d4f8c7b9")),
        12..15 => ("StatefulSet", service.to_owned()),
        15 | 16 => ("Job", format!("{service}-29372340")),
        17 => ("Job", format!("{service}-20260101")),
        18 => ("Job", service.to_owned()),
        _ => ("Node", node.to_owned()),
    };
    json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "owner", "controller": true}])
}

fn status(dice: &mut Dice, node: usize, number: usize, host: bool) -> Value {
    let (v4, v6) = if host {
        (
            format!("192.0.2.{}", node + 10),
            format!("2001:db8::{}", node + 10),
        )
    } else {
        let last = number + 2;
        (
            format!("10.0.{node}.{last}"),
            format!("fd00:0:0:{node}::{last:x}"),
        )
    };
    let shown = match dice.below(20) {
        0..4 => vec![v4],
        4..7 => vec![v6],
        7..19 => vec![v4, v6],
        _ => vec![],
    };
    let phase = match dice.below(20) {
        0 => "Succeeded",
        1 => "Failed",
        2 => "Pending",
        _ => "Running",
    };
    let mut status = json!({"phase": phase});
    if let Some(first) = shown.first() {
        status["podIP"] = json!(first);
        status["podIPs"] = shown.iter().map(|ip| json!({"ip": ip})).collect();
    }
    status
}

/// Of which only a sidecar's ports count, after those of containers.
fn init_containers(dice: &mut Dice) -> Value {
    let number = *dice.choose(&[81, 8082]);
    let ports = json!([{"name": dice.pick(&["http", "mesh"]), "containerPort": number}]);
    match dice.below(3) {
        0 => json!([{"name": "once", "ports": ports}]),
        1 => json!([{"name": "once", "ports": ports, "restartPolicy": "OnFailure"}]),
        _ => json!([{"name": "mesh", "ports": ports, "restartPolicy": "Always"}]),
    }
}

/// One container or two; a name means another number in another pod, and
/// across containers may be there for two protocols.
fn containers(dice: &mut Dice) -> Value {
    let mut first = Vec::new();
    if dice.chance(55) {
        first.push(json!({"name": "http", "containerPort": *dice.choose(&[80, 8080])}));
    }
    if dice.chance(30) {
        let number = *dice.choose(&[9090, 256]);
        first.push(json!({"name": "grpc", "containerPort": number, "protocol": "TCP"}));
    }
    if dice.chance(25) {
        let number = *dice.choose(&[53, 5353]);
        first.push(json!({"name": "dns", "containerPort": number, "protocol": "UDP"}));
    }
    if dice.chance(12) {
        first.push(json!({"name": "sig", "containerPort": 132, "protocol": "SCTP"}));
    }
    if dice.chance(10) {
        first.push(json!({"containerPort": 8081}));
    }
    let mut all = vec![json!({"name": "main", "ports": first})];
    if dice.chance(20) {
        // Another protocol under the same name, or the same one once more.
        let protocol = dice.pick(&["UDP", "TCP"]);
        let ports = json!([{"name": "http", "containerPort": 443, "protocol": protocol}]);
        all.push(json!({"name": "side", "ports": ports}));
    }
    Value::Array(all)
}
