//! What every cluster is made of.

use serde_json::{Map, Value, json};

use crate::random::Dice;

/// Pods on each node.
pub(super) const PODS_PER_NODE: usize = 100;

/// Labels of a pod.
pub(super) type Labels = Map<String, Value>;

/// A Deployment, whose pods differ in name and address alone.
pub(super) struct Deployment {
    pub(super) namespace: String,
    pub(super) name: String,
    /// What the ReplicaSet adds to names and labels.
    pub(super) hash: String,
    pub(super) labels: Labels,
    /// Port of its `http`.
    pub(super) http: u16,
}

/// A hash such as ReplicaSets carry.
pub(super) fn hash(dice: &mut Dice) -> String {
    format!("{:09x}", dice.bits() & 0xf_ffff_ffff)
}

/// Where a pod runs: pods are dealt to the nodes one by one, so that a node
/// has pods of many applications.
#[derive(Clone, Copy)]
pub(super) struct Placement {
    pub(super) number: usize,
    pub(super) nodes: usize,
}

impl Placement {
    fn node(self) -> usize {
        self.number % self.nodes
    }

    /// IPv4, and IPv6 for every other pod.
    fn addresses(self) -> Vec<String> {
        // The block's own address and the bridge's come first.
        let last = self.number / self.nodes + 2;
        let (high, low) = (self.node() >> 8, self.node() & 0xff);
        let mut all = vec![format!("10.{high}.{low}.{last}")];
        if last.is_multiple_of(2) {
            all.push(format!("fd00:10:{high:x}:{low:x}::{last:x}"));
        }
        all
    }
}

/// The IPv4 block of a node's pods.
pub(super) fn pod_block(node: usize) -> String {
    format!("10.{}.{}.0/24", node >> 8, node & 0xff)
}

pub(super) fn namespace(name: &str, labels: &[(&str, &str)]) -> Value {
    let mut all = Labels::from_iter([("kubernetes.io/metadata.name".to_owned(), json!(name))]);
    all.extend(labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))));
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": all}})
}

pub(super) fn node(number: usize) -> Value {
    let (high, low) = (number >> 8, number & 0xff);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("node-{number}")},
        "spec": {
            "podCIDR": pod_block(number),
            "podCIDRs": [pod_block(number), format!("fd00:10:{high:x}:{low:x}::/64")],
        },
        "status": {"addresses": [
            {"type": "InternalIP", "address": format!("172.16.{high}.{low}")},
            {"type": "Hostname", "address": format!("node-{number}")},
        ]},
    })
}

/// Cluster DNS, behind it the first two pods.
pub(super) fn dns() -> Vec<Value> {
    let backend = |number| Placement { number, nodes: 4 }.addresses().swap_remove(0);
    let port = json!({"name": "dns", "port": 53, "protocol": "UDP"});
    vec![
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": "10.255.0.10", "ports": [port]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "addressType": "IPv4",
            "metadata": {
                "name": "kube-dns-1", "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "endpoints": [{"addresses": [backend(0)]}, {"addresses": [backend(1)]}],
        }),
    ]
}

/// One pod of a Deployment.
pub(super) fn pod(of: &Deployment, placement: Placement) -> Value {
    let set = format!("{}-{}", of.name, of.hash);
    let number = placement.number;
    let addresses = placement.addresses();
    let listed: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{set}-{number:05x}"),
            "namespace": of.namespace,
            "uid": format!("8c2e61f0-77aa-4c1d-9d3e-{number:012x}"),
            "labels": of.labels,
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set, "controller": true},
            ],
        },
        "spec": {
            "nodeName": format!("node-{}", placement.node()),
            "containers": [
                {"name": "main", "ports": [
                    {"name": "http", "containerPort": of.http},
                    {"name": "grpc", "containerPort": 9090},
                ]},
                {"name": "sidecar", "ports": [{"name": "metrics", "containerPort": 9102}]},
            ],
        },
        "status": {"phase": "Running", "podIP": addresses[0], "podIPs": listed},
    })
}

/// A NetworkPolicy.
pub(super) fn policy(namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    })
}

/// Labels from pairs.
pub(super) fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    let own = |(k, v): (&str, &str)| (k.to_owned(), json!(v));
    pairs.into_iter().map(own).collect()
}

/// A selector of single labels.
pub(super) fn equal<const N: usize>(pairs: [(&str, &str); N]) -> Value {
    json!({"matchLabels": labels(pairs)})
}

/// A selector of one condition.
pub(super) fn condition(key: &str, operator: &str, values: &[&str]) -> Value {
    let mut condition = json!({"key": key, "operator": operator});
    if !values.is_empty() {
        condition["values"] = json!(values);
    }
    json!({"matchExpressions": [condition]})
}
