//! What namespaces ask for: the policies that select pods in scope, the label allowlists that
//! involve those pods, and their weights.
//!
//! This is kept up to date from the journal. A policy that changed is matched against the groups of
//! its namespace, and a group that is new in scope against the policies of its namespace. A group's
//! labels are weighed again when their meaning has changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    index::{
        Index,
        groups::GroupId,
        held::{CLUSTER, Unit},
        pods::PodTraits,
        policies::StoredPolicy,
    },
    intern::{HashMap, HashSet, Text},
};

use super::{
    ids::IdKey,
    labelled::{self, Asked},
    shares::Here,
};

/// What each namespace asks for, and under [`CLUSTER`] what ClusterNetworkPolicies ask for.
#[derive(Debug, Default)]
pub(super) struct Asks {
    spaces: BTreeMap<Text, Space>,
    /// For each group in scope: the signature of the labels that involve it, and what they ask for.
    labels: HashMap<GroupId, (u64, Asked)>,
}

/// What one namespace asks for.
#[derive(Debug, Default)]
struct Space {
    /// Its groups in scope, and the policies that select each.
    groups: HashMap<GroupId, HashSet<Text>>,
    /// Its policies that select at least one group: their weight, and how many groups they select.
    policies: HashMap<Text, (u32, u32)>,
    /// Its labels: the weight for each signature, and how many groups share it.
    labels: HashMap<Unit, HashMap<u64, (u32, u32)>>,
    /// All policies and labels by weight.
    by_weight: BTreeSet<(u32, Unit)>,
    sum: u64,
}

impl Asks {
    /// Brings everything up to date with the index. Returns the namespaces that ask for something
    /// different now or whose policies have changed. `stale` lists groups for which labels may have
    /// a new meaning.
    pub(super) fn apply_changes(
        &mut self,
        index: &Index,
        here: &Here,
        stale: &HashSet<GroupId>,
        key: IdKey,
    ) -> HashSet<Text> {
        let mut concerned = HashSet::default();
        for (name, policy) in &index.journal.policies {
            if let Some(space) = self.spaces.get_mut(name) {
                space.policy(index, policy, index.policy(name, policy));
                concerned.insert(Arc::clone(name));
            }
        }
        for (name, space) in &mut self.spaces {
            if !here.contains_key(name) && space.groups(index, name, &[]) {
                concerned.insert(Arc::clone(name));
            }
        }
        for (name, groups) in here {
            let space = self.spaces.entry(Arc::clone(name)).or_default();
            if space.groups(index, name, groups) {
                concerned.insert(Arc::clone(name));
            }
        }
        self.labels(index, here, stale, key, &mut concerned);
        self.spaces.retain(|name, space| {
            here.contains_key(name) || !space.by_weight.is_empty() || &**name == CLUSTER
        });
        concerned
    }

    /// Records ClusterNetworkPolicies: those named by the journal if `follows`, otherwise all.
    /// Returns whether there were any.
    pub(super) fn clusters(&mut self, index: &Index, follows: bool) -> bool {
        let all = index.cluster_policies.keys();
        let names: Vec<&Text> = match follows {
            true => index.journal.cluster_policies.iter().collect(),
            false => all.collect(),
        };
        let changed = !names.is_empty();
        let space = self.spaces.entry(CLUSTER.into()).or_default();
        for name in names {
            let now = index.cluster_policies.get(name);
            space.set(name, now.map_or(0, |p| p.weight), now.is_some().into());
        }
        changed
    }

    /// Weighs the labels that involve groups which are new in scope, and those whose meaning may
    /// have changed.
    fn labels(
        &mut self,
        index: &Index,
        here: &Here,
        stale: &HashSet<GroupId>,
        key: IdKey,
        concerned: &mut HashSet<Text>,
    ) {
        let now: HashSet<GroupId> = here.values().flatten().copied().collect();
        let is_kept = |id: &GroupId| {
            now.contains(id) && !stale.contains(id) && !index.journal.groups.contains(id)
        };
        let known = self.labels.keys().filter(|id| !is_kept(id));
        let mut before: HashMap<GroupId, (u64, Asked)> = HashMap::default();
        for id in known.copied().collect::<Vec<GroupId>>() {
            before.extend(self.labels.remove(&id).map(|asked| (id, asked)));
        }
        let new = now.iter().filter(|id| !self.labels.contains_key(*id));
        let mut after: HashMap<GroupId, (u64, Asked)> = HashMap::default();
        for id in new {
            let traits = index.groups.traits(*id);
            let asked = labelled::weigh(index, traits);
            let signature = match asked.is_empty() {
                true => 0,
                false => labelled::signature(index, key, traits),
            };
            after.insert(*id, (signature, asked));
        }
        // Groups with the same signature share an entry: remove the old ones before adding any.
        let differs = |id: &GroupId| before.get(id) != after.get(id);
        let gone = before.iter().filter(|(id, _)| differs(id));
        let come = after.iter().filter(|(id, _)| differs(id));
        for ((_, (signature, asked)), more) in
            gone.map(|g| (g, false)).chain(come.map(|c| (c, true)))
        {
            for ((space, unit), weight) in asked {
                let own = self.spaces.entry(Arc::clone(space)).or_default();
                own.label(unit, *signature, *weight, more);
                concerned.insert(Arc::clone(space));
            }
        }
        self.labels.extend(after);
    }

    /// Returns [`CLUSTER`], and every namespace that asks for something or has pods in scope.
    pub(super) fn spaces(&self) -> impl Iterator<Item = &Text> {
        self.spaces.keys()
    }

    /// Reports whether [`Self::spaces`] includes a namespace.
    pub(super) fn has(&self, space: &Text) -> bool {
        self.spaces.contains_key(space)
    }

    /// Returns the weight of everything that a namespace asks for.
    pub(super) fn total(&self, space: &Text) -> u64 {
        self.spaces.get(space).map_or(0, |space| space.sum)
    }

    /// Like [`Self::total`], but a unit heavier than `most` counts only with the weight of its last
    /// form that may stay in force: the unit itself can never fit.
    pub(super) fn sum(&self, index: &Index, name: &Text, most: u64) -> u64 {
        let Some(space) = self.spaces.get(name) else {
            return 0;
        };
        let mut sum = space.sum;
        for (weight, unit) in space.by_weight.iter().rev() {
            if u64::from(*weight) <= most {
                break;
            }
            let last = index.held.last_weight(name, unit).unwrap_or(0);
            sum = sum - u64::from(*weight) + u64::from(last);
        }
        sum
    }

    /// Returns the units that a namespace asks for with their weights, lightest first.
    pub(super) fn lightest_first(&self, space: &Text) -> impl Iterator<Item = (u32, &Unit)> {
        let asked = self.spaces.get(space).into_iter();
        let asked = asked.flat_map(|space| &space.by_weight);
        asked.map(|(weight, unit)| (*weight, unit))
    }
}

impl Space {
    /// Records a change of a policy.
    fn policy(&mut self, index: &Index, name: &Text, now: Option<&StoredPolicy>) {
        let mut count = 0;
        for (group, selecting) in &mut self.groups {
            selecting.remove(name);
            if now.is_some_and(|policy| selects(policy, index.groups.traits(*group))) {
                selecting.insert(Arc::clone(name));
                count += 1;
            }
        }
        self.set(name, now.map_or(0, |policy| policy.weight), count);
    }

    /// Records which groups are in scope; returns whether that changed.
    fn groups(&mut self, index: &Index, space: &Text, now: &[GroupId]) -> bool {
        // A reused id counts as a new group, whatever it meant before.
        let is_new = |id: &GroupId| index.journal.groups.contains(id);
        let now: HashSet<GroupId> = now.iter().copied().collect();
        let gone = self.groups.keys();
        let gone = gone.filter(|id| !now.contains(*id) || is_new(id));
        let gone: Vec<GroupId> = gone.copied().collect();
        let mut changed = !gone.is_empty();
        for id in gone {
            for name in self.groups.remove(&id).into_iter().flatten() {
                self.count(&name, |count| count - 1);
            }
        }
        for id in now {
            if self.groups.contains_key(&id) {
                continue;
            }
            changed = true;
            let traits = index.groups.traits(id);
            let all = index.policies.get(space).into_iter().flatten();
            let selecting = all.filter(|(_, policy)| selects(policy, traits));
            let selecting: Vec<(&Text, u32)> = selecting.map(|(n, p)| (n, p.weight)).collect();
            for (name, weight) in &selecting {
                match self.policies.contains_key(*name) {
                    true => self.count(name, |count| count + 1),
                    false => self.set(name, *weight, 1),
                }
            }
            let names = selecting.into_iter().map(|(name, _)| Arc::clone(name));
            self.groups.insert(id, names.collect());
        }
        changed
    }

    fn count(&mut self, name: &Text, change: impl Fn(u32) -> u32) {
        if let Some((weight, count)) = self.policies.get(name).copied() {
            self.set(name, weight, change(count));
        }
    }

    /// Sets the weight of a policy and the number of groups that it selects.
    fn set(&mut self, name: &Text, weight: u32, count: u32) {
        let before = self.policies.remove(name).map_or(0, |(weight, _)| weight);
        let unit = Unit::Policy(Arc::clone(name));
        self.by_weight.remove(&(before, unit.clone()));
        self.sum -= u64::from(before);
        if count > 0 {
            self.sum += u64::from(weight);
            self.by_weight.insert((weight, unit));
            self.policies.insert(Arc::clone(name), (weight, count));
        }
    }

    /// Counts one group more or less with labels of this signature and weight.
    fn label(&mut self, unit: &Unit, signature: u64, weight: u32, more: bool) {
        let weigh = |own: &HashMap<u64, (u32, u32)>| {
            let weights = own.values().map(|(weight, _)| *weight);
            weights.fold(0, u32::saturating_add)
        };
        let own = self.labels.entry(unit.clone()).or_default();
        let before = weigh(own);
        let (_, groups) = own.entry(signature).or_insert((weight, 0));
        *groups = if more { *groups + 1 } else { *groups - 1 };
        if *groups == 0 {
            own.remove(&signature);
        }
        let now = weigh(own);
        if own.is_empty() {
            self.labels.remove(unit);
        }
        self.by_weight.remove(&(before, unit.clone()));
        self.sum = self.sum + u64::from(now) - u64::from(before);
        if now > 0 {
            self.by_weight.insert((now, unit.clone()));
        }
    }
}

fn selects(policy: &StoredPolicy, traits: &PodTraits) -> bool {
    let subjects = &policy.subjects;
    !subjects.rules_out(&traits.labels) && subjects.matches(&traits.labels)
}
