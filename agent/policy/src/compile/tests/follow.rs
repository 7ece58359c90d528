//! Incremental changes, one after the other.

use ringfence_ebpf::{abi::Direction, verdict::Policy};
use serde_json::{Value, json};

use crate::model::ObjectKey;
use crate::{
    compile::Compiler,
    index::{Index, Scope},
    tables::Tables,
    testing::{ask, index, namespace, netpol, object, pod},
};

/// Applies steps, each a list of objects to add, or to remove if `delete` names them; after each
/// step the tables equal those of a compilation from scratch.
fn apply_changes(first: &[Value], steps: &[Vec<Value>]) -> Tables {
    let mut index = index(first.to_vec());
    let mut compiler = Compiler::new(Scope::Everything);
    compiler.update(&mut index);
    for (number, step) in steps.iter().enumerate() {
        step.iter().for_each(|value| apply(&mut index, value));
        compiler.update(&mut index);
        let mut fresh = index.clone();
        fresh.way_to_dns.take();
        let whole = fresh.compile(&Scope::Everything);
        assert_eq!(*compiler.tables(), whole, "after step {number}");
    }
    compiler.tables().clone()
}

fn apply(index: &mut Index, value: &Value) {
    let text = |field: &str| value["delete"][field].as_str().unwrap_or("");
    match value.get("delete") {
        Some(_) => index.delete(&ObjectKey::new(
            text("kind"),
            text("namespace"),
            text("name"),
        )),
        None => index.apply(object(value.clone())),
    }
}

fn gone(kind: &str, namespace: &str, name: &str) -> Value {
    json!({"delete": {"kind": kind, "namespace": namespace, "name": name}})
}

fn node(labels: Value) -> Value {
    json!({
        "kind": "Node", "metadata": {"name": "n2", "labels": labels},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.2"}]},
    })
}

fn server(labels: Value) -> Value {
    let mut all = json!({"app": "s", "ringfence.dev/ingress": "enforce"});
    for (key, value) in labels.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    pod("b/s", "10.0.0.1", all)
}

/// Returns a policy that denies egress to a peer.
fn deny(name: &str, peer: Value) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
            "egress": [{"action": "Deny", "to": [peer]}],
        },
    })
}

#[test]
fn all_nodes_that_comes_later_admits_nodes_and_that_goes_no_longer_does() {
    let admits = server(json!({"callers.ringfence.dev/all_nodes": "true"}));
    let first = [node(json!({})), server(json!({}))];
    let tables = apply_changes(&first, &[vec![admits.clone()]]);
    let from_node = |tables| ask(tables, "b/s", Direction::Ingress, "192.168.0.2", "TCP/80");
    assert_eq!(from_node(&tables), Policy::Allow);
    let tables = apply_changes(&[node(json!({})), admits], &[vec![server(json!({}))]]);
    assert_eq!(from_node(&tables), Policy::Deny);
}

#[test]
fn a_peer_by_node_labels_follows_policies_and_nodes() {
    let to_nodes = deny("p", json!({"nodes": {"matchLabels": {"a": "b"}}}));
    let first = [node(json!({"a": "b"})), pod("b/c", "10.0.0.2", json!({}))];
    let tables = apply_changes(&first, &[vec![to_nodes]]);
    let to_node = |tables| ask(tables, "b/c", Direction::Egress, "192.168.0.2", "TCP/80");
    assert_eq!(to_node(&tables), Policy::Deny);
    let to_nodes = deny("p", json!({"nodes": {"matchLabels": {"a": "b"}}}));
    let tables = apply_changes(&first, &[vec![to_nodes], vec![node(json!({"a": "c"}))]]);
    assert_eq!(to_node(&tables), Policy::Allow);
}

#[test]
fn a_peer_that_went_leaves_no_class_to_be_taken_for_anothers() {
    let first = [
        node(json!({"a": "b"})),
        pod("b/s", "10.0.0.1", json!({})),
        pod("b/c", "10.0.0.2", json!({"x": "y"})),
        deny("p", json!({"nodes": {"matchLabels": {"a": "b"}}})),
    ];
    let pods = json!({"pods": {"podSelector": {"matchLabels": {"x": "y"}}}});
    let steps = [
        vec![gone("ClusterNetworkPolicy", "", "p")],
        vec![deny("q", pods)],
    ];
    let tables = apply_changes(&first, &steps);
    let found = ask(&tables, "b/s", Direction::Egress, "10.0.0.2", "TCP/80");
    assert_eq!(found, Policy::Deny);
}

#[test]
fn namespaces_may_come_and_go_while_their_pods_stay() {
    let team = json!({"namespaceSelector": {"matchLabels": {"team": "x"}}});
    let first = [
        namespace("b", json!({"team": "x"})),
        namespace("c", json!({"ringfence.dev/ingress": "enforce"})),
        pod("b/c", "10.0.0.2", json!({"x": "y"})),
        pod("c/s", "10.0.0.3", json!({})),
        netpol(
            "c/p",
            json!({"podSelector": {}, "ingress": [{"from": [team]}]}),
        ),
    ];
    let steps = [
        vec![gone("Namespace", "", "b")],
        vec![gone("Namespace", "", "c")],
        vec![namespace("b", json!({"team": "x"}))],
        vec![gone("Namespace", "", "b"), gone("Pod", "b", "c")],
        vec![pod("b/c", "10.0.0.2", json!({}))],
    ];
    apply_changes(&first, &steps);
}

/// Returns a DNS pod in its node's network.
fn host(ip: &str) -> Value {
    let mut pod = pod("kube-system/h", ip, json!({"k8s-app": "kube-dns"}));
    pod["spec"]["hostNetwork"] = json!(true);
    pod
}

/// Returns an EndpointSlice of the DNS Service.
fn slice(name: &str, addresses: &[&str]) -> Value {
    let labels = json!({"kubernetes.io/service-name": "kube-dns"});
    json!({
        "kind": "EndpointSlice",
        "metadata": {"namespace": "kube-system", "name": name, "labels": labels},
        "endpoints": [{"addresses": addresses}],
    })
}

/// Returns a DNS Service identified by its label.
fn labelled(ip: &str) -> Value {
    json!({
        "kind": "Service",
        "metadata": {"namespace": "kube-system", "name": "other", "labels": {"k8s-app": "kube-dns"}},
        "spec": {"clusterIP": ip, "selector": {"k8s-app": "kube-dns"}, "ports": [{"port": 53, "protocol": "UDP"}]},
    })
}

#[test]
fn the_way_to_dns_follows_its_service() {
    let service = |ip: &str| {
        json!({
            "kind": "Service", "metadata": {"namespace": "kube-system", "name": "kube-dns"},
            "spec": {
                "clusterIP": ip, "selector": {"k8s-app": "kube-dns"},
                "ports": [{"port": 53, "protocol": "UDP", "targetPort": "dns"}],
            },
        })
    };
    let first = [pod(
        "b/s",
        "10.0.0.1",
        json!({"ringfence.dev/egress": "enforce"}),
    )];
    let no_dns = gone("Service", "kube-system", "kube-dns");
    let steps = [
        vec![service("10.96.0.10")],
        vec![pod(
            "kube-system/d",
            "10.0.0.9",
            json!({"k8s-app": "kube-dns"}),
        )],
        vec![service("10.96.0.11")],
        vec![no_dns.clone()],
        vec![no_dns.clone(), service("10.96.0.10")],
        vec![host("192.0.2.7")],
        vec![host("192.0.2.8"), slice("s", &["192.0.2.53"])],
        vec![slice("s", &["192.0.2.54", "2001:db8::54"])],
        vec![gone("EndpointSlice", "kube-system", "s")],
        vec![gone("Pod", "kube-system", "h")],
        vec![labelled("10.96.0.20"), host("192.0.2.7")],
        vec![no_dns],
        vec![gone("Service", "kube-system", "other")],
    ];
    apply_changes(&first, &steps);
}

/// Pods written elsewhere change nothing that is compiled here.
#[test]
fn labels_of_strangers_change_no_ruleset() {
    let mut index = index([server(json!({}))]);
    let mut compiler = Compiler::new(Scope::Node("n1".into()));
    compiler.update(&mut index);
    let before = compiler.tables().clone();
    for port in 1..100 {
        let label = json!({"egress.ringfence.dev/s": port.to_string()});
        let mut stranger = pod(&format!("evil/p{port}"), &format!("10.1.0.{port}"), label);
        stranger["spec"]["nodeName"] = json!("n2");
        index.apply(object(stranger));
        assert!(index.journal.facts.iter().all(|fact| !compiler.asks(fact)));
        compiler.update(&mut index);
    }
    assert_eq!(before.endpoints, compiler.tables().endpoints);
    assert_eq!(before.rules, compiler.tables().rules);
}

#[test]
fn what_is_kept_of_policies_that_change_does_not_grow() {
    let mut index = index([server(json!({}))]);
    let mut compiler = Compiler::new(Scope::Everything);
    let mut size = |hash: u32| {
        let from = json!([{"podSelector": {"matchLabels": {"hash": hash.to_string()}}}]);
        let spec = json!({"podSelector": {}, "ingress": [{"from": from}]});
        index.apply(object(netpol("b/p", spec)));
        compiler.update(&mut index);
        format!("{compiler:?}").len()
    };
    let few = size(1000);
    // Up to a thousand unreferenced strings are retained.
    let most = (1001..4000).map(&mut size).max().unwrap_or(0);
    assert!(most < few + 60_000, "{few} became {most}");
}
