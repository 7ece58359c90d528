//! Calls from outside that another node has forwarded with a source address of its own.

use ringfence_ebpf::{abi::Direction, verdict::Policy};
use serde_json::{Value, json};

use crate::model::{Kind, ObjectKey};
use crate::{
    callers::callers,
    compile::Compiler,
    explain::{Verdict, explain},
    index::{Index, Scope},
    matrix::{Matrix, Query},
    testing::{ask, index, object, pod_with},
};

const EDGE: &str = "shop/edge";
/// All addresses that another node may masquerade with: those of its status, its tunnel and its
/// bridge, and those recorded by its network plugin.
const OTHER: [&str; 5] = [
    "172.16.0.2",
    "2001:db8::2",
    "10.2.0.0",
    "10.2.0.1",
    "10.2.0.77",
];

fn edge(labels: Value) -> Value {
    let mut all = json!({"app": "edge", "ringfence.dev/ingress": "enforce"});
    for (key, value) in labels.as_object().expect("labels") {
        all[key] = value.clone();
    }
    let ports = json!([{"name": "http", "containerPort": 8080}, {"containerPort": 9000}]);
    pod_with(EDGE, "10.1.0.5", all, ports)
}

fn admitting() -> Value {
    edge(json!({"callers.ringfence.dev/outside_cluster": "true"}))
}

fn nodes() -> [Value; 2] {
    let node = |name: &str, n: u8| {
        json!({
            "kind": "Node",
            "metadata": {"name": name, "annotations": {
                "projectcalico.org/IPv4VXLANTunnelAddr": format!("10.{n}.0.77"),
            }},
            "spec": {"podCIDR": format!("10.{n}.0.0/24")},
            "status": {"addresses": [
                {"type": "InternalIP", "address": format!("172.16.0.{n}")},
                {"type": "InternalIP", "address": format!("2001:db8::{n}")},
            ]},
        })
    };
    [node("n1", 1), node("n2", 2)]
}

/// Returns a Service for the edge; `more` is merged into its spec.
fn service(more: Value) -> Value {
    let mut service = json!({
        "kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "selector": {"app": "edge"}, "clusterIP": "10.96.0.7",
            "ports": [{"port": 80, "targetPort": "http", "nodePort": 30080}],
        },
    });
    for (key, value) in more.as_object().expect("a spec") {
        service["spec"][key] = value.clone();
    }
    service
}

fn cluster(more: impl IntoIterator<Item = Value>) -> Index {
    index(nodes().into_iter().chain(more))
}

fn may(index: &Index, peer: &str, port: &str) -> bool {
    let tables = index.compile(&Scope::Node("n1".into()));
    ask(&tables, EDGE, Direction::Ingress, peer, port) == Policy::Allow
}

#[test]
fn other_nodes_pass_calls_from_outside_on_to_the_target_ports_of_a_node_port() {
    let index = cluster([admitting(), service(json!({"type": "NodePort"}))]);
    for peer in OTHER {
        assert!(may(&index, peer, "TCP/8080"), "{peer}");
        for port in ["TCP/80", "TCP/30080", "TCP/9000", "UDP/8080", "ICMP"] {
            assert!(!may(&index, peer, port), "{peer} {port}");
        }
    }
    assert!(may(&index, "203.0.113.7", "TCP/9000"), "the outside itself");
}

#[test]
fn balancers_and_external_addresses_are_such_doors_too() {
    let external = json!({"externalIPs": ["198.51.100.7"]});
    for spec in [
        json!({"type": "NodePort", "externalTrafficPolicy": "Cluster"}),
        json!({"type": "LoadBalancer"}),
        json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}),
        external,
    ] {
        let index = cluster([admitting(), service(spec.clone())]);
        assert!(may(&index, "172.16.0.2", "TCP/8080"), "{spec}");
    }
}

#[test]
fn where_nodes_keep_the_callers_address_or_nobody_outside_can_call_they_are_not_admitted() {
    for spec in [
        json!({"type": "ClusterIP"}),
        json!({"type": "NodePort", "externalTrafficPolicy": "Local"}),
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000}),
        json!({"type": "ExternalName", "externalIPs": ["198.51.100.7"]}),
        json!({"clusterIP": "None", "externalIPs": ["198.51.100.7"]}),
        json!({"type": "NodePort", "selector": {}}),
        json!({"type": "NodePort", "selector": {"app": "other"}}),
    ] {
        let index = cluster([admitting(), service(spec.clone())]);
        assert!(!may(&index, "172.16.0.2", "TCP/8080"), "{spec}");
    }
    let mut elsewhere = service(json!({"type": "NodePort"}));
    elsewhere["metadata"]["namespace"] = json!("evil");
    let mut anothers = service(json!({"type": "NodePort"}));
    anothers["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "x"});
    for service in [elsewhere, anothers] {
        let index = cluster([admitting(), service.clone()]);
        assert!(!may(&index, "172.16.0.2", "TCP/8080"), "{service}");
    }
}

#[test]
fn a_callee_that_does_not_admit_the_outside_opens_no_door_to_nodes() {
    let door = || service(json!({"type": "NodePort"}));
    for labels in [
        json!({}),
        json!({"callers.ringfence.dev/outside_cluster": "false"}),
        json!({"callers.ringfence.dev/any_namespace": "true"}),
    ] {
        let index = cluster([edge(labels.clone()), door()]);
        assert!(!may(&index, "172.16.0.2", "TCP/8080"), "{labels}");
    }
}

#[test]
fn a_pod_is_admitted_by_no_door() {
    let other = pod_with("shop/other", "10.2.0.5", json!({"app": "other"}), json!([]));
    let index = cluster([admitting(), service(json!({"type": "NodePort"})), other]);
    assert!(!may(&index, "10.2.0.5", "TCP/8080"));
}

#[test]
fn doors_come_and_go_with_their_services() {
    let mut index = cluster([admitting()]);
    let scope = Scope::Node("n1".to_owned());
    let mut compiler = Compiler::new(scope.clone());
    let mut open = |index: &mut Index, ports: &[&str]| {
        compiler.update(index);
        assert_eq!(*compiler.tables(), index.compile(&scope));
        for port in ["TCP/8080", "TCP/9000"] {
            let found = ask(
                compiler.tables(),
                EDGE,
                Direction::Ingress,
                "172.16.0.2",
                port,
            );
            assert_eq!(found == Policy::Allow, ports.contains(&port), "{port}");
        }
    };
    open(&mut index, &[]);
    index.apply(object(service(json!({"type": "NodePort"}))));
    open(&mut index, &["TCP/8080"]);
    let both = json!([{"port": 80, "targetPort": "http"}, {"port": 9000}]);
    index.apply(object(service(json!({"type": "NodePort", "ports": both}))));
    open(&mut index, &["TCP/8080", "TCP/9000"]);
    index.apply(object(service(json!({"type": "ClusterIP", "ports": both}))));
    open(&mut index, &[]);
    index.apply(object(service(json!({"type": "LoadBalancer"}))));
    open(&mut index, &["TCP/8080"]);
    index.delete(&ObjectKey::new(Kind::Service, "shop", "web"));
    open(&mut index, &[]);
}

#[test]
fn explain_matrix_and_callers_say_so() {
    let index = cluster([admitting(), service(json!({"type": "NodePort"}))]);
    let ports = ["TCP/8080", "TCP/9000"].map(|port| port.parse().expect(port));
    let found = explain(&index, "172.16.0.2", EDGE, &ports[0]).expect("known");
    assert_eq!(found.verdict, Verdict::Allowed);
    assert!(
        found
            .ingress
            .reason
            .contains("behind Service web at other nodes")
    );
    let query = Query {
        ports: ports.into(),
        peers: vec!["172.16.0.2".to_owned()],
        ..Query::default()
    };
    let matrix = Matrix::compute(&index, &query).expect("a matrix");
    let matrix = serde_json::to_value(matrix).expect("JSON");
    assert_eq!(matrix["ingress"]["172.16.0.2"][EDGE], ".X");
    let callers = callers(&index, "shop/edge").expect("a service").callers;
    let nodes = callers
        .iter()
        .find(|row| row.caller == "nodes")
        .expect("nodes");
    assert_eq!(nodes.ports, ["TCP/8080"]);
}
