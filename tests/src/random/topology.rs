//! Namespaces, nodes and the DNS Service.

use serde_json::{Value, json};

use super::Dice;
use super::labels::{self, Map};

pub(super) const NODES: [&str; 3] = [super::NODE, "node-b", "node-c"];

/// Two to four namespaces by name.
pub(super) fn choose_namespaces(dice: &mut Dice) -> Vec<&'static str> {
    let mut pool = ["bank", "edge", "ops", "default"];
    dice.shuffle(&mut pool);
    let count = dice.between(2, 3);
    let mut chosen = pool[..count].to_vec();
    if dice.chance(60) {
        chosen.push("kube-system");
    }
    chosen
}

/// Their objects; one in eight is unknown, as pods may be seen first.
pub(super) fn namespaces(dice: &mut Dice, names: &[&str]) -> Vec<Value> {
    let mut all = Vec::new();
    for name in names {
        let known = dice.chance(88);
        let labelled = dice.chance(80);
        let mut found = Map::new();
        if labelled {
            labels::plain_namespace(dice, &mut found);
            labels::modes_of_namespace(dice, &mut found);
            labels::callers(dice, &mut found, 12);
        }
        let mut object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        if labelled {
            object["metadata"]["labels"] = Value::Object(found);
        }
        if known {
            all.push(object);
        }
    }
    all
}

/// Three nodes, each with addresses and pod CIDRs of both families.
pub(super) fn nodes(dice: &mut Dice) -> Vec<Value> {
    let node = |(number, name): (usize, &&str)| {
        let mut found = Map::new();
        labels::plain_node(dice, &mut found);
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": found},
            "spec": {
                "podCIDR": format!("10.0.{number}.0/24"),
                "podCIDRs": [format!("10.0.{number}.0/24"), format!("fd00:0:0:{number}::/64")],
            },
            "status": {"addresses": [
                {"type": "InternalIP", "address": format!("192.0.2.{}", number + 10)},
                {"type": "InternalIP", "address": format!("2001:db8::{}", number + 10)},
                {"type": "Hostname", "address": name},
            ]},
        })
    };
    NODES.iter().enumerate().map(node).collect()
}

/// The DNS Service, where there is a namespace for it, and mostly its pod.
pub(super) fn dns(dice: &mut Dice, names: &[&str]) -> Vec<Value> {
    let mut all = Vec::new();
    if !names.contains(&"kube-system") {
        return all;
    }
    let listens = if dice.chance(50) { 53 } else { 5353 };
    if dice.chance(85) {
        all.push(dns_pod(dice, listens));
    }
    if dice.chance(75) {
        let target = match dice.below(3) {
            0 => json!("dns"),
            1 => json!(listens),
            _ => Value::Null,
        };
        let mut service = dns_service(target);
        if let Some(ports) = service["spec"]["ports"].as_array_mut() {
            // UDP alone: then TCP to the Service's address isn't DNS.
            ports.truncate(if dice.chance(40) { 1 } else { 2 });
        }
        ports_beside(dice, &mut service);
        all.extend(others(dice, &mut service));
        all.push(service);
    }
    all
}

/// A Service of DNS has ports that aren't.
fn ports_beside(dice: &mut Dice, service: &mut Value) {
    if let Some(ports) = service["spec"]["ports"].as_array_mut()
        && dice.chance(40)
    {
        ports.push(json!({"name": "metrics", "port": 9153, "protocol": "TCP"}));
    }
}

/// What else may stand behind cluster DNS: pods on the host, addresses in
/// EndpointSlices, and a second Service, which may be a tenant's.
fn others(dice: &mut Dice, service: &mut Value) -> Vec<Value> {
    let mut all = Vec::new();
    if dice.chance(25) {
        let node = dice.below(NODES.len());
        let listens = *dice.choose(&[53, 5353]);
        let mut host = dns_pod(dice, listens);
        host["metadata"]["name"] = json!("coredns-host");
        host["metadata"]["uid"] = json!("uid-dns-host");
        host["spec"]["hostNetwork"] = json!(true);
        host["spec"]["nodeName"] = json!(NODES[node]);
        let (four, six) = (
            format!("192.0.2.{}", node + 10),
            format!("2001:db8::{}", node + 10),
        );
        host["status"]["podIP"] = json!(four);
        host["status"]["podIPs"] = json!([{"ip": four}, {"ip": six}]);
        all.push(host);
    }
    if dice.chance(25) {
        if dice.chance(50)
            && let Some(spec) = service["spec"].as_object_mut()
        {
            spec.remove("selector");
        }
        all.push(dns_slice(dice));
    }
    if dice.chance(25) {
        let mut second = dns_service(json!(5353));
        second["metadata"]["name"] = json!("coredns");
        second["metadata"]["labels"] = json!({"k8s-app": dice.pick(&["kube-dns", "core"])});
        second["metadata"]["namespace"] = json!(dice.pick(&["kube-system", "kube-system", "bank"]));
        second["spec"]["clusterIP"] = json!("10.96.0.11");
        second["spec"]["clusterIPs"] = json!(["10.96.0.11"]);
        all.push(second);
    }
    all
}

fn dns_slice(dice: &mut Dice) -> Value {
    let made_by = dice.pick(&["endpointslice-controller.k8s.io", "somebody"]);
    let address = dice.pick(&["198.51.100.53", "192.0.2.11", "10.0.2.200"]);
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": "dns", "namespace": "kube-system",
            "labels": {
                "kubernetes.io/service-name": "kube-dns",
                "endpointslice.kubernetes.io/managed-by": made_by,
            },
        },
        "endpoints": [{"addresses": [address]}],
        "ports": [
            {"name": "dns", "port": dice.choose(&[53, 8053]), "protocol": "UDP"},
            {"name": "dns-tcp", "port": 8054, "protocol": "TCP"},
            {"name": "metrics", "port": 9153, "protocol": "TCP"},
        ],
    })
}

fn dns_pod(dice: &mut Dice, listens: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "coredns-0", "namespace": "kube-system", "uid": "uid-dns",
            "labels": {"k8s-app": "kube-dns", "app": "coredns"},
        },
        "spec": {
            "nodeName": dice.pick(&NODES),
            "containers": [{"name": "coredns", "ports": [
                {"name": "dns", "containerPort": listens, "protocol": "UDP"},
                {"name": "dns-tcp", "containerPort": listens, "protocol": "TCP"},
                {"name": "metrics", "containerPort": 9153},
            ]}],
        },
        "status": {
            "phase": "Running", "podIP": "10.0.2.200",
            "podIPs": [{"ip": "10.0.2.200"}, {"ip": "fd00:0:0:2::200"}],
        },
    })
}

fn dns_service(target: Value) -> Value {
    let mut ports = json!([
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]);
    if !target.is_null() {
        ports[1]["targetPort"] = match &target {
            Value::String(_) => json!("dns-tcp"),
            number => number.clone(),
        };
        ports[0]["targetPort"] = target;
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {
            "type": "ClusterIP", "selector": {"k8s-app": "kube-dns"},
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00:96::a"],
            "ports": ports,
        },
    })
}
