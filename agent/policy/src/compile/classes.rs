//! Which peers each address matches.
//!
//! A peer class is the set of peers that an address matches among those in use.
//! Prefixes give the classes of addresses that nobody is known to own, exact
//! entries those of pods and nodes where prefixes alone would be wrong.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use ringfence_ebpf::abi::Addr;

use crate::{
    intern::HashMap,
    prefix::{self, Prefix, V4_ROOT, V6_ROOT},
};

use super::{
    ids::{self, Clash, Ids},
    peer::Block,
    peers::{Member, PeerId, Peers},
    slots::{Slots, Turnover},
};

/// Index of a class in use.
pub(super) type ClassSlot = u32;

/// The class of no match, always there.
pub(super) const NO_CLASS: ClassSlot = 0;

/// A class in use.
#[derive(Debug)]
pub(super) struct Class {
    /// Sorted.
    pub(super) set: Arc<[Member]>,
    /// Entries of tables that name it.
    uses: u32,
    /// `None` before it is numbered.
    pub(super) id: Option<u32>,
}

/// The classes in use.
#[derive(Debug)]
pub(super) struct Classes {
    slots: Slots<Class>,
    by_set: HashMap<Arc<[Member]>, ClassSlot>,
    by_id: HashMap<u32, ClassSlot>,
    ids: Ids,
    /// Found or left since the last numbering.
    touched: Vec<ClassSlot>,
}

impl Classes {
    pub(super) fn new() -> Self {
        let none = Class {
            set: Arc::default(),
            uses: 1,
            id: Some(0),
        };
        let by_set = [(Arc::clone(&none.set), NO_CLASS)].into_iter().collect();
        let mut slots = Slots::default();
        slots.insert(none);
        Self {
            slots,
            by_set,
            by_id: [(0, NO_CLASS)].into_iter().collect(),
            ids: Ids::new(ids::PLAIN),
            touched: Vec::new(),
        }
    }

    pub(super) fn get(&self, slot: ClassSlot) -> Option<&Class> {
        self.slots.get(slot)
    }

    /// The id of a class that is numbered.
    pub(super) fn id(&self, slot: ClassSlot) -> u32 {
        self.get(slot).and_then(|class| class.id).unwrap_or(0)
    }

    /// Whether a class of this id is in use.
    pub(super) fn is_live(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Every class in use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ClassSlot, &Class)> {
        self.slots.iter()
    }

    /// The class of a set, which is sorted here.
    pub(super) fn find(&mut self, mut set: Vec<Member>) -> ClassSlot {
        set.sort_unstable();
        set.dedup();
        if let Some(slot) = self.by_set.get(set.as_slice()) {
            return *slot;
        }
        let set: Arc<[Member]> = set.into();
        let class = Class {
            set: Arc::clone(&set),
            uses: 0,
            id: None,
        };
        let slot = self.slots.insert(class);
        self.by_set.insert(set, slot);
        self.touched.push(slot);
        slot
    }

    /// Notes that an entry names a class.
    pub(super) fn enter(&mut self, slot: ClassSlot) {
        if let Some(class) = self.slots.get_mut(slot) {
            class.uses += 1;
        }
    }

    /// Notes that an entry with this id is gone.
    pub(super) fn leave(&mut self, id: u32) {
        let Some(slot) = self.by_id.get(&id).copied() else {
            return;
        };
        if let Some(class) = self.slots.get_mut(slot) {
            class.uses -= 1;
            if class.uses == 0 {
                self.touched.push(slot);
            }
        }
    }

    /// Drops classes that nothing names and numbers those that have no id yet.
    pub(super) fn settle(&mut self, peers: &mut Peers) -> Result<Turnover, Clash> {
        let mut turnover = Turnover::default();
        for slot in std::mem::take(&mut self.touched) {
            match self.get(slot) {
                Some(class) if class.uses == 0 => {
                    if let Some(id) = self.drop_class(slot, peers) {
                        turnover.gone.push(id);
                    }
                }
                Some(class) if class.id.is_none() => turnover.new.push(slot),
                _ => {}
            }
        }
        turnover.new.sort_unstable();
        turnover.new.dedup();
        for slot in &turnover.new {
            let hash = self.get(*slot).map_or(0, |class| hash(&class.set, peers));
            let id = self.ids.take(hash)?;
            self.number(*slot, id, peers);
        }
        Ok(turnover)
    }

    /// Drops what nothing names and numbers all that is left, whatever ids they
    /// had. Whether all got the ids that they ask for.
    pub(super) fn settle_all(&mut self, peers: &mut Peers) -> bool {
        self.touched.clear();
        let slots: Vec<_> = self.iter().map(|(slot, c)| (slot, c.uses)).collect();
        for (slot, _) in slots.iter().filter(|(_, uses)| *uses == 0) {
            self.drop_class(*slot, peers);
        }
        let named = slots
            .iter()
            .filter(|(slot, uses)| *uses > 0 && *slot != NO_CLASS);
        let sets = named.filter_map(|(slot, _)| Some((*slot, Arc::clone(&self.get(*slot)?.set))));
        let mut contents: Vec<_> = sets.map(|both| (hash(&both.1, peers), both)).collect();
        let mut given = Vec::new();
        let order = |a: &(_, Arc<[Member]>), b: &(_, Arc<[Member]>)| {
            content(&a.1, peers).cmp(&content(&b.1, peers))
        };
        let give = |(slot, _): &(ClassSlot, _), id| given.push((*slot, id));
        let preferred = self.ids.assign(&mut contents, order, give);
        for (slot, id) in given {
            self.number(slot, id, peers);
        }
        preferred
    }

    fn number(&mut self, slot: ClassSlot, id: u32, peers: &mut Peers) {
        if let Some(class) = self.slots.get_mut(slot) {
            class.id = Some(id);
            peers.hold(&class.set, slot, true);
            self.by_id.insert(id, slot);
        }
    }

    fn drop_class(&mut self, slot: ClassSlot, peers: &mut Peers) -> Option<u32> {
        let class = self.slots.remove(slot)?;
        self.by_set.remove(&class.set);
        let id = class.id?;
        peers.hold(&class.set, slot, false);
        self.by_id.remove(&id);
        self.ids.free(id);
        Some(id)
    }
}

/// The hash of the peers in a set, whatever their indexes.
fn hash(set: &[Member], peers: &Peers) -> u64 {
    let one = |(id, number): &Member| (peers.get(*id).map_or(0, |known| known.hash), *number);
    let mut hashes: Vec<(u64, Option<u16>)> = set.iter().map(one).collect();
    hashes.sort_unstable();
    ids::fnv(hashes.iter().flat_map(|(hash, number)| {
        let number = number.map_or(0, |n| u32::from(n) + 1);
        hash.to_be_bytes().into_iter().chain(number.to_be_bytes())
    }))
}

/// The peers of a set in the order of what they are.
fn content<'p>(
    set: &[Member],
    peers: &'p Peers,
) -> Vec<(Option<&'p super::peer::Peer>, Option<u16>)> {
    let one = |(id, number): &Member| (peers.get(*id).map(|known| &known.peer), *number);
    let mut content: Vec<_> = set.iter().map(one).collect();
    content.sort_unstable();
    content
}

/// A prefix of some block or exception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Covered {
    /// Peers whose block covers it, sorted.
    pub(super) by: Vec<PeerId>,
    /// What its addresses match that nobody is known to own, sorted.
    pub(super) plain: Vec<Member>,
}

/// Blocks that begin and end at a prefix.
#[derive(Default)]
struct Turn<'p> {
    begin: Vec<&'p [PeerId]>,
    end: Vec<&'p [PeerId]>,
}

/// Where blocks begin and end, shortest prefixes first.
fn turns(peers: &Peers) -> BTreeMap<(u8, Addr), Turn<'_>> {
    let mut turns: BTreeMap<(u8, Addr), Turn<'_>> = BTreeMap::new();
    let swap = |(addr, len): Prefix| (len, addr);
    for (Block { cidr, except }, ids) in peers.blocks() {
        let at = turns.entry(swap(prefix::of(cidr)));
        at.or_default().begin.push(ids);
        for except in except {
            let at = turns.entry(swap(prefix::of(except)));
            at.or_default().end.push(ids);
        }
    }
    if !peers.outside().is_empty() {
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

/// Every prefix of every block and exception, with the peers that cover it.
///
/// Between two nested prefixes of this list nothing begins or ends, so the
/// longest one decides for an address.
pub(super) fn prefixes(peers: &Peers) -> BTreeMap<Prefix, Covered> {
    let mut found: BTreeMap<Prefix, Covered> = BTreeMap::new();
    // Shortest first, so that what encloses a prefix is there before it.
    for ((len, addr), turn) in turns(peers) {
        let enclosing = match len.checked_sub(1) {
            Some(shorter) if (addr, len) != V4_ROOT => prefix::longest(&found, &addr, shorter),
            _ => None,
        };
        let mut by = enclosing.map(|(_, c)| c.by.clone()).unwrap_or_default();
        by.extend(turn.begin.into_iter().flatten());
        by.sort_unstable();
        by.dedup();
        by.retain(|id| !turn.end.iter().any(|ids| ids.contains(id)));
        let is_plain = |id: &&PeerId| {
            let known = peers.get(**id);
            known.is_some_and(|known| known.peer.named.is_none())
        };
        let plain = by.iter().filter(is_plain).chain(peers.outside());
        let mut plain: Vec<Member> = plain.map(|id| (*id, None)).collect();
        plain.sort_unstable();
        found.insert((addr, len), Covered { by, plain });
    }
    found
}

/// The addresses that a prefix covers.
pub(super) fn range((addr, len): &Prefix) -> RangeInclusive<Addr> {
    let host_bits = match len {
        0 => u128::MAX,
        128 => 0,
        len => u128::MAX >> len,
    };
    let last = u128::from_be_bytes(addr.octets()) | host_bits;
    *addr..=Addr::v6(last.to_be_bytes())
}
