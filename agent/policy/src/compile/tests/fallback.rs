//! The grants of a class without a rule of its own: those of class 0.

use proptest::prelude::*;
use ringfence_ebpf::{
    abi::{Addr, Direction, Grant},
    verdict::Policy,
};
use serde_json::{Value, json};

use super::cluster::cnp;
use crate::model::{Kind, ObjectKey};
use crate::{
    compile::{
        Capacity, Compiler,
        charges::{self, Table},
    },
    config::Config,
    index::{Index, Scope},
    tables::Tables,
    testing::{ask, index, netpol, object, pod},
};

fn scope() -> Scope {
    Scope::Node("n1".to_owned())
}

fn compiled(objects: &[Value]) -> Tables {
    index(objects.to_vec()).compile(&scope())
}

/// Returns the rules of a pod's egress ruleset, by class.
fn rules(tables: &Tables, pod: &str) -> Vec<(u32, Grant)> {
    let mut endpoints = tables.endpoints.iter();
    let found = endpoints.find(|(key, _)| key.to_string() == pod);
    let ruleset = found.expect(pod).1.egress;
    let rules = tables.rules.range((ruleset, 0)..=(ruleset, u32::MAX));
    rules.map(|((_, class), grant)| (*class, *grant)).collect()
}

fn class(tables: &Tables, address: &str) -> u32 {
    let ip: std::net::IpAddr = address.parse().expect(address);
    tables.class_of(&Addr::from(ip))
}

fn calls(tables: &Tables, pod: &str, to: &str) -> Policy {
    ask(tables, pod, Direction::Egress, to, "TCP/80")
}

fn egress(name: &str, app: &str, rules: Value) -> Value {
    netpol(
        name,
        json!({
            "podSelector": {"matchLabels": {"app": app}},
            "policyTypes": ["Egress"], "egress": rules,
        }),
    )
}

/// Returns a policy that lets an app call blocks that other policies may split, each a peer of its
/// own.
fn list(name: &str, app: &str, blocks: impl Iterator<Item = String>) -> Value {
    let block = |cidr| json!({"ipBlock": {"cidr": cidr}});
    let to: Vec<Value> = blocks.map(block).collect();
    egress(name, app, json!([{"to": to}]))
}

fn host(n: u32) -> String {
    format!("20.0.{}.{}/32", n / 256, n % 256)
}

/// Returns a policy that denies everybody calls to these networks.
fn deny(name: &str, networks: impl Iterator<Item = String>) -> Value {
    let networks: Vec<String> = networks.collect();
    cnp(
        &format!("{name}/Admin/5"),
        json!({"egress": [{"action": "Deny", "to": [{"networks": networks}]}]}),
    )
}

#[test]
fn what_is_for_any_address_is_one_rule_however_many_classes_there_are() {
    let tables = compiled(&[
        pod("b/open", "10.0.0.1", json!({"app": "open"})),
        pod("b/list", "10.0.0.2", json!({"app": "list"})),
        egress("b/open", "open", json!([{"ports": [{"port": 80}]}])),
        list("b/list", "list", (0..100).map(host)),
    ]);
    let classes: Vec<u32> = rules(&tables, "b/open").into_iter().map(|r| r.0).collect();
    assert_eq!(classes, [0]);
    assert_eq!(rules(&tables, "b/list").len(), 100);
    for to in ["20.0.0.7", "192.0.2.1", "2001:db8::1"] {
        assert_eq!(calls(&tables, "b/open", to), Policy::Allow, "{to}");
    }
    assert_eq!(calls(&tables, "b/list", "20.0.0.7"), Policy::Allow);
    assert_eq!(calls(&tables, "b/list", "192.0.2.1"), Policy::Deny);
}

#[test]
fn a_peer_has_a_rule_only_where_it_is_granted_more_than_anybody() {
    let to = |app: &str| json!([{"podSelector": {"matchLabels": {"app": app}}}]);
    let tables = compiled(&[
        pod("b/p", "10.0.0.1", json!({"app": "p"})),
        pod("b/c", "10.0.0.2", json!({"app": "c"})),
        pod("b/d", "10.0.0.3", json!({"app": "d"})),
        egress(
            "b/n",
            "p",
            json!([
                {"ports": [{"port": 80}]},
                {"to": to("c"), "ports": [{"port": 80}]},
                {"to": to("d"), "ports": [{"port": 90}]},
            ]),
        ),
    ]);
    let mut expected = [0, class(&tables, "10.0.0.3")];
    expected.sort_unstable();
    let classes: Vec<u32> = rules(&tables, "b/p").into_iter().map(|r| r.0).collect();
    assert_eq!(classes, expected);
    assert_ne!(class(&tables, "10.0.0.2"), 0);
    assert_eq!(calls(&tables, "b/p", "10.0.0.2"), Policy::Allow);
    assert_eq!(calls(&tables, "b/p", "10.0.0.3"), Policy::Allow);
}

#[test]
fn a_peer_that_is_denied_what_all_others_are_granted_has_an_empty_rule() {
    let tables = compiled(&[
        pod("b/p", "10.0.0.1", json!({"app": "p"})),
        deny("d", ["20.0.0.0/16".to_owned()].into_iter()),
    ]);
    let denied = class(&tables, "20.0.0.1");
    let found = rules(&tables, "b/p");
    assert!(found.contains(&(denied, Grant::default())), "{found:?}");
    assert_eq!(found.len(), 2);
    assert_eq!(calls(&tables, "b/p", "20.0.0.1"), Policy::Deny);
    assert_eq!(calls(&tables, "b/p", "20.1.0.1"), Policy::Allow);
}

#[test]
fn what_a_staged_policy_would_deny_has_a_rule_of_its_own_too() {
    let mut staged = deny("d", ["20.0.0.0/16".to_owned()].into_iter());
    staged["metadata"]["annotations"] = json!({"ringfence.dev/mode": "audit"});
    let tables = compiled(&[pod("b/p", "10.0.0.1", json!({"app": "p"})), staged]);
    assert_eq!(rules(&tables, "b/p").len(), 2);
    assert_eq!(calls(&tables, "b/p", "20.0.0.1"), Policy::Audit);
    assert_eq!(calls(&tables, "b/p", "20.1.0.1"), Policy::Allow);
}

fn roomy(rules: u32) -> Capacity {
    Capacity {
        entries: 100_000,
        rules,
        ports: 1000,
    }
}

/// Compiles the objects with room for this many rules, all at once and step by step.
fn with_room(rules: u32, objects: &[Value]) -> [Tables; 2] {
    let compiler = || Compiler::new(scope()).with_capacity(roomy(rules));
    let (mut at_once, mut whole) = (compiler(), index(objects.to_vec()));
    at_once.update(&mut whole);
    let (mut followed, mut index) = (compiler(), Index::new(Config::default()));
    for value in objects {
        index.apply(object(value.clone()));
        followed.update(&mut index);
    }
    [at_once, followed].map(|compiler| compiler.tables().clone())
}

#[test]
fn a_denial_that_finds_no_room_closes_its_ruleset() {
    let objects = [
        pod("b/p", "10.0.0.1", json!({"app": "p"})),
        deny("d", (0..10).map(host)),
    ];
    // Ten denials, and one rule for everything else, in three quarters of the table.
    for room in 0..=14 {
        for tables in with_room(room, &objects) {
            assert!(tables.rules.len() <= room as usize);
            for n in 0..10 {
                let to = format!("20.0.0.{n}");
                assert_eq!(calls(&tables, "b/p", &to), Policy::Deny, "{room}: {to}");
            }
            let others = calls(&tables, "b/p", "192.0.2.1");
            assert_eq!(others == Policy::Allow, room == 14, "{room}");
        }
    }
}

#[test]
fn a_denial_stays_whoever_tells_its_addresses_apart_and_has_room_for_it() {
    let objects = [
        pod("b/p", "10.0.0.1", json!({"app": "p"})),
        pod("b/q", "10.0.0.2", json!({"app": "q"})),
        deny("d", ["20.0.0.0/16".to_owned()].into_iter()),
        cnp(
            "e/Admin/6",
            json!({
                "subject": {"pods": {"podSelector": {"matchLabels": {"app": "q"}}}},
                "egress": [{"action": "Deny", "to": [{"networks": (0..10).map(host).collect::<Vec<_>>()}]}],
            }),
        ),
    ];
    for room in 0..=30 {
        for tables in with_room(room, &objects) {
            for n in 0..12 {
                for pod in ["b/p", "b/q"] {
                    let to = format!("20.0.0.{n}");
                    let found = calls(&tables, pod, &to);
                    assert_eq!(found, Policy::Deny, "{room}: {pod} {to}");
                }
            }
        }
    }
    let [tables, _] = with_room(30, &objects);
    assert_eq!(calls(&tables, "b/p", "192.0.2.1"), Policy::Allow);
}

#[test]
fn nobody_is_limited_for_classes_within_what_others_open_to_any_address() {
    let mut index = Index::new(Config::default());
    let mut compiler = Compiler::new(scope()).with_capacity(roomy(1000));
    for n in 0..10 {
        let app = format!("open{n}");
        let (name, ip) = (format!("bank/{app}"), format!("10.1.0.{n}"));
        index.apply(object(pod(&name, &ip, json!({"app": app}))));
        let ports = json!([{"ports": [{"port": 80 + n}]}]);
        index.apply(object(egress(&name, &app, ports)));
    }
    index.apply(object(pod("evil/a", "10.0.0.1", json!({"app": "a"}))));
    index.apply(object(list("evil/p", "a", (0..700).map(host))));
    compiler.update(&mut index);
    assert_eq!(index.held.all().count(), 0);
    assert_eq!(compiler.tables().rules.len(), 710);
}

/// A step of a namespace: a policy gets a number of blocks (0 means any address) and a port (0
/// means all ports); the flag is whether a ClusterNetworkPolicy denies some of the blocks.
fn step() -> impl Strategy<Value = (u8, u8, u8, bool)> {
    (0..3_u8, 0..12_u8, 0..3_u8, any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_namespace_that_is_alone_is_charged_for_every_rule(
        steps in proptest::collection::vec(step(), 1..8),
    ) {
        let mut index = Index::new(Config::default());
        let mut compiler = Compiler::new(scope()).with_capacity(roomy(100_000));
        for n in 0..3_u8 {
            let (name, app) = (format!("s/a{n}"), format!("a{n}"));
            index.apply(object(pod(&name, &format!("10.0.0.{n}"), json!({"app": app}))));
            // In any case, the namespace contributes to each ruleset.
            index.apply(object(egress(&format!("s/own{n}"), &app, json!([{"to": [{"podSelector": {}}]}]))));
        }
        for (n, blocks, ports, denies) in steps {
            let (name, app) = (format!("s/p{n}"), format!("a{n}"));
            let block = |k: u8| json!({"ipBlock": {"cidr": format!("20.{}.{k}.0/{}", n % 2, 16 + n * 4)}});
            let to: Vec<Value> = (0..blocks).map(block).collect();
            let mut rule = json!({"to": to});
            if ports > 0 {
                rule["ports"] = json!([{"port": 80 * u16::from(ports)}]);
            }
            index.apply(object(egress(&name, &app, json!([rule]))));
            match denies {
                true => index.apply(object(deny("d", (0..4).map(|k| format!("20.{}.0.0/16", k % 3))))),
                false => index.delete(&ObjectKey::new(Kind::ClusterNetworkPolicy, "", "d")),
            }
            compiler.update(&mut index);
            prop_assert_eq!(compiler.tables(), &index.compile(&scope()));
            let owners = compiler.state.locals.owners(&index);
            let tables = compiler.tables();
            let charged = |table| charges::of(&compiler.state, &index, &owners, table).values().sum::<u64>();
            prop_assert_eq!(charged(Table::Rules), tables.rules.len() as u64);
            prop_assert!(charged(Table::Ports) >= tables.ports.len() as u64);
        }
    }
}
