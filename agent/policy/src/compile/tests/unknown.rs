//! Addresses in pod ranges without a known owner.

use ringfence_ebpf::{
    abi::{Addr, Direction, Identity},
    verdict::Policy,
};
use serde_json::{Value, json};

use crate::model::{Kind, ObjectKey};
use crate::{
    compile::Compiler,
    config::Config,
    explain::{PartyKind, Verdict, explain},
    index::{Index, Scope},
    matrix::{Matrix, Query},
    tables::Tables,
    testing::{ask, index, netpol, object, pod},
};

const EDGE: &str = "shop/edge";
/// Addresses in the ranges of both nodes, by family.
const POD_TO_BE: [&str; 3] = ["10.1.0.9", "10.2.0.9", "fd00:2::9"];

fn edge() -> Value {
    let labels = json!({
        "app": "edge", "ringfence.dev/ingress": "enforce",
        "callers.ringfence.dev/outside_cluster": "true",
    });
    pod(EDGE, "10.1.0.5", labels)
}

fn node(name: &str, ip: &str, ranges: &[&str]) -> Value {
    json!({
        "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
    })
}

fn nodes() -> [Value; 2] {
    [
        node("n1", "172.16.0.1", &["10.1.0.0/24", "fd00:1::/64"]),
        node("n2", "172.16.0.2", &["10.2.0.0/24", "fd00:2::/64"]),
    ]
}

fn balancer(status: Value) -> Value {
    json!({
        "kind": "Service", "metadata": {"namespace": "shop", "name": "lb"},
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "clusterIP": "10.96.0.7", "ports": [{"port": 80}],
        },
        "status": {"loadBalancer": {"ingress": status}},
    })
}

fn cluster(more: impl IntoIterator<Item = Value>) -> Index {
    index(nodes().into_iter().chain([edge()]).chain(more))
}

fn scope() -> Scope {
    Scope::Node("n1".to_owned())
}

fn admits(tables: &Tables, peer: &str) -> bool {
    ask(tables, EDGE, Direction::Ingress, peer, "TCP/8080") == Policy::Allow
}

fn may(index: &Index, peer: &str) -> bool {
    admits(&index.compile(&scope()), peer)
}

fn counted_as(index: &Index, peer: &str) -> u32 {
    let ip: std::net::IpAddr = peer.parse().expect(peer);
    index.compile(&scope()).range_of(&Addr::from(ip))
}

#[test]
fn a_pod_that_is_not_known_yet_is_never_outside() {
    let index = cluster([]);
    for peer in POD_TO_BE {
        assert!(!may(&index, peer), "{peer}");
        assert_eq!(counted_as(&index, peer), Identity::UNKNOWN_POD, "{peer}");
    }
    for peer in [
        "203.0.113.7",
        "10.3.0.9",
        "2001:db8::7",
        "10.1.0.1",
        "172.16.0.1",
    ] {
        assert!(may(&index, peer), "{peer}");
    }
    assert!(!may(&index, "172.16.0.2") && !may(&index, "10.2.0.1"));
    assert_eq!(counted_as(&index, "10.3.0.9"), Identity::OUTSIDE);
}

#[test]
fn without_any_range_an_unknown_address_is_outside() {
    let bare = |name, ip| node(name, ip, &[]);
    let index = index([bare("n1", "172.16.0.1"), bare("n2", "172.16.0.2"), edge()]);
    assert!(may(&index, "10.2.0.9"));
    assert_eq!(counted_as(&index, "10.2.0.9"), Identity::OUTSIDE);
    assert!(index.pod_ranges().is_empty());
}

#[test]
fn blocks_match_by_address_whoever_is_there() {
    let from = json!([{"from": [{"ipBlock": {"cidr": "10.2.0.0/30"}}]}]);
    let spec = json!({"podSelector": {}, "ingress": from});
    let index = cluster([netpol("shop/block", spec)]);
    assert!(may(&index, "10.2.0.3"));
    assert!(!may(&index, "10.2.0.9"));
    let everybody =
        json!([{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.2.0.0/25"]}}]}]);
    let spec = json!({"podSelector": {}, "ingress": everybody});
    let index = cluster([netpol("shop/block", spec)]);
    assert!(may(&index, "10.2.0.200") && may(&index, "10.1.0.9"));
    assert!(!may(&index, "10.2.0.9"));
}

#[test]
fn a_balancers_address_in_a_range_is_outside() {
    let shown = json!([{"ip": "10.2.0.9"}, {"ip": "10.1.0.9", "ipMode": "Proxy"}]);
    let index = cluster([balancer(shown)]);
    for peer in ["10.1.0.9", "10.2.0.9"] {
        assert!(may(&index, peer), "{peer}");
        assert_eq!(counted_as(&index, peer), Identity::OUTSIDE, "{peer}");
    }
    assert!(!may(&index, "10.2.0.10"));
}

#[test]
fn an_address_that_a_tenant_names_stays_a_pods() {
    let mut service = balancer(json!([]));
    service["spec"]["externalIPs"] = json!(["10.2.0.9"]);
    let index = cluster([service]);
    assert!(!may(&index, "10.2.0.9"));
}

#[test]
fn what_an_operator_says_counts_in_the_place_of_what_nodes_say() {
    let config = Config {
        pod_cidrs: vec!["10.64.0.0/16".parse().expect("a block")],
        ..Config::default()
    };
    let mut index = Index::new(config);
    for value in nodes().into_iter().chain([edge()]) {
        index.apply(object(value));
    }
    assert!(may(&index, "10.2.0.9") && !may(&index, "10.64.7.7"));
    index.delete(&ObjectKey::new(Kind::Node, "", "n2"));
    assert!(!may(&index, "10.64.7.7"));
}

#[test]
fn a_node_whose_pods_could_be_anywhere_says_nothing_and_that_is_said() {
    let everywhere = node("n3", "172.16.0.3", &["0.0.0.0/0", "::/0"]);
    let index = cluster([everywhere]);
    assert!(may(&index, "203.0.113.7") && may(&index, "2001:db8::7"));
    let problems = index.problems();
    let found: Vec<_> = problems
        .iter()
        .map(|p| (p.object.as_str(), p.key_or_field.as_str()))
        .collect();
    assert_eq!(found, [("Node n3", "spec.podCIDRs"); 2]);
}

#[test]
fn ranges_follow_nodes_pods_balancers_and_whoever_admits_the_outside() {
    let mut index = index(nodes());
    let mut compiler = Compiler::new(scope());
    let mut look = |index: &mut Index, admitted: &[&str]| {
        compiler.update(index);
        assert_eq!(*compiler.tables(), index.compile(&scope()));
        let tables = compiler.tables();
        if tables.endpoints.is_empty() {
            return;
        }
        for peer in ["10.1.0.1", "10.2.0.9", "10.3.0.9", "fd00:3::9", "192.0.2.1"] {
            assert_eq!(admits(tables, peer), admitted.contains(&peer), "{peer}");
        }
    };
    look(&mut index, &[]);
    index.apply(object(edge()));
    let usual = ["10.1.0.1", "10.3.0.9", "fd00:3::9", "192.0.2.1"];
    look(&mut index, &usual);
    let third = &["10.3.0.0/24", "fd00:3::/64"];
    index.apply(object(node("n3", "172.16.0.3", third)));
    look(&mut index, &["10.1.0.1", "192.0.2.1"]);
    index.apply(object(balancer(json!([{"ip": "10.2.0.9"}]))));
    look(&mut index, &["10.1.0.1", "10.2.0.9", "192.0.2.1"]);
    // A pod added at such an address is a known pod.
    index.apply(object(pod("shop/late", "10.2.0.9", json!({}))));
    look(&mut index, &["10.1.0.1", "192.0.2.1"]);
    index.delete(&ObjectKey::new(Kind::Pod, "shop", "late"));
    index.apply(object(balancer(json!([]))));
    look(&mut index, &["10.1.0.1", "192.0.2.1"]);
    // Two nodes share a range: it stays as long as one of them declares it.
    index.apply(object(node("n4", "172.16.0.4", third)));
    index.delete(&ObjectKey::new(Kind::Node, "", "n3"));
    look(&mut index, &["10.1.0.1", "192.0.2.1"]);
    index.delete(&ObjectKey::new(Kind::Node, "", "n4"));
    look(&mut index, &usual);
    index.delete(&ObjectKey::new(Kind::Pod, "shop", "edge"));
    look(&mut index, &[]);
    index.apply(object(node("n3", "172.16.0.3", third)));
    look(&mut index, &[]);
    index.apply(object(edge()));
    look(&mut index, &["10.1.0.1", "192.0.2.1"]);
}

#[test]
fn explain_and_matrix_call_it_unknown() {
    let index = cluster([]);
    let port = "TCP/8080".parse().expect("a port");
    let found = explain(&index, "10.2.0.9", EDGE, &port).expect("an address");
    assert_eq!(found.from.kind, PartyKind::Unknown);
    assert_eq!(
        (found.from.workload.as_str(), found.verdict),
        ("unknown", Verdict::Denied)
    );
    let outside = explain(&index, "outside", EDGE, &port).expect("known");
    assert_eq!(outside.verdict, Verdict::Allowed);
    let query = Query {
        ports: vec![port],
        peers: vec!["10.2.0.9".to_owned(), "203.0.113.0/24".to_owned()],
        ..Query::default()
    };
    let matrix = Matrix::compute(&index, &query).expect("a matrix");
    let matrix = serde_json::to_value(matrix).expect("JSON");
    assert_eq!(matrix["ingress"]["10.2.0.9"][EDGE], "X");
    assert_eq!(matrix["ingress"]["203.0.113.0/24"][EDGE], ".");
}
