//! Corners 9 to 17: which pods a policy selects, and when.

use serde_json::{Value, json};

use super::corners::{addr, admitted, cluster, endpoint, from, under};
use crate::{
    index::Scope,
    testing::{comes_in, goes_out, namespace, netpol, object, pod},
};

fn terminating(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
    pod
}

fn in_phase(mut pod: Value, phase: &str) -> Value {
    pod["status"]["phase"] = json!(phase);
    pod
}

/// Returns the cluster's pod `b/client`, 10.0.0.2.
fn client() -> Value {
    pod("b/client", "10.0.0.2", json!({"app": "client"}))
}

#[test]
fn corner_09_a_finished_pod_has_lost_its_address_and_a_terminating_one_keeps_it() {
    let mut index = from(json!([{"podSelector": {}}]));
    index.apply(object(terminating(client())));
    assert_eq!(admitted(&index), [2]);
    for phase in ["Succeeded", "Failed"] {
        index.apply(object(in_phase(client(), phase)));
        assert_eq!(admitted(&index), [0; 0], "{phase}");
        let tables = index.compile(&Scope::Everything);
        assert!(endpoint(&tables, "b/client").is_none(), "{phase}");
        assert!(!tables.identities.contains_key(&addr("10.0.0.2")));
    }
    // Another pod has the address now.
    index.apply(object(pod("c/heir", "10.0.0.2", json!({}))));
    assert_eq!(admitted(&index), [0; 0]);
    let tables = index.compile(&Scope::Everything);
    assert_eq!(&*tables.identities[&addr("10.0.0.2")].0, "c/heir");
}

#[test]
fn corner_09_of_two_pods_that_show_one_address_the_running_one_has_it() {
    let mut index = from(json!([{"podSelector": {}}]));
    let late = pod("c/late", "10.0.0.2", json!({}));
    index.apply(object(in_phase(late.clone(), "Pending")));
    assert_eq!(admitted(&index), [2]);
    index.apply(object(in_phase(client(), "Pending")));
    index.apply(object(late.clone()));
    assert_eq!(admitted(&index), [0; 0]);
    index.apply(object(client()));
    index.apply(object(terminating(late)));
    assert_eq!(admitted(&index), [2]);
}

#[test]
fn corner_09_a_pod_made_anew_under_its_name_is_another_endpoint() {
    let mut index = from(json!([{"podSelector": {}}]));
    let uid = |index: &crate::index::Index| {
        let tables = index.compile(&Scope::Everything);
        let (key, _) = endpoint(&tables, "b/client").expect("an endpoint");
        key.uid.clone()
    };
    let before = uid(&index);
    let mut anew = client();
    anew["metadata"]["uid"] = json!("another");
    index.apply(object(anew));
    assert_eq!(uid(&index), "another");
    assert_ne!(before, "another");
}

#[test]
fn corner_10_a_host_network_pod_is_neither_subject_nor_peer_but_the_node() {
    let host = |name: &str, labels: Value| {
        let mut pod = pod(name, "192.168.0.9", labels);
        pod["spec"]["hostNetwork"] = json!(true);
        object(pod)
    };
    let mut index = from(json!([{"namespaceSelector": {}}]));
    index.apply(host("b/host", json!({"app": "server"})));
    assert!(!comes_in(&index, "b/server", "192.168.0.9", "TCP/1"));
    let tables = index.compile(&Scope::Everything);
    assert!(endpoint(&tables, "b/host").is_none());
    assert_eq!(&*tables.identities[&addr("192.168.0.9")].0, "node");
    // Its address matches a block like any other address.
    let mut index = from(json!([{"ipBlock": {"cidr": "192.168.0.0/24"}}]));
    index.apply(host("b/host", json!({})));
    assert!(comes_in(&index, "b/server", "192.168.0.9", "TCP/1"));
}

#[test]
fn corner_11_an_empty_pod_selector_selects_all_pods_of_the_namespace() {
    let index = under(json!({"podSelector": {}}));
    for (pod, closed) in [
        ("b/server", true),
        ("b/client", true),
        ("c/client", false),
        ("c/other", false),
    ] {
        assert_eq!(
            !comes_in(&index, pod, "192.0.2.1", "TCP/1"),
            closed,
            "{pod}"
        );
    }
    assert_eq!(admitted(&from(json!([{"podSelector": {}}]))), [2]);
}

#[test]
fn corner_11_selectors_of_one_peer_must_both_match_and_peers_are_alternatives() {
    let team = json!({"matchLabels": {"team": "x"}});
    let clients = json!({"matchLabels": {"app": "client"}});
    let both = json!([{"namespaceSelector": team, "podSelector": clients}]);
    assert_eq!(admitted(&from(both)), [3]);
    let either = json!([{"namespaceSelector": team}, {"podSelector": clients}]);
    assert_eq!(admitted(&from(either)), [2, 3, 4]);
}

#[test]
fn corner_11_an_empty_namespace_selector_alone_is_every_pod_everywhere_and_nobody_else() {
    let index = from(json!([{"namespaceSelector": {}}]));
    assert_eq!(admitted(&index), [2, 3, 4]);
    assert!(!comes_in(&index, "b/server", "192.0.2.1", "TCP/1"));
}

#[test]
fn corner_12_missing_and_empty_ingress_deny_all_and_one_empty_rule_allows_all() {
    for spec in [json!({}), json!({"ingress": []}), json!({"ingress": null})] {
        let index = under(spec);
        assert!(!comes_in(&index, "b/server", "10.0.0.2", "TCP/1"));
        assert!(!comes_in(&index, "b/server", "10.0.0.2", "ICMP"));
    }
    for rule in [
        json!({}),
        json!({"from": [], "ports": []}),
        json!({"from": null}),
    ] {
        let index = under(json!({"ingress": [rule]}));
        for port in ["TCP/1", "UDP/1", "ICMP", "47"] {
            assert!(comes_in(&index, "b/server", "192.0.2.1", port), "{rule}");
        }
    }
}

#[test]
fn corner_12_an_empty_from_is_anybody_on_those_ports_and_empty_ports_any_port_for_those_peers() {
    let index = under(json!({"ingress": [{"from": [], "ports": [{"port": 7}]}]}));
    assert!(comes_in(&index, "b/server", "192.0.2.1", "TCP/7"));
    assert!(!comes_in(&index, "b/server", "192.0.2.1", "TCP/8"));
    let index = under(json!({"ingress": [{"from": [{"podSelector": {}}], "ports": []}]}));
    assert!(comes_in(&index, "b/server", "10.0.0.2", "SCTP/8"));
    assert!(!comes_in(&index, "b/server", "192.0.2.1", "SCTP/8"));
}

#[test]
fn corner_13_absent_policy_types_isolate_ingress_always_and_egress_only_if_it_has_rules() {
    let to = json!([{"to": [{"podSelector": {}}]}]);
    for (spec, ingress_open, egress_open) in [
        (json!({}), false, true),
        (json!({"egress": []}), false, true),
        (json!({"policyTypes": [], "egress": []}), false, true),
        (json!({"egress": to}), false, false),
        (
            json!({"policyTypes": ["Ingress"], "egress": to}),
            false,
            true,
        ),
        (json!({"policyTypes": ["Egress"]}), true, false),
    ] {
        let index = under(spec.clone());
        let stranger = "192.0.2.1";
        assert_eq!(
            comes_in(&index, "b/server", stranger, "TCP/1"),
            ingress_open,
            "{spec}"
        );
        assert_eq!(
            goes_out(&index, "b/server", stranger, "TCP/1"),
            egress_open,
            "{spec}"
        );
    }
}

#[test]
fn corner_14_not_in_and_does_not_exist_match_where_the_key_is_absent() {
    let peers = |key: &str, operator: &str, values: Value| {
        let requirement = json!({"key": key, "operator": operator, "values": values});
        let pods = json!({"matchExpressions": [requirement]});
        admitted(&from(
            json!([{"namespaceSelector": {}, "podSelector": pods}]),
        ))
    };
    assert_eq!(peers("tier", "DoesNotExist", json!([])), [2, 3, 4]);
    assert_eq!(peers("tier", "NotIn", json!(["a"])), [2, 3, 4]);
    assert_eq!(peers("app", "NotIn", json!(["client"])), [4]);
    assert_eq!(peers("app", "DoesNotExist", json!([])), [0; 0]);
    assert_eq!(peers("tier", "Exists", json!([])), [0; 0]);
    assert_eq!(peers("tier", "In", json!(["a"])), [0; 0]);
}

#[test]
fn corner_14_a_namespace_without_the_key_matches_not_in() {
    let requirement = json!({"key": "team", "operator": "NotIn", "values": ["x"]});
    let peers = json!([{"namespaceSelector": {"matchExpressions": [requirement]}}]);
    assert_eq!(admitted(&from(peers)), [2]);
}

#[test]
fn corner_15_relabelling_a_pod_counts_as_subject_and_as_peer() {
    let clients = json!([{"podSelector": {"matchLabels": {"app": "client"}}}]);
    let mut index = from(clients);
    assert_eq!(admitted(&index), [2]);
    index.apply(object(pod("b/client", "10.0.0.2", json!({"app": "x"}))));
    assert_eq!(admitted(&index), [0; 0]);
    index.apply(object(pod("b/server", "10.0.0.1", json!({"app": "x"}))));
    assert_eq!(admitted(&index), [2, 3, 4]);
}

#[test]
fn corner_15_relabelling_a_namespace_counts_for_peers_and_every_namespace_carries_its_name() {
    let peers = |labels: Value| json!([{"namespaceSelector": {"matchLabels": labels}}]);
    let mut index = from(peers(json!({"team": "x"})));
    assert_eq!(admitted(&index), [3, 4]);
    index.apply(object(namespace("c", json!({"team": "y"}))));
    assert_eq!(admitted(&index), [0; 0]);
    index.apply(object(namespace("b", json!({"team": "x"}))));
    assert_eq!(admitted(&index), [2]);
    // Namespace `b` has no object there, and no explicit label with its name.
    for (name, expected) in [("b", vec![2]), ("c", vec![3, 4])] {
        let index = from(peers(json!({"kubernetes.io/metadata.name": name})));
        assert_eq!(admitted(&index), expected);
    }
}

#[test]
fn corner_15_relabelling_a_namespace_counts_for_its_pods_as_subjects() {
    let mut index = cluster([]);
    assert!(comes_in(&index, "c/other", "10.0.0.1", "TCP/1"));
    index.apply(object(namespace(
        "c",
        json!({"ringfence.dev/ingress": "enforce"}),
    )));
    assert!(!comes_in(&index, "c/other", "10.0.0.1", "TCP/1"));
}

#[test]
fn corner_16_each_end_decides_for_itself() {
    let to_server = json!([{"to": [{"podSelector": {"matchLabels": {"app": "server"}}}]}]);
    let clients = json!({"matchLabels": {"app": "client"}});
    let egress = json!({"podSelector": clients, "policyTypes": ["Egress"], "egress": to_server});
    let ingress = json!({"podSelector": {"matchLabels": {"app": "server"}}});
    let index = cluster([netpol("b/out", egress), netpol("b/in", ingress)]);
    // Allowed by the caller's end, denied at the callee's.
    assert!(goes_out(&index, "b/client", "10.0.0.1", "TCP/1"));
    assert!(!comes_in(&index, "b/server", "10.0.0.2", "TCP/1"));
    // Neither end's policy affects the other direction: replies aren't subject to rules.
    assert!(goes_out(&index, "b/server", "10.0.0.2", "TCP/1"));
    assert!(comes_in(&index, "b/client", "10.0.0.1", "TCP/1"));
}

#[test]
fn corner_17_a_pod_has_its_policy_before_it_has_an_address() {
    let mut index = from(json!([{"podSelector": {}}]));
    let born = pod("b/born", "10.0.0.9", json!({"app": "server"}));
    let mut unborn = in_phase(born.clone(), "Pending");
    unborn["status"] = json!({"phase": "Pending", "podIP": ""});
    index.apply(object(unborn));
    let before = index.compile(&Scope::Node("n1".into()));
    let (_, policy) = endpoint(&before, "b/born").expect("an endpoint");
    assert!(policy.addresses.is_empty());
    assert_ne!(policy.ingress, 0);
    assert!(comes_in(&index, "b/born", "10.0.0.2", "TCP/1"));
    assert!(!comes_in(&index, "b/born", "10.0.0.4", "TCP/1"));
    // Getting an address changes its identity, not the rules that apply to it.
    index.apply(object(born));
    let after = index.compile(&Scope::Node("n1".into()));
    let (_, addressed) = endpoint(&after, "b/born").expect("an endpoint");
    assert_eq!(addressed.ingress, policy.ingress);
    assert_eq!(addressed.addresses.len(), 1);
}
