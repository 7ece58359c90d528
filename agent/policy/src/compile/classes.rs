//! Which peers each address matches.
//!
//! A peer class is the set of peers that an address matches among those in use.
//! Prefixes give the classes of addresses that nobody is known to own, exact
//! entries those of pods and nodes where prefixes alone would be wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Covered {
    /// Peers whose block covers it, sorted.
    pub(super) by: Vec<PeerId>,
    /// What its addresses match that nobody is known to own, sorted.
    pub(super) plain: Vec<Member>,
}

impl Covered {
    /// Whether a pod and an address that nobody is known to own match the same here,
    /// as far as it goes by address.
    pub(super) fn is_plain(&self) -> bool {
        self.plain.iter().map(|(id, _)| id).eq(&self.by)
    }
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

/// The addresses that are covered otherwise than before; each list in order and apart.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Anew {
    pub(super) all: Vec<RangeInclusive<Addr>>,
    /// Those of them where pods match otherwise than addresses that nobody is known
    /// to own, before or now. Elsewhere a pod without a class of its own needs none.
    pub(super) apart: Vec<RangeInclusive<Addr>>,
}

/// What is covered otherwise than before.
///
/// Not all that lies within a prefix which came or went: an exception that comes
/// with its block leaves what lies in it as it was.
pub(super) fn covered_anew<T>(
    before: &BTreeMap<Prefix, (Covered, T)>,
    now: &BTreeMap<Prefix, Covered>,
) -> Anew {
    let none = Covered::default();
    let compare = |(addr, len): &Prefix| {
        let before = prefix::longest(before, addr, *len).map_or(&none, |(_, (c, _))| c);
        let now = prefix::longest(now, addr, *len).map_or(&none, |(_, c)| c);
        (now != before).then(|| !(before.is_plain() && now.is_plain()))
    };
    // From each address on, up to the next one. A prefix comes after what encloses
    // it, and before all else that follows.
    let mut from: BTreeMap<Addr, Option<bool>> = BTreeMap::new();
    let both: BTreeSet<&Prefix> = before.keys().chain(now.keys()).collect();
    for prefix in both {
        let range = range(prefix);
        let enclosing = from.range(..=range.start()).next_back();
        let enclosing = enclosing.and_then(|(_, differs)| *differs);
        from.insert(*range.start(), compare(prefix));
        if let Some(beyond) = stepped(range.end(), u128::checked_add) {
            from.entry(beyond).or_insert(enclosing);
        }
    }
    let mut anew = Anew::default();
    let mut ends = from.keys().skip(1);
    for (start, differs) in &from {
        let end = ends
            .next()
            .and_then(|next| stepped(next, u128::checked_sub));
        let range = *start..=end.unwrap_or(LAST);
        if *differs == Some(true) {
            anew.apart.push(range.clone());
        }
        if differs.is_some() {
            anew.all.push(range);
        }
    }
    anew
}

/// Whether an address lies in one of these ranges, which are in order and apart.
pub(super) fn within(ranges: &[RangeInclusive<Addr>], addr: &Addr) -> bool {
    let begun = ranges.partition_point(|range| range.start() <= addr);
    begun > 0 && ranges[begun - 1].contains(addr)
}

const LAST: Addr = Addr::v6([0xff; 16]);

/// The address one further on, or one back.
fn stepped(addr: &Addr, step: fn(u128, u128) -> Option<u128>) -> Option<Addr> {
    let bits = u128::from_be_bytes(addr.octets());
    step(bits, 1).map(|bits| Addr::v6(bits.to_be_bytes()))
}

/// The addresses that a prefix covers.
fn range((addr, len): &Prefix) -> RangeInclusive<Addr> {
    let host_bits = match len {
        0 => u128::MAX,
        128 => 0,
        len => u128::MAX >> len,
    };
    let last = u128::from_be_bytes(addr.octets()) | host_bits;
    *addr..=Addr::v6(last.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    /// Addresses at both ends of the form, and at the end of IPv4's.
    fn addr() -> impl Strategy<Value = Addr> {
        (0..3, 0..16_u8).prop_map(|(place, low)| match place {
            0 => Addr::v4([255, 255, 255, 240 | low]),
            1 => Addr::v6(u128::from(low).to_be_bytes()),
            _ => Addr::v6((u128::MAX - u128::from(low)).to_be_bytes()),
        })
    }

    /// Prefixes that hold each other or touch, few of which cover alike.
    fn cover() -> impl Strategy<Value = BTreeMap<Prefix, u32>> {
        let len = prop_oneof![Just(0), Just(96), 124..=128_u8];
        let prefix = (addr(), len).prop_map(|(addr, len)| (prefix::mask(&addr, len), len));
        btree_map(prefix, 0..=NAMED, 0..8)
    }

    /// A peer with a port by name, which only a pod can have.
    const NAMED: u32 = 2;

    fn by(peer: u32) -> Covered {
        let plain = (peer != NAMED).then_some((peer, None));
        Covered {
            by: vec![peer],
            plain: plain.into_iter().collect(),
        }
    }

    /// What the longest prefix that holds an address says.
    fn naive(cover: &BTreeMap<Prefix, u32>, addr: Addr) -> Option<u32> {
        let holds = |p: &&Prefix| prefix::mask(&addr, p.1) == p.0;
        let longest = cover.keys().filter(holds).max_by_key(|prefix| prefix.1);
        longest.map(|prefix| cover[prefix])
    }

    proptest! {
        #[test]
        fn an_address_is_covered_anew_where_its_longest_prefix_says_otherwise(
            before in cover(), now in cover(), addr in addr(),
        ) {
            let old = before.iter().map(|(p, peer)| (*p, (by(*peer), ()))).collect();
            let new = now.iter().map(|(p, peer)| (*p, by(*peer))).collect();
            let Anew { all, apart } = covered_anew(&old, &new);
            for ranges in [&all, &apart] {
                let in_order = ranges.windows(2).all(|pair| pair[0].end() < pair[1].start());
                prop_assert!(in_order, "{ranges:?}");
            }
            let (was, is) = (naive(&before, addr), naive(&now, addr));
            prop_assert_eq!(within(&all, &addr), was != is);
            let special = was == Some(NAMED) || is == Some(NAMED);
            prop_assert_eq!(within(&apart, &addr), was != is && special);
        }
    }

    #[test]
    fn an_exception_that_comes_with_its_block_is_covered_as_before() {
        let of = |text: &str| prefix::of(&text.parse().expect(text));
        let now = BTreeMap::from([
            (of("0.0.0.0/0"), by(1)),
            (of("10.0.0.0/8"), Covered::default()),
        ]);
        let anew = covered_anew::<()>(&BTreeMap::new(), &now);
        let v4 = |a, b, c, d| Addr::v4([a, b, c, d]);
        let around = [
            v4(0, 0, 0, 0)..=v4(9, 255, 255, 255),
            v4(11, 0, 0, 0)..=v4(255, 255, 255, 255),
        ];
        assert_eq!((&*anew.all, &*anew.apart), (&around[..], &[][..]));
    }
}
