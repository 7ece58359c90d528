//! Tests of the rows of callers.

mod agree;

use serde_json::{Value, json};

use super::*;
use crate::testing::{index, namespace, netpol, pod, pod_with};

fn ask(objects: &[Value], service: &str) -> Callers {
    callers(&index(objects.to_vec()), service).expect("the service is known")
}

fn ledger(mode: &str) -> Value {
    let labels = json!({"app": "ledger", "ringfence.dev/ingress": mode});
    let ports = json!([{"containerPort": 8080}]);
    pod_with("bank/ledger-0", "10.0.0.1", labels, ports)
}

fn calling(name: &str, ip: &str, app: &str, more: Value) -> Value {
    let mut labels = json!({"app": app, "egress.ringfence.dev/ledger": "true"});
    for (key, value) in more.as_object().expect("labels") {
        labels[key] = value.clone();
    }
    pod(name, ip, labels)
}

/// Returns caller, ports, egress and rules of each row.
fn rows(found: &Callers) -> Vec<String> {
    let row = |c: &Caller| {
        let through: Vec<String> = c
            .through
            .iter()
            .map(|t| format!("{} {}", t.policy, t.rule).trim().to_owned())
            .collect();
        let partly = if c.partly { " partly" } else { "" };
        let ports = c.ports.join(",");
        format!(
            "{}: {ports}{partly} {:?} {}",
            c.caller,
            c.egress,
            through.join("; ")
        )
    };
    found.callers.iter().map(row).collect()
}

#[test]
fn a_caller_by_label_is_listed_with_its_label_and_what_its_own_egress_says() {
    let objects = [
        ledger("enforce"),
        calling("bank/api-0", "10.0.0.2", "api", json!({})),
        calling(
            "bank/job-0",
            "10.0.0.3",
            "job",
            json!({"ringfence.dev/egress": "enforce"}),
        ),
        pod("bank/other", "10.0.0.4", json!({"app": "other"})),
    ];
    let label =
        "label ringfence.dev/ingress the caller's label egress.ringfence.dev/ledger: \"true\"";
    let found = ask(&objects, "bank/ledger");
    assert!(found.isolated);
    assert_eq!(found.policies[0].policy, "label ringfence.dev/ingress");
    assert_eq!(
        rows(&found),
        [
            format!("bank/api: TCP/8080 Allowed {label}"),
            format!("bank/job: TCP/8080 Allowed {label}"),
        ]
    );
}

#[test]
fn a_callers_egress_is_judged_on_the_ports_that_the_service_allows() {
    let out = |ports: Value, mode: Value| {
        let mut policy = netpol(
            "bank/out",
            json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"],
                "egress": [{"ports": ports}]}),
        );
        policy["metadata"]["annotations"] = mode;
        policy
    };
    let into = netpol(
        "bank/in",
        json!({"podSelector": {"matchLabels": {"app": "ledger"}},
            "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 80}, {"port": 90, "endPort": 99}]}]}),
    );
    let egress = |ports: Value, mode: Value| {
        let objects = [
            pod("bank/ledger", "10.0.0.1", json!({"app": "ledger"})),
            pod("bank/web", "10.0.0.2", json!({"app": "web"})),
            into.clone(),
            out(ports, mode),
        ];
        let found = ask(&objects, "bank/ledger");
        assert_eq!(found.callers[0].ports, ["TCP/80", "TCP/90-99"]);
        assert_eq!(found.callers[0].through[0].rule, "spec.ingress[0]");
        assert_eq!(found.callers.len(), 1, "{found:#?}");
        found.callers[0].egress
    };
    assert_eq!(egress(json!([{"port": 80}]), json!({})), Egress::Partly);
    assert_eq!(egress(json!([{"port": 1}]), json!({})), Egress::Denied);
    assert_eq!(
        egress(json!([{"protocol": "TCP"}]), json!({})),
        Egress::Allowed
    );
    let audit = json!({"ringfence.dev/mode": "audit"});
    assert_eq!(egress(json!([{"port": 1}]), audit), Egress::Staged);
}

#[test]
fn an_open_service_may_be_called_by_any_address() {
    let objects = [
        pod("bank/ledger", "10.0.0.1", json!({"app": "ledger"})),
        pod("bank/api", "10.0.0.2", json!({"app": "api"})),
    ];
    let found = ask(&objects, "bank/ledger");
    assert!(!found.isolated && found.policies.is_empty());
    assert_eq!(rows(&found), ["any address: all None nothing denies it"]);
}

#[test]
fn a_staged_policy_is_shown_by_what_it_would_leave() {
    let objects = [
        ledger("audit"),
        calling("bank/api", "10.0.0.2", "api", json!({})),
    ];
    let found = ask(&objects, "svc:bank/ledger");
    assert!(!found.isolated && found.policies[0].staged);
    let shown: Vec<_> = found
        .callers
        .iter()
        .map(|c| {
            (
                c.caller.as_str(),
                c.ports.join(","),
                c.once_enforced.join(","),
            )
        })
        .collect();
    let expected = [
        ("any address", "all".to_owned(), String::new()),
        ("bank/api", "all".to_owned(), "TCP/8080".to_owned()),
    ];
    assert_eq!(shown, expected);
    assert!(
        found.callers[1]
            .through
            .iter()
            .any(|through| through.staged)
    );
}

#[test]
fn blocks_outside_and_nodes_are_callers_too() {
    let mut closed = ledger("enforce");
    for word in ["outside_cluster", "all_nodes"] {
        closed["metadata"]["labels"][format!("callers.ringfence.dev/{word}")] = json!("true");
    }
    let block = json!({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]});
    let into = netpol(
        "bank/in",
        json!({"podSelector": {}, "ingress": [
            {"from": [{"ipBlock": block}], "ports": [{"port": 22}]},
            {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 53, "protocol": "UDP"}]},
        ]}),
    );
    let api = pod("bank/api", "10.0.0.2", json!({"app": "api"}));
    let mut objects = vec![closed, into, api];
    let admit = "label ringfence.dev/ingress the label callers.ringfence.dev";
    let netpol = "NetworkPolicy bank/in spec.ingress";
    let expected = [
        format!("outside: all None {admit}/outside_cluster: \"true\""),
        format!("nodes: all None {admit}/all_nodes: \"true\""),
        format!(
            "10.0.0.0/8 except 10.1.0.0/16: all None {netpol}[0]; {admit}/outside_cluster: \"true\""
        ),
        format!("192.0.2.0/24: all None {netpol}[1]; {admit}/outside_cluster: \"true\""),
        format!("bank/api: TCP/22 Allowed {netpol}[0]"),
    ];
    assert_eq!(
        rows(&ask(&objects, "bank/ledger")),
        expected,
        "no node is known"
    );
    objects.push(json!({"kind": "Node", "metadata": {"name": "n2"},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.16.0.2"}]}}));
    assert_eq!(
        rows(&ask(&objects, "bank/ledger")),
        expected,
        "a node is known"
    );
}

#[test]
fn what_only_some_pods_may_is_marked() {
    let objects = [
        ledger("enforce"),
        calling("bank/api-0", "10.0.0.2", "api", json!({})),
        pod("bank/api-1", "10.0.0.3", json!({"app": "api"})),
    ];
    let found = ask(&objects, "bank/ledger");
    assert_eq!(found.callers.len(), 1);
    assert!(found.callers[0].partly && found.callers[0].caller == "bank/api");
}

#[test]
fn nobody_calls_a_pod_under_quarantine() {
    let mut cut_off = ledger("enforce");
    cut_off["metadata"]["labels"]["ringfence.dev/quarantine"] = json!("true");
    let caller = calling("bank/api-0", "10.0.0.2", "api", json!({}));
    let found = ask(&[cut_off, caller], "bank/ledger");
    assert!(found.isolated && found.callers.is_empty(), "{found:#?}");
}

#[test]
fn rules_of_tiers_are_named_only_for_ports_that_they_decide() {
    let cluster = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2",
    "kind": "ClusterNetworkPolicy", "metadata": {"name": "top"},
    "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": [
        {"action": "Deny", "from": [{"namespaces": {}}],
            "protocols": [{"tcp": {"destinationPort": {"number": 22}}}]},
        {"action": "Accept", "name": "web", "from": [{"namespaces": {}}],
            "protocols": [{"tcp": {"destinationPort": {"range": {"start": 20, "end": 30}}}}]},
    ]}});
    let objects = [
        pod("bank/db", "10.0.0.1", json!({"app": "db"})),
        pod("bank/api", "10.0.0.2", json!({"app": "api"})),
        namespace("bank", json!({})),
        netpol("bank/closed", json!({"podSelector": {}})),
        cluster,
    ];
    let found = ask(&objects, "bank/db");
    let through = "ClusterNetworkPolicy top spec.ingress[1] (web)";
    let api = format!("bank/api: TCP/20-21,TCP/23-30 Allowed {through}");
    assert_eq!(rows(&found), [api]);
}

#[test]
fn names_are_read_as_by_explain() {
    let objects = [pod("b/p", "10.0.0.1", json!({"app": "s"}))];
    let index = index(objects);
    assert_eq!(callers(&index, "pod:b/p").expect("a pod").service, "b/p");
    assert!(callers(&index, "b/s").is_ok());
    for wrong in ["b", "10.0.0.1", "outside", "b/none", "svc:b/p"] {
        assert!(callers(&index, wrong).is_err(), "{wrong}");
    }
}
