//! ClusterNetworkPolicies of a newer API, with verdicts that a person wrote down.

// A test may fail by panicking.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::Verdict::{Allow, Deny};
use super::cluster_tests::{cnp, from_all, with};
use super::is_invalid;
use super::tests::{TCP, ingress};

/// Rules of a newer API, between one that accepts port 1 and one that denies port 3.
fn newer(action: &str, peer: Value) -> Vec<Value> {
    let known = from_all(&[("Accept", 1), (action, 0), ("Deny", 3)]);
    let mut policy = cnp("p", "Admin", 5, known);
    policy["spec"]["ingress"][1]["from"][0] = peer;
    assert!(!is_invalid(&policy), "{policy}");
    with([policy])
}

#[test]
fn a_rule_of_a_newer_api_is_closed_and_the_others_go_on() {
    for peer in [
        json!({}),
        json!({"accounts": {}}),
        json!({"namespaces": {"more": 1}}),
    ] {
        let open = |action, port| {
            let objects = newer(action, peer.clone());
            ingress(&objects, "c", "a", TCP, port)
        };
        assert_eq!([1, 2, 3].map(|p| open("Accept", p)), [Allow, Allow, Deny]);
        assert_eq!([1, 2, 3].map(|p| open("Deny", p)), [Allow, Deny, Deny]);
        assert_eq!([1, 2, 3].map(|p| open("Pass", p)), [Allow, Deny, Deny]);
    }
}

#[test]
fn a_policy_with_a_subject_of_a_newer_api_is_about_all_pods_and_only_denies() {
    let rules = from_all(&[("Accept", 1), ("Deny", 2), ("Pass", 3)]);
    let mut policy = cnp("p", "Admin", 5, rules);
    policy["spec"]["subject"] = json!({"accounts": {}});
    let later = cnp("q", "Admin", 6, from_all(&[("Deny", 1)]));
    let objects = with([policy, later]);
    let open = |to, port| ingress(&objects, "a", to, TCP, port);
    assert_eq!([2, 3, 4].map(|p| open("c", p)), [Deny, Deny, Allow]);
    assert_eq!(ingress(&objects, "c", "a", TCP, 1), Deny);
}
