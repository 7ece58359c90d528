//! Label allowlists and ClusterNetworkPolicies that ask for more than the capacity.

use proptest::prelude::*;
use ringfence_ebpf::{abi::Direction, verdict::Policy};
use serde_json::{Value, json};

use crate::{
    compile::Capacity,
    testing::{ask, pod},
};

use super::shares::{Node, SMALL};
use crate::model::{Kind, ObjectKey};

/// A capacity where rules run out long before entries do.
const ROOMY: Capacity = Capacity {
    entries: 100_000,
    ..SMALL
};

/// Returns a pod on a node for which nothing is compiled.
fn elsewhere(name: &str, ip: &str, labels: Value) -> Value {
    let mut pod = pod(name, ip, labels);
    pod["spec"]["nodeName"] = json!("n2");
    pod
}

fn labelled(service: &str, labels: impl IntoIterator<Item = (String, String)>) -> Value {
    let mut all = json!({"app": service});
    for (key, value) in labels {
        all[key] = json!(value);
    }
    all
}

fn one(key: &str, value: &str) -> [(String, String); 1] {
    [(key.to_owned(), value.to_owned())]
}

/// Returns a caller and a callee of `bank`, both closed, and a pod that neither of them lists.
fn bank() -> Vec<Value> {
    let caller = labelled(
        "client",
        [
            ("ringfence.dev/egress".to_owned(), "enforce".to_owned()),
            ("egress.ringfence.dev/ledger".to_owned(), "80".to_owned()),
        ],
    );
    let callee = labelled(
        "ledger",
        [
            ("ringfence.dev/ingress".to_owned(), "enforce".to_owned()),
            (
                "callers.ringfence.dev/any_namespace".to_owned(),
                "true".to_owned(),
            ),
        ],
    );
    vec![
        pod("bank/client", "10.0.0.1", caller),
        pod("bank/ledger", "10.0.0.2", callee),
        pod("bank/rogue", "10.0.0.3", labelled("rogue", [])),
    ]
}

/// Returns services of `evil` on another node.
fn targets(count: u32) -> impl Iterator<Item = Value> {
    (0..count).map(|n| {
        let ip = format!("10.1.{}.{}", n >> 8, n & 255);
        elsewhere(&format!("evil/t{n}"), &ip, labelled(&format!("t{n}"), []))
    })
}

/// Returns a closed caller of `evil` on this node that lists these targets, each at a port of its
/// own.
fn caller(number: u32, which: std::ops::Range<u32>) -> Value {
    let lists = which.map(|n| {
        let key = format!("egress.ringfence.dev/t{n}");
        (key, (1 + n + 500 * number).to_string())
    });
    let mode = one("ringfence.dev/egress", "enforce");
    let labels = labelled(&format!("caller{number}"), mode.into_iter().chain(lists));
    pod(
        &format!("evil/caller{number}"),
        &format!("10.2.0.{number}"),
        labels,
    )
}

/// Returns a pod elsewhere whose label calls `bank/ledger` at a port of its own.
fn knocks(n: u32) -> Value {
    let ip = format!("10.3.{}.{}", n >> 8, n & 255);
    let labels = one("bank.egress.ringfence.dev/ledger", &(n + 100).to_string());
    elsewhere(&format!("evil/knock{n}"), &ip, labelled("knock", labels))
}

impl Node {
    fn goes(&self, pod: &str, to: &str, port: &str) -> bool {
        ask(self.compiler.tables(), pod, Direction::Egress, to, port) == Policy::Allow
    }

    fn comes(&self, pod: &str, from: &str, port: &str) -> bool {
        ask(self.compiler.tables(), pod, Direction::Ingress, from, port) == Policy::Allow
    }

    /// Checks that the bank's own rules work, that a change of the bank costs only what it affects,
    /// and that a new pod is closed at once.
    fn goes_on(&mut self) {
        let settled = |node: &Self| {
            assert!(!node.compiler.state.partial, "a table is full");
            let (there, from) = (("bank/client", "10.0.0.2"), ("bank/ledger", "10.0.0.1"));
            assert!(node.goes(there.0, there.1, "TCP/80"));
            assert!(!node.goes(there.0, "10.0.0.3", "TCP/80"));
            assert!(node.comes(from.0, from.1, "TCP/80"));
            assert!(!node.comes(from.0, "10.0.0.3", "TCP/80"));
        };
        settled(self);
        let closed = labelled("new", one("ringfence.dev/ingress", "enforce"));
        self.put(pod("bank/new", "10.0.0.9", closed));
        let rebuilds = self.compiler.rebuilds;
        self.update();
        assert_eq!(
            self.compiler.rebuilds, rebuilds,
            "it took more than it concerns"
        );
        assert!(!self.comes("bank/new", "10.0.0.3", "TCP/80"));
        self.index.delete(&ObjectKey::new(Kind::Pod, "bank", "new"));
        self.update();
        settled(self);
    }

    fn names(&self) -> Vec<String> {
        self.held().into_iter().map(|(object, _)| object).collect()
    }
}

#[test]
fn egress_labels_that_ask_for_more_than_there_is_are_their_namespaces_problem_alone() {
    for capacity in [SMALL, ROOMY] {
        let callers = (0..20).map(|n| caller(n, 0..300 - n));
        let objects = bank().into_iter().chain(targets(300)).chain(callers);
        let mut node = Node::with(capacity, objects);
        node.goes_on();
        let names = node.names();
        assert!(!names.is_empty() && names.len() < 20, "{names:?}");
        assert!(names.iter().all(|n| n.starts_with("Workload evil/caller")));
        // The lightest are in force; the heaviest grant nothing.
        assert!(node.goes(
            "evil/caller19",
            "10.1.0.7",
            &format!("TCP/{}", 8 + 500 * 19)
        ));
        assert!(!node.goes("evil/caller0", "10.1.0.7", "TCP/8"));
        // A small request has room, regardless of the others.
        node.put(caller(21, 0..5));
        node.put(caller(0, 0..5));
        node.update();
        assert!(node.goes("evil/caller0", "10.1.0.4", "TCP/5"));
        for n in 1..20 {
            node.index
                .delete(&ObjectKey::new(Kind::Pod, "evil", &format!("caller{n}")));
        }
        node.put(caller(0, 0..300));
        node.update();
        assert_eq!(node.names(), [""; 0]);
        assert!(node.goes("evil/caller0", "10.1.0.7", "TCP/8"));
    }
}

#[test]
fn labels_that_call_another_namespaces_workload_are_charged_to_those_who_carry_them() {
    for capacity in [SMALL, ROOMY] {
        let mut node = Node::with(capacity, bank().into_iter().chain((0..3500).map(knocks)));
        let shop = one("bank.egress.ringfence.dev/ledger", "80");
        node.put(elsewhere(
            "shop/web",
            "10.4.0.1",
            labelled("web", shop.clone()),
        ));
        // A value that others use as well.
        node.put(elsewhere("evil/too", "10.4.0.2", labelled("too", shop)));
        node.update();
        node.goes_on();
        assert_eq!(node.names(), ["Namespace evil"]);
        assert!(node.comes("bank/ledger", "10.4.0.1", "TCP/80"), "shop");
        assert!(!node.comes("bank/ledger", "10.3.0.7", "TCP/107"));
        for n in 100..3500 {
            node.index
                .delete(&ObjectKey::new(Kind::Pod, "evil", &format!("knock{n}")));
        }
        node.update();
        assert_eq!(node.names(), [""; 0]);
        assert!(node.comes("bank/ledger", "10.3.0.7", "TCP/107"));
    }
}

#[test]
fn groups_whose_allowlists_are_equal_ask_once() {
    let mut objects = bank();
    objects.extend(targets(300));
    for n in 0..20 {
        let mut pod = caller(0, 0..300);
        pod["metadata"]["name"] = json!(format!("caller0-{n}"));
        pod["metadata"]["labels"]["index"] = json!(n.to_string());
        pod["status"]["podIPs"] = json!([{"ip": format!("10.5.0.{n}")}]);
        objects.push(pod);
    }
    let mut node = Node::with(SMALL, objects);
    assert_eq!(node.names(), [""; 0]);
    assert!(node.goes("evil/caller0-7", "10.1.0.7", "TCP/8"));
    node.goes_on();
}

#[test]
fn labels_that_grant_nothing_close_nobody_whom_no_mode_closes() {
    let mut open = caller(1, 0..5500);
    open["metadata"]["labels"]["ringfence.dev/egress"] = json!("off");
    let mut node = Node::with(SMALL, bank().into_iter().chain(targets(5500)).chain([open]));
    assert_eq!(node.names(), ["Workload evil/caller1"]);
    assert!(node.goes("evil/caller1", "20.0.0.1", "TCP/9"));
    node.goes_on();
}

/// Returns a ClusterNetworkPolicy that denies pods of `evil` a port of 50 blocks in each of its
/// rules, and a whole block in one more.
fn cluster(name: &str, rules: u32) -> Value {
    let net = |n: u32| format!("30.0.{}.{}/32", n >> 8, n & 255);
    let peer = |first: u32| json!({"networks": (first..first + 25).map(net).collect::<Vec<_>>()});
    let port = |n: u32| {
        let port = json!({"tcp": {"destinationPort": {"number": n + 1}}});
        json!({
            "action": "Deny", "to": [peer(n * 50), peer(n * 50 + 25)], "protocols": [port],
        })
    };
    let deny = json!({"action": "Deny", "to": [{"networks": ["40.0.0.0/8"]}]});
    let rules: Vec<Value> = (0..rules).map(port).chain([deny]).collect();
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "tier": "Admin", "priority": 1,
            "subject": {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "evil"}}},
            "egress": rules,
        },
    })
}

#[test]
fn cluster_network_policies_that_overfill_a_table_are_closed_and_named_and_stop_nobody() {
    let caller = || pod("evil/a", "10.2.0.1", labelled("a", []));
    let small = || cluster("small", 1);
    let few = |entries, rules| Capacity {
        entries,
        rules,
        ports: 4000,
    };
    for capacity in [few(1600, 4000), few(100_000, 900)] {
        let objects = bank().into_iter().chain([caller(), small()]);
        let mut node = Node::with(capacity, objects);
        assert!(!node.goes("evil/a", "40.0.0.1", "TCP/1"));
        assert!(node.goes("evil/a", "50.0.0.1", "TCP/1"));
        node.put(cluster("large", 24));
        node.update();
        assert_eq!(node.names(), ["ClusterNetworkPolicy large"]);
        assert!(!node.goes("evil/a", "50.0.0.1", "TCP/1"), "closed");
        assert!(
            node.comes("evil/a", "50.0.0.1", "TCP/1"),
            "it has egress rules"
        );
        node.goes_on();
        node.index
            .delete(&ObjectKey::new(Kind::ClusterNetworkPolicy, "", "large"));
        node.update();
        assert_eq!(node.names(), [""; 0]);
        assert!(node.goes("evil/a", "50.0.0.1", "TCP/1"));
    }
}

/// A step: callers on this node get a number of labels, or calling pods elsewhere are added or
/// removed.
fn step() -> impl Strategy<Value = (u8, u32, u32)> {
    (
        0..3_u8,
        0..6_u32,
        prop_oneof![Just(0), 1..60_u32, 60..300_u32],
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn after_any_history_of_labels_what_is_held_is_what_is_held_from_scratch(
        steps in proptest::collection::vec(step(), 1..14), roomy in any::<bool>(),
    ) {
        let capacity = Capacity {
            entries: if roomy { 100_000 } else { 300 },
            rules: 1200,
            ports: 4000,
        };
        let mut node = Node::with(capacity, bank().into_iter().chain(targets(300)));
        for (kind, number, length) in steps {
            match (kind, length) {
                (0 | 1, 0) => node.index.delete(&ObjectKey::new(Kind::Pod, "evil", &format!("caller{number}"))),
                (0 | 1, length) => node.put(caller(number, 0..length)),
                (_, length) => for n in 0..100 {
                    let n = number * 100 + n;
                    match n % 100 < length {
                        true => node.put(knocks(n)),
                        false => node.index.delete(&ObjectKey::new(Kind::Pod, "evil", &format!("knock{n}"))),
                    }
                }
            }
            node.update();
            node.goes_on();
        }
        // If nothing had to be limited, another agent makes the same decisions.
        if !roomy {
            let mut again = Node::with(capacity, []);
            again.index = node.index.clone();
            again.update();
            prop_assert_eq!(node.names(), again.names());
            prop_assert_eq!(node.compiler.tables(), again.compiler.tables());
        }
    }
}
