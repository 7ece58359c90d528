//! The corner cases of NetworkPolicy v1 that implementations get wrong, one or more tests each.
//! They are numbered as in `tests/tests/corners.rs`, which tests them with packets.
//!
//! 1, 2 and 17 are decided in the kernel; the tests here cover the tables' part. Corners from 9 on
//! are in [`super::corners_pods`].

use std::net::IpAddr;

use ringfence_ebpf::abi::{Addr, Identity};
use serde_json::{Value, json};

use crate::{
    index::{Index, PodKey, Scope},
    model::Object,
    tables::{EndpointPolicy, Tables},
    testing::{comes_in, goes_out, index, namespace, netpol, object, pod, pod_with},
};

/// Creates `b/server` 10.0.0.1, `b/client` .2, `c/client` .3 and `c/other` .4. The first two
/// declare a port `http` each, with different numbers.
pub(super) fn cluster(policies: impl IntoIterator<Item = Value>) -> Index {
    let http = |n: u16| json!([{"name": "http", "containerPort": n}]);
    let objects = [
        namespace("c", json!({"team": "x"})),
        pod_with("b/server", "10.0.0.1", json!({"app": "server"}), http(8080)),
        pod_with("b/client", "10.0.0.2", json!({"app": "client"}), http(80)),
        pod("c/client", "10.0.0.3", json!({"app": "client"})),
        pod("c/other", "10.0.0.4", json!({"app": "other"})),
    ];
    index(objects.into_iter().chain(policies))
}

/// Returns the cluster with one policy of namespace `b`.
pub(super) fn under(spec: Value) -> Index {
    cluster([netpol("b/policy", spec)])
}

/// Returns the cluster where peers may reach the server.
pub(super) fn from(peers: Value) -> Index {
    let server = json!({"matchLabels": {"app": "server"}});
    under(json!({"podSelector": server, "ingress": [{"from": peers}]}))
}

/// Returns the last octets of the addresses of the other pods that reach the server.
pub(super) fn admitted(index: &Index) -> Vec<u8> {
    let may = |i: &u8| comes_in(index, "b/server", &format!("10.0.0.{i}"), "TCP/1");
    (2..=4).filter(may).collect()
}

pub(super) fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect(text).into()
}

pub(super) fn endpoint<'t>(
    tables: &'t Tables,
    name: &str,
) -> Option<(&'t PodKey, &'t EndpointPolicy)> {
    let mut endpoints = tables.endpoints.iter();
    endpoints.find(|(key, _)| key.to_string() == name)
}

#[test]
fn corner_01_the_pods_own_node_is_known_by_all_its_addresses_and_no_other_node_is() {
    let node = |name: &str, ip: &str, cidr: &str| {
        json!({
            "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": cidr},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}]},
        })
    };
    let mut index = under(json!({"policyTypes": ["Ingress", "Egress"]}));
    index.apply(object(node("n1", "192.168.0.1", "10.1.0.0/24")));
    index.apply(object(node("n2", "192.168.0.2", "10.2.0.0/24")));
    let tables = index.compile(&Scope::Node("n1".into()));
    let flags = |ip: &str| tables.identities[&addr(ip)].1;
    for ip in ["192.168.0.1", "10.1.0.0", "10.1.0.1"] {
        assert_eq!(
            flags(ip),
            Identity::IS_NODE | Identity::IS_THIS_NODE,
            "{ip}"
        );
    }
    for ip in ["192.168.0.2", "10.2.0.0", "10.2.0.1"] {
        assert_eq!(flags(ip), Identity::IS_NODE, "{ip}");
    }
    assert_eq!(flags("10.0.0.1"), 0);
}

#[test]
fn corner_02_a_closed_pod_is_known_by_every_address_that_it_may_call_itself_by() {
    let mut index = under(json!({"policyTypes": ["Ingress", "Egress"]}));
    let mut server = pod("b/server", "10.0.0.1", json!({"app": "server"}));
    server["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    index.apply(object(server));
    let tables = index.compile(&Scope::Everything);
    let (_, server) = endpoint(&tables, "b/server").expect("an endpoint");
    let own: Vec<String> = server.addresses.iter().map(IpAddr::to_string).collect();
    assert_eq!(own, ["10.0.0.1", "fd00::1"]);
    assert!(server.ingress != 0 && server.egress != 0);
    assert_eq!(tables.identities[&addr("fd00::1")], ("b/server".into(), 0));
}

#[test]
fn corner_03_egress_rules_mean_the_pods_port_not_the_services() {
    let service = json!({
        "kind": "Service", "metadata": {"namespace": "b", "name": "server"},
        "spec": {"selector": {"app": "server"}, "clusterIP": "10.96.0.7", "ports": [{"port": 90, "targetPort": 8080}]},
    });
    let to = |port: Value| {
        let egress = json!([{"to": [{"podSelector": {}}], "ports": [{"port": port}]}]);
        let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress});
        cluster([netpol("b/policy", spec), service.clone()])
    };
    for port in [json!(8080), json!("http")] {
        assert!(goes_out(&to(port), "b/client", "10.0.0.1", "TCP/8080"));
    }
    assert!(!goes_out(
        &to(json!(90)),
        "b/client",
        "10.0.0.1",
        "TCP/8080"
    ));
    assert!(!goes_out(
        &to(json!(8080)),
        "b/client",
        "10.0.0.1",
        "TCP/90"
    ));
}

#[test]
fn corner_04_an_ip_block_matches_pod_addresses_in_both_directions() {
    assert_eq!(
        admitted(&from(json!([{"ipBlock": {"cidr": "10.0.0.2/31"}}]))),
        [2, 3]
    );
    let to = json!([{"ipBlock": {"cidr": "10.0.0.4/32"}}]);
    let index =
        under(json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to}]}));
    assert!(goes_out(&index, "b/client", "10.0.0.4", "TCP/1"));
    assert!(!goes_out(&index, "b/client", "10.0.0.3", "TCP/1"));
}

#[test]
fn corner_05_an_exception_narrows_its_own_block_and_nothing_else() {
    let narrowed = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.2/31"]}});
    assert_eq!(admitted(&from(json!([narrowed]))), [4]);
    let peer = json!({"ipBlock": {"cidr": "10.0.0.3/32"}});
    assert_eq!(admitted(&from(json!([narrowed, peer]))), [3, 4]);
    let two_rules = json!({"podSelector": {}, "ingress": [{"from": [narrowed]}, {"from": [{"podSelector": {}}]}]});
    assert_eq!(admitted(&under(two_rules)), [2, 4]);
    let policy = |name: &str, peer: &Value| netpol(name, json!({"ingress": [{"from": [peer]}]}));
    let two_policies = cluster([policy("b/one", &narrowed), policy("b/two", &peer)]);
    assert_eq!(admitted(&two_policies), [3, 4]);
}

#[test]
fn corner_06_named_ports_resolve_per_destination_pod_also_for_an_empty_to() {
    for to in [
        json!([]),
        json!([{"podSelector": {}}]),
        json!([{"ipBlock": {"cidr": "10.0.0.0/8"}}]),
    ] {
        let egress = json!([{"to": to, "ports": [{"port": "http"}]}]);
        let index = under(json!({"policyTypes": ["Egress"], "egress": egress}));
        for (pod, ip, port, allowed) in [
            ("b/client", "10.0.0.1", "TCP/8080", true),
            ("b/client", "10.0.0.1", "TCP/80", false),
            ("b/server", "10.0.0.2", "TCP/80", true),
            ("b/server", "10.0.0.2", "TCP/8080", false),
            ("b/server", "10.0.0.3", "TCP/80", false),
            ("b/server", "192.0.2.1", "TCP/80", false),
        ] {
            assert_eq!(
                goes_out(&index, pod, ip, port),
                allowed,
                "{ip} {port} {egress}"
            );
        }
    }
}

#[test]
fn corner_06_named_ports_of_ingress_are_each_subjects_own() {
    let index = under(json!({"ingress": [{"ports": [{"port": "http"}]}]}));
    assert!(comes_in(&index, "b/server", "10.0.0.4", "TCP/8080"));
    assert!(!comes_in(&index, "b/server", "10.0.0.4", "TCP/80"));
    assert!(comes_in(&index, "b/client", "10.0.0.4", "TCP/80"));
    assert!(!comes_in(&index, "b/client", "10.0.0.4", "TCP/8080"));
}

#[test]
fn corner_06_name_and_protocol_must_both_match() {
    let ports = json!([{"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"name": "dns", "containerPort": 54}]);
    let mut index = under(
        json!({"ingress": [{"ports": [{"port": "dns"}, {"port": "web", "protocol": "UDP"}]}]}),
    );
    index.apply(object(pod_with("b/server", "10.0.0.1", json!({}), ports)));
    let may = |port: &str| comes_in(&index, "b/server", "10.0.0.4", port);
    assert!(may("TCP/54"));
    assert!(!may("UDP/53") && !may("TCP/53") && !may("UDP/54"));
}

#[test]
fn corner_07_end_port_is_inclusive_and_needs_a_numeric_port() {
    let index = under(json!({"ingress": [{"ports": [{"port": 100, "endPort": 300}]}]}));
    for (port, allowed) in [(99, false), (100, true), (300, true), (301, false)] {
        let port = format!("TCP/{port}");
        assert_eq!(
            comes_in(&index, "b/server", "10.0.0.4", &port),
            allowed,
            "{port}"
        );
    }
    for port in [
        json!({"port": "http", "endPort": 300}),
        json!({"endPort": 300}),
    ] {
        let spec = json!({"ingress": [{"ports": [port]}]});
        let error = Object::from_value(netpol("b/n", spec)).expect_err("no number");
        assert_eq!(error.field, "spec.ingress[0].ports[0].endPort");
    }
}

#[test]
fn corner_07_no_protocol_is_tcp_and_no_port_is_every_port_of_that_protocol() {
    let index = under(json!({"ingress": [{"ports": [{"port": 7}, {"protocol": "UDP"}]}]}));
    let may = |port: &str| comes_in(&index, "b/server", "10.0.0.4", port);
    assert!(may("TCP/7") && may("UDP/1") && may("UDP/65535"));
    assert!(!may("TCP/8") && !may("SCTP/7"));
    let index = under(json!({"ingress": [{"ports": [{}]}]}));
    let may = |port: &str| comes_in(&index, "b/server", "10.0.0.4", port);
    assert!(may("TCP/1") && may("TCP/65535") && !may("UDP/1"));
}

#[test]
fn corner_08_sctp_is_not_tcp() {
    let one = |protocol: &str| json!({"ingress": [{"ports": [{"protocol": protocol, "port": 7}]}]});
    for (protocol, other) in [("SCTP", "TCP"), ("TCP", "SCTP"), ("UDP", "TCP")] {
        let index = under(one(protocol));
        let may = |p: &str| comes_in(&index, "b/server", "10.0.0.4", &format!("{p}/7"));
        assert!(may(protocol) && !may(other), "{protocol}");
    }
}

#[test]
fn corner_08_a_rule_without_ports_allows_every_protocol_and_one_with_ports_not_icmp() {
    let everything = ["TCP/1", "UDP/1", "SCTP/1", "ICMP", "47"];
    let index = from(json!([{"podSelector": {}}]));
    for port in everything {
        assert!(comes_in(&index, "b/server", "10.0.0.2", port), "{port}");
        assert!(!comes_in(&index, "b/server", "10.0.0.4", port), "{port}");
    }
    let ports = json!([{"protocol": "TCP"}, {"protocol": "UDP"}, {"protocol": "SCTP"}]);
    let index = under(json!({"ingress": [{"ports": ports}]}));
    for port in everything {
        let may = comes_in(&index, "b/server", "10.0.0.4", port);
        assert_eq!(may, port.contains('/'), "{port}");
    }
}
