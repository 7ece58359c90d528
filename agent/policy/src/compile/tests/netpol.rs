//! NetworkPolicy v1 and the corner cases that implementations get wrong.

use serde_json::{Value, json};

use crate::{
    index::{Index, Scope},
    testing::{comes_in, goes_out, index, namespace, netpol, object, pod, pod_with},
};

/// Creates `b/server` 10.0.0.1 under a policy, `b/client` .2, `c/client` .3, `c/other` .4.
fn cluster(spec: Value) -> Index {
    index([
        namespace("c", json!({"team": "x"})),
        pod_with(
            "b/server",
            "10.0.0.1",
            json!({"app": "server"}),
            json!([{"name": "http", "containerPort": 8080}, {"name": "http", "containerPort": 53, "protocol": "UDP"}]),
        ),
        pod_with(
            "b/client",
            "10.0.0.2",
            json!({"app": "client"}),
            json!([{"name": "http", "containerPort": 80}]),
        ),
        pod("c/client", "10.0.0.3", json!({"app": "client"})),
        pod("c/other", "10.0.0.4", json!({"app": "other"})),
        netpol("b/policy", spec),
    ])
}

fn server(from: Value) -> Index {
    cluster(json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"from": from}]}))
}

/// Returns which of the other pods may send TCP to the server, by the last octet of their
/// addresses.
fn admitted(index: &Index) -> Vec<u8> {
    let may = |i: &u8| comes_in(index, "b/server", &format!("10.0.0.{i}"), "TCP/1");
    (2..=4).filter(may).collect()
}

#[test]
fn an_ip_block_matches_pod_addresses_too() {
    assert_eq!(
        admitted(&server(json!([{"ipBlock": {"cidr": "10.0.0.2/31"}}]))),
        [2, 3]
    );
}

#[test]
fn an_exception_narrows_only_its_own_block() {
    let narrowed =
        json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.2/31", "10.0.0.3/32"]}});
    assert_eq!(admitted(&server(json!([narrowed]))), [4]);
    let also = json!({"podSelector": {"matchLabels": {"app": "client"}}});
    assert_eq!(admitted(&server(json!([narrowed, also]))), [2, 4]);
    let inner = json!({"ipBlock": {"cidr": "10.0.0.3/32"}});
    assert_eq!(admitted(&server(json!([narrowed, inner]))), [3, 4]);
}

#[test]
fn named_ports_of_ingress_are_the_subjects_and_protocol_must_match() {
    let spec = json!({"podSelector": {}, "ingress": [{"ports": [{"port": "http"}]}]});
    let index = cluster(spec);
    assert!(comes_in(&index, "b/server", "10.0.0.4", "TCP/8080"));
    assert!(!comes_in(&index, "b/server", "10.0.0.4", "TCP/80"));
    assert!(!comes_in(&index, "b/server", "10.0.0.4", "UDP/53"));
    assert!(comes_in(&index, "b/client", "10.0.0.4", "TCP/80"));
}

#[test]
fn named_ports_of_egress_are_each_destinations_also_without_peers() {
    for to in [json!([]), json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}])] {
        let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to, "ports": [{"port": "http"}]}]});
        let index = cluster(spec);
        assert!(goes_out(&index, "b/client", "10.0.0.1", "TCP/8080"));
        assert!(!goes_out(&index, "b/client", "10.0.0.1", "TCP/80"));
        assert!(goes_out(&index, "b/server", "10.0.0.2", "TCP/80"));
        assert!(!goes_out(&index, "b/server", "10.0.0.3", "TCP/80"));
        assert!(!goes_out(&index, "b/server", "192.0.2.1", "TCP/80"));
    }
}

#[test]
fn an_end_port_is_inclusive() {
    let index = cluster(
        json!({"podSelector": {}, "ingress": [{"ports": [{"port": 100, "endPort": 300}]}]}),
    );
    for (port, may) in [
        (99, false),
        (100, true),
        (256, true),
        (300, true),
        (301, false),
    ] {
        assert_eq!(
            comes_in(&index, "b/server", "10.0.0.4", &format!("TCP/{port}")),
            may,
            "{port}"
        );
    }
}

#[test]
fn no_protocol_means_tcp_and_no_port_all_ports_of_that_protocol() {
    let index = cluster(
        json!({"podSelector": {}, "ingress": [{"ports": [{"protocol": "UDP"}, {"port": 7}]}]}),
    );
    let may = |port| comes_in(&index, "b/server", "10.0.0.4", port);
    assert!(may("UDP/1") && may("UDP/65535") && may("TCP/7"));
    assert!(!may("TCP/8") && !may("SCTP/7") && !may("ICMP"));
}

#[test]
fn a_rule_without_ports_allows_every_protocol() {
    let index = server(json!([]));
    for port in ["TCP/1", "UDP/1", "SCTP/1", "ICMP", "47"] {
        assert!(comes_in(&index, "b/server", "192.0.2.1", port), "{port}");
    }
}

#[test]
fn a_rule_with_ports_does_not_allow_icmp() {
    let ports = json!([{"protocol": "TCP"}, {"protocol": "UDP"}, {"protocol": "SCTP"}]);
    let index = cluster(json!({"podSelector": {}, "ingress": [{"ports": ports}]}));
    assert!(comes_in(&index, "b/server", "10.0.0.4", "SCTP/9"));
    assert!(!comes_in(&index, "b/server", "10.0.0.4", "ICMP"));
    assert!(!comes_in(&index, "b/server", "10.0.0.4", "47"));
}

#[test]
fn a_finished_pod_has_lost_its_address_and_a_terminating_one_has_not() {
    let mut index = server(json!([{"podSelector": {}}]));
    let mut client = pod("b/client", "10.0.0.2", json!({}));
    client["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
    index.apply(object(client.clone()));
    assert_eq!(admitted(&index), [2]);
    client["status"]["phase"] = json!("Failed");
    index.apply(object(client));
    assert_eq!(admitted(&index), [0; 0]);
    let tables = index.compile(&Scope::Everything);
    assert!(
        !tables
            .endpoints
            .keys()
            .any(|k| k.name == "client" && k.namespace == "b")
    );
}

#[test]
fn of_two_pods_with_one_address_the_running_one_has_it() {
    let mut index = server(json!([{"podSelector": {}}]));
    let mut late = pod("c/late", "10.0.0.2", json!({}));
    late["status"]["phase"] = json!("Pending");
    index.apply(object(late.clone()));
    assert_eq!(admitted(&index), [2]);
    let mut client = pod("b/client", "10.0.0.2", json!({}));
    client["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
    late["status"]["phase"] = json!("Running");
    index.apply(object(client));
    index.apply(object(late));
    assert_eq!(admitted(&index), [0; 0]);
    let tables = index.compile(&Scope::Everything);
    let lost = tables
        .endpoints
        .iter()
        .find(|(k, _)| k.to_string() == "b/client");
    assert!(lost.expect("still an endpoint").1.addresses.is_empty());
}

#[test]
fn a_host_network_pod_is_neither_subject_nor_peer() {
    let mut index = server(json!([{"namespaceSelector": {}}]));
    let mut host = pod("b/host", "10.9.9.9", json!({"app": "server"}));
    host["spec"]["hostNetwork"] = json!(true);
    index.apply(object(host));
    assert!(!comes_in(&index, "b/server", "10.9.9.9", "TCP/1"));
    let tables = index.compile(&Scope::Everything);
    assert!(!tables.endpoints.keys().any(|k| k.name == "host"));
    let ip: std::net::IpAddr = "10.9.9.9".parse().expect("address");
    assert_eq!(&*tables.identities[&ip.into()].0, "node");
}

#[test]
fn selectors_of_one_peer_must_both_match_and_peers_are_alternatives() {
    let team = json!({"matchLabels": {"team": "x"}});
    let client = json!({"matchLabels": {"app": "client"}});
    let both = json!([{"namespaceSelector": team, "podSelector": client}]);
    assert_eq!(admitted(&server(both)), [3]);
    let either = json!([{"namespaceSelector": team}, {"podSelector": client}]);
    assert_eq!(admitted(&server(either)), [2, 3, 4]);
    assert_eq!(admitted(&server(json!([{"podSelector": client}]))), [2]);
}

#[test]
fn an_empty_selector_selects_all_pods_of_the_namespace_and_all_namespaces() {
    assert_eq!(admitted(&server(json!([{"podSelector": {}}]))), [2]);
    assert_eq!(
        admitted(&server(json!([{"namespaceSelector": {}}]))),
        [2, 3, 4]
    );
    let all = cluster(json!({"podSelector": {}}));
    assert!(!comes_in(&all, "b/client", "10.0.0.1", "TCP/1"));
    assert!(comes_in(&all, "c/client", "10.0.0.1", "TCP/1"));
}

#[test]
fn missing_and_empty_rules_deny_all_and_an_empty_rule_allows_all() {
    for spec in [
        json!({"podSelector": {}}),
        json!({"podSelector": {}, "ingress": []}),
        json!({"ingress": null}),
    ] {
        assert!(!comes_in(&cluster(spec), "b/server", "10.0.0.2", "TCP/1"));
    }
    for rule in [
        json!({}),
        json!({"from": [], "ports": []}),
        json!({"from": null}),
    ] {
        let index = cluster(json!({"podSelector": {}, "ingress": [rule]}));
        assert!(comes_in(&index, "b/server", "192.0.2.1", "ICMP"));
    }
}

#[test]
fn without_policy_types_egress_is_isolated_only_by_egress_rules() {
    let index = cluster(json!({"podSelector": {}}));
    assert!(goes_out(&index, "b/server", "10.0.0.2", "TCP/1"));
    assert!(!comes_in(&index, "b/server", "10.0.0.2", "TCP/1"));
    let index = cluster(json!({"podSelector": {}, "egress": [{"to": [{"podSelector": {}}]}]}));
    assert!(goes_out(&index, "b/server", "10.0.0.2", "TCP/1"));
    assert!(!goes_out(&index, "b/server", "10.0.0.3", "TCP/1"));
    assert!(!comes_in(&index, "b/server", "10.0.0.2", "TCP/1"));
    let index = cluster(json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    assert!(!goes_out(&index, "b/server", "10.0.0.2", "TCP/1"));
    assert!(comes_in(&index, "b/server", "10.0.0.2", "TCP/1"));
}

#[test]
fn not_in_and_does_not_exist_match_where_the_key_is_absent() {
    let peer =
        |op: Value| json!([{"namespaceSelector": {}, "podSelector": {"matchExpressions": [op]}}]);
    let tier = |operator: &str| json!({"key": "tier", "operator": operator});
    assert_eq!(admitted(&server(peer(tier("DoesNotExist")))), [2, 3, 4]);
    assert_eq!(admitted(&server(peer(tier("Exists")))), [0; 0]);
    let not_in = json!({"key": "tier", "operator": "NotIn", "values": ["a"]});
    assert_eq!(admitted(&server(peer(not_in))), [2, 3, 4]);
    let not_client = json!({"key": "app", "operator": "NotIn", "values": ["client"]});
    assert_eq!(admitted(&server(peer(not_client))), [4]);
    let r#in = json!({"key": "app", "operator": "In", "values": ["other", "none"]});
    assert_eq!(admitted(&server(peer(r#in))), [4]);
}

#[test]
fn relabelling_counts_for_subjects_peers_and_namespaces() {
    let team = json!([{"namespaceSelector": {"matchLabels": {"team": "x"}}}]);
    let mut index = server(team);
    assert_eq!(admitted(&index), [3, 4]);
    index.apply(object(namespace("c", json!({}))));
    assert_eq!(admitted(&index), [0; 0]);
    index.apply(object(pod("b/server", "10.0.0.1", json!({}))));
    assert_eq!(admitted(&index), [2, 3, 4]);
}

#[test]
fn every_namespace_carries_its_name_even_if_unknown() {
    let named = |name: &str| json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}]);
    assert_eq!(admitted(&server(named("b"))), [2]);
    assert_eq!(admitted(&server(named("c"))), [3, 4]);
}

#[test]
fn what_one_policy_of_several_allows_is_allowed() {
    let mut index = server(json!([{"podSelector": {}}]));
    let spec =
        json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.4/32"}}]}]});
    index.apply(object(netpol("b/more", spec)));
    assert_eq!(admitted(&index), [2, 4]);
}

#[test]
fn the_audit_annotation_stages_one_policy_alone() {
    use ringfence_ebpf::{abi::Direction, verdict::Policy};
    let mut index = server(json!([{"podSelector": {}}]));
    let mut staged = netpol(
        "b/staged",
        json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.3/32"}}]}]}),
    );
    staged["metadata"]["annotations"] = json!({"ringfence.dev/mode": "audit"});
    index.apply(object(staged.clone()));
    let ask = |index: &Index, pod: &str, peer: &str| {
        let tables = index.compile(&Scope::Everything);
        crate::testing::ask(&tables, pod, Direction::Ingress, peer, "TCP/1")
    };
    // The enforced policy decides for the server; the staged one only adds to it.
    assert_eq!(ask(&index, "b/server", "10.0.0.2"), Policy::Allow);
    assert_eq!(ask(&index, "b/server", "10.0.0.3"), Policy::Deny);
    // Only the staged policy applies to the client.
    assert_eq!(ask(&index, "b/client", "10.0.0.3"), Policy::Allow);
    assert_eq!(ask(&index, "b/client", "10.0.0.4"), Policy::Audit);
    staged["metadata"]["annotations"] = json!({"ringfence.dev/mode": "Audit"});
    index.apply(object(staged));
    assert_eq!(ask(&index, "b/client", "10.0.0.4"), Policy::Deny);
    assert_eq!(index.problems().len(), 1);
}
