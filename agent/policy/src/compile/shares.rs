//! Who may use how much: NetworkPolicies are admitted namespace by namespace.
//!
//! A policy weighs as many entries as it lists: peers, blocks, exceptions and
//! ports. Together those that select pods in scope may weigh so much that their
//! blocks fit the tables and the agent's memory. What there is is shared out by
//! max-min fairness: who asks for no more than a fair share gets it, and what they
//! leave is shared by the others. One namespace alone may have three quarters.
//!
//! Rules are products of what several namespaces say (`charges.rs`), so a table
//! may be full all the same. Then the namespace that fills it most gets a limit of
//! its own, until everything fits.
//!
//! Within a namespace the lightest policies are admitted first, so that what came
//! first doesn't matter. The newest form of one that isn't admitted has no effect.

use std::{collections::BTreeMap, sync::Arc};

use ringfence_ebpf::abi::capacity;

use crate::{
    index::{Index, Key, groups::GroupId, policies::StoredPolicy},
    intern::{HashMap, HashSet, Text},
};

use super::charges::Table;

/// How many entries there may be, in one world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Peers, blocks, exceptions and ports in policies that select pods in scope.
    pub entries: u32,
    /// Entries of table `rules`.
    pub rules: u32,
    /// Entries of table `ports`.
    pub ports: u32,
}

impl Capacity {
    /// What the maps hold: half of each, since both worlds share them.
    pub const MAPS: Self = Self {
        entries: 65_536,
        rules: capacity::RULES / 2,
        ports: capacity::PORTS / 2,
    };
}

const _: () = assert!(Capacity::MAPS.rules * 2 <= capacity::RULES);
const _: () = assert!(Capacity::MAPS.ports * 2 <= capacity::PORTS);
// Each block and each exception is one prefix at most.
const _: () = assert!(Capacity::MAPS.entries < capacity::CIDRS / 4);

/// What of a capacity one namespace alone may use.
pub(super) const fn most(capacity: u32) -> u32 {
    capacity - capacity / 4
}

/// What a namespace that filled a table may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// Entries that it may have.
    pub(super) entries: u32,
    /// What it asked for when it got the limit.
    asked: u32,
    /// How large the tables were once it had the limit; `None` up to then.
    used: Option<usize>,
}

/// Groups in scope by namespace.
pub(super) type Here = HashMap<Text, Vec<GroupId>>;

/// Who may have how much.
#[derive(Debug)]
pub(super) struct Shares {
    pub(super) capacity: Capacity,
    limits: BTreeMap<Text, Limit>,
}

/// A policy that selects pods in scope.
struct Ask {
    name: Text,
    weight: u32,
    /// Of the form that may stay instead.
    last: Option<u32>,
}

impl Shares {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            limits: BTreeMap::new(),
        }
    }

    /// How many entries a table may have.
    pub(super) const fn of(&self, table: Table) -> u32 {
        match table {
            Table::Rules => self.capacity.rules,
            Table::Ports => self.capacity.ports,
        }
    }

    /// Whether there is nothing to decide.
    pub(super) fn is_idle(&self, index: &Index) -> bool {
        self.limits.is_empty() && index.held.is_idle()
    }

    /// Decides which policies are in force in which form.
    pub(super) fn share_out(&mut self, index: &mut Index, here: &Here) {
        let spaces = index.held.spaces().chain(self.limits.keys());
        let spaces: HashSet<Text> = spaces.map(Arc::clone).collect();
        let mut asks: BTreeMap<Text, Vec<Ask>> = BTreeMap::new();
        for space in spaces {
            let all = self.limits.contains_key(&space);
            asks.insert(space.clone(), asked(index, here, &space, all));
        }
        let sums = asks.iter().map(|(space, asks)| {
            let sum: u64 = asks.iter().map(|ask| u64::from(ask.weight)).sum();
            self.limits
                .get(space)
                .map_or(sum, |limit| u64::from(limit.entries).min(sum))
        });
        let level = level(sums.collect(), self.left(index));
        for (space, asks) in asks {
            let limit = self
                .limits
                .get(&space)
                .map_or(u32::MAX, |limit| limit.entries);
            decide(index, &space, asks, level.min(u64::from(limit)));
        }
    }

    /// What ClusterNetworkPolicies leave: they come first.
    fn left(&self, index: &Index) -> u64 {
        let weights = index.cluster_policies.values().map(|p| u64::from(p.weight));
        let heavy = weights.filter(|weight| *weight > u64::from(crate::index::held::LIGHT));
        let taken = heavy
            .sum::<u64>()
            .min(u64::from(most(self.capacity.entries)));
        u64::from(self.capacity.entries) - taken
    }

    /// Limits a namespace; `fits` of `fills` is what it may have of the table that
    /// it fills. Whether there was something to take.
    pub(super) fn limit(
        &mut self,
        index: &Index,
        here: &Here,
        space: &Text,
        (fits, fills): (u64, u64),
    ) -> bool {
        let has = in_force(index, here, space);
        if has == 0 {
            return false;
        }
        let proportional = u64::from(has) * fits / fills.max(1);
        let proportional = u32::try_from(proportional).unwrap_or(u32::MAX);
        let limit = Limit {
            entries: proportional.min(has - has.div_ceil(3)),
            asked: weight(&asked(index, here, space, true)),
            used: None,
        };
        self.limits.insert(Arc::clone(space), limit);
        true
    }

    /// Notes how large the tables are under new limits.
    pub(super) fn settle(&mut self, used: usize) {
        for limit in self.limits.values_mut() {
            limit.used.get_or_insert(used);
        }
    }

    /// Forgets limits of namespaces that ask for less now, and all of them where the
    /// tables have emptied: a quarter, so that nobody goes back and forth.
    pub(super) fn reconsider(&mut self, index: &Index, here: &Here, used: usize) {
        let less = |now: u64, then: u64| now < then && now <= then - then / 4;
        self.limits.retain(|space, limit| {
            let asked = weight(&asked(index, here, space, true));
            let emptied = limit
                .used
                .is_some_and(|then| less(used as u64, then as u64));
            !emptied && !less(asked.into(), limit.asked.into())
        });
    }
}

fn weight(asks: &[Ask]) -> u32 {
    asks.iter()
        .fold(0, |sum, ask| sum.saturating_add(ask.weight))
}

/// The policies of a namespace that select pods in scope: the heavy and the held
/// ones, or all of them.
fn asked(index: &Index, here: &Here, space: &Text, all: bool) -> Vec<Ask> {
    let groups = here.get(space).map_or(&[][..], Vec::as_slice);
    let own = index.policies.get(space).into_iter().flatten();
    let counts = |name: &Text| all || index.held.is_heavy(space, name);
    let own = own.filter(|(name, p)| counts(name) && selects(index, groups, p));
    let ask = |(name, policy): (&Text, &StoredPolicy)| Ask {
        name: Arc::clone(name),
        weight: policy.weight,
        last: index
            .held
            .last_weight(&(Arc::clone(space), Arc::clone(name))),
    };
    own.map(ask).collect()
}

fn selects(index: &Index, groups: &[GroupId], policy: &StoredPolicy) -> bool {
    let mut shapes = groups.iter().map(|id| index.groups.shape(*id));
    shapes.any(|shape| {
        let subjects = &policy.subjects;
        !subjects.rules_out(&shape.labels) && subjects.matches(&shape.labels)
    })
}

/// What the forms in force of a namespace's policies weigh.
fn in_force(index: &Index, here: &Here, space: &Text) -> u32 {
    let held: HashMap<&Text, bool> = index
        .held
        .all()
        .filter(|(of, ..)| *of == space)
        .map(|(_, name, kept)| (name, kept))
        .collect();
    let asks = asked(index, here, space, true);
    let weights = asks.iter().map(|ask| match held.get(&ask.name) {
        None => ask.weight,
        Some(true) => ask.last.unwrap_or(0),
        Some(false) => 0,
    });
    weights.fold(0, u32::saturating_add)
}

/// What each may have at most, so that all fit and nobody gives way to someone who
/// has more.
fn level(mut asked: Vec<u64>, capacity: u64) -> u64 {
    let most = capacity - capacity / 4;
    asked.sort_unstable();
    let mut left = capacity;
    for (others, sum) in (1..=asked.len() as u64).rev().zip(asked) {
        let sum = sum.min(most);
        let fair = left / others;
        if sum > fair {
            return fair;
        }
        left -= sum;
    }
    most
}

/// Admits the lightest first.
fn decide(index: &mut Index, space: &Text, mut asks: Vec<Ask>, mut left: u64) {
    let held = index.held.all().filter(|(of, ..)| *of == space);
    let mut others: HashSet<Text> = held.map(|(_, name, _)| Arc::clone(name)).collect();
    asks.sort_by(|a, b| (a.weight, &a.name).cmp(&(b.weight, &b.name)));
    for ask in asks {
        others.remove(&ask.name);
        let key: Key = (Arc::clone(space), ask.name);
        let last = ask.last.map(u64::from).filter(|last| *last <= left);
        if u64::from(ask.weight) <= left {
            left -= u64::from(ask.weight);
            index.release(&key);
        } else {
            left -= last.unwrap_or(0);
            index.hold(&key, last.is_some());
        }
    }
    // They select nobody here any longer, or are light by now.
    for name in others {
        index.release(&(Arc::clone(space), name));
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nobody_gives_way_to_someone_who_has_more(asked in vec(0..200_u64, 0..8), capacity in 1..400_u64) {
            let most = capacity - capacity / 4;
            let level = level(asked.clone(), capacity);
            prop_assert!(level <= most);
            let given: Vec<u64> = asked.iter().map(|sum| (*sum).min(level)).collect();
            prop_assert!(given.iter().sum::<u64>() <= capacity);
            // Whoever gets less than it asked for has as much as anybody.
            for (asked, given) in asked.iter().zip(&given) {
                prop_assert!(given == asked || *given == level);
            }
            // Nothing that one of them could have is left lying.
            let clipped: Vec<u64> = asked.iter().map(|sum| (*sum).min(most)).collect();
            if clipped.iter().sum::<u64>() <= capacity {
                prop_assert_eq!(given, clipped);
            } else {
                let left = capacity - given.iter().sum::<u64>();
                prop_assert!(left < asked.len() as u64, "{left} left");
            }
        }
    }

    #[test]
    fn one_alone_may_have_three_quarters_and_two_share_all() {
        assert_eq!(level(vec![1000], 400), 300);
        assert_eq!(level(vec![1000, 50], 400), 300);
        assert_eq!(level(vec![1000, 150], 400), 250);
        assert_eq!(level(vec![1000, 1000], 400), 200);
        assert_eq!(level(vec![10, 20], 400), 300);
    }
}
