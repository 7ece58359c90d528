//! Namespaces that ask for more than the capacity.

use proptest::prelude::*;
use ringfence_ebpf::abi::{Direction, EndpointRules};
use serde_json::{Value, json};

use crate::{
    compile::{Capacity, Compiler},
    config::Config,
    index::{Index, Scope},
    testing::{ask, netpol, object, pod},
};

use crate::model::{Kind, ObjectKey};
use ringfence_ebpf::verdict::Policy;

pub(super) const SMALL: Capacity = Capacity {
    entries: 1600,
    rules: 4000,
    ports: 4000,
};

/// The agent of one node.
pub(super) struct Node {
    pub(super) index: Index,
    pub(super) compiler: Compiler,
}

impl Node {
    fn new(capacity: Capacity) -> Self {
        Self {
            index: Index::new(Config::default()),
            compiler: Compiler::new(scope()).with_capacity(capacity),
        }
    }

    pub(super) fn with(capacity: Capacity, objects: impl IntoIterator<Item = Value>) -> Self {
        let mut node = Self::new(capacity);
        objects.into_iter().for_each(|o| node.put(o));
        node.update();
        node
    }

    pub(super) fn put(&mut self, value: Value) {
        self.index.apply(object(value));
    }

    /// Updates the compiler; checks that the tables fit and equal those of a compilation from
    /// scratch.
    pub(super) fn update(&mut self) {
        self.compiler.update(&mut self.index);
        let tables = self.compiler.tables();
        assert!(tables.rules.len() <= SMALL.rules as usize);
        assert!(tables.ports.len() <= SMALL.ports as usize);
        assert_eq!(tables, &self.index.compile(&scope()));
    }

    /// Reports whether a pod may call an address.
    fn calls(&self, pod: &str, to: &str) -> bool {
        let tables = self.compiler.tables();
        ask(tables, pod, Direction::Egress, to, "TCP/80") == Policy::Allow
    }

    /// Returns the policies reported to have no room, and whether an earlier form of each is in
    /// force.
    pub(super) fn held(&self) -> Vec<(String, bool)> {
        let problems = self.index.problems().into_iter();
        let held = problems.filter(|p| p.key_or_field == "capacity");
        held.map(|p| (p.object, p.message.contains("stays in force")))
            .collect()
    }
}

pub(super) fn scope() -> Scope {
    Scope::Node("n1".to_owned())
}

/// Returns the n-th address of a namespace's blocks.
fn address(space: u8, n: u32) -> String {
    let [_, _, c, d] = n.to_be_bytes();
    format!("20.{space}.{c}.{d}")
}

/// Returns a policy that lets all pods of a namespace call these of its blocks.
fn list(name: &str, space: u8, which: std::ops::Range<u32>) -> Value {
    let block = |n| json!({"ipBlock": {"cidr": format!("{}/32", address(space, n))}});
    let to: Vec<Value> = which.map(block).collect();
    netpol(
        name,
        json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to}]}),
    )
}

fn pods() -> Vec<Value> {
    vec![
        pod("evil/a", "10.0.0.1", json!({})),
        pod("bank/b", "10.0.0.2", json!({})),
    ]
}

#[test]
fn one_namespace_alone_may_have_all_but_a_reserve_and_the_rest_is_its_problem() {
    let lists = (0..10).map(|n| list(&format!("evil/p{n}"), 1, n * 200..n * 200 + 200));
    let node = Node::with(SMALL, pods().into_iter().chain(lists));
    // Three quarters of 1600 entries have room for six of them.
    let held: Vec<_> = (6..10)
        .map(|n| (format!("NetworkPolicy evil/p{n}"), false))
        .collect();
    assert_eq!(node.held(), held);
    assert!(node.calls("evil/a", &address(1, 1199)));
    assert!(!node.calls("evil/a", &address(1, 1200)));
    assert!(
        node.calls("bank/b", "20.1.0.1"),
        "nothing closes the others"
    );
}

#[test]
fn a_namespace_at_its_bound_gives_way_when_another_needs_its_share() {
    let lists = (0..6).map(|n| list(&format!("evil/p{n}"), 1, n * 200..n * 200 + 200));
    let mut node = Node::with(SMALL, pods().into_iter().chain(lists));
    assert_eq!(node.held(), []);
    node.put(list("bank/wanted", 2, 0..300));
    node.update();
    assert_eq!(node.held(), [], "the reserve has room for it");
    node.put(list("bank/more", 2, 300..700));
    node.update();
    let held = [4, 5].map(|n| (format!("NetworkPolicy evil/p{n}"), false));
    assert_eq!(node.held(), held, "evil keeps what a fair share is");
    assert!(node.calls("bank/b", &address(2, 699)));
    // It gets the space back when the other namespace doesn't need it any more.
    node.index
        .delete(&ObjectKey::new(Kind::NetworkPolicy, "bank", "more"));
    node.update();
    assert_eq!(node.held(), []);
    assert!(node.calls("evil/a", &address(1, 1199)));
}

#[test]
fn the_last_form_that_fitted_stays_in_force_until_the_newest_has_room() {
    let mut node = Node::with(SMALL, pods().into_iter().chain([list("evil/p", 1, 0..150)]));
    for newest in [2000, 3000] {
        node.put(list("evil/p", 1, 100..newest));
        node.update();
        assert_eq!(node.held(), [("NetworkPolicy evil/p".to_owned(), true)]);
        assert!(node.calls("evil/a", &address(1, 0)));
        assert!(!node.calls("evil/a", &address(1, 150)));
    }
    // The last form also applies to a pod added now.
    node.put(pod("evil/new", "10.0.0.3", json!({})));
    node.update();
    assert!(node.calls("evil/new", &address(1, 0)));
    assert!(!node.calls("evil/new", &address(1, 150)));
    node.put(list("evil/p", 1, 100..400));
    node.update();
    assert_eq!(node.held(), []);
    assert!(node.calls("evil/a", &address(1, 150)) && !node.calls("evil/a", &address(1, 0)));
}

#[test]
fn pods_that_the_last_form_does_not_select_are_closed_where_the_newest_has_no_room() {
    let narrow = netpol(
        "evil/p",
        json!({"podSelector": {"matchLabels": {"app": "x"}}, "policyTypes": ["Egress"]}),
    );
    let mut node = Node::with(SMALL, pods().into_iter().chain([narrow]));
    assert!(node.calls("evil/a", "20.9.0.1"));
    node.put(list("evil/p", 1, 0..2000));
    node.update();
    assert!(!node.calls("evil/a", "20.9.0.1") && !node.calls("evil/a", &address(1, 0)));
}

#[test]
fn without_a_form_that_fitted_the_pods_are_closed_in_the_policys_directions_alone() {
    let node = Node::with(
        SMALL,
        pods().into_iter().chain([list("evil/p", 1, 0..2000)]),
    );
    assert_eq!(node.held(), [("NetworkPolicy evil/p".to_owned(), false)]);
    assert!(!node.calls("evil/a", &address(1, 0)));
    let tables = node.compiler.tables();
    let comes_in = ask(tables, "evil/a", Direction::Ingress, "10.0.0.2", "TCP/80");
    assert_eq!(comes_in, Policy::Allow);
}

#[test]
fn after_a_restart_what_does_not_fit_is_closed() {
    let mut node = Node::with(SMALL, pods().into_iter().chain([list("evil/p", 1, 0..150)]));
    node.put(list("evil/p", 1, 0..2000));
    node.update();
    assert!(node.calls("evil/a", &address(1, 0)));
    let again = Node::with(
        SMALL,
        pods().into_iter().chain([list("evil/p", 1, 0..2000)]),
    );
    assert!(!again.calls("evil/a", &address(1, 0)));
    assert!(again.calls("bank/b", &address(1, 0)));
}

#[test]
fn policies_that_select_nobody_here_cost_nothing() {
    let lists = (0..10).map(|n| list(&format!("elsewhere/p{n}"), 1, 0..1000));
    let node = Node::with(SMALL, pods().into_iter().chain(lists));
    assert_eq!(node.held(), []);
}

/// Returns pods of `bank` that may call everything except 10/8 and an exception of their own.
fn wide(count: u8) -> impl Iterator<Item = Value> {
    (0..count).flat_map(|n| {
        let name = format!("bank/wide{n}");
        let label = json!({"app": format!("w{n}")});
        let block = json!({"cidr": "0.0.0.0/0", "except": [format!("10.{n}.0.0/16")]});
        let policy = netpol(
            &name,
            json!({
                "podSelector": {"matchLabels": label}, "policyTypes": ["Egress"],
                "egress": [{"to": [{"ipBlock": block}]}],
            }),
        );
        [pod(&name, &format!("10.1.0.{n}"), label), policy]
    })
}

#[test]
fn whoever_multiplies_the_rules_of_others_is_limited_and_they_are_not() {
    // 900 blocks in ten rulesets of others, and in one of its own.
    let evil = list("evil/p", 1, 0..900);
    let mut node = Node::with(SMALL, pods().into_iter().chain(wide(10)));
    assert!(node.calls("bank/wide3", "20.1.0.5"));
    let small = list("evil/small", 3, 0..5);
    node.put(evil);
    node.put(small);
    node.update();
    assert_eq!(node.held(), [("NetworkPolicy evil/p".to_owned(), false)]);
    for n in 0..10 {
        assert!(node.calls(&format!("bank/wide{n}"), "20.1.0.5"), "{n}");
    }
    assert!(node.calls("evil/a", &address(3, 1)), "its small one fits");
    // Changes of other namespaces are applied, and don't affect a limit.
    node.put(list("bank/later", 2, 0..50));
    node.update();
    assert!(node.calls("bank/b", &address(2, 49)));
    assert_eq!(node.held(), [("NetworkPolicy evil/p".to_owned(), false)]);
    // A form that fits takes effect at once.
    node.put(list("evil/p", 1, 0..150));
    node.update();
    assert_eq!(node.held(), []);
    assert!(node.calls("evil/a", &address(1, 149)));
}

/// Returns a policy with a peer of its own for each of `count` single ports, each in a block of 256
/// of its own, and a range next to it.
fn many_ports(name: &str, count: u32) -> Value {
    let rule = |n: u32| {
        let port = |k: u32| json!({"port": (n * 7 + k * 256) % 65_536 + 1});
        json!({
            "to": [{"ipBlock": {"cidr": format!("{}/32", address(4, n))}}],
            "ports": (0..100).map(port).collect::<Vec<_>>(),
        })
    };
    let egress: Vec<Value> = (0..count).map(rule).collect();
    netpol(
        name,
        json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress}),
    )
}

#[test]
fn whoever_fills_the_ports_is_limited() {
    let roomy = Capacity {
        entries: 100_000,
        ..SMALL
    };
    let mut node = Node::with(roomy, pods().into_iter().chain([many_ports("evil/p", 60)]));
    let tables = node.compiler.tables();
    assert!(tables.ports.len() <= 3000, "{}", tables.ports.len());
    assert_eq!(node.held(), [("NetworkPolicy evil/p".to_owned(), false)]);
    node.put(many_ports("bank/p", 20));
    node.update();
    assert_eq!(node.held().len(), 1);
}

#[test]
fn wide_port_ranges_do_not_fill_the_table_of_ports() {
    let rule = |n: u32| {
        json!({
            "to": [{"ipBlock": {"cidr": format!("{}/32", address(1, n))}}],
            "ports": [{"port": n + 1, "endPort": 65_000 - n}],
        })
    };
    let spec = json!({
        "podSelector": {}, "policyTypes": ["Egress"],
        "egress": (0..270).map(rule).collect::<Vec<_>>(),
    });
    let node = Node::with(
        SMALL,
        pods().into_iter().chain([netpol("evil/ranges", spec)]),
    );
    assert_eq!(node.held(), []);
    assert!(node.compiler.tables().ports.len() <= 3 * 270);
    assert!(node.calls("evil/a", &address(1, 5)));
    assert!(!node.calls("evil/a", &address(1, 200)));
}

#[test]
fn quarantine_takes_effect_whatever_the_tables_hold() {
    let lists = (0..10).map(|n| list(&format!("evil/p{n}"), 1, n * 200..n * 200 + 200));
    let mut node = Node::with(SMALL, pods().into_iter().chain(lists));
    let label = json!({"ringfence.dev/quarantine": "true"});
    for (name, ip) in [("evil/a", "10.0.0.1"), ("bank/b", "10.0.0.2")] {
        node.put(pod(name, ip, label.clone()));
    }
    node.update();
    let endpoints = &node.compiler.tables().endpoints;
    assert_eq!(endpoints.len(), 2);
    let cut_off = |flags: u32| flags & EndpointRules::QUARANTINE != 0;
    assert!(endpoints.values().all(|endpoint| cut_off(endpoint.flags)));
}

#[test]
fn texts_have_a_bound_and_whom_a_policy_without_room_selects_is_closed() {
    let mut node = Node::new(SMALL);
    node.index = Index::new(Config::default()).with_room_for_texts(20_000);
    pods().into_iter().for_each(|pod| node.put(pod));
    node.put(list("evil/small", 1, 0..100));
    node.put(list("evil/large", 1, 100..1000));
    node.put(list("bank/own", 2, 0..100));
    node.update();
    assert_eq!(
        node.held(),
        [("NetworkPolicy evil/large".to_owned(), false)]
    );
    assert!(node.calls("evil/a", &address(1, 99)) && !node.calls("evil/a", &address(1, 100)));
    assert!(node.calls("bank/b", &address(2, 99)));
    node.index
        .delete(&ObjectKey::new(Kind::NetworkPolicy, "evil", "large"));
    node.put(list("evil/large", 1, 100..200));
    node.update();
    assert_eq!(node.held(), []);
    assert!(node.calls("evil/a", &address(1, 100)));
}

/// A step in the life of a cluster: a policy gets a new length, or is removed.
fn step() -> impl Strategy<Value = (u8, u8, u32)> {
    (
        0..3_u8,
        0..4_u8,
        prop_oneof![Just(0), 1..200_u32, 200..1500_u32],
    )
}

fn spaces() -> impl Iterator<Item = Value> {
    (0..3_u8).map(|n| pod(&format!("s{n}/a"), &format!("10.0.0.{n}"), json!({})))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn after_any_history_everything_fits_and_whoever_asks_for_little_has_it(
        steps in proptest::collection::vec(step(), 1..12),
    ) {
        let mut node = Node::with(SMALL, spaces().chain(wide(2)));
        let mut lengths = std::collections::BTreeMap::new();
        for (space, policy, length) in steps {
            let (namespace, name) = (format!("s{space}"), format!("p{policy}"));
            match length {
                0 => node.index.delete(&ObjectKey::new(Kind::NetworkPolicy, &namespace, &name)),
                length => node.put(list(&format!("{namespace}/{name}"), space, 0..length)),
            }
            lengths.insert((space, policy), length);
            node.update();
            let held = node.held();
            for space in 0..3_u8 {
                let own = lengths.iter().filter(|((of, _), _)| *of == space);
                let asked: u32 = own.map(|(_, length)| length).sum();
                let prefix = format!("NetworkPolicy s{space}/");
                let holds = held.iter().any(|(object, _)| object.starts_with(&prefix));
                // A third of the rules after multiplication, and less than a third of the entries.
                prop_assert!(asked > 300 || !holds, "s{} asks for {}: {:?}", space, asked, held);
            }
        }
    }

    #[test]
    fn the_order_of_objects_does_not_matter(
        lengths in proptest::collection::vec(1..900_u32, 6), turn in 0..6_usize,
    ) {
        let lists = lengths.iter().enumerate().map(|(n, length)| {
            list(&format!("s{}/p{n}", n % 3), (n % 3) as u8, 0..*length)
        });
        let mut lists: Vec<Value> = lists.collect();
        let forward = Node::with(SMALL, spaces().chain(lists.clone()));
        lists.rotate_left(turn);
        let turned = Node::with(SMALL, lists.into_iter().chain(spaces()));
        prop_assert_eq!(forward.compiler.tables(), turned.compiler.tables());
        prop_assert_eq!(forward.held(), turned.held());
    }
}
