//! The peers in use, and which groups of pods each of them names.

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
        pods::Shape,
    },
    intern::{HashMap, Text},
    prefix::{self, Prefix, V6_ROOT},
};

use super::{
    covers::Turn,
    ids::IdKey,
    lookup::{Place, candidates, place},
    peer::{Base, Peer},
    slots::Slots,
};

/// Index of a peer in use.
pub(super) type PeerId = u32;
/// A peer that something matches, and the number that its port name means there.
pub(super) type Member = (PeerId, Option<u16>);

/// A peer in use.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) peer: Peer,
    pub(super) hash: u64,
    /// Rulesets that tell it apart, sorted.
    pub(super) users: Vec<u32>,
    /// Classes that hold it, sorted.
    pub(super) classes: Vec<u32>,
    /// Groups that it names, sorted.
    groups: Vec<GroupId>,
}

/// Peers in use by what finds them, so that a group is tried only against
/// likely ones.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Of the ids of whatever names them.
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
    turns: BTreeMap<Prefix, Turn>,
    /// What each group is named by, sorted; absent if by nobody.
    naming: HashMap<GroupId, Vec<Member>>,
    /// Not yet tried against groups.
    born: Vec<PeerId>,
    /// Not used any longer.
    died: Vec<PeerId>,
    /// Prefixes within which other peers go by address than before.
    touched: BTreeSet<Prefix>,
    /// Peers that go by nodes' addresses came or went.
    pub(super) nodes_changed: bool,
}

impl Peers {
    pub(super) fn new(key: IdKey) -> Self {
        Self {
            key,
            ..Self::default()
        }
    }

    /// A peer in use; only ids that are still given out may be asked for.
    pub(super) fn get(&self, id: PeerId) -> Option<&Known> {
        self.slots.get(id)
    }

    fn get_mut(&mut self, id: PeerId) -> Option<&mut Known> {
        self.slots.get_mut(id)
    }

    /// Notes that a ruleset tells a peer apart.
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

    /// Notes that a ruleset no longer does.
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
        self.with_place(peer, |ids| insert(ids, id));
        id
    }

    /// Changes the list in which a peer is found.
    fn with_place(&mut self, peer: &Peer, change: impl Fn(&mut Vec<PeerId>)) {
        let pair = |a: &Text, b: &Text| (Arc::clone(a), Arc::clone(b));
        match place(&peer.base) {
            Place::Label(k, v) => change_list(&mut self.by_label, pair(k, v), change),
            Place::Service(n, s) => change_list(&mut self.by_service, pair(n, s), change),
            Place::Space(n) => change_list(&mut self.by_space, Arc::clone(n), change),
            Place::Others => change(&mut self.others),
            Place::AllNodes => {
                self.nodes_changed = true;
                change(&mut self.all_nodes);
            }
            Place::ByNode => {
                self.nodes_changed = true;
                change(&mut self.by_node);
            }
            Place::Outside => {
                self.touched.insert(V6_ROOT);
                change(&mut self.outside);
            }
            Place::Block(block) => {
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
            Place::Addresses(addresses) => {
                for net in addresses.iter().copied().map(IpNet::from) {
                    self.touched.insert(prefix::of(&net));
                    change_turn(&mut self.turns, &net, |turn| &mut turn.begin, &change);
                }
            }
        }
    }

    /// Brings groups up to date with the peers that came and went; `changed`
    /// hears of every group that is now named otherwise.
    pub(super) fn settle(&mut self, index: &Index, mut changed: impl FnMut(GroupId)) {
        // A peer may have come back after it went, or gone before it was tried.
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

    /// Takes a dead peer from the groups that it named.
    fn unnamed(&mut self, id: PeerId) -> Vec<GroupId> {
        let Some(known) = self.get_mut(id) else {
            return Vec::new();
        };
        let groups = std::mem::take(&mut known.groups);
        let peer = known.peer.clone();
        self.ids.remove(&peer);
        self.with_place(&peer, |ids| remove(ids, id));
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

    /// Gives the ids of dead peers free; to be called when nothing names them any longer.
    pub(super) fn bury(&mut self) {
        for id in std::mem::take(&mut self.died) {
            // A class that still held it would soon be taken for another's.
            debug_assert!(self.get(id).is_none_or(|known| known.classes.is_empty()));
            self.slots.remove(id);
        }
    }

    /// Finds the groups that a new peer names.
    fn try_groups(&mut self, index: &Index, id: PeerId) -> Vec<GroupId> {
        let Some(peer) = self.get(id).map(|known| known.peer.clone()) else {
            return Vec::new();
        };
        let mut named = Vec::new();
        for group in candidates(index, &peer.base) {
            let shape = index.groups.shape(group);
            let Some(number) = matches(index, &peer, shape) else {
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

    /// Finds the peers that name a group which is new, or gone, or whose
    /// namespace has other labels.
    pub(super) fn try_peers(&mut self, index: &Index, group: GroupId) {
        for (id, _) in self.naming.remove(&group).unwrap_or_default() {
            if let Some(known) = self.get_mut(id) {
                remove(&mut known.groups, group);
            }
        }
        if !index.groups.is_alive(group) {
            return;
        }
        let shape = index.groups.shape(group);
        let mut members = Vec::new();
        for id in self.likely(shape) {
            let peer = self.get(id).map(|known| &known.peer);
            if let Some(number) = peer.and_then(|peer| matches(index, peer, shape)) {
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

    fn likely(&self, shape: &Shape) -> Vec<PeerId> {
        let service = (Arc::clone(&shape.namespace), Arc::clone(&shape.service));
        let mut likely = self.others.clone();
        let found = [
            self.by_service.get(&service),
            self.by_space.get(&shape.namespace),
        ];
        likely.extend(found.into_iter().flatten().flatten());
        if !self.by_label.is_empty() {
            for (key, value) in shape.labels.iter() {
                let label = (Arc::clone(key), Arc::clone(value));
                likely.extend(self.by_label.get(&label).into_iter().flatten());
            }
        }
        likely
    }

    /// Peers that name a group by what it is, sorted.
    pub(super) fn naming(&self, group: GroupId) -> &[Member] {
        self.naming.get(&group).map_or(&[], Vec::as_slice)
    }

    /// Peers that a node's address matches for being a node's.
    pub(super) fn of_node(&self, this: bool) -> &[PeerId] {
        if this { &self.outside } else { &self.all_nodes }
    }

    /// Peers that an address which nobody is known to own matches for that.
    pub(super) fn outside(&self) -> &[PeerId] {
        &self.outside
    }

    /// Peers that select a node by label in whose status an address is.
    pub(super) fn by_node(&self, index: &Index, claims: &[NodeClaim]) -> Vec<PeerId> {
        if self.by_node.is_empty() {
            return Vec::new();
        }
        let shown = claims.iter().filter(|claim| claim.in_status);
        let nodes = shown.filter_map(|claim| index.nodes.get(claim.node.as_ref()?));
        let nodes: Vec<_> = nodes.collect();
        let selects = |id: &&PeerId| match self.get(**id).map(|known| &known.peer.base) {
            Some(Base::Nodes(selector)) => nodes.iter().any(|n| selector.matches(&n.labels)),
            _ => false,
        };
        self.by_node.iter().filter(selects).copied().collect()
    }

    /// Where blocks begin and end.
    pub(super) fn turns(&self) -> &BTreeMap<Prefix, Turn> {
        &self.turns
    }

    /// The prefixes within which other peers go by address than at the last call.
    pub(super) fn take_touched(&mut self) -> BTreeSet<Prefix> {
        std::mem::take(&mut self.touched)
    }

    /// Notes that a class holds peers, or no longer does.
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

/// Changes the list of a prefix at which blocks begin, or end.
fn change_turn(
    turns: &mut BTreeMap<Prefix, Turn>,
    net: &IpNet,
    list: fn(&mut Turn) -> &mut Vec<PeerId>,
    change: impl Fn(&mut Vec<PeerId>),
) {
    let prefix = prefix::of(net);
    let turn = turns.entry(prefix).or_default();
    change(list(turn));
    if turn.begin.is_empty() && turn.end.is_empty() {
        turns.remove(&prefix);
    }
}

/// Changes a list of a map, in which no empty one stays.
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

/// Whether a peer names pods, and which number its port name means there.
fn matches(index: &Index, peer: &Peer, shape: &Shape) -> Option<Option<u16>> {
    let space = index.spaces.get(&shape.namespace)?;
    let named = peer.base.names(&space.labels, shape);
    named.then(|| peer.number(shape)).flatten()
}
