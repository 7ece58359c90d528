//! Cases of ClusterNetworkPolicies whose verdicts a person wrote down.
//! `a` and `b` stand in `bank`, `c` in `edge`; policies are about `a`.

// A test may fail by panicking.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::Verdict::{Allow, Audit, Deny};
use super::is_invalid;
use super::tests::{TCP, egress, ingress, plain, policy};

const UDP: u8 = 17;
const OUTSIDE: &str = "198.51.100.1";

/// A policy about all of `bank`.
pub(super) fn cnp(name: &str, tier: &str, priority: u32, rules: Value) -> Value {
    let mut object = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": tier, "priority": priority, "subject": {"namespaces": home()}},
    });
    for (way, rules) in rules.as_object().unwrap() {
        object["spec"][way] = rules.clone();
    }
    assert!(!is_invalid(&object), "{object}");
    object
}

fn home() -> Value {
    json!({"matchLabels": {"kubernetes.io/metadata.name": "bank"}})
}

/// Ingress rules: what they do and with which port, from everybody.
pub(super) fn from_all(rules: &[(&str, u16)]) -> Value {
    let rule = |(action, port): &(&str, u16)| match port {
        0 => json!({"action": action, "from": [{"namespaces": {}}]}),
        port => {
            let protocols = json!([{"tcp": {"destinationPort": {"number": port}}}]);
            json!({"action": action, "from": [{"namespaces": {}}], "protocols": protocols})
        }
    };
    json!({"ingress": rules.iter().map(rule).collect::<Vec<_>>()})
}

/// One egress rule of the Admin tier that denies one peer; with protocols, if any.
fn denies(peer: Value, protocols: Value) -> Vec<Value> {
    let mut rule = json!({"action": "Deny", "to": [peer]});
    if !protocols.is_null() {
        rule["protocols"] = protocols;
    }
    with([cnp("p", "Admin", 5, json!({"egress": [rule]}))])
}

pub(super) fn with<const N: usize>(more: [Value; N]) -> Vec<Value> {
    let mut objects = plain();
    objects.extend(more);
    objects
}

fn staged(mut object: Value) -> Value {
    object["metadata"]["annotations"] = json!({"ringfence.dev/mode": "audit"});
    object
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = from_all(&[("Accept", 80), ("Deny", 0), ("Accept", 81)]);
    let objects = with([cnp("p", "Admin", 5, rules)]);
    assert_eq!(ingress(&objects, "c", "a", TCP, 80), Allow);
    assert_eq!(ingress(&objects, "c", "a", TCP, 81), Deny);
    assert_eq!(ingress(&objects, "a", "c", TCP, 81), Allow);
    assert_eq!(egress(&objects, "a", "c", TCP, 81), Allow);
}

#[test]
fn lower_priorities_come_first_and_ties_go_by_name() {
    for (accept, deny, expected) in [
        (("a", 5), ("b", 6), Allow),
        (("a", 6), ("b", 5), Deny),
        (("a", 100), ("b", 20), Deny),
        (("a", 5), ("b", 5), Allow),
        (("b", 5), ("a", 5), Deny),
    ] {
        let objects = with([
            cnp(accept.0, "Admin", accept.1, from_all(&[("Accept", 0)])),
            cnp(deny.0, "Admin", deny.1, from_all(&[("Deny", 0)])),
        ]);
        assert_eq!(ingress(&objects, "c", "a", TCP, 1), expected);
    }
}

#[test]
fn admin_rules_stand_above_network_policies() {
    let closed = policy("bank", json!({"podSelector": {}}));
    let open = policy("bank", json!({"podSelector": {}, "ingress": [{}]}));
    let rules = from_all(&[("Accept", 80), ("Deny", 81)]);
    let admin = cnp("p", "Admin", 5, rules);
    let objects = with([closed, admin.clone()]);
    assert_eq!(ingress(&objects, "c", "a", TCP, 80), Allow);
    assert_eq!(ingress(&objects, "c", "a", TCP, 82), Deny);
    let objects = with([open, admin]);
    assert_eq!(ingress(&objects, "c", "a", TCP, 81), Deny);
    assert_eq!(ingress(&objects, "c", "a", TCP, 82), Allow);
}

#[test]
fn pass_leaves_the_tier_and_not_only_the_policy() {
    let objects = with([
        cnp("p", "Admin", 5, from_all(&[("Pass", 80), ("Deny", 81)])),
        cnp("q", "Admin", 6, from_all(&[("Deny", 0)])),
        cnp("r", "Baseline", 5, from_all(&[("Pass", 80)])),
        cnp("s", "Baseline", 6, from_all(&[("Deny", 0)])),
    ]);
    assert_eq!(ingress(&objects, "c", "a", TCP, 80), Allow);
    assert_eq!(ingress(&objects, "c", "a", TCP, 82), Deny);
    let objects = [objects, vec![policy("bank", json!({"podSelector": {}}))]].concat();
    assert_eq!(ingress(&objects, "c", "a", TCP, 80), Deny);
}

#[test]
fn network_policies_and_allowlists_override_the_baseline() {
    let baseline = cnp("p", "Baseline", 5, from_all(&[("Deny", 0)]));
    let mut objects = with([baseline]);
    assert_eq!(ingress(&objects, "b", "a", TCP, 8080), Deny);
    let rule = json!([{"ports": [{"port": 8080}]}]);
    objects.push(policy("bank", json!({"podSelector": {}, "ingress": rule})));
    assert_eq!(ingress(&objects, "b", "a", TCP, 8080), Allow);
    objects.pop();
    objects[0]["metadata"]["labels"]["ringfence.dev/ingress"] = json!("enforce");
    objects[1]["metadata"]["labels"]["egress.ringfence.dev/a"] = json!("true");
    assert_eq!(ingress(&objects, "b", "a", TCP, 8080), Allow);
    objects[5]["spec"] = cnp("p", "Baseline", 5, from_all(&[("Accept", 0)]))["spec"].clone();
    assert_eq!(ingress(&objects, "c", "a", TCP, 8080), Deny);
}

#[test]
fn a_grant_that_does_not_isolate_leaves_the_word_to_the_baseline() {
    let rule = json!({"action": "Deny", "to": [{"namespaces": {}}]});
    let mut objects = with([cnp("p", "Baseline", 5, json!({"egress": [rule]}))]);
    objects[0]["metadata"]["labels"]["egress.ringfence.dev/b"] = json!("true");
    assert_eq!(egress(&objects, "a", "b", TCP, 8080), Deny);
    objects[0]["metadata"]["labels"]["ringfence.dev/egress"] = json!("enforce");
    assert_eq!(egress(&objects, "a", "b", TCP, 8080), Allow);
}

#[test]
fn a_policy_has_no_say_in_a_direction_without_rules() {
    for none in [json!({}), json!({"ingress": []}), json!({"ingress": null})] {
        let objects = with([cnp("p", "Admin", 5, none)]);
        assert_eq!(ingress(&objects, "c", "a", TCP, 1), Allow);
        assert_eq!(egress(&objects, "a", "c", TCP, 1), Allow);
    }
}

#[test]
fn subjects_are_namespaces_or_pods_of_namespaces() {
    let all = from_all(&[("Deny", 0)]);
    let app = |name: &str| json!({"matchLabels": {"app": name}});
    for (subject, expected) in [
        (json!({"namespaces": {}}), [Deny, Deny, Deny]),
        (json!({"namespaces": home()}), [Deny, Deny, Allow]),
        (
            json!({"pods": {"podSelector": app("c")}}),
            [Allow, Allow, Deny],
        ),
        (
            json!({"pods": {"namespaceSelector": home(), "podSelector": app("c")}}),
            [Allow, Allow, Allow],
        ),
        (
            json!({"pods": {"namespaceSelector": home(), "podSelector": app("b")}}),
            [Allow, Deny, Allow],
        ),
    ] {
        let mut guard = cnp("p", "Admin", 5, all.clone());
        guard["spec"]["subject"] = subject.clone();
        let objects = with([guard]);
        for (to, expected) in ["a", "b", "c"].into_iter().zip(expected) {
            let from = if to == "a" { "b" } else { "a" };
            assert_eq!(
                ingress(&objects, from, to, TCP, 1),
                expected,
                "{subject} {to}"
            );
        }
    }
}

#[test]
fn host_network_pods_are_neither_subject_nor_peer() {
    let mut objects = with([cnp("p", "Admin", 5, from_all(&[("Deny", 0)]))]);
    assert_eq!(ingress(&objects, "c", "a", TCP, 1), Deny);
    assert_eq!(ingress(&objects, OUTSIDE, "a", TCP, 1), Allow);
    objects[2]["spec"]["hostNetwork"] = json!(true);
    assert_eq!(ingress(&objects, "c", "a", TCP, 1), Allow);
    objects[0]["spec"]["hostNetwork"] = json!(true);
    assert_ne!(ingress(&objects, "b", "a", TCP, 1), Deny);
}

#[test]
fn pod_peers_match_by_both_selectors_and_every_namespace_has_its_name() {
    let to_c = |space: &str| {
        let space = json!({"matchLabels": {"kubernetes.io/metadata.name": space}});
        let app = json!({"matchLabels": {"app": "c"}});
        denies(
            json!({"pods": {"namespaceSelector": space, "podSelector": app}}),
            Value::Null,
        )
    };
    assert_eq!(egress(&to_c("edge"), "a", "c", TCP, 1), Deny);
    assert_eq!(egress(&to_c("edge"), "a", "b", TCP, 1), Allow);
    assert_eq!(egress(&to_c("bank"), "a", "c", TCP, 1), Allow);
    let anywhere = json!({"pods": {"podSelector": {"matchLabels": {"app": "c"}}}});
    assert_eq!(
        egress(&denies(anywhere, Value::Null), "a", "c", TCP, 1),
        Deny
    );
}

#[test]
fn node_peers_are_the_addresses_of_their_status_alone() {
    let mut objects = denies(
        json!({"nodes": {"matchLabels": {"zone": "x"}}}),
        Value::Null,
    );
    objects[4]["metadata"]["labels"] = json!({"zone": "x"});
    assert_eq!(egress(&objects, "a", "192.0.2.2", TCP, 1), Deny);
    assert_eq!(egress(&objects, "a", "192.0.2.1", TCP, 1), Allow);
    assert_eq!(egress(&objects, "a", "10.0.1.1", TCP, 1), Allow);
    let all = denies(json!({"nodes": {}}), Value::Null);
    assert_eq!(egress(&all, "a", "192.0.2.1", TCP, 1), Deny);
    assert_eq!(egress(&all, "a", "c", TCP, 1), Allow);
}

#[test]
fn networks_match_pods_too_and_domain_names_match_nothing() {
    let objects = denies(
        json!({"networks": ["203.0.113.0/24", "10.0.1.0/24"]}),
        Value::Null,
    );
    assert_eq!(egress(&objects, "a", "c", TCP, 1), Deny);
    assert_eq!(egress(&objects, "a", "203.0.113.9", 1, 0), Deny);
    assert_eq!(egress(&objects, "a", "b", TCP, 1), Allow);
    let named = json!({"action": "Accept", "to": [{"domainNames": ["example.com"]}]});
    let rest = json!({"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]});
    let objects = with([cnp("p", "Admin", 5, json!({"egress": [named, rest]}))]);
    assert_eq!(egress(&objects, "a", OUTSIDE, TCP, 1), Deny);
}

#[test]
fn protocols_are_ports_ranges_or_whole_and_never_icmp() {
    let everybody = || json!({"namespaces": {}});
    let ask = |objects: &[Value], protocol, port| egress(objects, "a", "c", protocol, port);
    for absent in [json!([]), Value::Null] {
        let mut objects = denies(everybody(), Value::Null);
        objects[5]["spec"]["egress"][0]["protocols"] = absent;
        assert_eq!(ask(&objects, 1, 0), Deny);
        assert_eq!(ask(&objects, 47, 0), Deny);
    }
    let objects = denies(
        everybody(),
        json!([{"udp": {}}, {"tcp": {"destinationPort": {"number": 80}}}]),
    );
    assert_eq!(ask(&objects, UDP, 1), Deny);
    assert_eq!(ask(&objects, TCP, 80), Deny);
    assert_eq!(ask(&objects, TCP, 81), Allow);
    assert_eq!(ask(&objects, 1, 0), Allow);
    assert_eq!(ask(&objects, 47, 0), Allow);
    let range = json!({"range": {"start": 80, "end": 90}});
    let objects = denies(everybody(), json!([{"sctp": {"destinationPort": range}}]));
    for (port, expected) in [(79, Allow), (80, Deny), (90, Deny), (91, Allow)] {
        assert_eq!(ask(&objects, 132, port), expected);
    }
    assert_eq!(ask(&objects, TCP, 85), Allow);
}

#[test]
fn a_port_name_means_the_first_of_each_protocol_on_the_called_pod() {
    let named = json!([{"destinationNamedPort": "http"}]);
    let mut objects = denies(json!({"namespaces": {}}), named.clone());
    objects[2]["spec"]["containers"] = json!([
        {"ports": [{"name": "http", "containerPort": 81}]},
        {"ports": [{"name": "http", "containerPort": 82},
                   {"name": "http", "containerPort": 83, "protocol": "UDP"}]},
    ]);
    for (protocol, port, expected) in [
        (TCP, 81, Deny),
        (TCP, 82, Allow),
        (UDP, 83, Deny),
        (UDP, 81, Allow),
        (TCP, 8080, Allow),
        (1, 0, Allow),
    ] {
        assert_eq!(egress(&objects, "a", "c", protocol, port), expected);
    }
    let rule = json!({"action": "Deny", "from": [{"namespaces": {}}], "protocols": named});
    let objects = with([cnp("p", "Admin", 5, json!({"ingress": [rule]}))]);
    assert_eq!(ingress(&objects, "c", "a", TCP, 8080), Deny);
    assert_eq!(ingress(&objects, "c", "a", TCP, 81), Allow);
}

#[test]
fn a_staged_policy_counts_only_where_the_rest_allows() {
    let objects = with([staged(cnp("p", "Admin", 5, from_all(&[("Deny", 80)])))]);
    assert_eq!(ingress(&objects, "c", "a", TCP, 80), Audit);
    assert_eq!(ingress(&objects, "c", "a", TCP, 81), Allow);
    // What a staged rule would let in stays out until it is enforced.
    let objects = with([
        staged(cnp("p", "Admin", 5, from_all(&[("Accept", 0)]))),
        cnp("q", "Admin", 6, from_all(&[("Deny", 0)])),
    ]);
    assert_eq!(ingress(&objects, "c", "a", TCP, 80), Deny);
    let objects = with([
        staged(cnp("p", "Admin", 5, from_all(&[("Accept", 80)]))),
        staged(cnp("q", "Admin", 6, from_all(&[("Deny", 0)]))),
    ]);
    assert_eq!(ingress(&objects, "c", "a", TCP, 80), Allow);
    assert_eq!(ingress(&objects, "c", "a", TCP, 81), Audit);
}

#[test]
fn a_staged_network_policy_does_not_shut_out_the_baseline() {
    let deny = cnp("p", "Baseline", 5, from_all(&[("Deny", 0)]));
    let open = staged(policy("bank", json!({"podSelector": {}, "ingress": [{}]})));
    let objects = with([deny, open]);
    assert_eq!(ingress(&objects, "c", "a", TCP, 80), Deny);
}

/// A policy that is fine but for what `spoil` does to its spec.
fn spoilt(spoil: impl FnOnce(&mut Value)) -> Value {
    let rule = |peers: &str| json!([{"action": "Accept", peers: [{"namespaces": {}}]}]);
    let rules = json!({"ingress": rule("from"), "egress": rule("to")});
    let mut object = cnp("p", "Admin", 5, rules);
    spoil(&mut object["spec"]);
    object
}

#[test]
fn a_policy_that_does_not_parse_denies_all_to_its_subject_in_its_directions() {
    let both = with([spoilt(|s| s["ingress"][0]["action"] = json!("Allow"))]);
    assert_eq!(ingress(&both, "c", "a", TCP, 1), Deny);
    assert_eq!(ingress(&both, OUTSIDE, "a", 1, 0), Deny);
    assert_eq!(egress(&both, "a", OUTSIDE, 47, 0), Deny);
    assert_eq!(ingress(&both, "a", "c", TCP, 1), Allow);
    let one = with([spoilt(|s| {
        s["egress"] = json!([]);
        s["ingress"][0]["action"] = json!("Allow");
    })]);
    assert_eq!(ingress(&one, "c", "a", TCP, 1), Deny);
    assert_eq!(egress(&one, "a", "c", TCP, 1), Allow);
    let neither = with([spoilt(|s| {
        *s = json!({"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, "ingres": []});
    })]);
    assert_eq!(ingress(&neither, "a", "c", TCP, 1), Deny);
    assert_eq!(egress(&neither, "a", "c", TCP, 1), Deny);
}

#[test]
fn what_does_not_parse_of_a_policy_means_the_strictest() {
    let bad = json!({"namespaces": {"matchExpressions": [{"key": "a", "operator": "Is"}]}});
    let everybody = with([spoilt(|s| s["subject"] = bad)]);
    assert_eq!(ingress(&everybody, "a", "c", TCP, 1), Deny);
    // The Admin tier: above a NetworkPolicy that would let it in.
    let open = || policy("bank", json!({"podSelector": {}, "ingress": [{}]}));
    let tierless = with([open(), spoilt(|s| s["tier"] = json!("admin"))]);
    assert_eq!(ingress(&tierless, "c", "a", TCP, 1), Deny);
    let baseline = with([
        open(),
        spoilt(|s| {
            s["tier"] = json!("Baseline");
            s["priority"] = json!(1001);
        }),
    ]);
    assert_eq!(ingress(&baseline, "c", "a", TCP, 1), Allow);
    // Priority 0: before what stands at 1. One that parses stays.
    let first = || cnp("o", "Admin", 1, from_all(&[("Accept", 0)]));
    let zero = with([first(), spoilt(|s| s["priority"] = json!(-1))]);
    assert_eq!(ingress(&zero, "c", "a", TCP, 1), Deny);
    let five = with([first(), spoilt(|s| s["ingres"] = json!([]))]);
    assert_eq!(ingress(&five, "c", "a", TCP, 1), Allow);
    assert_eq!(egress(&five, "a", "c", TCP, 1), Deny);
    let audited = with([staged(spoilt(|s| s["tier"] = json!(1)))]);
    assert_eq!(ingress(&audited, "c", "a", TCP, 1), Audit);
}
