//! The peers in use, and which groups of pods each of them selects.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::Entry},
    hash::Hash,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    index::{
        Index,
        groups::{GroupId, insert, remove},
        owners::NodeClaim,
        pods::PodTraits,
    },
    intern::{HashMap, Text},
    prefix::{self, Prefix, V6_ROOT},
};

use super::{
    covers::Boundary,
    ids::IdKey,
    lookup::{LookupKey, candidates, lookup_key},
    peer::{Base, Peer},
    slots::Slots,
};

/// Index of a peer in use.
pub(super) type PeerId = u32;
/// A peer that matches, and the number of its named port there.
pub(super) type Member = (PeerId, Option<u16>);

/// A peer in use.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) peer: Peer,
    pub(super) hash: u64,
    /// Rulesets that distinguish it, sorted.
    pub(super) users: Vec<u32>,
    /// Classes that contain it, sorted.
    pub(super) classes: Vec<u32>,
    /// Groups that it selects, sorted.
    groups: Vec<GroupId>,
}

/// The peers in use by lookup key, so that a group is matched only against likely ones.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// The key of the ids of rulesets and classes.
    pub(super) key: IdKey,
    slots: Slots<Known>,
    ids: HashMap<Peer, PeerId>,
    by_label: HashMap<(Text, Text), Vec<PeerId>>,
    by_service: HashMap<(Text, Text), Vec<PeerId>>,
    by_space: HashMap<Text, Vec<PeerId>>,
    others: Vec<PeerId>,
    outside: Vec<PeerId>,
    all_nodes: Vec<PeerId>,
    by_node: Vec<PeerId>,
    /// Where blocks begin and end.
    turns: BTreeMap<Prefix, Boundary>,
    /// The peers that select each group, sorted; absent if there are none.
    naming: HashMap<GroupId, Vec<Member>>,
    /// Peers not yet matched against groups.
    born: Vec<PeerId>,
    /// Peers that aren't used any more.
    died: Vec<PeerId>,
    /// Prefixes within which the set of peers that match by address changed.
    touched: BTreeSet<Prefix>,
    /// Peers that match by nodes' addresses were added or removed.
    pub(super) nodes_changed: bool,
}

impl Peers {
    pub(super) fn new(key: IdKey) -> Self {
        Self {
            key,
            ..Self::default()
        }
    }

    /// Returns a peer in use; the id must not have been freed.
    pub(super) fn get(&self, id: PeerId) -> Option<&Known> {
        self.slots.get(id)
    }

    fn get_mut(&mut self, id: PeerId) -> Option<&mut Known> {
        self.slots.get_mut(id)
    }

    /// Records that a ruleset distinguishes a peer.
    pub(super) fn acquire(&mut self, peer: &Peer, ruleset: u32) -> PeerId {
        let id = match self.ids.get(peer) {
            Some(id) => *id,
            None => self.create(peer),
        };
        if let Some(known) = self.get_mut(id) {
            insert(&mut known.users, ruleset);
        }
        id
    }

    /// Records that a ruleset has stopped distinguishing a peer.
    pub(super) fn release(&mut self, id: PeerId, ruleset: u32) {
        if let Some(known) = self.get_mut(id) {
            remove(&mut known.users, ruleset);
            if known.users.is_empty() {
                self.died.push(id);
            }
        }
    }

    fn create(&mut self, peer: &Peer) -> PeerId {
        let known = Known {
            peer: peer.clone(),
            hash: self.key.of(peer),
            users: Vec::new(),
            classes: Vec::new(),
            groups: Vec::new(),
        };
        let id = self.slots.insert(known);
        self.ids.insert(peer.clone(), id);
        self.born.push(id);
        self.with_key(peer, |ids| insert(ids, id));
        id
    }

    /// Changes the list in which a peer is looked up.
    fn with_key(&mut self, peer: &Peer, change: impl Fn(&mut Vec<PeerId>)) {
        let pair = |a: &Text, b: &Text| (Arc::clone(a), Arc::clone(b));
        match lookup_key(&peer.base) {
            LookupKey::Label(k, v) => change_list(&mut self.by_label, pair(k, v), change),
            LookupKey::Service(n, s) => change_list(&mut self.by_service, pair(n, s), change),
            LookupKey::Space(n) => change_list(&mut self.by_space, Arc::clone(n), change),
            LookupKey::Others => change(&mut self.others),
            LookupKey::AllNodes => {
                self.nodes_changed = true;
                change(&mut self.all_nodes);
            }
            LookupKey::ByNode => {
                self.nodes_changed = true;
                change(&mut self.by_node);
            }
            LookupKey::Outside => {
                self.nodes_changed = true;
                self.touched.insert(V6_ROOT);
                change(&mut self.outside);
            }
            LookupKey::Block(block) => {
                self.touched.insert(prefix::of(&block.cidr));
                self.touched.extend(block.except.iter().map(prefix::of));
                change_turn(
                    &mut self.turns,
                    &block.cidr,
                    |turn| &mut turn.begin,
                    &change,
                );
                for except in &block.except {
                    change_turn(&mut self.turns, except, |turn| &mut turn.end, &change);
                }
            }
            LookupKey::Addresses(addresses) => {
                for net in addresses.iter().copied().map(IpNet::from) {
                    self.touched.insert(prefix::of(&net));
                    change_turn(&mut self.turns, &net, |turn| &mut turn.begin, &change);
                }
            }
        }
    }

    /// Brings groups up to date with added and removed peers; `changed` is called for every group
    /// that is selected by other peers now.
    pub(super) fn reconcile(&mut self, index: &Index, mut changed: impl FnMut(GroupId)) {
        // A peer may have been revived after its removal, or removed before it was matched.
        let mut died = std::mem::take(&mut self.died);
        died.retain(|id| self.get(*id).is_some_and(|known| known.users.is_empty()));
        died.sort_unstable();
        died.dedup();
        for id in &died {
            for group in self.unnamed(*id) {
                changed(group);
            }
        }
        for id in std::mem::take(&mut self.born) {
            if died.binary_search(&id).is_err() {
                for group in self.try_groups(index, id) {
                    changed(group);
                }
            }
        }
        self.died = died;
    }

    /// Removes a dead peer from the groups that it selected.
    fn unnamed(&mut self, id: PeerId) -> Vec<GroupId> {
        let Some(known) = self.get_mut(id) else {
            return Vec::new();
        };
        let groups = std::mem::take(&mut known.groups);
        let peer = known.peer.clone();
        self.ids.remove(&peer);
        self.with_key(&peer, |ids| remove(ids, id));
        for group in &groups {
            if let Some(members) = self.naming.get_mut(group) {
                members.retain(|m| m.0 != id);
                if members.is_empty() {
                    self.naming.remove(group);
                }
            }
        }
        groups
    }

    /// Frees the ids of dead peers; call it when nothing refers to them any more.
    pub(super) fn free_dead(&mut self) {
        for id in std::mem::take(&mut self.died) {
            // A class that still contained it would be mistaken for another once the id is reused.
            debug_assert!(self.get(id).is_none_or(|known| known.classes.is_empty()));
            self.slots.remove(id);
        }
    }

    /// Finds the groups that a new peer selects.
    fn try_groups(&mut self, index: &Index, id: PeerId) -> Vec<GroupId> {
        let Some(peer) = self.get(id).map(|known| known.peer.clone()) else {
            return Vec::new();
        };
        let mut named = Vec::new();
        for group in candidates(index, &peer.base) {
            let traits = index.groups.traits(group);
            let Some(number) = matches(index, &peer, traits) else {
                continue;
            };
            let members = self.naming.entry(group).or_default();
            insert(members, (id, number));
            named.push(group);
        }
        named.sort_unstable();
        if let Some(known) = self.get_mut(id) {
            known.groups.clone_from(&named);
        }
        named
    }

    /// Finds the peers that select a group that is new or gone, or whose namespace has new labels.
    pub(super) fn try_peers(&mut self, index: &Index, group: GroupId) {
        for (id, _) in self.naming.remove(&group).unwrap_or_default() {
            if let Some(known) = self.get_mut(id) {
                remove(&mut known.groups, group);
            }
        }
        if !index.groups.is_alive(group) {
            return;
        }
        let traits = index.groups.traits(group);
        let mut members = Vec::new();
        for id in self.likely(traits) {
            let peer = self.get(id).map(|known| &known.peer);
            if let Some(number) = peer.and_then(|peer| matches(index, peer, traits)) {
                members.push((id, number));
            }
        }
        members.sort_unstable();
        members.dedup();
        for (id, _) in &members {
            if let Some(known) = self.get_mut(*id) {
                insert(&mut known.groups, group);
            }
        }
        if !members.is_empty() {
            self.naming.insert(group, members);
        }
    }

    fn likely(&self, traits: &PodTraits) -> Vec<PeerId> {
        let service = (Arc::clone(&traits.namespace), Arc::clone(&traits.service));
        let mut likely = self.others.clone();
        let found = [
            self.by_service.get(&service),
            self.by_space.get(&traits.namespace),
        ];
        likely.extend(found.into_iter().flatten().flatten());
        if !self.by_label.is_empty() {
            for (key, value) in traits.labels.iter() {
                let label = (Arc::clone(key), Arc::clone(value));
                likely.extend(self.by_label.get(&label).into_iter().flatten());
            }
        }
        likely
    }

    /// Returns the peers that select a group by its traits, sorted.
    pub(super) fn naming(&self, group: GroupId) -> &[Member] {
        self.naming.get(&group).map_or(&[], Vec::as_slice)
    }

    /// Returns the peers that match an address because it is a node's.
    pub(super) fn of_node(&self, this: bool) -> &[PeerId] {
        if this { &self.outside } else { &self.all_nodes }
    }

    /// Returns the peers that match an address because it has no known owner.
    pub(super) fn outside(&self) -> &[PeerId] {
        &self.outside
    }

    /// Records that a pod range was added or removed.
    pub(super) fn touch(&mut self, range: Prefix) {
        if !self.outside.is_empty() {
            self.touched.insert(range);
        }
    }

    /// Returns the peers that select by label a node whose status contains an address. The node
    /// being compiled for is selected at all its addresses: its processes answer at each.
    pub(super) fn by_node(&self, index: &Index, this: bool, claims: &[NodeClaim]) -> Vec<PeerId> {
        if self.by_node.is_empty() {
            return Vec::new();
        }
        let shown = claims.iter().filter(|claim| this || claim.in_status);
        let nodes = shown.filter_map(|claim| index.nodes.get(claim.node.as_ref()?));
        let nodes: Vec<_> = nodes.collect();
        let selects = |id: &&PeerId| match self.get(**id).map(|known| &known.peer.base) {
            Some(Base::Nodes(selector)) => nodes.iter().any(|n| selector.matches(&n.labels)),
            _ => false,
        };
        self.by_node.iter().filter(selects).copied().collect()
    }

    /// Returns where blocks begin and end.
    pub(super) fn turns(&self) -> &BTreeMap<Prefix, Boundary> {
        &self.turns
    }

    /// Returns and clears the prefixes within which the peers that match by address changed since
    /// the last call.
    pub(super) fn take_touched(&mut self) -> BTreeSet<Prefix> {
        std::mem::take(&mut self.touched)
    }

    /// Records that a class contains peers, or doesn't any more.
    pub(super) fn hold(&mut self, set: &[Member], class: u32, holds: bool) {
        for (id, _) in set {
            if let Some(known) = self.get_mut(*id) {
                match holds {
                    true => insert(&mut known.classes, class),
                    false => remove(&mut known.classes, class),
                }
            }
        }
    }
}

/// Changes the list of blocks that begin, or end, at a prefix.
fn change_turn(
    turns: &mut BTreeMap<Prefix, Boundary>,
    net: &IpNet,
    list: fn(&mut Boundary) -> &mut Vec<PeerId>,
    change: impl Fn(&mut Vec<PeerId>),
) {
    let prefix = prefix::of(net);
    let turn = turns.entry(prefix).or_default();
    change(list(turn));
    if turn.begin.is_empty() && turn.end.is_empty() {
        turns.remove(&prefix);
    }
}

/// Changes a list of a map, which never keeps an empty list.
fn change_list<K: Hash + Eq>(
    lists: &mut HashMap<K, Vec<PeerId>>,
    key: K,
    change: impl FnOnce(&mut Vec<PeerId>),
) {
    match lists.entry(key) {
        Entry::Occupied(mut found) => {
            change(found.get_mut());
            if found.get().is_empty() {
                found.remove();
            }
        }
        Entry::Vacant(free) => {
            let mut list = Vec::new();
            change(&mut list);
            if !list.is_empty() {
                free.insert(list);
            }
        }
    }
}

/// Reports whether a peer selects pods, and the number of its named port there.
fn matches(index: &Index, peer: &Peer, traits: &PodTraits) -> Option<Option<u16>> {
    let space = index.spaces.get(&traits.namespace)?;
    let named = peer.base.names(&space.labels, traits);
    named.then(|| peer.number(traits)).flatten()
}
