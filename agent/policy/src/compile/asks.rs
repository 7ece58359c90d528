//! What namespaces ask for: the policies that select pods in scope, and their weights.
//!
//! Kept up to date from the journal. A policy that changed is tried against the groups
//! of its namespace, a group that is new in scope against the policies of its namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    index::{Index, groups::GroupId, pods::Shape, policies::StoredPolicy},
    intern::{HashMap, HashSet, Text},
};

use super::shares::Here;

/// What each namespace asks for.
#[derive(Debug, Default)]
pub(super) struct Asks {
    spaces: BTreeMap<Text, Space>,
}

/// What one of them asks for.
#[derive(Debug, Default)]
struct Space {
    /// Its groups in scope, and the policies that select each.
    groups: HashMap<GroupId, HashSet<Text>>,
    /// Its policies that select somebody: their weight, and how many groups.
    policies: HashMap<Text, (u32, u32)>,
    /// The same by weight.
    by_weight: BTreeSet<(u32, Text)>,
    sum: u64,
}

impl Asks {
    /// Brings everything to what the index says now; gives the namespaces that ask for
    /// something else than before, or whose policies have changed.
    pub(super) fn follow(&mut self, index: &Index, here: &Here) -> HashSet<Text> {
        let mut concerned = HashSet::default();
        let gone = self
            .spaces
            .keys()
            .filter(|space| !here.contains_key(*space));
        for space in gone.cloned().collect::<Vec<Text>>() {
            self.spaces.remove(&space);
            concerned.insert(space);
        }
        for (name, policy) in &index.journal.policies {
            if let Some(space) = self.spaces.get_mut(name) {
                space.policy(index, policy, index.policy(name, policy));
                concerned.insert(Arc::clone(name));
            }
        }
        for (name, groups) in here {
            let space = self.spaces.entry(Arc::clone(name)).or_default();
            if space.groups(index, name, groups) {
                concerned.insert(Arc::clone(name));
            }
        }
        concerned
    }

    /// Every namespace with pods in scope.
    pub(super) fn spaces(&self) -> impl Iterator<Item = &Text> {
        self.spaces.keys()
    }

    /// Whether a namespace has pods in scope.
    pub(super) fn has(&self, space: &Text) -> bool {
        self.spaces.contains_key(space)
    }

    /// What all policies of a namespace weigh.
    pub(super) fn total(&self, space: &Text) -> u64 {
        self.spaces.get(space).map_or(0, |space| space.sum)
    }

    /// The same, where policies that are heavier than `most` ask for no more than what
    /// may stay in force instead: there is never room for them.
    pub(super) fn sum(&self, index: &Index, name: &Text, most: u64) -> u64 {
        let Some(space) = self.spaces.get(name) else {
            return 0;
        };
        let mut sum = space.sum;
        for (weight, policy) in space.by_weight.iter().rev() {
            if u64::from(*weight) <= most {
                break;
            }
            let key = (Arc::clone(name), Arc::clone(policy));
            let last = index.held.last_weight(&key).unwrap_or(0);
            sum = sum - u64::from(*weight) + u64::from(last);
        }
        sum
    }

    /// The policies of a namespace with their weights.
    pub(super) fn lightest_first(&self, space: &Text) -> impl Iterator<Item = (u32, &Text)> {
        let policies = self.spaces.get(space).into_iter();
        let policies = policies.flat_map(|space| &space.by_weight);
        policies.map(|(weight, name)| (*weight, name))
    }
}

impl Space {
    /// Takes note of what became of a policy.
    fn policy(&mut self, index: &Index, name: &Text, now: Option<&StoredPolicy>) {
        let mut count = 0;
        for (group, selecting) in &mut self.groups {
            selecting.remove(name);
            if now.is_some_and(|policy| selects(policy, index.groups.shape(*group))) {
                selecting.insert(Arc::clone(name));
                count += 1;
            }
        }
        self.set(name, now.map_or(0, |policy| policy.weight), count);
    }

    /// Takes note of which groups are in scope; whether others than before.
    fn groups(&mut self, index: &Index, space: &Text, now: &[GroupId]) -> bool {
        // An id that was given anew has come, whoever had it before.
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
            let shape = index.groups.shape(id);
            let all = index.policies.get(space).into_iter().flatten();
            let selecting = all.filter(|(_, policy)| selects(policy, shape));
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

    /// A policy has this weight and selects so many groups.
    fn set(&mut self, name: &Text, weight: u32, count: u32) {
        if let Some((weight, _)) = self.policies.remove(name) {
            self.sum -= u64::from(weight);
            self.by_weight.remove(&(weight, Arc::clone(name)));
        }
        if count > 0 {
            self.sum += u64::from(weight);
            self.by_weight.insert((weight, Arc::clone(name)));
            self.policies.insert(Arc::clone(name), (weight, count));
        }
    }
}

fn selects(policy: &StoredPolicy, shape: &Shape) -> bool {
    let subjects = &policy.subjects;
    !subjects.rules_out(&shape.labels) && subjects.matches(&shape.labels)
}
