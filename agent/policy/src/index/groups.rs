//! Groups of pods that no selector can distinguish, indexed by label.

use std::sync::Arc;

use crate::intern::{HashMap, Text};

use super::pods::PodTraits;

/// Index of a group; reused once the compiler has processed the group's removal.
pub(crate) type GroupId = u32;
/// Index of a pod.
pub(crate) type PodId = u32;

/// A group and its live pods.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) traits: Arc<PodTraits>,
    pub(crate) pods: Vec<PodId>,
}

/// All groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups {
    slots: Vec<Group>,
    ids: HashMap<Arc<PodTraits>, GroupId>,
    /// Sorted.
    by_label: HashMap<(Text, Text), Vec<GroupId>>,
    free: Vec<GroupId>,
    /// Groups without pods that the compiler may still know.
    empty: Vec<GroupId>,
}

impl Groups {
    /// Returns a group by its index.
    pub(crate) fn get(&self, id: GroupId) -> &Group {
        &self.slots[id as usize]
    }

    /// Returns the traits of a group.
    pub(crate) fn traits(&self, id: GroupId) -> &PodTraits {
        &self.get(id).traits
    }

    /// Reports whether a group has pods.
    pub(crate) fn is_alive(&self, id: GroupId) -> bool {
        !self.get(id).pods.is_empty()
    }

    /// Returns every group that has pods.
    pub(crate) fn alive(&self) -> impl Iterator<Item = GroupId> + '_ {
        let ids = (0..).zip(&self.slots);
        ids.filter(|(_, g)| !g.pods.is_empty()).map(|(id, _)| id)
    }

    /// Returns the groups with a label, sorted.
    pub(crate) fn with_label(&self, key: &Text, value: &Text) -> &[GroupId] {
        let label = (Arc::clone(key), Arc::clone(value));
        self.by_label.get(&label).map_or(&[], Vec::as_slice)
    }

    /// Adds a pod to the group of its traits; returns whether the group had no pods before.
    pub(super) fn enter(&mut self, traits: &Arc<PodTraits>, pod: PodId) -> (GroupId, bool) {
        let id = match self.ids.get(traits) {
            Some(id) => *id,
            None => self.create(traits),
        };
        let pods = &mut self.slots[id as usize].pods;
        pods.push(pod);
        let new = pods.len() == 1;
        if new {
            for (key, value) in traits.labels.iter() {
                let label = (Arc::clone(key), Arc::clone(value));
                insert(self.by_label.entry(label).or_default(), id);
            }
        }
        (id, new)
    }

    fn create(&mut self, traits: &Arc<PodTraits>) -> GroupId {
        let group = Group {
            traits: Arc::clone(traits),
            pods: Vec::new(),
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = group;
                id
            }
            None => {
                self.slots.push(group);
                GroupId::try_from(self.slots.len() - 1).unwrap_or(GroupId::MAX)
            }
        };
        self.ids.insert(Arc::clone(traits), id);
        id
    }

    /// Removes a pod from its group; returns whether it was the last one.
    pub(super) fn leave(&mut self, id: GroupId, pod: PodId) -> bool {
        let group = &mut self.slots[id as usize];
        let Some(at) = group.pods.iter().position(|p| *p == pod) else {
            return false;
        };
        group.pods.swap_remove(at);
        let gone = group.pods.is_empty();
        if gone {
            for (key, value) in group.traits.labels.iter() {
                let label = (Arc::clone(key), Arc::clone(value));
                if let Some(ids) = self.by_label.get_mut(&label) {
                    remove(ids, id);
                    if ids.is_empty() {
                        self.by_label.remove(&label);
                    }
                }
            }
            self.empty.push(id);
        }
        gone
    }

    /// Frees the indexes of groups without pods.
    pub(crate) fn collect(&mut self) {
        for id in std::mem::take(&mut self.empty) {
            let group = &self.slots[id as usize];
            // A group that was revived and emptied again is listed twice.
            if group.pods.is_empty() && self.ids.get(&group.traits) == Some(&id) {
                self.ids.remove(&group.traits);
                self.free.push(id);
            }
        }
    }
}

/// Inserts into a sorted list.
pub(crate) fn insert<T: Ord>(sorted: &mut Vec<T>, item: T) {
    if let Err(at) = sorted.binary_search(&item) {
        sorted.insert(at, item);
    }
}

/// Removes from a sorted list.
pub(crate) fn remove<T: Ord>(sorted: &mut Vec<T>, item: T) {
    if let Ok(at) = sorted.binary_search(&item) {
        sorted.remove(at);
    }
}
