//! Rules of a newer API than this version knows: each is closed individually.

use serde_json::{Value, json};

use crate::{index::Index, testing::comes_in, testing::goes_out};

use super::cluster::{cluster, cnp};

/// Returns fields that a newer API may add to a rule, and where.
fn newer() -> Vec<(&'static str, Value)> {
    vec![
        ("peers", json!([{"serviceAccounts": {}}])),
        ("peers", json!([{}])),
        ("peers", json!([{"namespaces": {"matchNames": ["b"]}}])),
        (
            "peers",
            json!([{"namespaces": {}}, {"serviceAccounts": {}}]),
        ),
        (
            "peers",
            json!([{"pods": {"podSelector": {}, "accounts": {}}}]),
        ),
        ("protocols", json!([{"icmp": {}}])),
        ("protocols", json!([{}])),
        (
            "protocols",
            json!([{"tcp": {}}, {"tcp": {"flags": ["SYN"]}}]),
        ),
        (
            "protocols",
            json!([{"tcp": {"destinationPort": {"list": [1]}}}]),
        ),
        ("schedule", json!("nightly")),
    ]
}

/// Returns an unknown rule between two rules that this version knows, for TCP ports 1 and 3 of all
/// pods.
fn rules(peers: &str, action: &str, field: &str, value: &Value) -> Value {
    let known = |action: &str, port: u16| {
        let tcp = json!([{"tcp": {"destinationPort": {"number": port}}}]);
        json!({"action": action, peers: [{"namespaces": {}}], "protocols": tcp})
    };
    let mut rule = json!({"action": action, peers: [{"namespaces": {}}]});
    let field = if field == "peers" { peers } else { field };
    rule[field] = value.clone();
    json!([known("Accept", 1), rule, known("Deny", 3)])
}

/// Returns whether ports 1, 2 and 3 are open under a policy, and a port to an address that isn't a
/// pod's.
fn open(way: &str, spec: Value) -> [bool; 4] {
    let index: Index = cluster([cnp("a/Admin/5", json!({way: spec}))]);
    let [subject, peer] = ["b/server", "10.0.0.3"];
    let asked = [
        (peer, "TCP/1"),
        (peer, "TCP/2"),
        (peer, "TCP/3"),
        ("192.0.2.1", "ICMP"),
    ];
    asked.map(|(peer, port)| match way {
        "ingress" => comes_in(&index, subject, peer, port),
        _ => goes_out(&index, subject, peer, port),
    })
}

#[test]
fn a_rule_that_accepts_by_something_unknown_matches_nothing() {
    for (way, peers) in [("ingress", "from"), ("egress", "to")] {
        for (field, value) in newer() {
            let mut rules = rules(peers, "Accept", field, &value);
            rules[2]["protocols"][0]["tcp"]["destinationPort"]["number"] = json!(2);
            assert_eq!(open(way, rules), [true, false, true, true], "{way} {value}");
        }
    }
}

#[test]
fn a_rule_that_denies_or_passes_by_something_unknown_denies_everything() {
    for (way, peers) in [("ingress", "from"), ("egress", "to")] {
        for action in ["Deny", "Pass"] {
            for (field, value) in newer() {
                let rules = rules(peers, action, field, &value);
                let expected = [true, false, false, false];
                assert_eq!(open(way, rules), expected, "{way} {action} {value}");
            }
        }
    }
}

#[test]
fn a_policy_about_nobody_knows_whom_only_denies_and_all_pods() {
    let rule = |action: &str, port: u16| {
        let tcp = json!([{"tcp": {"destinationPort": {"number": port}}}]);
        json!({"action": action, "from": [{"namespaces": {}}], "protocols": tcp})
    };
    for subject in [
        json!({}),
        json!({"serviceAccounts": {}}),
        json!({"namespaces": {"matchNames": []}}),
        json!({"pods": {"podSelector": {}, "accounts": {}}}),
    ] {
        let rules = json!([rule("Accept", 1), rule("Deny", 2), rule("Pass", 3)]);
        let spec = json!({"subject": subject, "ingress": rules});
        let later = json!({"ingress": [rule("Deny", 1)]});
        let index = cluster([cnp("a/Admin/5", spec), cnp("b/Admin/6", later)]);
        for pod in ["b/server", "c/other"] {
            let open = ["TCP/1", "TCP/2", "TCP/3", "TCP/4"]
                .map(|port| comes_in(&index, pod, "10.0.0.3", port));
            assert_eq!(open, [false, false, false, true], "{subject} {pod}");
        }
    }
}
