//! ClusterNetworkPolicy: subjects, peers and ports.

use serde_json::{Value, json};

use super::cluster::{cluster, cnp};
use crate::model::{Kind, ObjectKey};
use crate::{
    index::{Index, Scope},
    testing::{comes_in, goes_out, namespace, object, pod},
};

const PODS: [(&str, u8); 4] = [
    ("b/server", 1),
    ("b/client", 2),
    ("c/client", 3),
    ("c/other", 4),
];

/// Returns the last octets of the addresses of pods that a policy for this subject closes.
fn closed(subject: Value) -> Vec<u8> {
    let deny = json!({"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]});
    let index = cluster([cnp(
        "a/Admin/5",
        json!({"subject": subject, "egress": [deny]}),
    )]);
    let mut closed = PODS.to_vec();
    closed.retain(|(pod, _)| !goes_out(&index, pod, "192.0.2.1", "TCP/1"));
    closed.into_iter().map(|(_, i)| i).collect()
}

/// Returns the cluster where `b/server` may not send to a peer.
fn denied_to(peer: Value) -> Index {
    let deny = json!({"action": "Deny", "to": [peer]});
    cluster([cnp("a/Admin/5", json!({"egress": [deny]}))])
}

fn is_denied(index: &Index, ip: &str) -> bool {
    !goes_out(index, "b/server", ip, "TCP/1")
}

/// Returns the last octets of the addresses of other pods that match such a peer, in both
/// directions.
fn peers(peer: Value) -> Vec<u8> {
    let deny = json!({"action": "Deny", "from": [peer]});
    let inward = cluster([cnp("a/Admin/5", json!({"ingress": [deny]}))]);
    let outward = denied_to(peer);
    let is_peer = |i: &u8| {
        let ip = format!("10.0.0.{i}");
        let denied = is_denied(&outward, &ip);
        assert_eq!(!comes_in(&inward, "b/server", &ip, "TCP/1"), denied, "{ip}");
        denied
    };
    (2..=4).filter(is_peer).collect()
}

fn node(name: &str, ip: &str, labels: Value) -> Value {
    json!({
        "kind": "Node", "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": "10.9.0.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}, {"type": "ExternalIP", "address": "2001:db8::7"}, {"type": "Hostname", "address": name}]},
    })
}

/// Returns which of these ports the server may send to, if it may on these protocols only.
fn on(protocols: Value, ports: &[&str]) -> Vec<bool> {
    let accept = json!({"action": "Accept", "to": [{"namespaces": {}}], "protocols": protocols});
    let deny = json!({"action": "Deny", "to": [{"namespaces": {}}]});
    let index = cluster([cnp("a/Admin/5", json!({"egress": [accept, deny]}))]);
    let may = |port: &&str| goes_out(&index, "b/client", "10.0.0.1", port);
    ports.iter().map(may).collect()
}

#[test]
fn a_subject_is_all_pods_of_some_namespaces() {
    assert_eq!(closed(json!({"namespaces": {}})), [1, 2, 3, 4]);
    let team = json!({"namespaces": {"matchLabels": {"team": "x"}}});
    assert_eq!(closed(team), [3, 4]);
    let named = json!({"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "b"}}});
    assert_eq!(closed(named), [1, 2]);
}

#[test]
fn a_subject_is_some_pods_of_some_namespaces_all_of_them_if_no_selector_is_given() {
    let clients = json!({"matchLabels": {"app": "client"}});
    let team = json!({"matchLabels": {"team": "x"}});
    assert_eq!(closed(json!({"pods": {"podSelector": clients}})), [2, 3]);
    assert_eq!(
        closed(json!({"pods": {"namespaceSelector": {}, "podSelector": clients}})),
        [2, 3]
    );
    let both = json!({"pods": {"namespaceSelector": team, "podSelector": clients}});
    assert_eq!(closed(both), [3]);
    assert_eq!(
        closed(json!({"pods": {"namespaceSelector": team, "podSelector": {}}})),
        [3, 4]
    );
}

#[test]
fn peers_are_pods_by_namespace_or_by_both_selectors() {
    let clients = json!({"matchLabels": {"app": "client"}});
    let team = json!({"matchLabels": {"team": "x"}});
    assert_eq!(peers(json!({"namespaces": {}})), [2, 3, 4]);
    assert_eq!(peers(json!({"namespaces": team})), [3, 4]);
    assert_eq!(peers(json!({"pods": {"podSelector": clients}})), [2, 3]);
    let both = json!({"pods": {"namespaceSelector": team, "podSelector": clients}});
    assert_eq!(peers(both), [3]);
}

#[test]
fn pods_of_every_namespace_are_not_the_outside() {
    let index = denied_to(json!({"namespaces": {}}));
    assert!(!is_denied(&index, "192.0.2.1"));
    assert!(is_denied(&index, "10.0.0.4"));
}

#[test]
fn host_network_pods_are_neither_subjects_nor_peers() {
    let mut host = pod("b/host", "192.168.0.1", json!({"app": "client"}));
    host["spec"]["hostNetwork"] = json!(true);
    let mut index = denied_to(json!({"namespaces": {}}));
    index.apply(object(host));
    assert!(!is_denied(&index, "192.168.0.1"));
    let tables = index.compile(&Scope::Everything);
    assert!(tables.endpoints.keys().all(|key| key.name != "host"));
}

#[test]
fn node_peers_are_the_addresses_in_the_status_of_nodes_by_label() {
    let storage = json!({"matchLabels": {"role": "storage"}});
    let mut index = denied_to(json!({"nodes": storage}));
    index.apply(object(node(
        "n1",
        "192.168.0.1",
        json!({"role": "storage"}),
    )));
    let mut other = node("n2", "192.168.0.2", json!({}));
    other["status"]["addresses"][1]["address"] = json!("2001:db8::8");
    index.apply(object(other.clone()));
    assert!(is_denied(&index, "192.168.0.1") && is_denied(&index, "2001:db8::7"));
    for ip in [
        "192.168.0.2",
        "2001:db8::8",
        "10.9.0.0",
        "10.9.0.1",
        "10.0.0.2",
    ] {
        assert!(!is_denied(&index, ip), "{ip}");
    }
    other["metadata"]["labels"] = json!({"role": "storage"});
    index.apply(object(other));
    assert!(is_denied(&index, "192.168.0.2"));
    index.delete(&ObjectKey::new(Kind::Node, "", "n1"));
    assert!(!is_denied(&index, "192.168.0.1"));
}

#[test]
fn an_empty_node_selector_is_every_node() {
    let mut index = denied_to(json!({"nodes": {}}));
    index.apply(object(node("n1", "192.168.0.1", json!({}))));
    assert!(is_denied(&index, "192.168.0.1"));
    assert!(!is_denied(&index, "192.168.0.9") && !is_denied(&index, "10.0.0.2"));
}

#[test]
fn networks_match_pods_nodes_and_the_outside_each_family_its_own() {
    let mut index = denied_to(json!({"networks": ["0.0.0.0/0"]}));
    index.apply(object(node("n1", "192.168.0.1", json!({}))));
    for ip in ["10.0.0.2", "192.168.0.1", "192.0.2.1"] {
        assert!(is_denied(&index, ip), "{ip}");
    }
    assert!(!is_denied(&index, "2001:db8::1"));
    let index = denied_to(json!({"networks": ["10.0.0.2/31", "::/0"]}));
    for (ip, denied) in [
        ("10.0.0.2", true),
        ("10.0.0.3", true),
        ("10.0.0.4", false),
        ("2001:db8::1", true),
        ("192.0.2.1", false),
    ] {
        assert_eq!(is_denied(&index, ip), denied, "{ip}");
    }
}

#[test]
fn networks_match_icmp_as_well() {
    let index = denied_to(json!({"networks": ["192.0.2.0/24"]}));
    assert!(!goes_out(&index, "b/server", "192.0.2.1", "ICMP"));
    assert!(goes_out(&index, "b/server", "198.51.100.1", "ICMP"));
}

#[test]
fn domain_names_match_nothing_in_this_version() {
    let accept = json!({"action": "Accept", "to": [{"domainNames": ["*.example.com"]}]});
    let deny = json!({"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]});
    let index = cluster([cnp("a/Admin/5", json!({"egress": [accept, deny]}))]);
    assert!(is_denied(&index, "192.0.2.1") && is_denied(&index, "10.0.0.2"));
    assert!(!is_denied(&index, "2001:db8::1"));
}

#[test]
fn a_domain_name_takes_nothing_from_the_peers_beside_it() {
    let accept = json!({"action": "Accept", "to": [{"domainNames": ["a.b"]}, {"networks": ["192.0.2.0/24"]}]});
    let deny = json!({"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]});
    let index = cluster([cnp("a/Admin/5", json!({"egress": [accept, deny]}))]);
    assert!(!is_denied(&index, "192.0.2.1") && is_denied(&index, "198.51.100.1"));
}

#[test]
fn relabelling_counts_for_subjects_and_peers() {
    let team = json!({"namespaces": {"matchLabels": {"team": "x"}}});
    let mut index = denied_to(team);
    assert!(is_denied(&index, "10.0.0.3"));
    index.apply(object(namespace("c", json!({"team": "y"}))));
    assert!(!is_denied(&index, "10.0.0.3"));
}

#[test]
fn ports_are_one_a_range_with_both_ends_or_a_whole_protocol() {
    let range = json!([{"tcp": {"destinationPort": {"range": {"start": 100, "end": 300}}}}]);
    assert_eq!(
        on(
            range,
            &[
                "TCP/99", "TCP/100", "TCP/256", "TCP/300", "TCP/301", "UDP/100", "ICMP"
            ]
        ),
        [false, true, true, true, false, false, false]
    );
    let mixed = json!([{"udp": {}}, {"sctp": {"destinationPort": {"number": 9}}}]);
    assert_eq!(
        on(
            mixed,
            &[
                "UDP/1",
                "UDP/65535",
                "SCTP/9",
                "SCTP/8",
                "TCP/9",
                "ICMP",
                "47"
            ]
        ),
        [true, true, true, false, false, false, false]
    );
}

#[test]
fn a_named_port_of_egress_is_each_destinations_of_every_protocol_that_has_the_name() {
    let named = json!([{"destinationNamedPort": "http"}]);
    assert_eq!(
        on(
            named.clone(),
            &["TCP/8080", "UDP/53", "TCP/80", "TCP/53", "UDP/8080"]
        ),
        [true, true, false, false, false]
    );
    let deny = json!({"action": "Deny", "to": [{"namespaces": {}}], "protocols": named});
    let index = cluster([cnp("a/Admin/5", json!({"egress": [deny]}))]);
    assert!(!goes_out(&index, "b/server", "10.0.0.2", "TCP/80"));
    assert!(goes_out(&index, "b/server", "10.0.0.2", "TCP/8080"));
    // A pod without such a port, and an address that isn't a pod's.
    assert!(goes_out(&index, "b/server", "10.0.0.3", "TCP/80"));
    assert!(goes_out(&index, "b/server", "192.0.2.1", "TCP/80"));
}

#[test]
fn a_named_port_of_ingress_is_each_subjects_own() {
    let deny = json!({"action": "Deny", "from": [{"namespaces": {}}], "protocols": [{"destinationNamedPort": "http"}]});
    let index = cluster([cnp("a/Admin/5", json!({"ingress": [deny]}))]);
    for (pod, port, allowed) in [
        ("b/server", "TCP/8080", false),
        ("b/server", "UDP/53", false),
        ("b/server", "TCP/80", true),
        ("b/client", "TCP/80", false),
        ("b/client", "TCP/8080", true),
        ("c/other", "TCP/80", true),
    ] {
        assert_eq!(
            comes_in(&index, pod, "10.0.0.3", port),
            allowed,
            "{pod} {port}"
        );
    }
}

#[test]
fn a_denied_port_inside_an_accepted_range_leaves_the_rest_of_it() {
    let port = json!([{"tcp": {"destinationPort": {"number": 200}}}]);
    let range = json!([{"tcp": {"destinationPort": {"range": {"start": 100, "end": 300}}}}]);
    let everybody = json!([{"namespaces": {}}]);
    let rules = json!([
        {"action": "Deny", "to": everybody, "protocols": port},
        {"action": "Accept", "to": everybody, "protocols": range},
        {"action": "Deny", "to": everybody},
    ]);
    let index = cluster([cnp("a/Admin/5", json!({"egress": rules}))]);
    for (port, allowed) in [
        ("TCP/99", false),
        ("TCP/199", true),
        ("TCP/200", false),
        ("TCP/201", true),
        ("UDP/150", false),
        ("ICMP", false),
    ] {
        assert_eq!(
            goes_out(&index, "b/client", "10.0.0.1", port),
            allowed,
            "{port}"
        );
    }
}
