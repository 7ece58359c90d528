//! The structure of tables: prefixes, exact entries, ids, determinism.

use std::net::IpAddr;

use ringfence_ebpf::abi::Addr;
use serde_json::{Value, json};

use crate::{
    index::Scope,
    tables::Tables,
    testing::{comes_in, index, netpol, pod},
};

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect(text).into()
}

fn from(cidrs: Value) -> Value {
    let peers: Vec<Value> = cidrs
        .as_array()
        .expect("list")
        .iter()
        .map(|c| json!({"ipBlock": c}))
        .collect();
    netpol(
        "b/blocks",
        json!({"podSelector": {}, "ingress": [{"from": peers}]}),
    )
}

#[test]
fn a_short_ipv6_block_does_not_reach_ipv4() {
    for cidr in ["::/0", "::/80"] {
        let index = index([
            pod("b/p", "10.0.0.1", json!({})),
            from(json!([{"cidr": cidr}])),
        ]);
        assert!(!comes_in(&index, "b/p", "192.0.2.1", "TCP/1"), "{cidr}");
        assert!(comes_in(&index, "b/p", "::7", "TCP/1"), "{cidr}");
    }
    let index = index([
        pod("b/p", "10.0.0.1", json!({})),
        from(json!([{"cidr": "0.0.0.0/0"}])),
    ]);
    assert!(comes_in(&index, "b/p", "192.0.2.1", "TCP/1"));
    assert!(!comes_in(&index, "b/p", "2001:db8::1", "TCP/1"));
}

#[test]
fn nested_blocks_and_exceptions_each_have_their_prefix() {
    let blocks = json!([
        {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.2.0/24"]},
        {"cidr": "10.1.2.0/25"},
    ]);
    let index = index([pod("b/p", "172.16.0.1", json!({})), from(blocks)]);
    let tables = index.compile(&Scope::Everything);
    let lengths: Vec<u8> = tables.cidrs.keys().map(|(_, len)| *len).collect();
    assert_eq!(lengths, [104, 112, 120, 121]);
    for (peer, allowed) in [
        ("10.0.0.1", true),
        ("10.1.0.1", false),
        ("10.1.2.1", true),
        ("10.1.2.200", false),
    ] {
        assert_eq!(comes_in(&index, "b/p", peer, "TCP/1"), allowed, "{peer}");
    }
}

#[test]
fn a_known_address_of_class_0_has_an_entry_where_a_prefix_covers_it() {
    let callee = json!({"ringfence.dev/ingress": "enforce", "callers.ringfence.dev/outside_cluster": "true"});
    let index = index([
        pod("b/p", "10.0.0.1", callee),
        pod("b/q", "10.0.0.2", json!({})),
    ]);
    let tables = index.compile(&Scope::Everything);
    assert_eq!(tables.classes[&addr("10.0.0.2")], 0);
    assert_ne!(tables.class_of(&addr("10.0.0.3")), 0);
    assert_ne!(tables.class_of(&addr("2001:db8::1")), 0);
}

#[test]
fn an_address_that_its_prefix_describes_has_no_entry_of_its_own() {
    let index = index([
        pod("b/p", "10.0.0.1", json!({})),
        from(json!([{"cidr": "10.0.0.0/8"}])),
    ]);
    assert!(index.compile(&Scope::Everything).classes.is_empty());
}

#[test]
fn a_pod_that_nothing_isolates_has_ruleset_0() {
    let index = index([pod(
        "b/p",
        "10.0.0.1",
        json!({"egress.ringfence.dev/x": "true"}),
    )]);
    let tables = index.compile(&Scope::Everything);
    let endpoint = tables.endpoints.values().next().expect("pod");
    assert_eq!(
        (endpoint.ingress, endpoint.egress, endpoint.flags),
        (0, 0, 0)
    );
    assert!(tables.rules.is_empty() && tables.ports.is_empty());
}

#[test]
fn pods_with_equal_policy_share_a_ruleset_and_equal_ports_a_set() {
    let port = |p: u16| json!({"podSelector": {"matchLabels": {"p": p.to_string()}}, "ingress": [{"ports": [{"port": p}, {"port": 1}]}]});
    let index = index([
        pod("b/one", "10.0.0.1", json!({"p": "80", "x": "1"})),
        pod("b/two", "10.0.0.2", json!({"p": "80", "x": "2"})),
        netpol("b/a", port(80)),
    ]);
    let tables = index.compile(&Scope::Everything);
    let rulesets: Vec<u32> = tables.endpoints.values().map(|e| e.ingress).collect();
    assert_eq!(rulesets[0], rulesets[1]);
    assert_eq!((tables.rules.len(), tables.ports.len()), (1, 1));
}

#[test]
fn an_unrelated_change_renumbers_nothing() {
    let mut objects = vec![
        pod("b/p", "10.0.0.1", json!({})),
        from(json!([{"cidr": "10.0.0.0/8"}])),
    ];
    let before = index(objects.clone()).compile(&Scope::Everything);
    objects.push(pod("c/q", "10.0.0.2", json!({"app": "q"})));
    objects.push(netpol("c/n", json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 9}]}]})));
    let after = index(objects).compile(&Scope::Everything);
    let kept = |a: &Tables, b: &Tables| a.rules.iter().all(|(k, v)| b.rules.get(k) == Some(v));
    assert!(kept(&before, &after));
    assert_eq!(before.cidrs, after.cidrs);
}

#[test]
fn only_pods_of_the_node_are_compiled_and_all_are_named() {
    let mut far = pod("b/far", "10.0.0.2", json!({}));
    far["spec"]["nodeName"] = json!("n2");
    let index = index([pod("b/near", "10.0.0.1", json!({})), far]);
    let tables = index.compile(&Scope::Node("n1".into()));
    assert_eq!(
        tables
            .endpoints
            .keys()
            .map(|k| k.name.as_str())
            .collect::<Vec<_>>(),
        ["near"]
    );
    assert_eq!(tables.identities[&addr("10.0.0.2")], ("b/far".into(), 0));
}
