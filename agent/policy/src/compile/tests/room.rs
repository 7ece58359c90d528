//! Shares, compared with an oracle that counts everything from scratch; and added and removed
//! blocks, compared with a compilation from scratch.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::model::{Kind, ObjectKey};
use crate::{
    compile::{Capacity, Compiler},
    config::Config,
    index::{Index, Scope, held::Unit},
    testing::{netpol, object, pod},
};

fn scope() -> Scope {
    Scope::Node("n1".to_owned())
}

/// Returns a policy that selects pods with one label, or all, and lists blocks with exceptions.
fn policy(name: &str, app: Option<u8>, blocks: &[Value]) -> Value {
    let to: Vec<Value> = blocks.iter().map(|b| json!({"ipBlock": b})).collect();
    let subject = app.map_or(
        json!({}),
        |app| json!({"matchLabels": {"app": app.to_string()}}),
    );
    netpol(
        name,
        json!({"podSelector": subject, "policyTypes": ["Egress"], "egress": [{"to": to}]}),
    )
}

fn app(name: &str, ip: &str, app: u8) -> Value {
    pod(name, ip, json!({"app": app.to_string()}))
}

#[test]
fn many_small_policies_have_no_more_room_than_few_large_ones() {
    const CAPACITY: Capacity = Capacity {
        entries: 400,
        rules: 4000,
        ports: 4000,
    };
    let mut index = Index::new(Config::default());
    let mut compiler = Compiler::new(scope()).with_capacity(CAPACITY);
    index.apply(object(app("evil/a", "10.0.0.1", 0)));
    // A block has one class however many exceptions: they fill prefixes, not rules.
    for n in 0..20 {
        let except: Vec<String> = (0..49).map(|k| format!("20.{n}.{k}.0/24")).collect();
        let block = json!({"cidr": format!("20.{n}.0.0/16"), "except": except});
        let name = format!("evil/p{n:02}");
        index.apply(object(policy(&name, None, &[block])));
        compiler.update(&mut index);
        assert!(compiler.tables().cidrs.len() <= 300, "{n}");
    }
    let held = index.held.all().count();
    assert_eq!(held, 14, "three quarters of 400 hold six of 50");
}

/// A change of the cluster: a policy with a number of blocks, or none; a pod with a label, or none.
#[derive(Clone, Debug)]
enum Step {
    Policy(u8, u8, Option<u8>, u32),
    Pod(u8, u8, Option<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![Just(0), 1..40_u32, 40..200_u32];
    let policy = (0..3_u8, 0..4_u8, proptest::option::of(0..2_u8), length);
    let pod = (0..3_u8, 0..3_u8, proptest::option::of(0..2_u8));
    prop_oneof![
        policy.prop_map(|(s, p, app, length)| Step::Policy(s, p, app, length)),
        pod.prop_map(|(s, n, app)| Step::Pod(s, n, app)),
    ]
}

/// Policies by namespace and number: the label that they select, and how many blocks they list.
type Policies = BTreeMap<(u8, u8), (Option<u8>, u32)>;
/// The labels of pods, by namespace and number.
type Pods = BTreeMap<(u8, u8), u8>;

/// Computes how many entries each namespace has in force, entry by entry: each goes to the
/// namespace that has least and wants more.
fn fair(policies: &Policies, pods: &Pods, capacity: u32) -> BTreeMap<u8, u32> {
    let most = capacity - capacity / 4;
    let selects = |space: u8, app: Option<u8>| {
        let mut own = pods.iter().filter(|((of, _), _)| *of == space);
        own.any(|(_, label)| app.is_none_or(|app| app == *label))
    };
    let mut asked: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
    for ((space, _), (app, length)) in policies {
        if selects(*space, *app) {
            asked.entry(*space).or_default().push(*length);
        }
    }
    let wants = |space: &u8| asked[space].iter().sum::<u32>().min(most);
    let mut given: BTreeMap<u8, u32> = asked.keys().map(|space| (*space, 0)).collect();
    let mut left = capacity;
    loop {
        let open: Vec<u8> = given.keys().copied().collect();
        let open: Vec<u8> = open.into_iter().filter(|s| given[s] < wants(s)).collect();
        if open.is_empty() || (left as usize) < open.len() {
            break;
        }
        for space in open {
            *given.entry(space).or_default() += 1;
            left -= 1;
        }
    }
    // Within a namespace the lightest come first.
    let in_force = given.into_iter().map(|(space, may)| {
        let mut weights = asked[&space].clone();
        weights.sort_unstable();
        let mut used = 0;
        for weight in weights.into_iter().take_while(|w| *w <= may) {
            if used + weight <= may {
                used += weight;
            }
        }
        (space, used)
    });
    in_force.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn after_any_history_each_namespace_has_what_counting_one_by_one_gives_it(
        // The flag is whether the compiler updates after the step.
        steps in proptest::collection::vec((step(), any::<bool>()), 1..16),
    ) {
        const CAPACITY: Capacity = Capacity { entries: 300, rules: 100_000, ports: 1000 };
        let mut index = Index::new(Config::default());
        let mut compiler = Compiler::new(scope()).with_capacity(CAPACITY);
        let (mut policies, mut pods) = (Policies::new(), Pods::new());
        for (step, looks) in steps {
            match step {
                Step::Policy(space, n, _, 0) => {
                    index.delete(&ObjectKey::new(Kind::NetworkPolicy, &format!("s{space}"), &format!("p{n}")));
                    policies.remove(&(space, n));
                }
                Step::Policy(space, n, app, length) => {
                    // A last form that stays in force would have a share of its own.
                    index.delete(&ObjectKey::new(Kind::NetworkPolicy, &format!("s{space}"), &format!("p{n}")));
                    let block = |k| json!({"cidr": format!("20.{space}.{n}.{k}/32")});
                    let blocks: Vec<Value> = (0..length).map(block).collect();
                    index.apply(object(policy(&format!("s{space}/p{n}"), app, &blocks)));
                    policies.insert((space, n), (app, length));
                }
                Step::Pod(space, n, None) => {
                    index.delete(&ObjectKey::new(Kind::Pod, &format!("s{space}"), &format!("a{n}")));
                    pods.remove(&(space, n));
                }
                Step::Pod(space, n, Some(label)) => {
                    let ip = format!("10.0.{space}.{n}");
                    index.apply(object(app(&format!("s{space}/a{n}"), &ip, label)));
                    pods.insert((space, n), label);
                }
            }
            if !looks {
                continue;
            }
            compiler.update(&mut index);
            prop_assert_eq!(compiler.tables(), &index.compile(&scope()));
            let expected = fair(&policies, &pods, CAPACITY.entries);
            let mut in_force: BTreeMap<u8, u32> = expected.keys().map(|s| (*s, 0)).collect();
            let selecting = policies.iter().filter(|((space, _), (app, _))| {
                let mut own = pods.iter().filter(|((of, _), _)| of == space);
                own.any(|(_, label)| app.is_none_or(|app| app == *label))
            });
            for ((space, n), (_, length)) in selecting {
                let unit = Unit::Policy(format!("p{n}").into());
                if !index.held.is_held(&format!("s{space}").into(), &unit) {
                    *in_force.entry(*space).or_default() += length;
                }
            }
            prop_assert_eq!(in_force, expected);
        }
    }

    #[test]
    fn blocks_that_come_and_go_within_each_other_leave_what_compiling_from_scratch_gives(
        steps in proptest::collection::vec((0..6_u8, proptest::collection::vec((0..4_u8, 0..4_u8, 0..5_u8), 0..3)), 1..12),
    ) {
        let mut index = Index::new(Config::default());
        let mut compiler = Compiler::new(scope());
        for n in 0..4 {
            index.apply(object(app(&format!("s/a{n}"), &format!("20.{n}.0.{n}"), n)));
        }
        for (n, blocks) in steps {
            let block = |(a, b, kind): &(u8, u8, u8)| match kind {
                0 => json!({"cidr": "0.0.0.0/0", "except": [format!("20.{a}.0.0/16")]}),
                1 => json!({"cidr": format!("20.{a}.0.0/16"), "except": [format!("20.{a}.0.{b}/32")]}),
                2 => json!({"cidr": format!("20.{a}.0.{b}/32")}),
                3 => json!({"cidr": "::/0"}),
                _ => json!({"cidr": format!("20.{a}.0.0/24")}),
            };
            let blocks: Vec<Value> = blocks.iter().map(block).collect();
            let name = format!("p{n}");
            match blocks.is_empty() {
                true => index.delete(&ObjectKey::new(Kind::NetworkPolicy, "s", &name)),
                false => index.apply(object(policy(&format!("s/{name}"), Some(n % 4), &blocks))),
            }
            compiler.update(&mut index);
            prop_assert_eq!(compiler.tables(), &index.compile(&scope()));
        }
    }
}
