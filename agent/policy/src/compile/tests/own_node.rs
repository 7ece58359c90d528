//! The pod's own node, and the pod itself behind a Service: only ClusterNetworkPolicies apply.

use ringfence_ebpf::{
    abi::{Direction, Tiers},
    verdict::Policy,
};
use serde_json::{Value, json};

use crate::model::{Kind, ObjectKey};
use crate::{
    compile::Compiler,
    explain::{Verdict, explain},
    index::{Index, Scope},
    matrix::{Matrix, Query},
    tables::Tables,
    testing::{ask, ask_exempt, index, netpol, object, pod},
};

const POD: &str = "a/p";
/// The addresses of the pod's own node, from its Node object and from its kernel.
const STATUS: [&str; 2] = ["192.168.0.1", "2001:db8::1"];
const INTERFACES: [&str; 3] = ["169.254.1.1", "fd07::1", "10.1.0.1"];

fn scope() -> Scope {
    Scope::Node("n1".to_owned())
}

fn node(name: &str, n: u8) -> Value {
    json!({
        "kind": "Node", "metadata": {"name": name, "labels": {"role": name}},
        "spec": {"podCIDR": format!("10.{n}.0.0/24")},
        "status": {"addresses": [
            {"type": "InternalIP", "address": format!("192.168.0.{n}")},
            {"type": "InternalIP", "address": format!("2001:db8::{n}")},
        ]},
    })
}

fn cnp(tier: &str, spec: Value) -> Value {
    let mut all = json!({"tier": tier, "priority": 5, "subject": {"namespaces": {}}});
    for (key, value) in spec.as_object().expect("a spec") {
        all[key] = value.clone();
    }
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "c"}, "spec": all,
    })
}

fn deny_nodes(tier: &str) -> Value {
    let rule = json!({"action": "Deny", "to": [{"nodes": {}}]});
    cnp(tier, json!({"egress": [rule]}))
}

fn closed() -> Value {
    netpol(
        "a/closed",
        json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
    )
}

fn cluster(more: impl IntoIterator<Item = Value>) -> Index {
    let pods = [pod(POD, "10.1.0.5", json!({"app": "p"}))];
    let mut index = index(
        [node("n1", 1), node("n2", 2)]
            .into_iter()
            .chain(pods)
            .chain(more),
    );
    let own = STATUS.iter().chain(&INTERFACES);
    index.set_own_addresses("n1", own.map(|ip| ip.parse().expect("an address")));
    index
}

fn to(tables: &Tables, address: &str, port: &str) -> Policy {
    ask_exempt(tables, POD, Direction::Egress, address, port)
}

#[test]
fn a_cluster_policy_that_denies_nodes_denies_the_pods_own_at_every_address() {
    for (tier, more) in [
        ("Admin", vec![]),
        ("Admin", vec![closed()]),
        ("Baseline", vec![]),
    ] {
        let tables = cluster(more.into_iter().chain([deny_nodes(tier)])).compile(&scope());
        for address in STATUS.iter().chain(&INTERFACES) {
            assert_eq!(to(&tables, address, "TCP/10250"), Policy::Deny, "{address}");
            assert_eq!(to(&tables, address, "ICMP"), Policy::Deny, "{address}");
        }
        // Another node is selected at the addresses of its status, as the API specifies.
        let other = ask(&tables, POD, Direction::Egress, "192.168.0.2", "TCP/1");
        assert_eq!(other, Policy::Deny);
    }
}

#[test]
fn network_policies_have_no_say_about_the_own_node() {
    let tables = cluster([closed()]).compile(&scope());
    let (_, endpoint) = tables.endpoints.iter().next().expect("an endpoint");
    assert_eq!(endpoint.tiers, Tiers::default());
    assert_eq!(to(&tables, STATUS[0], "TCP/10250"), Policy::Allow);
    // A ClusterNetworkPolicy for other addresses doesn't change that.
    let deny = json!({"action": "Deny", "to": [{"networks": ["203.0.113.0/24"]}]});
    let admin = cnp("Admin", json!({"egress": [deny]}));
    let tables = cluster([closed(), admin]).compile(&scope());
    assert_eq!(to(&tables, STATUS[0], "TCP/10250"), Policy::Allow);
    assert_eq!(to(&tables, "203.0.113.1", "TCP/1"), Policy::Deny);
    // Nor does the Baseline tier where NetworkPolicies isolate, as for all other peers.
    let tables = cluster([closed(), deny_nodes("Baseline")]).compile(&scope());
    assert_eq!(to(&tables, STATUS[0], "TCP/10250"), Policy::Allow);
}

#[test]
fn rules_before_the_denial_count_port_by_port() {
    let accept = json!({
        "action": "Accept", "to": [{"nodes": {}}],
        "protocols": [{"tcp": {"destinationPort": {"number": 53}}}],
    });
    let pass = json!({
        "action": "Pass", "to": [{"nodes": {}}],
        "protocols": [{"udp": {"destinationPort": {"number": 53}}}],
    });
    let deny = json!({"action": "Deny", "to": [{"nodes": {}}]});
    let policy = cnp("Admin", json!({"egress": [accept, pass, deny]}));
    for more in [None, Some(closed())] {
        let tables = cluster(more.into_iter().chain([policy.clone()])).compile(&scope());
        for address in [STATUS[0], INTERFACES[0]] {
            assert_eq!(to(&tables, address, "TCP/53"), Policy::Allow);
            assert_eq!(to(&tables, address, "UDP/53"), Policy::Allow);
            assert_eq!(to(&tables, address, "TCP/10250"), Policy::Deny);
        }
    }
}

#[test]
fn a_staged_cluster_policy_only_counts_what_goes_to_the_own_node() {
    let mut staged = deny_nodes("Admin");
    staged["metadata"]["annotations"] = json!({"ringfence.dev/mode": "audit"});
    for more in [None, Some(closed())] {
        let tables = cluster(more.into_iter().chain([staged.clone()])).compile(&scope());
        assert_eq!(to(&tables, STATUS[0], "TCP/10250"), Policy::Audit);
    }
}

#[test]
fn a_pod_behind_its_own_service_is_under_cluster_policies_alone() {
    let deny = json!({"action": "Deny", "from": [{"namespaces": {}}]});
    let policy = cnp("Admin", json!({"ingress": [deny]}));
    for (more, expected) in [
        (vec![closed()], Policy::Allow),
        (vec![policy.clone()], Policy::Deny),
        (vec![closed(), policy], Policy::Deny),
    ] {
        let tables = cluster(more).compile(&scope());
        let own = ask_exempt(&tables, POD, Direction::Ingress, "10.1.0.5", "TCP/80");
        assert_eq!(own, expected);
    }
}

#[test]
fn what_is_said_of_the_own_node_follows_policies_and_takes_connections_back() {
    let mut index = cluster([]);
    let mut compiler = Compiler::new(scope());
    compiler.update(&mut index);
    let mut look = |index: &mut Index, expected: Policy, raises: bool| {
        let change = compiler.update(index);
        assert_eq!(*compiler.tables(), index.compile(&scope()));
        assert_eq!(to(compiler.tables(), STATUS[0], "TCP/1"), expected);
        assert_eq!(!change.raised.is_empty(), raises, "{change:?}");
    };
    index.apply(object(deny_nodes("Admin")));
    look(&mut index, Policy::Deny, true);
    index.apply(object(closed()));
    look(&mut index, Policy::Deny, true);
    index.delete(&ObjectKey::new(Kind::ClusterNetworkPolicy, "", "c"));
    look(&mut index, Policy::Allow, false);
    index.apply(object(deny_nodes("Admin")));
    look(&mut index, Policy::Deny, true);
}

#[test]
fn explain_and_matrix_say_the_same() {
    let port = "TCP/10250".parse().expect("a port");
    for (more, expected) in [
        (vec![closed()], Verdict::Allowed),
        (vec![closed(), deny_nodes("Admin")], Verdict::Denied),
        (vec![closed(), deny_nodes("Baseline")], Verdict::Allowed),
        (vec![deny_nodes("Baseline")], Verdict::Denied),
    ] {
        let index = cluster(more);
        for address in STATUS {
            let found = explain(&index, POD, address, &port).expect("known");
            assert_eq!(found.verdict, expected, "{}", found.egress.reason);
            let back = explain(&index, address, POD, &port).expect("known");
            assert_eq!(back.verdict, Verdict::Allowed);
            let query = Query {
                ports: vec![port],
                peers: vec![address.to_owned()],
                ..Query::default()
            };
            let matrix = serde_json::to_value(Matrix::compute(&index, &query).expect("a matrix"));
            let matrix = matrix.expect("JSON");
            let cell = if expected == Verdict::Allowed {
                "."
            } else {
                "X"
            };
            assert_eq!(matrix["egress"][POD][address], cell);
            assert_eq!(matrix["ingress"][address][POD], ".");
        }
    }
}

#[test]
fn explain_tells_a_pod_that_calls_itself_from_one_that_comes_back_by_its_service() {
    let service = json!({
        "kind": "Service", "metadata": {"namespace": "a", "name": "s"},
        "spec": {"clusterIP": "10.96.0.7", "selector": {"app": "p"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let deny = json!({"action": "Deny", "from": [{"namespaces": {}}]});
    let policy = cnp("Admin", json!({"ingress": [deny]}));
    let port = "TCP/80".parse().expect("a port");
    for (more, through) in [
        (vec![closed()], Verdict::Allowed),
        (vec![closed(), policy], Verdict::Denied),
    ] {
        let index = cluster(more.into_iter().chain([service.clone()]));
        let direct = explain(&index, POD, POD, &port).expect("known");
        assert_eq!(direct.verdict, Verdict::Allowed);
        let found = explain(&index, POD, "10.96.0.7", &port).expect("known");
        assert_eq!(found.verdict, through, "{}", found.ingress.reason);
    }
}
