//! ClusterNetworkPolicy: tiers, priorities and actions, in one direction at a time.

use ringfence_ebpf::{abi::Direction, verdict::Policy};
use serde_json::{Value, json};

use crate::model::{Kind, ObjectKey};
use crate::{
    index::{Index, Scope},
    model::Object,
    testing::{ask, comes_in, index, namespace, netpol, object, pod, pod_with},
};

/// Creates `b/server` 10.0.0.1 (TCP `http` 8080, UDP `http` 53), `b/client` .2 (TCP `http` 80),
/// `c/client` .3 and `c/other` .4, under these policies.
pub(super) fn cluster(policies: impl IntoIterator<Item = Value>) -> Index {
    let http = json!([{"name": "http", "containerPort": 8080}, {"name": "http", "containerPort": 53, "protocol": "UDP"}]);
    let objects = [
        namespace("c", json!({"team": "x"})),
        pod_with("b/server", "10.0.0.1", json!({"app": "server"}), http),
        pod_with(
            "b/client",
            "10.0.0.2",
            json!({"app": "client"}),
            json!([{"name": "http", "containerPort": 80}]),
        ),
        pod("c/client", "10.0.0.3", json!({"app": "client"})),
        pod("c/other", "10.0.0.4", json!({"app": "other"})),
    ];
    index(objects.into_iter().chain(policies))
}

/// Returns the policy `NAME/TIER/PRIORITY`, which selects all pods unless `spec` has another
/// subject.
pub(super) fn cnp(place: &str, spec: Value) -> Value {
    let mut parts = place.split('/');
    let name = parts.next();
    let tier = parts.next().expect("tier");
    let priority: i64 = parts.next().expect("priority").parse().expect("a number");
    let mut document = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": tier, "priority": priority, "subject": {"namespaces": {}}},
    });
    for (field, value) in spec.as_object().expect("members") {
        document["spec"][field] = value.clone();
    }
    document
}

/// Returns an ingress rule for all pods; `ports` are TCP numbers, an empty list means everything.
fn rule(action: &str, ports: &[u16]) -> Value {
    let tcp = |n: &u16| json!({"tcp": {"destinationPort": {"number": n}}});
    let protocols: Vec<Value> = ports.iter().map(tcp).collect();
    let mut rule = json!({"action": action, "from": [{"namespaces": {}}]});
    if !protocols.is_empty() {
        rule["protocols"] = json!(protocols);
    }
    rule
}

/// Returns a policy with these ingress rules.
fn ingress(place: &str, rules: impl IntoIterator<Item = Value>) -> Value {
    let rules: Vec<Value> = rules.into_iter().collect();
    cnp(place, json!({"ingress": rules}))
}

fn staged(mut policy: Value) -> Value {
    policy["metadata"]["annotations"] = json!({"ringfence.dev/mode": "audit"});
    policy
}

/// Returns a NetworkPolicy that closes `b/server` except for one TCP port to its namespace.
fn own(port: u16) -> Value {
    let server = json!({"matchLabels": {"app": "server"}});
    let rule = json!({"from": [{"podSelector": {}}], "ports": [{"port": port}]});
    netpol("b/own", json!({"podSelector": server, "ingress": [rule]}))
}

/// Reports whether `b/client` reaches `b/server`.
fn may(index: &Index, port: &str) -> bool {
    comes_in(index, "b/server", "10.0.0.2", port)
}

/// Returns the verdict for a packet from `b/client` to `b/server`.
fn verdict(index: &Index, port: &str) -> Policy {
    let tables = index.compile(&Scope::Everything);
    ask(&tables, "b/server", Direction::Ingress, "10.0.0.2", port)
}

#[test]
fn what_the_admin_tier_decides_no_network_policy_overrides() {
    let admin = [rule("Accept", &[1]), rule("Deny", &[7, 8])];
    let index = cluster([own(7), ingress("a/Admin/5", admin)]);
    assert!(may(&index, "TCP/1"));
    assert!(!may(&index, "TCP/7") && !may(&index, "TCP/8"));
}

#[test]
fn what_the_admin_tier_leaves_open_network_policies_decide() {
    let index = cluster([own(7), ingress("a/Admin/5", [rule("Deny", &[1])])]);
    assert!(may(&index, "TCP/7"));
    assert!(!may(&index, "TCP/8") && !may(&index, "ICMP"));
}

#[test]
fn the_baseline_tier_decides_only_where_no_network_policy_isolates() {
    let index = cluster([own(7), ingress("a/Baseline/5", [rule("Deny", &[])])]);
    assert!(may(&index, "TCP/7"));
    assert!(!may(&index, "TCP/8"));
    assert!(!comes_in(&index, "b/client", "10.0.0.1", "TCP/7"));
    let accepts = ingress("a/Baseline/5", [rule("Accept", &[])]);
    assert!(!may(&cluster([own(7), accepts]), "TCP/8"));
}

#[test]
fn a_label_allowlist_stands_in_the_tier_of_network_policies() {
    let closed = json!({"app": "server", "ringfence.dev/ingress": "enforce"});
    let caller = json!({"app": "client", "egress.ringfence.dev/server": "7"});
    let labelled = [
        object(pod("b/server", "10.0.0.1", closed)),
        object(pod("b/client", "10.0.0.2", caller)),
    ];
    let mut index = cluster([
        ingress("a/Admin/5", [rule("Accept", &[1])]),
        ingress("b/Baseline/5", [rule("Deny", &[7])]),
    ]);
    labelled.into_iter().for_each(|pod| index.apply(pod));
    assert!(may(&index, "TCP/1") && may(&index, "TCP/7"));
    assert!(!may(&index, "TCP/8"));
    index.apply(object(ingress("a/Admin/5", [rule("Deny", &[7])])));
    assert!(!may(&index, "TCP/7"));
}

#[test]
fn what_no_tier_decides_is_allowed() {
    let index = cluster([
        ingress("a/Admin/5", [rule("Deny", &[1])]),
        ingress("b/Baseline/5", [rule("Deny", &[2])]),
    ]);
    for (port, allowed) in [
        ("TCP/1", false),
        ("TCP/2", false),
        ("TCP/3", true),
        ("UDP/1", true),
        ("SCTP/1", true),
        ("ICMP", true),
        ("47", true),
    ] {
        assert_eq!(may(&index, port), allowed, "{port}");
    }
    // Not a pod, so no rule's peer.
    assert!(comes_in(&index, "b/server", "192.0.2.1", "TCP/1"));
}

#[test]
fn the_lower_priority_is_asked_first_whatever_the_names() {
    for tier in ["Admin", "Baseline"] {
        let first = ingress(&format!("z/{tier}/9"), [rule("Deny", &[1])]);
        let later = ingress(&format!("a/{tier}/10"), [rule("Accept", &[])]);
        let index = cluster([later, first]);
        assert!(!may(&index, "TCP/1"), "{tier}");
        assert!(may(&index, "TCP/2"), "{tier}");
    }
    let extremes = [
        ingress("a/Admin/1000", [rule("Deny", &[])]),
        ingress("b/Admin/0", [rule("Accept", &[1])]),
    ];
    let index = cluster(extremes);
    assert!(may(&index, "TCP/1") && !may(&index, "TCP/2"));
}

#[test]
fn of_equal_priorities_the_name_that_sorts_first_is_asked_first() {
    let policy =
        |name: &str, action: &str| ingress(&format!("{name}/Admin/5"), [rule(action, &[])]);
    assert!(!may(
        &cluster([policy("b", "Accept"), policy("a", "Deny")]),
        "TCP/1"
    ));
    assert!(may(
        &cluster([policy("a", "Accept"), policy("b", "Deny")]),
        "TCP/1"
    ));
}

#[test]
fn of_a_policys_rules_the_first_match_decides() {
    let rules = [
        rule("Accept", &[1, 2]),
        rule("Deny", &[2, 3]),
        rule("Accept", &[]),
    ];
    let index = cluster([ingress("a/Admin/5", rules), own(9)]);
    for (port, allowed) in [
        ("TCP/1", true),
        ("TCP/2", true),
        ("TCP/3", false),
        ("TCP/4", true),
    ] {
        assert_eq!(may(&index, port), allowed, "{port}");
    }
}

#[test]
fn the_tiers_are_asked_in_order_whatever_their_priorities() {
    let index = cluster([
        ingress("a/Baseline/0", [rule("Deny", &[])]),
        ingress("b/Admin/1000", [rule("Accept", &[1])]),
    ]);
    assert!(may(&index, "TCP/1") && !may(&index, "TCP/2"));
}

#[test]
fn pass_leaves_the_admin_tier_to_network_policies() {
    let admin = [
        ingress("a/Admin/1", [rule("Pass", &[7, 8]), rule("Deny", &[8])]),
        ingress("b/Admin/2", [rule("Deny", &[])]),
    ];
    let index = cluster(admin.into_iter().chain([own(7)]));
    assert!(may(&index, "TCP/7"));
    assert!(!may(&index, "TCP/8"), "passed on to a policy that denies");
    assert!(!may(&index, "TCP/9") && !may(&index, "ICMP"));
}

#[test]
fn pass_leaves_the_admin_tier_to_the_baseline_tier_where_no_network_policy_isolates() {
    let index = cluster([
        ingress("a/Admin/1", [rule("Pass", &[7, 8]), rule("Deny", &[])]),
        ingress("b/Baseline/1", [rule("Deny", &[8])]),
    ]);
    assert!(may(&index, "TCP/7"));
    assert!(!may(&index, "TCP/8") && !may(&index, "TCP/9"));
}

#[test]
fn pass_in_the_baseline_tier_allows() {
    let index = cluster([
        ingress("a/Baseline/1", [rule("Pass", &[7]), rule("Deny", &[8])]),
        ingress("b/Baseline/2", [rule("Deny", &[])]),
    ]);
    assert!(may(&index, "TCP/7"));
    assert!(!may(&index, "TCP/8") && !may(&index, "TCP/9"));
}

#[test]
fn pass_is_for_the_traffic_that_it_matches_alone() {
    let peer = |team: &str| json!([{"namespaces": {"matchLabels": {"team": team}}}]);
    let pass = json!({"action": "Pass", "from": peer("x")});
    let index = cluster([ingress("a/Admin/1", [pass, rule("Deny", &[])])]);
    assert!(comes_in(&index, "b/server", "10.0.0.3", "TCP/1"));
    assert!(!comes_in(&index, "b/server", "10.0.0.2", "TCP/1"));
}

#[test]
fn a_rule_without_protocols_matches_everything_and_one_with_them_never_icmp() {
    let everything = ["TCP/1", "UDP/1", "SCTP/1", "ICMP", "47"];
    let closed = cluster([ingress("a/Admin/5", [rule("Deny", &[])])]);
    let mut rule = rule("Deny", &[]);
    rule["protocols"] = json!([{"tcp": {}}, {"udp": {}}, {"sctp": {}}]);
    let ported = cluster([ingress("a/Admin/5", [rule])]);
    for port in everything {
        assert!(!may(&closed, port), "{port}");
        assert_eq!(may(&ported, port), !port.contains('/'), "{port}");
    }
}

#[test]
fn a_policy_without_rules_for_a_direction_has_no_say_in_it() {
    let index = cluster([ingress("a/Admin/5", [rule("Deny", &[])])]);
    assert!(crate::testing::goes_out(
        &index, "b/server", "10.0.0.2", "TCP/1"
    ));
    let empty = cnp("a/Admin/5", json!({"ingress": [], "egress": []}));
    let index = cluster([empty]);
    assert!(may(&index, "TCP/1"));
    let tables = index.compile(&Scope::Everything);
    let open = |e: &crate::tables::EndpointPolicy| e.ingress == 0 && e.egress == 0;
    assert!(tables.endpoints.values().all(open));
}

#[test]
fn a_staged_deny_is_audited_and_a_staged_accept_or_pass_grants_nothing() {
    let deny = staged(ingress("a/Admin/5", [rule("Deny", &[1])]));
    let index = cluster([deny.clone()]);
    assert_eq!(verdict(&index, "TCP/1"), Policy::Audit);
    assert_eq!(verdict(&index, "TCP/2"), Policy::Allow);
    let index = cluster([deny, own(1)]);
    assert_eq!(verdict(&index, "TCP/1"), Policy::Audit);
    assert_eq!(verdict(&index, "TCP/2"), Policy::Deny);
    for action in ["Accept", "Pass"] {
        let opening = staged(ingress("a/Admin/1", [rule(action, &[])]));
        let index = cluster([opening, ingress("b/Admin/2", [rule("Deny", &[1])])]);
        assert_eq!(verdict(&index, "TCP/1"), Policy::Deny, "{action}");
        assert_eq!(verdict(&index, "TCP/2"), Policy::Allow, "{action}");
    }
}

#[test]
fn a_staged_accept_shows_what_it_would_keep_from_a_staged_deny() {
    let accept = staged(ingress("a/Admin/1", [rule("Accept", &[1])]));
    let deny = staged(ingress("b/Admin/2", [rule("Deny", &[])]));
    let index = cluster([accept, deny]);
    assert_eq!(verdict(&index, "TCP/1"), Policy::Allow);
    assert_eq!(verdict(&index, "TCP/2"), Policy::Audit);
    // A staged NetworkPolicy, if enforced, would replace the Baseline tier and deny on its own.
    let baseline = ingress("a/Baseline/1", [rule("Deny", &[3])]);
    let index = cluster([baseline, staged(own(3))]);
    assert_eq!(verdict(&index, "TCP/3"), Policy::Deny);
    assert_eq!(verdict(&index, "TCP/4"), Policy::Audit);
}

#[test]
fn the_closed_form_of_an_invalid_policy_denies_at_its_own_place() {
    let broken = cnp("b/Admin/5", json!({"ingress": [{"action": "Allow"}]}));
    let error = Object::from_value(broken.clone()).expect_err("no such action");
    let mut index = cluster([
        ingress("a/Admin/4", [rule("Accept", &[1])]),
        ingress("c/Admin/6", [rule("Accept", &[2])]),
    ]);
    assert!(index.apply_closed(&error));
    assert!(may(&index, "TCP/1"));
    assert!(!may(&index, "TCP/2") && !may(&index, "ICMP"));
    assert!(!comes_in(&index, "b/server", "192.0.2.1", "ICMP"));
    assert!(crate::testing::goes_out(
        &index, "b/server", "10.0.0.2", "TCP/2"
    ));
    let error = Object::from_value(staged(broken)).expect_err("no such action");
    assert!(index.apply_closed(&error));
    assert_eq!(verdict(&index, "TCP/2"), Policy::Audit);
}

#[test]
fn deleting_a_cluster_policy_opens_what_it_closed() {
    let mut index = cluster([ingress("a/Admin/5", [rule("Deny", &[])])]);
    assert!(!may(&index, "TCP/1"));
    index.delete(&ObjectKey::new(Kind::ClusterNetworkPolicy, "", "a"));
    assert!(may(&index, "TCP/1"));
    assert_eq!(
        index.compile(&Scope::Everything),
        cluster([]).compile(&Scope::Everything)
    );
}
