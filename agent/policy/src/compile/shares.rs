//! Shares table capacity among namespaces: policies and label allowlists are admitted namespace by
//! namespace.
//!
//! A policy weighs as many entries as it lists: peers, blocks, exceptions and ports; labels weigh a
//! quarter of the peers that they name. The total weight of those that select pods in scope is
//! limited so that their blocks fit the tables and the agent's memory. The capacity is shared by
//! max-min fairness: a namespace that asks for no more than a fair share gets it, and what it
//! leaves is shared by the others. One namespace alone may have three quarters.
//! ClusterNetworkPolicies come first, and have three quarters at most.
//!
//! Rules are products of the policies of several namespaces (`charges.rs`), so a table may fill up
//! all the same. Then the namespace that fills it most gets a limit of its own, until everything
//! fits.
//!
//! Within a namespace the lightest are admitted first, so the order of arrival doesn't matter. The
//! newest form of a policy that isn't admitted has no effect; labels that aren't admitted grant
//! nothing; a ClusterNetworkPolicy that isn't admitted is closed.
//!
//! What each namespace asks for follows the journal (`asks.rs`). The decisions about a namespace
//! are repeated only if it asks for something else, or if its allowance changes enough to matter:
//! the cost of a change is proportional to what it affects, not to what other namespaces have.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use ringfence_ebpf::abi::capacity;

use crate::{
    index::{
        Index,
        groups::GroupId,
        held::{CLUSTER, Unit},
    },
    intern::{HashMap, HashSet, Text},
};

use super::{asks::Asks, charges::Table, ids::IdKey};

/// ClusterNetworkPolicies up to this weight don't reduce what is left for namespaces.
const LIGHT: u32 = 128;

/// The maximum number of entries, in one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Peers, blocks, exceptions and ports in policies that select pods in scope, and a quarter of
    /// the peers of label allowlists.
    pub entries: u32,
    /// Entries of table `rules`.
    pub rules: u32,
    /// Entries of table `ports`.
    pub ports: u32,
}

impl Capacity {
    /// The capacity of the maps: half of each, since both buffers share them.
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

/// Returns how much of a capacity one namespace alone may use.
pub(super) const fn most(capacity: u32) -> u32 {
    capacity - capacity / 4
}

/// The limit of a namespace that filled a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// The maximum number of entries.
    pub(super) entries: u32,
    /// What the namespace asked for when the limit was set.
    asked: u64,
    /// The size of the tables once the limit was applied; `None` until then.
    used: Option<usize>,
}

/// Groups in scope by namespace.
pub(super) type Here = HashMap<Text, Vec<GroupId>>;

/// The shares of namespaces.
#[derive(Debug)]
pub(super) struct Shares {
    pub(super) capacity: Capacity,
    limits: BTreeMap<Text, Limit>,
    asks: Asks,
    /// For each namespace, the range of allowances that leads to the same decisions.
    decided: HashMap<Text, Range<u64>>,
}

impl Shares {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            limits: BTreeMap::new(),
            asks: Asks::default(),
            decided: HashMap::default(),
        }
    }

    /// Returns the maximum number of entries of a table.
    pub(super) const fn of(&self, table: Table) -> u32 {
        match table {
            Table::Rules => self.capacity.rules,
            Table::Ports => self.capacity.ports,
        }
    }

    /// Records what each namespace asks for in scope. If `follows`, only what the journal names has
    /// changed. `stale` lists groups for which labels may have a new meaning.
    pub(super) fn take_note(
        &mut self,
        index: &Index,
        here: &Here,
        (follows, stale): (bool, &HashSet<GroupId>),
        key: IdKey,
    ) {
        if !follows {
            self.asks = Asks::default();
            self.decided.clear();
        }
        for space in self.asks.apply_changes(index, here, stale, key) {
            self.decided.remove(&space);
        }
        if self.asks.clusters(index, follows) {
            self.decided.remove(CLUSTER);
        }
    }

    /// Decides what is in force, and in which form.
    pub(super) fn share_out(&mut self, index: &mut Index) {
        let most = u64::from(most(self.capacity.entries));
        self.decide(index, &CLUSTER.into(), most);
        let has = |space: &Text, sum: u64| match self.limits.get(space) {
            Some(limit) => u64::from(limit.entries).min(sum),
            None => sum,
        };
        let others = || self.asks.spaces().filter(|space| &***space != CLUSTER);
        let sums = others().map(|space| has(space, self.asks.sum(index, space, most)));
        let level = level(sums.collect(), self.left(index));
        let gone = index.held.spaces().filter(|s| !self.asks.has(s));
        for space in others().chain(gone).cloned().collect::<Vec<Text>>() {
            self.decide(index, &space, level);
        }
        let asks = &self.asks;
        self.decided.retain(|space, _| asks.has(space));
    }

    /// Decides which units of a namespace are in force, unless its allowance leads to the same
    /// decisions.
    fn decide(&mut self, index: &mut Index, space: &Text, level: u64) {
        let limit = self.limits.get(space);
        let may = level.min(limit.map_or(u64::MAX, |limit| limit.entries.into()));
        let decided = self.decided.get(space);
        if !decided.is_some_and(|same| same.contains(&may)) {
            let same = decide(index, space, self.asks.lightest_first(space), may);
            self.decided.insert(Arc::clone(space), same);
        }
    }

    /// Returns the capacity that ClusterNetworkPolicies leave: they come first.
    fn left(&self, index: &Index) -> u64 {
        let all = index.cluster_policies.iter();
        let in_force = all.filter(|(name, _)| !index.held.holds_cluster(name));
        let weights = in_force.map(|(_, policy)| u64::from(policy.weight));
        let heavy = weights.filter(|weight| *weight > u64::from(LIGHT));
        u64::from(self.capacity.entries) - heavy.sum::<u64>()
    }

    /// Limits a namespace in proportion: it has `fills` entries of a table and may have `fits`.
    /// Returns whether there was something to reduce.
    pub(super) fn limit(&mut self, index: &Index, space: &Text, (fits, fills): (u64, u64)) -> bool {
        let has = self.in_force(index, space);
        if has == 0 {
            return false;
        }
        let proportional = u64::from(has) * fits / fills.max(1);
        let proportional = u32::try_from(proportional).unwrap_or(u32::MAX);
        let limit = Limit {
            entries: proportional.min(has - has.div_ceil(3)),
            asked: self.asks.total(space),
            used: None,
        };
        self.limits.insert(Arc::clone(space), limit);
        true
    }

    /// Returns the weight of what is in force of a namespace.
    fn in_force(&self, index: &Index, space: &Text) -> u32 {
        let weights = self.asks.lightest_first(space).map(|(weight, unit)| {
            match index.held.is_held(space, unit) {
                true => index.held.last_weight(space, unit).unwrap_or(0),
                false => weight,
            }
        });
        weights.fold(0, u32::saturating_add)
    }

    /// Records the size of the tables under new limits.
    pub(super) fn reconcile(&mut self, used: usize) {
        for limit in self.limits.values_mut() {
            limit.used.get_or_insert(used);
        }
    }

    /// Drops the limits of namespaces that ask for a quarter less than when they were limited, and
    /// all limits set when the tables were a quarter larger. The margin avoids oscillation.
    pub(super) fn reconsider(&mut self, used: usize) {
        let less = |now: u64, then: u64| now < then && now <= then - then / 4;
        let asks = &self.asks;
        self.limits.retain(|space, limit| {
            let emptied = limit
                .used
                .is_some_and(|then| less(used as u64, then as u64));
            !emptied && !less(asks.total(space), limit.asked)
        });
    }
}

/// Returns the most that each namespace may have, such that everything fits and no namespace yields
/// to one that has more.
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

/// Admits the lightest units first; returns the range of allowances that gives the same decisions.
fn decide<'a>(
    index: &mut Index,
    space: &Text,
    asks: impl Iterator<Item = (u32, &'a Unit)>,
    may: u64,
) -> Range<u64> {
    let mut others: HashSet<Unit> = index.held.of(space).collect();
    let (mut used, mut same) = (0, 0..u64::MAX);
    // Reports whether there is room for this much more.
    let mut fits = |used: u64, weight: u32| {
        let needed = used + u64::from(weight);
        if needed <= may {
            same.start = same.start.max(needed);
        } else {
            same.end = same.end.min(needed);
        }
        needed <= may
    };
    for (weight, unit) in asks {
        others.remove(unit);
        if fits(used, weight) {
            used += u64::from(weight);
            index.release(space, unit);
            continue;
        }
        let last = index.held.last_weight(space, unit);
        let last = last.filter(|last| fits(used, *last));
        used += u64::from(last.unwrap_or(0));
        index.hold(space, unit, last.is_some());
    }
    // These units don't select anything here any more.
    for unit in others {
        index.release(space, &unit);
    }
    same
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
            // A namespace that gets less than it asked for has as much as any other.
            for (asked, given) in asked.iter().zip(&given) {
                prop_assert!(given == asked || *given == level);
            }
            // Nothing that a namespace could use is left over.
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
