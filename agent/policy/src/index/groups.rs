//! Groups of pods that no selector can tell apart, found by label.

use std::sync::Arc;

use crate::intern::{HashMap, Text};

use super::pods::Shape;

/// Index of a group; given anew once the compiler has seen that a group is gone.
pub(crate) type GroupId = u32;
/// Index of a pod.
pub(crate) type PodId = u32;

/// A group and its live pods.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) shape: Arc<Shape>,
    pub(crate) pods: Vec<PodId>,
}

/// All groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups {
    slots: Vec<Group>,
    ids: HashMap<Arc<Shape>, GroupId>,
    /// Sorted.
    by_label: HashMap<(Text, Text), Vec<GroupId>>,
    free: Vec<GroupId>,
    /// Without pods, but perhaps still known to the compiler.
    empty: Vec<GroupId>,
}

impl Groups {
    /// A group by its index.
    pub(crate) fn get(&self, id: GroupId) -> &Group {
        &self.slots[id as usize]
    }

    /// The shape of a group.
    pub(crate) fn shape(&self, id: GroupId) -> &Shape {
        &self.get(id).shape
    }

    /// Whether a group has pods.
    pub(crate) fn is_alive(&self, id: GroupId) -> bool {
        !self.get(id).pods.is_empty()
    }

    /// Every group that has pods.
    pub(crate) fn alive(&self) -> impl Iterator<Item = GroupId> + '_ {
        let ids = (0..).zip(&self.slots);
        ids.filter(|(_, g)| !g.pods.is_empty()).map(|(id, _)| id)
    }

    /// Groups with a label, sorted.
    pub(crate) fn with_label(&self, key: &Text, value: &Text) -> &[GroupId] {
        let label = (Arc::clone(key), Arc::clone(value));
        self.by_label.get(&label).map_or(&[], Vec::as_slice)
    }

    /// Adds a pod to its shape's group; whether the group was without pods.
    pub(super) fn enter(&mut self, shape: &Arc<Shape>, pod: PodId) -> (GroupId, bool) {
        let id = match self.ids.get(shape) {
            Some(id) => *id,
            None => self.create(shape),
        };
        let pods = &mut self.slots[id as usize].pods;
        pods.push(pod);
        let new = pods.len() == 1;
        if new {
            for (key, value) in shape.labels.iter() {
                let label = (Arc::clone(key), Arc::clone(value));
                insert(self.by_label.entry(label).or_default(), id);
            }
        }
        (id, new)
    }

    fn create(&mut self, shape: &Arc<Shape>) -> GroupId {
        let group = Group {
            shape: Arc::clone(shape),
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
        self.ids.insert(Arc::clone(shape), id);
        id
    }

    /// Takes a pod from its group; whether that was its last one.
    pub(super) fn leave(&mut self, id: GroupId, pod: PodId) -> bool {
        let group = &mut self.slots[id as usize];
        let Some(at) = group.pods.iter().position(|p| *p == pod) else {
            return false;
        };
        group.pods.swap_remove(at);
        let gone = group.pods.is_empty();
        if gone {
            for (key, value) in group.shape.labels.iter() {
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

    /// Gives the indexes of groups without pods free.
    pub(crate) fn collect(&mut self) {
        for id in std::mem::take(&mut self.empty) {
            let group = &self.slots[id as usize];
            // Listed twice if it came back and went again.
            if group.pods.is_empty() && self.ids.get(&group.shape) == Some(&id) {
                self.ids.remove(&group.shape);
                self.free.push(id);
            }
        }
    }
}

/// Adds to a sorted list.
pub(crate) fn insert<T: Ord>(sorted: &mut Vec<T>, item: T) {
    if let Err(at) = sorted.binary_search(&item) {
        sorted.insert(at, item);
    }
}

/// Takes from a sorted list.
pub(crate) fn remove<T: Ord>(sorted: &mut Vec<T>, item: T) {
    if let Ok(at) = sorted.binary_search(&item) {
        sorted.remove(at);
    }
}
