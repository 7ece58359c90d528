//! Which peers each address matches.
//!
//! A peer class is the set of peers that an address matches among those in use.
//! Prefixes give the classes of addresses that nobody is known to own, exact
//! entries those of pods and nodes where prefixes alone would be wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ringfence_ebpf::abi::Addr;

use crate::{
    prefix::{self, Prefix, V4_ROOT, V6_ROOT},
    view::{Group, Owner, View},
};

use super::{
    ids,
    peer::{Base, Block, Peer},
};

/// Sorted indexes into the list of peers in use.
pub(super) type Set = Vec<u32>;

/// The sets of prefixes, and of exact addresses that differ from their prefix's.
pub(super) struct Classes {
    pub(super) prefixes: BTreeMap<Prefix, Set>,
    pub(super) exact: BTreeMap<Addr, Set>,
}

/// Ids of classes.
pub(super) struct ClassIds(BTreeMap<Set, u32>);

impl ClassIds {
    /// The id of a set; 0 for the empty one.
    pub(super) fn get(&self, set: &Set) -> u32 {
        self.0.get(set).copied().unwrap_or(0)
    }

    /// Every class but 0.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Set, u32)> {
        self.0.iter().map(|(set, id)| (set, *id))
    }
}

impl Classes {
    /// Classes with regard to `peers`, which are sorted.
    pub(super) fn new(view: &View<'_>, peers: &[&Peer]) -> Self {
        let finder = Finder::new(peers);
        let blocks = blocks_by_prefix(&finder);
        let plain = |blocks: &BTreeSet<u32>| finder.without_names(blocks);
        let prefixes = blocks.iter().map(|(p, b)| (*p, plain(b))).collect();
        let by_group: Vec<Set> = view.groups.iter().map(|g| finder.naming(view, g)).collect();
        let mut classes = Self {
            prefixes,
            exact: BTreeMap::new(),
        };
        for (addr, owner) in &view.owners {
            let covering = prefix::longest(&blocks, addr, 128).map(|(_, b)| b);
            let covering = covering.into_iter().flatten();
            let covering = covering.flat_map(|b| finder.peers_of(*b));
            let set = match owner {
                Owner::Pod(pod) => {
                    let group = view.pods[*pod].group;
                    let fits = |i: &u32| peers[*i as usize].fits(&view.groups[group]);
                    let named = by_group[group].iter().copied();
                    named.chain(covering.filter(fits)).collect()
                }
                Owner::Node { this } => {
                    let plain = covering.filter(|i| peers[*i as usize].named.is_none());
                    plain.chain(finder.of_node(*this).iter().copied()).collect()
                }
            };
            classes.add_exact(*addr, sorted(set));
        }
        classes
    }

    fn add_exact(&mut self, addr: Addr, set: Set) {
        let by_prefix = prefix::longest(&self.prefixes, &addr, 128);
        let same = match by_prefix {
            Some((_, found)) => *found == set,
            None => set.is_empty(),
        };
        if !same {
            self.exact.insert(addr, set);
        }
    }

    /// Ids by content: the hash of the hashes of the peers in the set.
    pub(super) fn ids(&self, peers: &[&Peer]) -> ClassIds {
        let hashes: Vec<u64> = peers.iter().map(ids::of).collect();
        let sets: BTreeSet<&Set> = self.prefixes.values().chain(self.exact.values()).collect();
        let used = sets.into_iter().filter(|s| !s.is_empty());
        let hashed = used.map(|set| {
            let bytes = set.iter().flat_map(|i| hashes[*i as usize].to_be_bytes());
            (set.clone(), ids::fnv(bytes))
        });
        ClassIds(ids::assign(hashed, &ids::PLAIN))
    }
}

fn sorted(mut set: Set) -> Set {
    set.sort_unstable();
    set.dedup();
    set
}

/// Peers by what finds them, so that a group is tried only against likely ones.
struct Finder<'p> {
    peers: &'p [&'p Peer],
    by_service: HashMap<(&'p str, &'p str), Vec<u32>>,
    by_label: HashMap<(&'p str, &'p str), Vec<u32>>,
    /// Selectors that require no label with a certain value.
    others: Vec<u32>,
    outside: Vec<u32>,
    nodes: Vec<u32>,
    blocks: Vec<(&'p Block, Vec<u32>)>,
}

impl<'p> Finder<'p> {
    fn new(peers: &'p [&'p Peer]) -> Self {
        let mut finder = Self {
            peers,
            by_service: HashMap::new(),
            by_label: HashMap::new(),
            others: Vec::new(),
            outside: Vec::new(),
            nodes: Vec::new(),
            blocks: Vec::new(),
        };
        let mut blocks: BTreeMap<&Block, Vec<u32>> = BTreeMap::new();
        for (i, peer) in (0..).zip(peers) {
            match &peer.base {
                Base::Pods(both) => match both.1.required() {
                    Some(label) => finder.by_label.entry(label).or_default().push(i),
                    None => finder.others.push(i),
                },
                Base::Service {
                    namespace, service, ..
                } => {
                    let key = (namespace.as_str(), service.as_str());
                    finder.by_service.entry(key).or_default().push(i);
                }
                Base::Label { key, value, .. } => {
                    let label = (key.as_str(), value.as_str());
                    finder.by_label.entry(label).or_default().push(i);
                }
                Base::Block(block) => blocks.entry(block).or_default().push(i),
                Base::Outside => finder.outside.push(i),
                Base::AllNodes => finder.nodes.push(i),
            }
        }
        finder.blocks = blocks.into_iter().collect();
        finder
    }

    /// Peers that name a group by what it is.
    fn naming(&self, view: &View<'_>, group: &Group<'_>) -> Set {
        let service = self.by_service.get(&(group.namespace, &group.service));
        let labels = group.labels.iter();
        let labels = labels.filter_map(|(k, v)| self.by_label.get(&(k.as_str(), v.as_str())));
        let likely = service.into_iter().chain(labels).flatten();
        let named = likely.chain(&self.others).copied().filter(|i| {
            let peer = self.peers[*i as usize];
            peer.base.names(view, group) && peer.fits(group)
        });
        sorted(named.collect())
    }

    /// What an address matches that no pod and no node has.
    fn without_names(&self, blocks: &BTreeSet<u32>) -> Set {
        let peers = blocks.iter().flat_map(|b| self.peers_of(*b));
        let plain = peers.filter(|i| self.peers[*i as usize].named.is_none());
        sorted(self.outside.iter().copied().chain(plain).collect())
    }

    /// What a node's address matches for being a node's.
    fn of_node(&self, this: bool) -> &[u32] {
        if this { &self.outside } else { &self.nodes }
    }

    /// Peers that go by a block.
    fn peers_of(&self, block: u32) -> impl Iterator<Item = u32> {
        self.blocks[block as usize].1.iter().copied()
    }
}

/// Blocks that begin and end at a prefix.
#[derive(Default)]
struct Turn {
    begin: Vec<u32>,
    end: Vec<u32>,
}

/// Where blocks begin and end, shortest prefixes first.
fn turns(finder: &Finder<'_>) -> BTreeMap<(u8, Addr), Turn> {
    let mut turns: BTreeMap<(u8, Addr), Turn> = BTreeMap::new();
    let swap = |(addr, len): Prefix| (len, addr);
    for (i, (block, _)) in (0..).zip(&finder.blocks) {
        let at = turns.entry(swap(prefix::of(&block.cidr)));
        at.or_default().begin.push(i);
        for except in &block.except {
            let at = turns.entry(swap(prefix::of(except)));
            at.or_default().end.push(i);
        }
    }
    if !finder.outside.is_empty() {
        turns.entry(swap(V6_ROOT)).or_default();
        turns.entry(swap(V4_ROOT)).or_default();
    }
    // IPv4 lies within IPv6 in the tables: what covers the mapped prefix stops there.
    let over_v4 = |(len, addr): &(u8, Addr)| *len < 96 && prefix::mask(&V4_ROOT.0, *len) == *addr;
    if turns.keys().any(over_v4) {
        turns.entry(swap(V4_ROOT)).or_default();
    }
    turns
}

/// Every prefix of every block and exception, with the blocks that cover it.
///
/// Between two nested prefixes of this list nothing begins or ends, so the
/// longest one decides for an address.
fn blocks_by_prefix(finder: &Finder<'_>) -> BTreeMap<Prefix, BTreeSet<u32>> {
    let mut found: BTreeMap<Prefix, BTreeSet<u32>> = BTreeMap::new();
    // Shortest first, so that what encloses a prefix is there before it.
    for ((len, addr), turn) in turns(finder) {
        let enclosing = match len.checked_sub(1) {
            Some(shorter) if (addr, len) != V4_ROOT => prefix::longest(&found, &addr, shorter),
            _ => None,
        };
        let mut blocks = enclosing.map(|(_, b)| b.clone()).unwrap_or_default();
        blocks.extend(turn.begin);
        for block in turn.end {
            blocks.remove(&block);
        }
        found.insert((addr, len), blocks);
    }
    found
}
