//! Small changes to a cluster: what watches see between two moments.

use serde_json::{Value, json};

use super::{Dice, cluster_policies, labels, pods, policies, topology};

/// Makes one change. What it adds has a name that wasn't there.
pub fn change(dice: &mut Dice, objects: &mut Vec<Value>) {
    let fresh = 20 + dice.below(200);
    match dice.below(17) {
        0..2 => remove(dice, objects),
        2..5 => relabel(dice, objects),
        5 => {
            let spaces = spaces(objects);
            objects.push(pods::pod(dice, &spaces, fresh));
        }
        6..8 => twin(dice, objects, fresh),
        8 => {
            let space = *dice.choose(&spaces(objects));
            let policy = policies::policy(dice, space, &format!("np-{fresh}"), objects);
            objects.push(policy);
        }
        9 => restate(dice, objects),
        10 => take_over(dice, objects),
        11 => {
            let name = format!("cnp-{fresh}");
            objects.push(cluster_policies::policy(dice, &name, objects));
        }
        12..14 => edit_cluster_policy(dice, objects),
        14 => {
            let service = service(dice, objects);
            objects.push(service);
        }
        _ => edit_policy(dice, objects),
    }
    dedup(objects);
}

/// Objects that are added under a name that is taken replace the older one.
fn dedup(objects: &mut Vec<Value>) {
    let key = |o: &Value| {
        let meta = &o["metadata"];
        (
            o["kind"].clone(),
            meta["namespace"].clone(),
            meta["name"].clone(),
        )
    };
    let keys: Vec<_> = objects.iter().map(key).collect();
    let mut at = 0;
    objects.retain(|_| {
        at += 1;
        !keys[at..].contains(&keys[at - 1])
    });
}

fn spaces(objects: &[Value]) -> Vec<&'static str> {
    let known = ["bank", "edge", "ops", "default", "kube-system"];
    let used = |space: &&str| {
        objects
            .iter()
            .any(|o| o["metadata"]["namespace"] == **space)
    };
    let found: Vec<_> = known.into_iter().filter(used).collect();
    if found.is_empty() {
        vec!["default"]
    } else {
        found
    }
}

fn remove(dice: &mut Dice, objects: &mut Vec<Value>) {
    if objects.len() > 1 {
        let which = dice.below(objects.len());
        objects.remove(which);
    }
}

fn of_kind<'a>(dice: &mut Dice, objects: &'a mut [Value], kinds: &[&str]) -> Option<&'a mut Value> {
    let fits = |o: &&mut Value| kinds.iter().any(|kind| o["kind"] == **kind);
    let mut found: Vec<_> = objects.iter_mut().filter(fits).collect();
    if found.is_empty() {
        return None;
    }
    let which = dice.below(found.len());
    Some(found.swap_remove(which))
}

/// Corner 15: the same object with other labels.
fn relabel(dice: &mut Dice, objects: &mut [Value]) {
    let Some(object) = of_kind(dice, objects, &["Pod", "Namespace", "Node"]) else {
        return;
    };
    let mut found = object["metadata"]["labels"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let keys: Vec<String> = found.keys().cloned().collect();
    if !keys.is_empty() && dice.chance(50) {
        found.remove(dice.choose(&keys));
    } else if object["kind"] == "Pod" {
        match dice.below(4) {
            0 => labels::plain_pod(dice, &mut found),
            1 => labels::service(dice, &mut found),
            2 => labels::modes_of_pod(dice, &mut found),
            _ => labels::egress(dice, &mut found),
        }
    } else if object["kind"] == "Node" {
        labels::plain_node(dice, &mut found);
    } else {
        labels::plain_namespace(dice, &mut found);
        labels::modes_of_namespace(dice, &mut found);
    }
    object["metadata"]["labels"] = Value::Object(found);
}

/// A Service that comes, or changes its addresses: ones of its own, some of
/// them shared by two Services, and ones that a pod or a node has as well.
fn service(dice: &mut Dice, objects: &[Value]) -> Value {
    let space = *dice.choose(&spaces(objects));
    let number = dice.below(3);
    let own = match dice.below(4) {
        0 => json!("None"),
        _ => json!(format!("10.96.0.{}", 100 + number)),
    };
    let mut shown = vec![json!("198.18.0.1"), json!("fd00:96::100")];
    shown.extend(objects.iter().flat_map(|object| {
        let status = &object["status"];
        [&status["podIP"], &status["addresses"][0]["address"]].map(Value::clone)
    }));
    shown.retain(Value::is_string);
    let mut some = |most| -> Vec<Value> {
        let count = dice.below(most);
        (0..count).map(|_| dice.choose(&shown).clone()).collect()
    };
    let (external, balanced) = (some(3), some(2));
    let kind = *dice.choose(&["ClusterIP", "NodePort"]);
    let selector = dice
        .choose(&[json!({"app": "api"}), json!({"tier": "front"})])
        .clone();
    let ingress: Vec<Value> = balanced.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("svc-{number}"), "namespace": space},
        "spec": {
            "type": kind, "selector": selector, "clusterIP": own, "clusterIPs": [own],
            "externalIPs": external, "ports": [{"port": 80}],
        },
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

/// Another replica of a pod, on another node: commonly the only kind of change
/// that adds an address to a class and does nothing else.
fn twin(dice: &mut Dice, objects: &mut Vec<Value>, fresh: usize) {
    let Some(mut pod) = of_kind(dice, objects, &["Pod"]).map(|p| p.clone()) else {
        return;
    };
    pod["metadata"]["name"] = json!(format!("pod-{fresh}"));
    pod["metadata"]["uid"] = json!(format!("uid-twin-{fresh}"));
    pod["spec"]["nodeName"] = json!(topology::NODES[1]);
    let ip = format!("10.0.1.{}", fresh + 2);
    pod["status"]["podIP"] = json!(ip);
    pod["status"]["podIPs"] = json!([{"ip": ip}, {"ip": format!("fd00:0:0:1::{fresh:x}")}]);
    objects.push(pod);
}

/// A pod ends, starts to end, or moves to another address.
fn restate(dice: &mut Dice, objects: &mut [Value]) {
    let fresh = dice.between(100, 180);
    let Some(pod) = of_kind(dice, objects, &["Pod"]) else {
        return;
    };
    match dice.below(3) {
        0 => pod["status"]["phase"] = json!("Succeeded"),
        1 => pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
        _ if pod["spec"]["hostNetwork"] != true => {
            let ip = format!("10.0.0.{fresh}");
            pod["status"]["podIP"] = json!(ip);
            pod["status"]["podIPs"] = json!([{"ip": ip}]);
        }
        _ => {}
    }
}

/// A pod shows another one's addresses, whose end may not have been seen yet.
fn take_over(dice: &mut Dice, objects: &mut [Value]) {
    let own = |pod: &Value| pod["kind"] == "Pod" && pod["spec"]["hostNetwork"] != true;
    let pods: Vec<usize> = (0..objects.len()).filter(|n| own(&objects[*n])).collect();
    if pods.is_empty() {
        return;
    }
    let (old, new) = (*dice.choose(&pods), *dice.choose(&pods));
    let shown = objects[old]["status"].clone();
    if shown["podIP"].is_string() {
        for field in ["podIP", "podIPs"] {
            objects[new]["status"][field] = shown[field].clone();
        }
    }
    if old != new && dice.chance(50) {
        objects[old]["status"]["phase"] = json!("Failed");
    }
}

/// One NetworkPolicy gets a rule, loses one, or is staged or enforced.
fn edit_policy(dice: &mut Dice, objects: &mut [Value]) {
    let (way, peers) = *dice.choose(&[("ingress", "from"), ("egress", "to")]);
    let fresh = policies::rule(dice, peers, objects);
    let Some(policy) = of_kind(dice, objects, &["NetworkPolicy"]) else {
        return;
    };
    if dice.chance(25) {
        restage(dice, policy);
    } else {
        edit_rules(dice, &mut policy["spec"], way, fresh);
    }
}

/// One ClusterNetworkPolicy changes its rules, its place or its mode.
fn edit_cluster_policy(dice: &mut Dice, objects: &mut [Value]) {
    let way = dice.pick(&["ingress", "egress"]);
    let action = dice.pick(&["Accept", "Deny", "Pass"]);
    let fresh = cluster_policies::rule(dice, way, action, objects);
    let Some(policy) = of_kind(dice, objects, &["ClusterNetworkPolicy"]) else {
        return;
    };
    match dice.below(8) {
        0 => restage(dice, policy),
        1 => policy["spec"]["priority"] = json!(dice.below(1001)),
        2 => policy["spec"]["tier"] = json!(dice.pick(&["Admin", "Baseline"])),
        3 => match policy["spec"][way].as_array_mut() {
            Some(rules) => dice.shuffle(rules),
            None => policy["spec"][way] = json!([fresh]),
        },
        _ => edit_rules(dice, &mut policy["spec"], way, fresh),
    }
}

fn restage(dice: &mut Dice, policy: &mut Value) {
    let mode = dice.pick(&["audit", "enforce"]);
    policy["metadata"]["annotations"] = json!({"ringfence.dev/mode": mode});
}

fn edit_rules(dice: &mut Dice, spec: &mut Value, way: &str, fresh: Value) {
    match spec.get_mut(way).and_then(Value::as_array_mut) {
        Some(rules) if !rules.is_empty() && dice.chance(50) => {
            rules.remove(dice.below(rules.len()));
        }
        Some(rules) => rules.push(fresh),
        None => spec[way] = json!([fresh]),
    }
}
