//! ClusterNetworkPolicy: accepted and rejected documents, and closed forms.

#[path = "unread_tests.rs"]
mod unread_tests;

use serde_json::{Value, json};

use super::tests::refused;
use super::{Action, Closed, ClusterNetworkPolicy, ClusterNetworkPolicySpec, Object, Parsed, Tier};
use crate::model::{Kind, ObjectKey};
use crate::{config::Config, index::Index, testing::object};

/// Returns a valid document with members of its spec replaced.
fn cnp(spec: Value) -> Value {
    let mut document = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "p", "annotations": {"ringfence.dev/mode": "audit"}},
        "spec": {"tier": "Baseline", "priority": 7, "subject": {"namespaces": {"matchLabels": {"a": "b"}}}},
    });
    for (field, value) in spec.as_object().expect("members") {
        document["spec"][field] = value.clone();
    }
    document
}

fn parsed(value: Value) -> ClusterNetworkPolicy {
    match object(value) {
        Object::ClusterNetworkPolicy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

fn closed(spec: Value) -> ClusterNetworkPolicySpec {
    match refused(cnp(spec)).closed.as_deref() {
        Some(Closed::Cluster(policy)) => policy.spec.clone(),
        other => panic!("{other:?}"),
    }
}

/// Returns an egress rule that accepts one peer.
fn to(peer: Value) -> Value {
    json!({"egress": [{"action": "Accept", "to": [peer]}]})
}

fn protocol(protocol: Value) -> Value {
    let rule = json!({"action": "Deny", "from": [{"namespaces": {}}], "protocols": [protocol]});
    json!({"ingress": [rule]})
}

fn number(number: i64) -> Value {
    json!({"destinationPort": {"number": number}})
}

fn range(start: i64, end: i64) -> Value {
    protocol(json!({"sctp": {"destinationPort": {"range": {"start": start, "end": end}}}}))
}

#[test]
fn every_field_of_a_cluster_network_policy_is_read_and_written() {
    let spec = json!({
        "tier": "Admin",
        "priority": 1000,
        "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}},
        "ingress": [{"name": "x".repeat(100), "action": "Pass", "from": [{"namespaces": {}}, {"pods": {"namespaceSelector": {}, "podSelector": {}}}]}],
        "egress": [
            {"action": "Accept", "to": [{"nodes": {}}, {"networks": ["10.0.0.0/8", "fd00::/8"]}, {"domainNames": ["*.a.b", "a.b."]}]},
            {"action": "Deny", "to": [{"namespaces": {}}], "protocols": [
                {"tcp": {"destinationPort": {"number": 65535}}},
                {"udp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}},
                {"sctp": {}},
                {"destinationNamedPort": "http"},
            ]},
        ],
    });
    let policy = parsed(cnp(spec.clone()));
    let written = serde_json::to_value(&policy.spec).expect("serializable");
    assert_eq!(written, spec);
}

#[test]
fn an_absent_namespace_selector_of_pods_selects_all_and_an_absent_pod_selector_is_an_error() {
    let policy = parsed(cnp(json!({"subject": {"pods": {"podSelector": {}}}})));
    let pods = policy.spec.subject.pods.expect("pods");
    assert_eq!(pods.namespace_selector, super::LabelSelector::default());
    let error = refused(cnp(json!({"subject": {"pods": {"namespaceSelector": {}}}})));
    assert!(error.message.contains("podSelector"), "{error}");
    assert_eq!(error.field, "spec.subject.pods");
}

#[test]
fn a_cluster_network_policy_has_no_namespace_and_needs_no_api_version() {
    let mut document = cnp(json!({}));
    document["metadata"]["namespace"] = json!("ignored");
    document.as_object_mut().expect("map").remove("apiVersion");
    let Ok(Parsed::Object(object)) = Object::from_value(document) else {
        panic!("not read");
    };
    assert_eq!(object.kind(), Kind::ClusterNetworkPolicy.into());
    assert_eq!(object.meta().namespace, "");
    assert_eq!(object.meta().name, "p");
}

fn of_the_spec() -> Vec<(&'static str, Value)> {
    let rules = |n: usize| vec![json!({"action": "Deny", "from": [{"namespaces": {}}]}); n];
    vec![
        ("spec.priority", json!({"priority": -1})),
        ("spec.priority", json!({"priority": 1001})),
        ("spec.priority", json!({"priority": "1"})),
        ("spec.tier", json!({"tier": "NetworkPolicy"})),
        (
            "spec.subject",
            json!({"subject": {"namespaces": {}, "pods": {"podSelector": {}}}}),
        ),
        (
            "spec.subject.namespaces.matchLabels.a b",
            json!({"subject": {"namespaces": {"matchLabels": {"a b": "c"}}}}),
        ),
        (
            "spec.subject.pods.podSelector.matchExpressions[0].values",
            json!({"subject": {"pods": {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}}}),
        ),
        ("spec.podSelector", json!({"podSelector": {}})),
        ("spec.ingress", json!({"ingress": rules(26)})),
    ]
}

fn of_rules() -> Vec<(&'static str, Value)> {
    let rule = |rule: Value| json!({"egress": [{"action": "Pass", "to": [{"nodes": {}}]}, rule]});
    let everybody = json!([{"namespaces": {}}]);
    let many = vec![json!({"namespaces": {}}); 26];
    let protocols = vec![json!({"tcp": {}}); 26];
    vec![
        ("spec.egress[1].action", rule(json!({"action": "Allow"}))),
        ("spec.egress[1]", rule(json!({"to": everybody}))),
        ("spec.egress[1].to", rule(json!({"action": "Deny"}))),
        (
            "spec.egress[1].to",
            rule(json!({"action": "Deny", "to": []})),
        ),
        (
            "spec.egress[1].to",
            rule(json!({"action": "Deny", "to": many})),
        ),
        (
            "spec.egress[1].protocols",
            rule(json!({"action": "Deny", "to": everybody, "protocols": protocols})),
        ),
        (
            "spec.egress[1].name",
            rule(json!({"action": "Deny", "to": everybody, "name": "ä".repeat(101)})),
        ),
    ]
}

fn of_peers() -> Vec<(&'static str, Value)> {
    let from = |peer: Value| json!({"ingress": [{"action": "Accept", "from": [peer]}]});
    let deny = |peer: Value| json!({"egress": [{"action": "Deny", "to": [peer]}]});
    let networks: Vec<String> = (0..26).map(|i| format!("10.0.{i}.0/24")).collect();
    vec![
        ("spec.egress[0].to[0]", to(json!({"networks": []}))),
        (
            "spec.egress[0].to[0]",
            to(json!({"namespaces": {}, "nodes": {}})),
        ),
        (
            "spec.egress[0].to[0].nodes.matchLabels.a",
            to(json!({"nodes": {"matchLabels": {"a": "-"}}})),
        ),
        (
            "spec.egress[0].to[0].pods.namespaceSelector.matchLabels.a",
            to(
                json!({"pods": {"namespaceSelector": {"matchLabels": {"a": "-"}}, "podSelector": {}}}),
            ),
        ),
        (
            "spec.egress[0].to[0].networks[1]",
            to(json!({"networks": ["10.0.0.0/8", "10.0.0.0"]})),
        ),
        (
            "spec.egress[0].to[0].networks[0]",
            to(json!({"networks": ["::ffff:10.0.0.0/104"]})),
        ),
        (
            "spec.egress[0].to[0].networks",
            to(json!({"networks": networks})),
        ),
        (
            "spec.egress[0].to[0].domainNames[1]",
            to(json!({"domainNames": ["a.b", "a"]})),
        ),
        (
            "spec.egress[0].to[0].domainNames",
            to(json!({"domainNames": vec!["a.b"; 26]})),
        ),
        (
            "spec.egress[0].to[0].domainNames",
            deny(json!({"domainNames": ["a.b"]})),
        ),
        ("spec.ingress[0].from[0].nodes", from(json!({"nodes": {}}))),
        (
            "spec.ingress[0].from[0].networks",
            from(json!({"networks": ["10.0.0.0/8"]})),
        ),
        (
            "spec.ingress[0].from[0].domainNames",
            from(json!({"domainNames": ["a.b"]})),
        ),
    ]
}

fn of_protocols() -> Vec<(&'static str, Value)> {
    let named = |peer: Value| {
        let rule = json!({"action": "Accept", "to": [{"namespaces": {}}, peer], "protocols": [{"destinationNamedPort": "http"}]});
        json!({"egress": [rule]})
    };
    vec![
        (
            "spec.ingress[0].protocols[0]",
            protocol(json!({"tcp": {}, "destinationNamedPort": "http"})),
        ),
        (
            "spec.ingress[0].protocols[0].udp.destinationPort",
            protocol(
                json!({"udp": {"destinationPort": {"number": 1, "range": {"start": 1, "end": 2}}}}),
            ),
        ),
        (
            "spec.ingress[0].protocols[0].tcp.destinationPort.number",
            protocol(json!({"tcp": number(0)})),
        ),
        (
            "spec.ingress[0].protocols[0].tcp.destinationPort.number",
            protocol(json!({"tcp": number(65536)})),
        ),
        (
            "spec.ingress[0].protocols[0].sctp.destinationPort.range",
            range(7, 7),
        ),
        (
            "spec.ingress[0].protocols[0].sctp.destinationPort.range.start",
            range(0, 7),
        ),
        (
            "spec.ingress[0].protocols[0].sctp.destinationPort.range.end",
            range(7, 65536),
        ),
        (
            "spec.ingress[0].protocols[0].destinationNamedPort",
            protocol(json!({"destinationNamedPort": "80"})),
        ),
        (
            "spec.egress[0].protocols[0].destinationNamedPort",
            named(json!({"nodes": {}})),
        ),
        (
            "spec.egress[0].protocols[0].destinationNamedPort",
            named(json!({"networks": ["10.0.0.0/8"]})),
        ),
        (
            "spec.egress[0].protocols[0].destinationNamedPort",
            named(json!({"domainNames": ["a.b"]})),
        ),
    ]
}

#[test]
fn a_fault_in_a_cluster_network_policy_names_its_field() {
    let all = [of_the_spec(), of_rules(), of_peers(), of_protocols()];
    for (field, spec) in all.into_iter().flatten() {
        let error = refused(cnp(spec.clone()));
        assert_eq!(error.field, field, "{spec}: {error}");
        assert!(
            matches!(error.closed.as_deref(), Some(Closed::Cluster(_))),
            "{error}"
        );
        assert_eq!((error.namespace.as_str(), error.name.as_str()), ("", "p"));
    }
    for missing in ["tier", "priority", "subject"] {
        let error = refused(cnp(json!({missing: null})));
        assert_eq!(error.field, "spec", "{error}");
        assert!(error.message.contains(missing), "{error}");
    }
}

#[test]
fn the_closed_form_denies_everybody_in_the_directions_that_have_rules() {
    let spec = closed(json!({"ingress": [{"x": 1}]}));
    assert_eq!((spec.tier, spec.priority), (Tier::Baseline, 7));
    let subject = spec.subject.namespaces.expect("as written");
    assert_eq!(subject.match_labels["a"], "b");
    assert_eq!((spec.ingress.len(), spec.egress.len()), (1, 0));
    let rule = &spec.ingress[0];
    assert_eq!(rule.action, Action::Deny);
    assert!(rule.from.is_empty() && rule.protocols.is_empty());
    let spec = closed(json!({"ingress": [], "egress": [{"x": 1}]}));
    assert_eq!((spec.ingress.len(), spec.egress.len()), (0, 1));
    assert!(spec.egress[0].action == Action::Deny && spec.egress[0].to.is_empty());
    let spec = closed(json!({"egress": {"action": "Accept"}}));
    assert_eq!((spec.ingress.len(), spec.egress.len()), (0, 1));
    let spec = closed(json!({"egres": [{}]}));
    assert_eq!((spec.ingress.len(), spec.egress.len()), (1, 1));
}

#[test]
fn the_closed_form_takes_the_strictest_of_what_does_not_parse() {
    let everybody = Some(super::LabelSelector::default());
    let spec = closed(json!({"tier": "admin", "priority": 1001, "subject": {}}));
    assert_eq!((spec.tier, spec.priority), (Tier::Admin, 0));
    assert_eq!(spec.subject.namespaces, everybody);
    for subject in [
        json!({"pods": {"namespaceSelector": {}}}),
        json!({"namespaces": {"matchLabels": {"a b": "c"}}}),
        json!("x"),
        json!(null),
    ] {
        let spec = closed(json!({"subject": subject}));
        assert_eq!((spec.tier, spec.priority), (Tier::Baseline, 7));
        assert_eq!(spec.subject.namespaces, everybody);
    }
    let mut document = cnp(json!({}));
    document.as_object_mut().expect("map").remove("spec");
    let error = refused(document);
    let Some(Closed::Cluster(policy)) = error.closed.as_deref() else {
        panic!("{error:?}");
    };
    assert_eq!((policy.spec.tier, policy.spec.priority), (Tier::Admin, 0));
    assert_eq!(policy.metadata.annotations["ringfence.dev/mode"], "audit");
}

#[test]
fn the_last_valid_form_of_a_cluster_policy_stays_and_the_closed_one_yields_to_a_valid_one() {
    let broken = refused(cnp(json!({"x": 1})));
    let deny = json!({"ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]});
    let mut index = Index::new(Config::default());
    let rules = |index: &Index| -> Vec<usize> {
        let policies = index.cluster_policies.values();
        let specs = policies.map(|p| p.spec().expect("spec"));
        specs.map(|spec| spec.egress.len()).collect()
    };
    assert!(index.apply_closed(&broken));
    assert_eq!(rules(&index), [1]);
    index.apply(object(cnp(deny)));
    assert_eq!(rules(&index), [0]);
    assert!(!index.apply_closed(&broken));
    assert_eq!(rules(&index), [0]);
    index.reset(&Kind::NetworkPolicy.into(), Vec::new());
    assert_eq!(rules(&index), [0]);
    index.delete(&ObjectKey::new(Kind::ClusterNetworkPolicy, "", "p"));
    assert_eq!(rules(&index), [0; 0]);
    assert!(index.apply_closed(&broken));
    index.reset(&Kind::ClusterNetworkPolicy.into(), Vec::new());
    assert_eq!(rules(&index), [0; 0]);
}
