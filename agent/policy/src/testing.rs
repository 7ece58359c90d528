//! Small clusters for tests, and functions to query them.

use ringfence_ebpf::{
    abi::{Addr, Direction},
    verdict::{self, Policy},
};
use serde_json::{Value, json};

use crate::{
    config::Config,
    index::{Index, Scope},
    model::{Object, Parsed},
    ports::PortSpec,
    tables::Tables,
};

/// Parses an object; panics if it doesn't parse.
pub(crate) fn object(value: Value) -> Object {
    match Object::from_value(value) {
        Ok(Parsed::Object(object)) => *object,
        other => panic!("{other:?}"),
    }
}

/// Returns an index of these objects.
pub(crate) fn index(objects: impl IntoIterator<Item = Value>) -> Index {
    let mut index = Index::new(Config::default());
    for value in objects {
        index.apply(object(value));
    }
    index
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('/').expect("namespace/name")
}

/// Returns a running pod on node `n1` with these container ports.
pub(crate) fn pod_with(name: &str, ip: &str, labels: Value, ports: Value) -> Value {
    let (namespace, name) = split(name);
    json!({
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "uid": name, "labels": labels},
        "spec": {"nodeName": "n1", "containers": [{"ports": ports}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

/// Returns a running pod on node `n1` that declares no ports.
pub(crate) fn pod(name: &str, ip: &str, labels: Value) -> Value {
    pod_with(name, ip, labels, json!([]))
}

pub(crate) fn namespace(name: &str, labels: Value) -> Value {
    json!({"kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

pub(crate) fn netpol(name: &str, spec: Value) -> Value {
    let (namespace, name) = split(name);
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    })
}

/// Returns the tables' verdict for one direction of a pod's traffic with its own node or with
/// itself behind a Service.
pub(crate) fn ask_exempt(
    tables: &Tables,
    pod: &str,
    direction: Direction,
    peer: &str,
    port: &str,
) -> Policy {
    let mut exempt = tables.clone();
    for endpoint in exempt.endpoints.values_mut() {
        let rules = endpoint.exempt_rules();
        (endpoint.ingress, endpoint.egress) = (rules.ingress, rules.egress);
        endpoint.flags = rules.flags;
    }
    ask(&exempt, pod, direction, peer, port)
}

/// Returns the tables' verdict for one direction of a pod's traffic.
pub(crate) fn ask(
    tables: &Tables,
    pod: &str,
    direction: Direction,
    peer: &str,
    port: &str,
) -> Policy {
    let endpoint = tables
        .endpoints
        .iter()
        .find(|(key, _)| key.to_string() == pod);
    let rules = endpoint.expect(pod).1.rules();
    let ip: std::net::IpAddr = peer.parse().expect(peer);
    // A bare number such as `47` is a protocol without ports.
    let spec = match port.parse() {
        Ok(protocol) => PortSpec { protocol, port: 0 },
        Err(_) => port.parse().expect(port),
    };
    verdict::policy(
        tables,
        0,
        &rules,
        direction,
        &Addr::from(ip),
        spec.protocol,
        spec.port,
    )
}

/// Reports whether a packet is allowed in, with all pods in scope.
pub(crate) fn comes_in(index: &Index, pod: &str, peer: &str, port: &str) -> bool {
    let tables = index.compile(&Scope::Everything);
    ask(&tables, pod, Direction::Ingress, peer, port) != Policy::Deny
}

/// Reports whether a packet is allowed out, with all pods in scope.
pub(crate) fn goes_out(index: &Index, pod: &str, peer: &str, port: &str) -> bool {
    let tables = index.compile(&Scope::Everything);
    ask(&tables, pod, Direction::Egress, peer, port) != Policy::Deny
}
