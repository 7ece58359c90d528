//! Changes in which classes fall back to the grant of class 0.

use proptest::prelude::*;

use super::*;

const ANY: u32 = PortSet::ALL;
const TCP: u32 = PortSet::whole(6);
const NONE: u32 = PortSet::NONE;

/// Returns tables with one pod under a ruleset, the grants of that ruleset by class, and the
/// classes of addresses.
fn tables(ruleset: u32, rules: &[(u32, u32, u32)], classes: &[(u8, u32)]) -> Tables {
    let mut tables = Tables::default();
    let under = EndpointPolicy {
        ingress: ruleset,
        flags: EndpointRules::INGRESS_ISOLATED,
        ..EndpointPolicy::default()
    };
    tables.endpoints.insert(PodKey::default(), under);
    for (ruleset, class, enforced) in rules {
        let grant = Grant {
            enforced: *enforced,
            staged: NONE,
        };
        tables.rules.insert((*ruleset, *class), grant);
    }
    let classes = classes
        .iter()
        .map(|(n, class)| (Addr::v4([10, 0, 0, *n]), *class));
    tables.classes.extend(classes);
    tables
}

/// Returns the writes that turn one generation into the other.
fn written(old: &Tables, new: &Tables) -> Before {
    fn differing<K: Ord + std::hash::Hash + Clone, V: PartialEq + Clone>(
        old: &BTreeMap<K, V>,
        new: &BTreeMap<K, V>,
        to: &mut HashMap<K, Option<V>>,
    ) {
        for key in old.keys().chain(new.keys()) {
            if old.get(key) != new.get(key) {
                to.insert(key.clone(), old.get(key).cloned());
            }
        }
    }
    let mut before = Before::default();
    differing(&old.classes, &new.classes, &mut before.classes);
    differing(&old.cidrs, &new.cidrs, &mut before.cidrs);
    differing(&old.rules, &new.rules, &mut before.rules);
    differing(&old.endpoints, &new.endpoints, &mut before.endpoints);
    before
}

/// Reports whether a change raises the pod, judged by the writes.
fn raises_by_writes(old: &Tables, new: &Tables) -> bool {
    let [before, now] = [old, new].map(|tables| {
        let in_use = tables.classes.values().chain(tables.cidrs.values());
        in_use.copied().chain([0]).collect::<BTreeSet<u32>>()
    });
    let is_kept = |class: u32| before.contains(&class) && now.contains(&class);
    let change = Change::of(&written(old, new), new, &is_kept);
    !change.raised.is_empty()
}

/// Reports whether a change raises the pod; asserts that both methods agree.
fn raises(old: &Tables, new: &Tables) -> bool {
    let compared = !Change::between(old, new).raised.is_empty();
    assert_eq!(raises_by_writes(old, new), compared);
    compared
}

#[test]
fn a_default_that_shrinks_raises_and_one_that_grows_does_not() {
    let classes = [(7, 7)];
    let wide = tables(1, &[(1, 0, ANY)], &classes);
    let narrow = tables(1, &[(1, 0, TCP)], &classes);
    assert!(raises(&wide, &narrow));
    assert!(!raises(&narrow, &wide));
    assert!(raises(&wide, &tables(1, &[], &classes)));
    // The same grants under another id.
    let other = tables(2, &[(2, 0, TCP)], &classes);
    assert!(raises(&wide, &other));
    assert!(!raises(&narrow, &other));
}

#[test]
fn a_default_that_shrinks_takes_nothing_from_a_class_with_a_rule_but_from_the_others() {
    let old = tables(1, &[(1, 0, TCP), (1, 7, ANY)], &[(7, 7)]);
    assert!(raises(&old, &tables(1, &[(1, 7, ANY)], &[(7, 7)])));
    // Only class 7 had a grant.
    let closed = tables(1, &[(1, 7, ANY)], &[(7, 7)]);
    assert!(!raises(&closed, &tables(2, &[(2, 0, ANY)], &[(7, 7)])));
    assert!(raises(&closed, &tables(2, &[(2, 0, TCP)], &[(7, 7)])));
}

#[test]
fn a_rule_that_comes_raises_if_it_grants_less_than_the_default() {
    let old = tables(1, &[(1, 0, ANY)], &[(7, 7)]);
    for less in [NONE, TCP] {
        for ruleset in [1, 2] {
            let rules = [(ruleset, 0, ANY), (ruleset, 7, less)];
            assert!(raises(&old, &tables(ruleset, &rules, &[(7, 7)])));
        }
    }
    let same = tables(2, &[(2, 0, ANY), (2, 7, ANY)], &[(7, 7)]);
    assert!(!raises(&old, &same));
    // No address has that class.
    let idle = tables(2, &[(2, 0, ANY), (2, 9, NONE)], &[(7, 7)]);
    assert!(!raises(&old, &idle));
}

#[test]
fn a_rule_that_goes_raises_if_the_default_is_less() {
    let old = tables(1, &[(1, 0, TCP), (1, 7, ANY)], &[(7, 7)]);
    for ruleset in [1, 2] {
        assert!(raises(
            &old,
            &tables(ruleset, &[(ruleset, 0, TCP)], &[(7, 7)])
        ));
        assert!(raises(&old, &tables(ruleset, &[], &[(7, 7)])));
        assert!(!raises(
            &old,
            &tables(ruleset, &[(ruleset, 0, ANY)], &[(7, 7)])
        ));
    }
    let denied = tables(1, &[(1, 0, TCP), (1, 7, NONE)], &[(7, 7)]);
    assert!(!raises(&denied, &tables(1, &[(1, 0, TCP)], &[(7, 7)])));
}

#[test]
fn an_address_that_goes_from_a_class_to_another_is_compared_by_what_each_falls_back_to() {
    // Class 7 has a rule, 8 and 9 have none.
    let deny = [(1, 0, TCP), (1, 7, NONE)];
    let more = [(1, 0, TCP), (1, 7, ANY)];
    for (rules, from, to, raised) in [
        (deny, 8, 7, true),
        (deny, 0, 7, true),
        (deny, 7, 8, false),
        (deny, 8, 9, false),
        (deny, 8, 0, false),
        (more, 7, 8, true),
        (more, 7, 0, true),
        (more, 8, 7, false),
        (more, 0, 7, false),
    ] {
        let [old, new] = [from, to].map(|class| tables(1, &rules, &[(3, class)]));
        assert_eq!(raises(&old, &new), raised, "{rules:?}: {from} to {to}");
    }
}

#[test]
fn an_unlisted_address_that_gets_a_class_with_a_lesser_rule_raises() {
    let rules = [(1, 0, ANY), (1, 7, NONE)];
    let [old, new] = [&[][..], &[(3, 7)]].map(|classes| tables(1, &rules, classes));
    assert!(raises(&old, &new));
    assert!(!raises(&new, &old));
}

/// Classes of the addresses 10.0.0.0 to 10.0.0.3, and of the /24 around them.
type Placed = ([Option<u32>; 4], Option<u32>);
type Side = (u32, Vec<(u32, u32, u32)>, Placed);

fn side() -> impl Strategy<Value = Side> {
    let set = prop_oneof![Just(NONE), Just(TCP), Just(PortSet::OTHER), Just(ANY)];
    let rules = proptest::collection::vec((1..3_u32, 0..4_u32, set), 0..8);
    let class = || proptest::option::of(0..4_u32);
    let placed = ([class(), class(), class(), class()], class());
    (1..3_u32, rules, placed)
}

fn built((ruleset, rules, (exact, block)): &Side) -> Tables {
    let numbered = (0..).zip(exact);
    let classes: Vec<(u8, u32)> = numbered.filter_map(|(n, c)| Some((n, (*c)?))).collect();
    let mut tables = tables(*ruleset, rules, &classes);
    let prefix = (Addr::v4([10, 0, 0, 0]), 120);
    tables.cidrs.extend(block.map(|class| (prefix, class)));
    tables
}

/// Reports whether some address is granted less, checking them one by one. The last address
/// represents the block, and another one everything outside it.
fn takes(old: &Tables, new: &Tables) -> bool {
    let granted = |tables: &Tables, addr: &Addr| {
        let under = &tables.endpoints[&PodKey::default()];
        tables
            .granted(under.ingress, tables.class_of(addr))
            .enforced
    };
    let block = (0..5).map(|n| Addr::v4([10, 0, 0, n]));
    let mut all = block.chain([Addr::v4([192, 0, 2, 1])]);
    all.any(|addr| granted(old, &addr) & !granted(new, &addr) != 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn what_is_raised_is_what_asking_for_each_address_finds(old in side(), new in side()) {
        let (old, new) = (built(&old), built(&new));
        let takes = takes(&old, &new);
        prop_assert_eq!(!Change::between(&old, &new).raised.is_empty(), takes);
        // The writes don't show which addresses stayed in a class.
        prop_assert!(raises_by_writes(&old, &new) || !takes);
    }

    #[test]
    fn a_change_of_few_entries_raises_whoever_it_takes_from(
        old in side(), new in side(), kept in any::<[bool; 3]>(),
    ) {
        // The ruleset, its rules or the classes are unchanged.
        let mut new = new;
        if kept[0] {
            new.0 = old.0;
        }
        if kept[1] {
            new.1.clone_from(&old.1);
        }
        if kept[2] {
            new.2 = old.2;
        }
        let (old, new) = (built(&old), built(&new));
        let takes = takes(&old, &new);
        prop_assert_eq!(!Change::between(&old, &new).raised.is_empty(), takes);
        prop_assert!(raises_by_writes(&old, &new) || !takes);
    }
}
