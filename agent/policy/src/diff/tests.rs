//! Which changes raise which endpoints.

use serde_json::{Value, json};

use super::*;
use crate::{
    index::Scope,
    testing::{index, netpol, pod},
};

fn change(before: &[Value], now: &[Value]) -> (Vec<String>, bool) {
    let compile = |objects: &[Value]| index(objects.to_vec()).compile(&Scope::Node("n1".into()));
    let change = Change::between(&compile(before), &compile(now));
    let raised = change.raised.iter().map(ToString::to_string).collect();
    (raised, change.additive)
}

/// Returns a subject under a policy that admits these peers on these ports, and an idle pod.
fn cluster(peers: Value, ports: Value) -> Vec<Value> {
    let spec = json!({"podSelector": {"matchLabels": {"app": "s"}}, "ingress": [{"from": peers, "ports": ports}]});
    vec![
        pod("b/idle", "10.0.0.9", json!({})),
        pod("b/s", "10.0.0.1", json!({"app": "s"})),
        netpol("b/n", spec),
    ]
}

fn elsewhere(ip: &str, labels: Value) -> Value {
    let mut pod = pod("b/far", ip, labels);
    pod["spec"]["nodeName"] = json!("n2");
    pod
}

fn client() -> Value {
    json!([{"podSelector": {"matchLabels": {"app": "c"}}}])
}

#[test]
fn a_new_address_of_a_known_class_is_additive_and_raises_nobody() {
    let mut before = cluster(client(), json!([]));
    before.push(pod("b/c", "10.0.0.2", json!({"app": "c"})));
    let mut now = before.clone();
    now.push(elsewhere("10.0.0.3", json!({"app": "c"})));
    assert_eq!(change(&before, &now), (vec![], true));
    let raised = vec!["b/s".to_owned()];
    assert_eq!(change(&now, &before), (raised, false));
}

#[test]
fn a_new_address_that_loses_what_its_block_had_raises() {
    let outside = json!({"app": "s", "ringfence.dev/ingress": "enforce", "callers.ringfence.dev/outside_cluster": "true"});
    let before = vec![pod("b/s", "10.0.0.1", outside)];
    let mut now = before.clone();
    now.push(elsewhere("10.0.0.3", json!({})));
    assert_eq!(change(&before, &now), (vec!["b/s".to_owned()], true));
}

#[test]
fn a_port_set_that_shrinks_raises_and_one_that_grows_does_not() {
    let wide = cluster(json!([]), json!([{"port": 1, "endPort": 300}]));
    let narrow = cluster(json!([]), json!([{"port": 1, "endPort": 299}]));
    assert_eq!(change(&wide, &narrow), (vec!["b/s".to_owned()], false));
    assert_eq!(change(&narrow, &wide), (vec![], false));
    let whole = cluster(json!([]), json!([{"protocol": "TCP"}]));
    assert_eq!(change(&wide, &whole), (vec![], false));
    assert_eq!(
        change(&cluster(json!([]), json!([])), &whole),
        (vec!["b/s".to_owned()], false)
    );
}

#[test]
fn an_exception_that_appears_raises_and_a_block_that_grows_does_not() {
    let blocks = |b: Value| cluster(json!([{"ipBlock": b}]), json!([]));
    let plain = blocks(json!({"cidr": "192.0.2.0/24"}));
    let narrowed = blocks(json!({"cidr": "192.0.2.0/24", "except": ["192.0.2.0/25"]}));
    let wider = blocks(json!({"cidr": "192.0.2.0/23"}));
    assert_eq!(change(&plain, &narrowed), (vec!["b/s".to_owned()], false));
    assert_eq!(change(&plain, &wider), (vec![], false));
}

#[test]
fn isolation_staging_and_quarantine_raise_their_own_pod_alone() {
    let free = vec![
        pod("b/idle", "10.0.0.9", json!({})),
        pod("b/s", "10.0.0.1", json!({"app": "s"})),
    ];
    let isolated = cluster(json!([]), json!([]));
    assert_eq!(change(&free, &isolated), (vec!["b/s".to_owned()], false));
    assert_eq!(change(&isolated, &free), (vec![], false));
    let mut staged = isolated.clone();
    staged[2]["metadata"]["annotations"] = json!({"ringfence.dev/mode": "audit"});
    assert_eq!(change(&free, &staged), (vec!["b/s".to_owned()], false));
    let mut cut_off = free.clone();
    cut_off[0]["metadata"]["labels"] = json!({"ringfence.dev/quarantine": "true"});
    assert_eq!(change(&free, &cut_off), (vec!["b/idle".to_owned()], false));
}

#[test]
fn a_peer_that_is_relabelled_raises_who_admitted_it() {
    let mut before = cluster(client(), json!([]));
    before.push(elsewhere("10.0.0.3", json!({"app": "c"})));
    let mut now = cluster(client(), json!([]));
    now.push(elsewhere("10.0.0.3", json!({"app": "d"})));
    assert_eq!(change(&before, &now).0, ["b/s"]);
    assert_eq!(change(&now, &before).0, [""; 0]);
}

#[test]
fn nothing_changed_is_additive() {
    let same = cluster(client(), json!([]));
    assert_eq!(change(&same, &same), (vec![], true));
}

/// One id naming two contents in turn: rare, and not visible as a change of ids.
#[test]
fn a_ruleset_that_gives_a_class_less_under_the_same_ids_raises() {
    let grant = |enforced| Grant {
        enforced,
        staged: PortSet::NONE,
    };
    let mut now = Tables::default();
    let under = EndpointPolicy {
        ingress: 1,
        flags: EndpointRules::INGRESS_ISOLATED,
        ..EndpointPolicy::default()
    };
    now.endpoints.insert(PodKey::default(), under);
    let everybody_lives = |_: u32| true;
    let raises = |old: u32, new: u32, now: &mut Tables| {
        now.rules.insert((1, 7), grant(new));
        let mut before = Before::default();
        before.rules.insert((1, 7), Some(grant(old)));
        let change = Change::of(&before, now, &everybody_lives);
        !change.raised.is_empty()
    };
    assert!(raises(PortSet::ALL, PortSet::NONE, &mut now));
    assert!(!raises(PortSet::NONE, PortSet::ALL, &mut now));
    assert!(!raises(PortSet::ALL, PortSet::ALL, &mut now));
}
