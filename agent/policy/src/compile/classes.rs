//! Which peers each address matches.
//!
//! A peer class is the set of peers in use that an address matches. Prefixes give the classes of
//! addresses without a known owner; exact entries give those of pods and nodes where prefixes alone
//! would be wrong.

use std::sync::Arc;

use crate::intern::HashMap;

use super::{
    ids::{self, Clash, Ids},
    peers::{Member, Peers},
    slots::{Slots, Turnover},
};

/// Index of a class in use.
pub(super) type ClassSlot = u32;

/// The class that matches no peer; it always exists.
pub(super) const NO_CLASS: ClassSlot = 0;

/// A class in use.
#[derive(Debug)]
pub(super) struct Class {
    /// Sorted.
    pub(super) set: Arc<[Member]>,
    /// Number of table entries that refer to it.
    uses: u32,
    /// `None` until it is numbered.
    pub(super) id: Option<u32>,
}

/// The classes in use.
#[derive(Debug)]
pub(super) struct Classes {
    slots: Slots<Class>,
    by_set: HashMap<Arc<[Member]>, ClassSlot>,
    by_id: HashMap<u32, ClassSlot>,
    ids: Ids,
    /// Classes created or released since the last numbering.
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

    /// Returns the id of a numbered class.
    pub(super) fn id(&self, slot: ClassSlot) -> u32 {
        self.get(slot).and_then(|class| class.id).unwrap_or(0)
    }

    /// Reports whether a class with this id is in use.
    pub(super) fn is_live(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Iterates over the classes in use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ClassSlot, &Class)> {
        self.slots.iter()
    }

    /// Returns the class of a set, creating it if needed. Sorts the set.
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

    /// Counts a table entry that refers to a class.
    pub(super) fn enter(&mut self, slot: ClassSlot) {
        if let Some(class) = self.slots.get_mut(slot) {
            class.uses += 1;
        }
    }

    /// Counts the removal of a table entry with this class id.
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

    /// Drops unreferenced classes and numbers those that have no id yet.
    pub(super) fn reconcile(&mut self, peers: &mut Peers) -> Result<Turnover, Clash> {
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
        self.ids.check()?;
        Ok(turnover)
    }

    /// Drops unreferenced classes and renumbers all others, whatever ids they had.
    pub(super) fn rebuild(&mut self, peers: &mut Peers) {
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
        self.ids.assign(&mut contents, order, give);
        for (slot, id) in given {
            self.number(slot, id, peers);
        }
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

/// Hashes the peers of a set, independent of their indexes.
fn hash(set: &[Member], peers: &Peers) -> u64 {
    let one = |(id, number): &Member| (peers.get(*id).map_or(0, |known| known.hash), *number);
    let mut hashes: Vec<(u64, Option<u16>)> = set.iter().map(one).collect();
    hashes.sort_unstable();
    let bytes = hashes.iter().flat_map(|(hash, number)| {
        let number = number.map_or(0, |n| u32::from(n) + 1);
        hash.to_be_bytes().into_iter().chain(number.to_be_bytes())
    });
    peers.key.hash(&bytes.collect::<Vec<u8>>())
}

/// Returns the peers of a set, ordered by their content.
fn content<'p>(
    set: &[Member],
    peers: &'p Peers,
) -> Vec<(Option<&'p super::peer::Peer>, Option<u16>)> {
    let one = |(id, number): &Member| (peers.get(*id).map(|known| &known.peer), *number);
    let mut content: Vec<_> = set.iter().map(one).collect();
    content.sort_unstable();
    content
}
