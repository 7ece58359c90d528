//! The oracle is judged too: by cases whose verdicts a person wrote down.

// A test may fail by panicking.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{End, Oracle, Probe, Verdict, verdict};

pub(super) const TCP: u8 = 6;

pub(super) fn pod(namespace: &str, name: &str, ip: &str, labels: Value) -> Value {
    json!({
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "uid": name, "labels": labels},
        "spec": {"nodeName": "here", "containers": [
            {"ports": [{"name": "http", "containerPort": 8080}]},
        ]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

pub(super) fn policy(namespace: &str, spec: Value) -> Value {
    json!({"kind": "NetworkPolicy", "metadata": {"namespace": namespace, "name": "p"}, "spec": spec})
}

pub(super) fn node(name: &str, ip: &str, cidr: &str) -> Value {
    json!({
        "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
    })
}

/// `a` and `b` of one namespace, `c` of another.
pub(super) fn three(labels: [Value; 3]) -> Vec<Value> {
    let [a, b, c] = labels;
    vec![
        pod("bank", "a", "10.0.0.2", a),
        pod("bank", "b", "10.0.0.3", b),
        pod("edge", "c", "10.0.1.4", c),
        node("here", "192.0.2.1", "10.0.0.0/24"),
        node("there", "192.0.2.2", "10.0.1.0/24"),
    ]
}

pub(super) fn end(objects: &[Value], text: &str) -> End {
    let found = objects
        .iter()
        .find(|o| o["kind"] == "Pod" && o["metadata"]["name"] == text);
    let address: IpAddr = match found {
        Some(pod) => pod["status"]["podIP"].as_str().unwrap().parse().unwrap(),
        None => text.parse().unwrap(),
    };
    let named = |pod: &Value| {
        let space = pod["metadata"]["namespace"].as_str().unwrap();
        (space.to_owned(), text.to_owned())
    };
    End {
        address,
        pod: found.map(named),
    }
}

pub(super) fn probe(objects: &[Value], from: &str, to: &str, protocol: u8, port: u16) -> Probe {
    Probe {
        from: end(objects, from),
        to: end(objects, to),
        protocol,
        port,
    }
}

pub(super) fn ingress(objects: &[Value], from: &str, to: &str, protocol: u8, port: u16) -> Verdict {
    verdict(objects, "here", &probe(objects, from, to, protocol, port)).ingress
}

pub(super) fn egress(objects: &[Value], from: &str, to: &str, protocol: u8, port: u16) -> Verdict {
    verdict(objects, "here", &probe(objects, from, to, protocol, port)).egress
}

pub(super) fn plain() -> Vec<Value> {
    three([
        json!({"app": "a"}),
        json!({"app": "b"}),
        json!({"app": "c"}),
    ])
}

#[test]
fn without_policies_everything_is_allowed() {
    assert_eq!(ingress(&plain(), "c", "a", TCP, 80), Verdict::Allow);
    assert_eq!(
        egress(&plain(), "a", "198.51.100.1", TCP, 80),
        Verdict::Allow
    );
}

#[test]
fn an_end_that_is_no_pod_of_the_node_is_not_managed() {
    let objects = plain();
    let elsewhere = verdict(&objects, "there", &probe(&objects, "a", "b", TCP, 80));
    assert_eq!(elsewhere.ingress, Verdict::NotManaged);
    let everywhere = Oracle::of_cluster(&objects).verdict(&probe(&objects, "a", "b", TCP, 80));
    assert_eq!(everywhere.ingress, Verdict::Allow);
    assert_eq!(
        ingress(&objects, "a", "198.51.100.1", TCP, 80),
        Verdict::NotManaged
    );
}

#[test]
fn a_policy_without_rules_denies_its_direction_only() {
    let mut objects = plain();
    objects.push(policy("bank", json!({"podSelector": {}})));
    assert_eq!(ingress(&objects, "b", "a", TCP, 80), Verdict::Deny);
    assert_eq!(egress(&objects, "a", "b", TCP, 80), Verdict::Allow);
    assert_eq!(ingress(&objects, "a", "c", TCP, 80), Verdict::Allow);
}

#[test]
fn an_exception_narrows_its_own_block_and_blocks_match_pods() {
    let mut objects = plain();
    let block = json!({"cidr": "10.0.0.0/8", "except": ["10.0.1.0/24"]});
    let mut rules = json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": block}]}]});
    objects.push(policy("bank", rules.clone()));
    assert_eq!(ingress(&objects, "b", "a", TCP, 80), Verdict::Allow);
    assert_eq!(ingress(&objects, "c", "a", TCP, 80), Verdict::Deny);
    rules["ingress"][0]["from"][0] = json!({"namespaceSelector": {}});
    objects.push(policy("bank", rules));
    assert_eq!(ingress(&objects, "c", "a", TCP, 80), Verdict::Allow);
    assert_eq!(ingress(&objects, "192.0.2.2", "a", TCP, 80), Verdict::Deny);
}

#[test]
fn port_names_mean_the_called_pods_ports() {
    let mut objects = plain();
    objects[1]["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090);
    let rules = json!([{"ports": [{"port": "http"}]}]);
    let spec = json!({"podSelector": {}, "ingress": rules, "egress": rules});
    objects.push(policy("bank", spec));
    assert_eq!(ingress(&objects, "c", "a", TCP, 8080), Verdict::Allow);
    assert_eq!(ingress(&objects, "c", "b", TCP, 8080), Verdict::Deny);
    assert_eq!(egress(&objects, "a", "b", TCP, 9090), Verdict::Allow);
    assert_eq!(egress(&objects, "a", "c", TCP, 8080), Verdict::Allow);
    assert_eq!(egress(&objects, "a", "c", 17, 8080), Verdict::Deny);
    assert_eq!(
        egress(&objects, "a", "198.51.100.1", TCP, 8080),
        Verdict::Deny
    );
}

#[test]
fn a_port_name_that_a_pod_declares_twice_means_the_first() {
    let mut objects = plain();
    let again = json!({"ports": [{"name": "http", "containerPort": 9090}]});
    if let Some(containers) = objects[0]["spec"]["containers"].as_array_mut() {
        containers.push(again);
    }
    let rules = json!([{"ports": [{"port": "http"}]}]);
    objects.push(policy("bank", json!({"podSelector": {}, "ingress": rules})));
    assert_eq!(ingress(&objects, "c", "a", TCP, 8080), Verdict::Allow);
    assert_eq!(ingress(&objects, "c", "a", TCP, 9090), Verdict::Deny);
}

#[test]
fn ports_are_of_one_protocol_ranges_are_inclusive_and_icmp_needs_no_ports() {
    let mut objects = plain();
    let ports = json!([{"port": 80, "endPort": 90}, {"protocol": "SCTP"}]);
    objects.push(policy(
        "bank",
        json!({"podSelector": {}, "ingress": [{"ports": ports}]}),
    ));
    assert_eq!(ingress(&objects, "b", "a", TCP, 90), Verdict::Allow);
    assert_eq!(ingress(&objects, "b", "a", TCP, 91), Verdict::Deny);
    assert_eq!(ingress(&objects, "b", "a", 17, 90), Verdict::Deny);
    assert_eq!(ingress(&objects, "b", "a", 132, 7), Verdict::Allow);
    assert_eq!(ingress(&objects, "b", "a", 1, 0), Verdict::Deny);
    objects.push(policy("bank", json!({"podSelector": {}, "ingress": [{}]})));
    assert_eq!(ingress(&objects, "b", "a", 1, 0), Verdict::Allow);
    assert_eq!(ingress(&objects, "b", "a", 47, 0), Verdict::Allow);
}

#[test]
fn a_staged_policy_audits_what_it_alone_would_deny() {
    let mut objects = plain();
    let mut staged = policy("bank", json!({"podSelector": {}}));
    staged["metadata"]["annotations"] = json!({"ringfence.dev/mode": "audit"});
    objects.push(staged);
    assert_eq!(ingress(&objects, "b", "a", TCP, 80), Verdict::Audit);
    let rule = json!([{"ports": [{"port": 80}]}]);
    objects.push(policy("bank", json!({"podSelector": {}, "ingress": rule})));
    assert_eq!(ingress(&objects, "b", "a", TCP, 80), Verdict::Allow);
    assert_eq!(ingress(&objects, "b", "a", TCP, 81), Verdict::Deny);
}

#[test]
fn a_closed_callee_admits_callers_whose_labels_list_it() {
    let closed = json!({"app": "a", "ringfence.dev/ingress": "enforce"});
    let caller = json!({"app": "b", "egress.ringfence.dev/a": "true"});
    let far = json!({"app": "c", "bank.egress.ringfence.dev/a": "9090_udp-53"});
    let mut objects = three([closed, caller, far]);
    assert_eq!(ingress(&objects, "b", "a", TCP, 8080), Verdict::Allow);
    assert_eq!(ingress(&objects, "b", "a", TCP, 80), Verdict::Deny);
    assert_eq!(ingress(&objects, "c", "a", TCP, 9090), Verdict::Deny);
    objects[0]["metadata"]["labels"]["callers.ringfence.dev/edge"] = json!("true");
    assert_eq!(ingress(&objects, "c", "a", TCP, 9090), Verdict::Allow);
    assert_eq!(ingress(&objects, "c", "a", 17, 53), Verdict::Allow);
    assert_eq!(ingress(&objects, "c", "a", TCP, 8080), Verdict::Deny);
    assert_eq!(
        ingress(&objects, "198.51.100.1", "a", TCP, 8080),
        Verdict::Deny
    );
}

#[test]
fn outside_and_other_nodes_are_admitted_apart() {
    let labels = |who: &str| {
        let mut labels = json!({"ringfence.dev/ingress": "enforce"});
        labels[format!("callers.ringfence.dev/{who}")] = json!("true");
        three([labels, json!({}), json!({})])
    };
    let outside = labels("outside_cluster");
    assert_eq!(
        ingress(&outside, "198.51.100.1", "a", TCP, 1),
        Verdict::Allow
    );
    assert_eq!(ingress(&outside, "192.0.2.1", "a", TCP, 1), Verdict::Allow);
    assert_eq!(ingress(&outside, "10.0.1.1", "a", TCP, 1), Verdict::Deny);
    assert_eq!(ingress(&outside, "c", "a", TCP, 1), Verdict::Deny);
    let nodes = labels("all_nodes");
    assert_eq!(ingress(&nodes, "10.0.1.1", "a", TCP, 1), Verdict::Allow);
    assert_eq!(ingress(&nodes, "192.0.2.2", "a", TCP, 1), Verdict::Allow);
    assert_eq!(ingress(&nodes, "198.51.100.1", "a", TCP, 1), Verdict::Deny);
}

#[test]
fn a_pod_tightens_its_namespaces_mode_and_loosens_it_only_by_leave() {
    let mut objects = three([
        json!({"ringfence.dev/ingress": "off"}),
        json!({"ringfence.dev/ingress": "enforce"}),
        json!({}),
    ]);
    let labels = json!({"ringfence.dev/ingress": "audit"});
    objects.push(json!({"kind": "Namespace", "metadata": {"name": "bank", "labels": labels}}));
    assert_eq!(ingress(&objects, "c", "a", TCP, 1), Verdict::Audit);
    assert_eq!(ingress(&objects, "c", "b", TCP, 1), Verdict::Deny);
    objects[5]["metadata"]["labels"]["ringfence.dev/pod-overrides"] = json!("allow");
    assert_eq!(ingress(&objects, "c", "a", TCP, 1), Verdict::Allow);
    objects[0]["metadata"]["labels"]["ringfence.dev/ingress"] = json!("Off");
    assert_eq!(ingress(&objects, "c", "a", TCP, 1), Verdict::Audit);
    objects.pop();
    assert_eq!(ingress(&objects, "c", "a", TCP, 1), Verdict::Deny);
}

#[test]
fn a_policy_that_does_not_parse_closes_what_it_guards() {
    let mut objects = plain();
    let spec = json!({"podSelector": {"matchLabels": {"app": "a"}}, "ingres": [{}]});
    objects.push(policy("bank", spec));
    assert_eq!(ingress(&objects, "c", "a", TCP, 1), Verdict::Deny);
    assert_eq!(egress(&objects, "a", "c", TCP, 1), Verdict::Deny);
    assert_eq!(ingress(&objects, "c", "b", TCP, 1), Verdict::Allow);
}
