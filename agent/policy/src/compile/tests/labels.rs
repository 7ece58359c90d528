//! Label allowlists: one test per row of the table.

use ringfence_ebpf::{
    abi::{Direction, EndpointRules},
    verdict::Policy,
};
use serde_json::{Value, json};

use crate::model::{Kind, ObjectKey};
use crate::{
    index::{Index, Scope},
    testing::{ask, comes_in, goes_out, index, namespace, object, pod, pod_with},
};

const LEDGER: &str = "bank/ledger";

/// Returns `bank/ledger` 10.0.0.1, closed, which declares TCP 8080 (`grpc`) and UDP 99.
fn ledger(extra: Value) -> Value {
    let mut labels = json!({"app": "service.ledger", "ringfence.dev/ingress": "enforce"});
    for (key, value) in extra.as_object().expect("labels") {
        labels[key] = value.clone();
    }
    let ports =
        json!([{"name": "grpc", "containerPort": 8080}, {"containerPort": 99, "protocol": "UDP"}]);
    pod_with(LEDGER, "10.0.0.1", labels, ports)
}

/// Returns a caller with one additional label.
fn caller(name: &str, ip: &str, key: &str, value: &str) -> Value {
    pod(name, ip, json!({key: value}))
}

fn may(index: &Index, peer: &str, port: &str) -> bool {
    comes_in(index, LEDGER, peer, port)
}

#[test]
fn a_callee_is_closed_to_all_but_callers_that_list_it() {
    let index = index([
        ledger(json!({})),
        caller(
            "bank/a",
            "10.0.0.2",
            "egress.ringfence.dev/service.ledger",
            "true",
        ),
        caller(
            "bank/b",
            "10.0.0.3",
            "egress.ringfence.dev/service.other",
            "true",
        ),
    ]);
    assert!(may(&index, "10.0.0.2", "TCP/8080"));
    assert!(!may(&index, "10.0.0.3", "TCP/8080"));
    assert!(!may(&index, "192.0.2.1", "TCP/8080"));
}

#[test]
fn true_means_the_ports_that_the_services_pods_declare() {
    let key = "egress.ringfence.dev/service.ledger";
    let second = pod_with(
        "bank/ledger-2",
        "10.0.0.9",
        json!({"app": "service.ledger"}),
        json!([{"containerPort": 7}]),
    );
    let mut index = index([
        ledger(json!({})),
        second,
        caller("bank/a", "10.0.0.2", key, "true"),
    ]);
    for (port, allowed) in [
        ("TCP/8080", true),
        ("UDP/99", true),
        ("TCP/7", true),
        ("TCP/99", false),
        ("ICMP", false),
    ] {
        assert_eq!(may(&index, "10.0.0.2", port), allowed, "{port}");
    }
    let bare = pod(
        LEDGER,
        "10.0.0.1",
        json!({"app": "service.ledger", "ringfence.dev/ingress": "enforce"}),
    );
    index.delete(&ObjectKey::new(Kind::Pod, "bank", "ledger-2"));
    index.apply(object(bare));
    assert!(may(&index, "10.0.0.2", "ICMP") && may(&index, "10.0.0.2", "TCP/1"));
}

#[test]
fn a_value_lists_numbers_and_names() {
    let key = "egress.ringfence.dev/service.ledger";
    let index = index([
        ledger(json!({})),
        caller("bank/a", "10.0.0.2", key, "7_udp-53_grpc"),
        caller("bank/b", "10.0.0.3", key, "grpc_0"),
    ]);
    for (port, allowed) in [
        ("TCP/7", true),
        ("UDP/53", true),
        ("TCP/8080", true),
        ("UDP/99", false),
        ("TCP/53", false),
    ] {
        assert_eq!(may(&index, "10.0.0.2", port), allowed, "{port}");
        assert!(
            !may(&index, "10.0.0.3", port),
            "a value that doesn't parse grants nothing"
        );
    }
    let problems = index.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(
        (
            problems[0].object.as_str(),
            problems[0].key_or_field.as_str()
        ),
        ("Pod bank/b", key)
    );
}

#[test]
fn callers_of_another_namespace_need_their_own_label_and_the_callees_consent() {
    let own = "bank.egress.ringfence.dev/service.ledger";
    let objects = |consent: Value| {
        index([
            ledger(consent),
            caller("shop/a", "10.0.0.2", own, "true"),
            caller(
                "shop/b",
                "10.0.0.3",
                "egress.ringfence.dev/service.ledger",
                "true",
            ),
            caller("mall/c", "10.0.0.4", own, "true"),
            caller("bank/d", "10.0.0.5", own, "true"),
        ])
    };
    let admitted = |index: &Index| -> Vec<u8> {
        (2..=5)
            .filter(|i| may(index, &format!("10.0.0.{i}"), "TCP/8080"))
            .collect()
    };
    assert_eq!(admitted(&objects(json!({}))), [5]);
    assert_eq!(
        admitted(&objects(json!({"callers.ringfence.dev/shop": "true"}))),
        [2, 5]
    );
    assert_eq!(
        admitted(&objects(
            json!({"callers.ringfence.dev/any_namespace": "true"})
        )),
        [2, 4, 5]
    );
    assert_eq!(
        admitted(&objects(json!({"callers.ringfence.dev/shop": "yes"}))),
        [5]
    );
    let mut by_namespace = objects(json!({}));
    by_namespace.apply(object(namespace(
        "bank",
        json!({"callers.ringfence.dev/mall": "true"}),
    )));
    assert_eq!(admitted(&by_namespace), [4, 5]);
}

#[test]
fn groups_are_types_by_label_or_by_name() {
    let key = "egress-groups.ringfence.dev/ledger";
    let other = "bank.egress-groups.ringfence.dev/core";
    let objects = |labels: Value| {
        index([
            ledger(labels),
            caller("bank/a", "10.0.0.2", key, "true"),
            caller("bank/b", "10.0.0.3", other, "8080"),
            caller("shop/c", "10.0.0.4", other, "true"),
        ])
    };
    let by_name = objects(json!({}));
    assert!(may(&by_name, "10.0.0.2", "TCP/8080") && !may(&by_name, "10.0.0.3", "TCP/8080"));
    let by_label = objects(
        json!({"ringfence.dev/service-type": "core", "callers.ringfence.dev/shop": "true"}),
    );
    assert!(!may(&by_label, "10.0.0.2", "TCP/8080") && may(&by_label, "10.0.0.3", "TCP/8080"));
    assert!(may(&by_label, "10.0.0.4", "UDP/99") && !may(&by_label, "10.0.0.3", "UDP/99"));
}

#[test]
fn outside_cluster_admits_unknown_addresses_and_this_nodes_own() {
    let node = |name: &str, ip: &str, cidr: &str| {
        json!({"kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": cidr},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}]}})
    };
    let mut index = index([
        ledger(json!({"callers.ringfence.dev/outside_cluster": "true"})),
        pod("bank/a", "10.0.0.2", json!({})),
        node("n1", "172.16.0.1", "10.1.0.0/24"),
        node("n2", "172.16.0.2", "10.2.0.0/24"),
    ]);
    let tables = index.compile(&Scope::Node("n1".into()));
    let may =
        |tables: &_, peer| ask(tables, LEDGER, Direction::Ingress, peer, "TCP/1") == Policy::Allow;
    for (peer, allowed) in [
        ("192.0.2.1", true),
        ("2001:db8::1", true),
        ("10.0.0.2", false),
        ("172.16.0.1", true),
        ("10.1.0.1", true),
        ("172.16.0.2", false),
        ("10.2.0.0", false),
        ("10.2.0.1", false),
    ] {
        assert_eq!(may(&tables, peer), allowed, "{peer}");
    }
    assert!(
        !comes_in(&index, LEDGER, "172.16.0.1", "TCP/1"),
        "no node is this one"
    );
    index.apply(object(ledger(
        json!({"callers.ringfence.dev/all_nodes": "true"}),
    )));
    let tables = index.compile(&Scope::Node("n1".into()));
    assert!(may(&tables, "172.16.0.2") && may(&tables, "10.2.0.1"));
    assert!(!may(&tables, "172.16.0.1") && !may(&tables, "192.0.2.1"));
}

#[test]
fn audit_lets_pass_and_counts() {
    let mut pod = ledger(json!({"ringfence.dev/ingress": "audit"}));
    pod["metadata"]["labels"]["ringfence.dev/quarantine"] = json!("true");
    let index = index([
        pod,
        caller(
            "bank/a",
            "10.0.0.2",
            "egress.ringfence.dev/service.ledger",
            "true",
        ),
    ]);
    let tables = index.compile(&Scope::Everything);
    assert_eq!(
        ask(&tables, LEDGER, Direction::Ingress, "10.0.0.2", "TCP/8080"),
        Policy::Allow
    );
    assert_eq!(
        ask(&tables, LEDGER, Direction::Ingress, "10.0.0.3", "TCP/8080"),
        Policy::Audit
    );
    let ledger = tables
        .endpoints
        .iter()
        .find(|(k, _)| k.name == "ledger")
        .expect("ledger")
        .1;
    assert_eq!(
        ledger.flags,
        EndpointRules::INGRESS_STAGED | EndpointRules::QUARANTINE
    );
}

/// Returns a caller whose egress is closed, with these labels.
fn closed(extra: Value) -> Value {
    let mut labels = json!({"ringfence.dev/egress": "enforce"});
    for (key, value) in extra.as_object().expect("labels") {
        labels[key] = value.clone();
    }
    pod("bank/a", "10.0.0.2", labels)
}

#[test]
fn a_closed_caller_reaches_only_what_it_lists() {
    let index = index([
        closed(
            json!({"egress.ringfence.dev/service.ledger": "grpc_udp-99", "shop.egress-groups.ringfence.dev/api": "true"}),
        ),
        ledger(json!({})),
        pod_with(
            "shop/x",
            "10.0.0.3",
            json!({"app": "service.api.x"}),
            json!([{"containerPort": 1}]),
        ),
        pod_with(
            "shop/y",
            "10.0.0.4",
            json!({"app": "service.api.y"}),
            json!([{"containerPort": 2}]),
        ),
        pod("shop/z", "10.0.0.5", json!({"app": "service.z"})),
    ]);
    for (peer, port, allowed) in [
        ("10.0.0.1", "TCP/8080", true),
        ("10.0.0.1", "UDP/99", true),
        ("10.0.0.1", "TCP/99", false),
        ("10.0.0.3", "TCP/1", true),
        ("10.0.0.3", "TCP/2", false),
        ("10.0.0.4", "TCP/2", true),
        ("10.0.0.5", "TCP/1", false),
        ("192.0.2.1", "TCP/8080", false),
    ] {
        assert_eq!(
            goes_out(&index, "bank/a", peer, port),
            allowed,
            "{peer} {port}"
        );
    }
}

#[test]
fn egress_labels_grant_whatever_the_callers_mode_is() {
    let key = "egress.ringfence.dev/service.ledger";
    let deny = crate::testing::netpol(
        "bank/deny",
        json!({"podSelector": {"matchLabels": {key: "true"}}, "policyTypes": ["Egress"]}),
    );
    let index = index([
        ledger(json!({})),
        caller("bank/a", "10.0.0.2", key, "true"),
        deny,
    ]);
    assert!(may(&index, "10.0.0.2", "TCP/8080"));
    assert!(goes_out(&index, "bank/a", "10.0.0.1", "TCP/8080"));
    assert!(!goes_out(&index, "bank/a", "10.0.0.1", "TCP/1"));
}

#[test]
fn the_services_name_comes_from_labels_else_from_the_owner_else_the_pod() {
    let workload = |labels: Value, owner: Option<(&str, &str)>| {
        let mut pod = pod("bank/p-1", "10.0.0.2", labels);
        if let Some((kind, name)) = owner {
            pod["metadata"]["ownerReferences"] =
                json!([{"kind": kind, "name": name, "controller": true}]);
        }
        let tables = index([pod]).compile(&Scope::Everything);
        tables
            .endpoints
            .values()
            .next()
            .expect("pod")
            .workload
            .clone()
    };
    let all = json!({"ringfence.dev/service": "a", "app.kubernetes.io/name": "b", "app": "c"});
    assert_eq!(workload(all, None), "bank/a");
    assert_eq!(
        workload(json!({"app.kubernetes.io/name": "b", "app": "c"}), None),
        "bank/b"
    );
    assert_eq!(workload(json!({"app": "c"}), None), "bank/c");
    let hash = json!({"pod-template-hash": "5d8f"});
    assert_eq!(workload(hash, Some(("ReplicaSet", "web-5d8f"))), "bank/web");
    assert_eq!(
        workload(json!({}), Some(("ReplicaSet", "web-7c9fb5d6b8"))),
        "bank/web"
    );
    assert_eq!(
        workload(json!({}), Some(("ReplicaSet", "my-frontend"))),
        "bank/my-frontend"
    );
    assert_eq!(workload(json!({}), Some(("StatefulSet", "db"))), "bank/db");
    assert_eq!(workload(json!({}), None), "bank/p-1");
}
