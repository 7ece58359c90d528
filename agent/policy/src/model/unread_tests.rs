//! ClusterNetworkPolicies of a newer API: which rules are closed, and the problems reported.

use serde_json::{Value, json};

use super::super::{Action, ClusterNetworkPolicy, Kind, LabelSelector, Object};
use super::{cnp, parsed, protocol, refused, to};
use crate::{config::Config, index::Index};

/// Returns rules with a field that this version doesn't know, each with that field.
fn unread() -> Vec<(&'static str, Value)> {
    let rule = |rule: Value| json!({"egress": [{"action": "Pass", "to": [{"nodes": {}}]}, rule]});
    let everybody = json!([{"namespaces": {}}]);
    let requirement = json!({"key": "a", "operator": "Exists", "field": 1});
    vec![
        ("spec.egress[0].to[0]", to(json!({}))),
        (
            "spec.egress[0].to[0].ipBlock",
            to(json!({"ipBlock": {"cidr": "10.0.0.0/8"}})),
        ),
        (
            "spec.egress[0].to[0].serviceAccounts",
            to(json!({"namespaces": {}, "serviceAccounts": {}})),
        ),
        (
            "spec.egress[0].to[0].pods.accounts",
            to(json!({"pods": {"podSelector": {}, "accounts": {}}})),
        ),
        (
            "spec.egress[0].to[0].pods.namespaceSelector.matchNames",
            to(json!({"pods": {"podSelector": {}, "namespaceSelector": {"matchNames": []}}})),
        ),
        (
            "spec.egress[0].to[0].nodes.matchExpressions[0].field",
            to(json!({"nodes": {"matchExpressions": [requirement]}})),
        ),
        (
            "spec.egress[1].ports",
            rule(json!({"action": "Deny", "to": everybody, "ports": []})),
        ),
        (
            "spec.egress[1].from",
            rule(json!({"action": "Deny", "to": everybody, "from": everybody})),
        ),
        ("spec.ingress[0].protocols[0]", protocol(json!({}))),
        (
            "spec.ingress[0].protocols[0].icmp",
            protocol(json!({"icmp": {}})),
        ),
        (
            "spec.ingress[0].protocols[0].tcp.port",
            protocol(json!({"tcp": {"port": 1}})),
        ),
        (
            "spec.ingress[0].protocols[0].udp.destinationPort",
            protocol(json!({"udp": {"destinationPort": {}}})),
        ),
        (
            "spec.ingress[0].protocols[0].udp.destinationPort.range.step",
            protocol(
                json!({"udp": {"destinationPort": {"range": {"start": 1, "end": 9, "step": 2}}}}),
            ),
        ),
        (
            "spec.subject",
            json!({"subject": {}, "ingress": [{"action": "Pass", "from": everybody}]}),
        ),
        (
            "spec.subject.accounts",
            json!({"subject": {"accounts": {}}, "egress": [{"action": "Deny", "to": everybody}]}),
        ),
    ]
}

#[test]
fn a_field_that_is_not_known_closes_its_rule_and_is_no_error_of_the_policy() {
    for (field, spec) in unread() {
        let document = cnp(spec.clone());
        let policy = parsed(document.clone());
        let unread = |policy: &ClusterNetworkPolicy| {
            let ingress = policy.spec.ingress.iter().map(|rule| rule.unread.clone());
            let egress = policy.spec.egress.iter().map(|rule| rule.unread.clone());
            ingress.chain(egress).flatten().collect::<Vec<_>>()
        };
        assert_eq!(unread(&policy), [field], "{spec}");
        let mut index = Index::new(Config::default());
        index.apply(Object::ClusterNetworkPolicy(policy.clone()));
        let problems = index.problems();
        assert!(
            problems.iter().any(|p| p.key_or_field == field),
            "{problems:?}"
        );
        // As it is stored, and as an API server sends it.
        let mut kept = document.clone();
        kept["spec"] = serde_json::to_value(&policy.spec).expect("serializable");
        assert_eq!(parsed(kept), policy, "{spec}");
        let json = document.to_string();
        let sent = Object::from_json(Kind::ClusterNetworkPolicy, &json);
        assert_eq!(sent, Ok(Object::ClusterNetworkPolicy(policy)), "{spec}");
    }
}

#[test]
fn of_pods_that_nobody_knows_nothing_is_accepted_and_nothing_passed_on() {
    let everybody = json!([{"namespaces": {}}]);
    let rules =
        ["Accept", "Deny", "Pass"].map(|action| json!({"action": action, "from": everybody}));
    let policy = parsed(cnp(json!({"subject": {"accounts": {}}, "ingress": rules})));
    let actions: Vec<_> = policy.spec.ingress.iter().map(|rule| rule.action).collect();
    assert_eq!(actions, [Action::Accept, Action::Deny, Action::Deny]);
    assert!(
        policy
            .spec
            .ingress
            .iter()
            .all(|rule| rule.unread.is_some() && rule.from.len() == 1)
    );
    assert_eq!(
        policy.spec.subject.namespaces,
        Some(LabelSelector::default())
    );
}

#[test]
fn a_rule_without_peers_stays_an_error_of_a_policy_about_nobody_knows_whom() {
    for rule in [
        json!({"action": "Accept"}),
        json!({"action": "Pass", "to": []}),
    ] {
        let error = refused(cnp(json!({"subject": {}, "egress": [rule]})));
        assert_eq!(error.field, "spec.egress[0].to");
    }
}
