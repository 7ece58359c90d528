//! Every offered fix works once it is pasted.

use serde_json::{Value, json};

use super::{Explanation, Fix, Verdict, explain};
use crate::{
    explain::ExplainError,
    ports::PortSpec,
    select::NameError,
    testing::{index, namespace, netpol, pod, pod_with},
};

fn ask(objects: &[Value], from: &str, to: &str, port: &str) -> Explanation {
    let port: PortSpec = port.parse().expect(port);
    explain(&index(objects.to_vec()), from, to, &port).expect("both ends are known")
}

/// Applies a merge patch according to RFC 7386.
fn merge(into: &mut Value, from: Value) {
    let Value::Object(from) = from else {
        *into = from;
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in from {
        match value {
            Value::Null => drop(into.as_object_mut().expect("object").remove(&key)),
            value => merge(&mut into[&key], value),
        }
    }
}

fn paste(objects: &mut Vec<Value>, fix: &Fix) {
    let patch: Value = serde_yaml_ng::from_str(&fix.patch).expect(&fix.patch);
    if patch.get("apiVersion").is_some() {
        objects.push(patch);
        return;
    }
    let (kind, name) = fix.object.split_once(' ').expect("kind and name");
    let (ns, name) = name.split_once('/').expect("namespace and name");
    let object = objects.iter_mut().find(|o| {
        o["kind"] == kind && o["metadata"]["namespace"] == ns && o["metadata"]["name"] == name
    });
    merge(object.expect(&fix.object), patch);
}

/// Asserts that a call is denied now and allowed after pasting the fix; returns the fix.
fn fixed(mut objects: Vec<Value>, from: &str, to: &str, port: &str) -> Vec<Fix> {
    let before = ask(&objects, from, to, port);
    assert_eq!(before.verdict, Verdict::Denied);
    assert!(!before.fix.is_empty(), "{before:#?}");
    for fix in &before.fix {
        paste(&mut objects, fix);
    }
    let after = ask(&objects, from, to, port);
    assert_eq!(after.verdict, Verdict::Allowed, "{before:#?}\n{after:#?}");
    before.fix
}

fn ledger() -> Value {
    let labels = json!({"app": "ledger", "ringfence.dev/ingress": "enforce"});
    pod_with(
        "bank/ledger-0",
        "10.0.0.1",
        labels,
        json!([{"containerPort": 8080}]),
    )
}

#[test]
fn a_closed_callee_is_opened_by_the_callers_label() {
    let caller = pod("bank/api-0", "10.0.0.2", json!({"app": "api"}));
    let fix = fixed(
        vec![ledger(), caller],
        "bank/api",
        "bank/ledger",
        "TCP/8080",
    );
    assert_eq!(fix.len(), 1);
    assert_eq!(fix[0].object, "Pod bank/api-0");
    assert_eq!(
        fix[0].patch,
        "metadata:\n  labels:\n    egress.ringfence.dev/ledger: \"true\"\n"
    );
}

#[test]
fn a_port_that_the_callee_does_not_declare_is_listed() {
    let listed = json!({"app": "api", "egress.ringfence.dev/ledger": "true"});
    let caller = pod("bank/api-0", "10.0.0.2", listed);
    let fix = fixed(vec![ledger(), caller], "bank/api", "bank/ledger", "UDP/53");
    assert!(fix[0].patch.contains("8080_udp-53"), "{}", fix[0].patch);
}

#[test]
fn a_caller_of_another_namespace_needs_both_labels() {
    let caller = pod(
        "shop/api-0",
        "10.0.0.2",
        json!({"app": "api", "ringfence.dev/egress": "enforce"}),
    );
    let fix = fixed(
        vec![ledger(), caller],
        "shop/api",
        "bank/ledger",
        "TCP/8080",
    );
    let patches: String = fix.iter().map(|f| f.patch.as_str()).collect();
    assert_eq!(fix.len(), 2);
    assert!(
        patches.contains("bank.egress.ringfence.dev/ledger"),
        "{patches}"
    );
    assert!(patches.contains("callers.ringfence.dev/shop"), "{patches}");
}

#[test]
fn outside_is_admitted_by_the_callees_label() {
    let fix = fixed(vec![ledger()], "outside", "bank/ledger", "TCP/8080");
    assert!(
        fix[0]
            .patch
            .contains("callers.ringfence.dev/outside_cluster: \"true\"")
    );
    fixed(vec![ledger()], "198.51.100.9", "bank/ledger", "TCP/8080");
    let node = json!({"kind": "Node", "metadata": {"name": "n2"}, "status": {"addresses": [{"address": "172.16.0.2"}]}});
    let fix = fixed(
        vec![ledger(), node],
        "172.16.0.2",
        "bank/ledger",
        "TCP/8080",
    );
    assert!(fix[0].patch.contains("callers.ringfence.dev/all_nodes"));
}

#[test]
fn a_network_policy_gets_one_more_rule_and_keeps_its_own() {
    let rules = json!([{"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.1/32"]}}], "ports": [{"port": 1, "endPort": 9}]}]);
    let objects = vec![
        pod("bank/db-0", "10.0.0.1", json!({"app": "db"})),
        pod("shop/api-0", "10.0.0.2", json!({"app": "api"})),
        namespace("shop", json!({})),
        netpol(
            "bank/db",
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": rules}),
        ),
        netpol(
            "shop/out",
            json!({"podSelector": {}, "policyTypes": ["Egress"]}),
        ),
    ];
    let fix = fixed(objects.clone(), "shop/api", "bank/db", "TCP/5432");
    let changed: Vec<&str> = fix.iter().map(|f| f.object.as_str()).collect();
    assert_eq!(changed, ["NetworkPolicy shop/out", "NetworkPolicy bank/db"]);
    assert!(fix[1].patch.contains("192.0.2.1/32") && fix[1].patch.contains("endPort: 9"));
    fixed(objects.clone(), "outside", "bank/db", "UDP/1");
    fixed(objects.clone(), "shop/api", "outside", "TCP/443");
    fixed(objects, "shop/api", "bank/db", "ICMP");
}

#[test]
fn a_closed_callers_way_out_of_the_cluster_is_a_network_policy() {
    let caller = pod(
        "bank/api-0",
        "10.0.0.2",
        json!({"app": "api", "ringfence.dev/egress": "enforce"}),
    );
    let fix = fixed(vec![caller], "bank/api-0", "203.0.113.5", "TCP/443");
    assert!(fix[0].patch.starts_with("apiVersion") && fix[0].patch.contains("203.0.113.5/32"));
}

#[test]
fn a_policy_that_does_not_parse_is_joined_by_one_that_allows() {
    let objects = [
        ledger(),
        pod(
            "bank/api-0",
            "10.0.0.2",
            json!({"app": "api", "egress.ringfence.dev/ledger": "true"}),
        ),
    ];
    let mut index = index(objects);
    let broken = netpol(
        "bank/broken",
        json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"two": []}]}),
    );
    let error = crate::model::Object::from_value(broken).expect_err("two is no field");
    assert!(index.apply_closed(&error));
    let port = "TCP/9".parse().expect("port");
    let found = explain(&index, "bank/api", "outside", &port).expect("known");
    assert_eq!(found.verdict, Verdict::Denied);
    assert!(found.egress.isolated_by[0].why.contains("doesn't parse"));
    assert!(found.fix[0].patch.starts_with("apiVersion"));
}

#[test]
fn a_quarantine_is_lifted_by_removing_its_label() {
    let mut callee = ledger();
    callee["metadata"]["labels"]["ringfence.dev/quarantine"] = json!("true");
    let caller = pod(
        "bank/api-0",
        "10.0.0.2",
        json!({"app": "api", "egress.ringfence.dev/ledger": "true"}),
    );
    let fix = fixed(vec![callee, caller], "bank/api", "bank/ledger", "TCP/8080");
    assert!(fix[0].patch.contains("ringfence.dev/quarantine: null"));
}

#[test]
fn a_workload_stands_for_its_pods_and_its_template_gets_the_label() {
    let workload = |kind: &str, name: &str, labels: Value| {
        json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"namespace": "bank", "name": name},
            "spec": {"template": {"metadata": {"labels": labels}, "spec": {"containers": [{}]}}}})
    };
    let objects = vec![
        workload("Deployment", "api", json!({"app": "api"})),
        workload(
            "StatefulSet",
            "ledger",
            json!({"app": "ledger", "ringfence.dev/ingress": "enforce"}),
        ),
    ];
    let fix = fixed(objects, "bank/api", "bank/ledger", "TCP/8080");
    assert_eq!(fix[0].object, "Deployment bank/api");
    assert!(fix[0].patch.starts_with("spec:\n  template:\n"));
}

#[test]
fn what_allows_and_what_isolates_is_named() {
    let caller = pod(
        "bank/api-0",
        "10.0.0.2",
        json!({"app": "api", "egress.ringfence.dev/ledger": "8080"}),
    );
    let found = ask(&[ledger(), caller], "bank/api", "bank/ledger", "TCP/8080");
    assert_eq!(found.verdict, Verdict::Allowed);
    assert!(found.fix.is_empty());
    assert_eq!(
        found.ingress.isolated_by[0].policy,
        "label ringfence.dev/ingress"
    );
    assert_eq!(
        found.ingress.allowed_by[0].rule,
        "the caller's label egress.ringfence.dev/ledger: \"8080\""
    );
    assert_eq!(
        found.egress.reason,
        "nothing isolates bank/api-0 for egress"
    );
}

#[test]
fn names_that_mean_nothing_or_two_things_are_refused() {
    let index = index([
        pod("bank/api", "10.0.0.1", json!({"app": "x"})),
        pod("bank/x", "10.0.0.2", json!({"app": "api"})),
    ]);
    let port = "TCP/1".parse().expect("port");
    let ask = |from: &str| explain(&index, from, "outside", &port);
    assert_eq!(
        ask("bank/api"),
        Err(ExplainError::Name(NameError::Ambiguous("bank/api".into())))
    );
    assert_eq!(ask("pod:bank/api").expect("pod").from.name, "bank/api");
    assert_eq!(ask("svc:bank/api").expect("service").from.name, "bank/x");
    assert!(matches!(
        ask("bank/none"),
        Err(ExplainError::Name(NameError::Unknown { .. }))
    ));
    assert!(matches!(
        ask("none"),
        Err(ExplainError::Name(NameError::Malformed { .. }))
    ));
}

#[test]
fn a_pod_reaches_itself_and_its_node_whatever_policy_says() {
    let node = json!({"kind": "Node", "metadata": {"name": "n1"}, "status": {"addresses": [{"address": "172.16.0.1"}]}});
    let objects = [ledger(), node];
    assert_eq!(
        ask(&objects, "bank/ledger", "bank/ledger", "TCP/1").verdict,
        Verdict::Allowed
    );
    assert_eq!(
        ask(&objects, "172.16.0.1", "bank/ledger", "TCP/1").verdict,
        Verdict::Allowed
    );
}

#[test]
fn a_fix_in_a_policy_of_many_services_opens_only_the_one_that_was_asked_for() {
    let index = index([
        pod("b/db", "10.0.0.1", json!({"app": "db"})),
        pod("b/vault", "10.0.0.2", json!({"app": "vault"})),
        pod("b/web", "10.0.0.3", json!({"app": "web"})),
        netpol(
            "b/default-deny",
            json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
        ),
    ]);
    let port = "TCP/5432".parse().expect("port");
    let found = explain(&index, "pod:b/web", "pod:b/db", &port).expect("explained");
    let fixed: Vec<&str> = found.fix.iter().map(|fix| fix.object.as_str()).collect();
    assert_eq!(fixed, ["NetworkPolicy b/allow-db-from-b-web"]);
}

#[test]
fn a_pod_without_an_address_lies_in_no_block_but_a_whole_family() {
    let deployment = |name: &str| {
        json!({
            "kind": "Deployment", "metadata": {"namespace": "b", "name": name},
            "spec": {"template": {"metadata": {"labels": {"app": name}}}},
        })
    };
    let verdict = |block: Value| {
        let egress = json!([{"to": [{"ipBlock": block}]}]);
        let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress});
        let index = index([deployment("web"), deployment("db"), netpol("b/p", spec)]);
        let port = "TCP/5432".parse().expect("port");
        let found = explain(&index, "svc:b/web", "svc:b/db", &port).expect("explained");
        found.verdict
    };
    assert_eq!(verdict(json!({"cidr": "0.0.0.0/0"})), Verdict::Allowed);
    let internet = json!({"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]});
    assert_eq!(verdict(internet), Verdict::Denied);
    assert_eq!(verdict(json!({"cidr": "240.0.0.0/4"})), Verdict::Denied);
}
