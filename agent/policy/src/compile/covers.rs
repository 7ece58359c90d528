//! Which peers match by address, prefix by prefix.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use ringfence_ebpf::abi::Addr;

use crate::{
    index::ranges::Ranges,
    prefix::{self, Prefix, V4_ROOT, V6_ROOT},
};

use super::peers::{Member, PeerId, Peers};

/// What applies to a prefix of some block or exception.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Covered {
    /// Peers whose block covers it, sorted.
    pub(super) by: Vec<PeerId>,
    /// What addresses without a known owner match here, sorted.
    pub(super) plain: Vec<Member>,
}

impl Covered {
    /// Reports whether pods and addresses without a known owner match the same here, as far as
    /// matching goes by address.
    pub(super) fn is_plain(&self) -> bool {
        self.plain.iter().map(|(id, _)| id).eq(&self.by)
    }
}

/// Peers whose blocks begin and end at a prefix, sorted.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    pub(super) begin: Vec<PeerId>,
    pub(super) end: Vec<PeerId>,
}

/// Reports whether a root prefix needs an entry although nothing begins or ends there.
fn is_root(peers: &Peers, prefix: &Prefix) -> bool {
    if *prefix != V4_ROOT {
        return *prefix == V6_ROOT && !peers.outside().is_empty();
    }
    // IPv4 lies within IPv6 in the tables: coverage from above must stop at the mapped prefix.
    let over_v4 = |len| {
        let prefix = (prefix::mask(&V4_ROOT.0, len), len);
        peers.turns().contains_key(&prefix)
    };
    !peers.outside().is_empty() || (0..V4_ROOT.1).any(over_v4)
}

/// Up to this many regions are always processed one by one, however few prefixes there are.
const FEW: usize = 8;

/// Returns the disjoint regions to recompute where these prefixes were touched; the whole address
/// space if there are many.
pub(super) fn regions(touched: BTreeSet<Prefix>, known: usize) -> Vec<Prefix> {
    let mut regions: Vec<Prefix> = Vec::new();
    for prefix in touched {
        // An enclosing prefix sorts before this one, and everything between them lies in it too.
        let enclosed = |last: &Prefix| prefix::within(last).contains(&prefix);
        if !regions.last().is_some_and(enclosed) {
            regions.push(prefix);
        }
    }
    if regions.len() > (known / 8).max(FEW) {
        return vec![V6_ROOT];
    }
    regions
}

/// Returns every prefix within a region at which a block begins or ends, with the peers that cover
/// it, and `above`, the longest prefix that encloses the region. If a peer selects the outside,
/// pods' ranges get prefixes of their own.
///
/// Between two nested prefixes of this list nothing begins or ends, so the longest one decides for
/// an address.
pub(super) fn prefixes(
    peers: &Peers,
    ranges: &Ranges,
    region: &Prefix,
    above: Option<(Prefix, Covered)>,
) -> BTreeMap<Prefix, Covered> {
    let mut found: BTreeMap<Prefix, Covered> = above.into_iter().collect();
    let none = Boundary::default();
    let within = prefix::within(region);
    let roots = [V6_ROOT, V4_ROOT].into_iter();
    let roots = roots.filter(|root| within.contains(root) && is_root(peers, root));
    let mut turns: BTreeMap<Prefix, &Boundary> = roots.map(|root| (root, &none)).collect();
    if !peers.outside().is_empty() {
        turns.extend(ranges.within(region).map(|range| (range, &none)));
    }
    turns.extend(
        peers
            .turns()
            .range(within)
            .map(|(prefix, turn)| (*prefix, turn)),
    );
    // In this order an enclosing prefix is inserted before the prefixes within it.
    for ((addr, len), turn) in turns {
        let enclosing = match len.checked_sub(1) {
            Some(shorter) if (addr, len) != V4_ROOT => prefix::longest(&found, &addr, shorter),
            _ => None,
        };
        let mut by = enclosing.map(|(_, c)| c.by.clone()).unwrap_or_default();
        by.extend(&turn.begin);
        by.sort_unstable();
        by.dedup();
        by.retain(|id| turn.end.binary_search(id).is_err());
        let is_plain = |id: &&PeerId| {
            let known = peers.get(**id);
            known.is_some_and(|known| known.peer.named.is_none())
        };
        let outside = match ranges.hold(&(addr, len)) {
            true => &[],
            false => peers.outside(),
        };
        let plain = by.iter().filter(is_plain).chain(outside);
        let mut plain: Vec<Member> = plain.map(|id| (*id, None)).collect();
        plain.sort_unstable();
        found.insert((addr, len), Covered { by, plain });
    }
    found
}

/// The addresses whose coverage changed; each list is sorted and disjoint.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Recovered {
    pub(super) all: Vec<RangeInclusive<Addr>>,
    /// The subset where pods match differently from addresses without a known owner, before or
    /// after the change. Elsewhere a pod without a class of its own needs none.
    pub(super) apart: Vec<RangeInclusive<Addr>>,
}

impl Recovered {
    /// Appends ranges that lie behind all existing ones.
    pub(super) fn extend(&mut self, behind: Self) {
        self.all.extend(behind.all);
        self.apart.extend(behind.apart);
    }
}

/// Returns the addresses whose coverage changed.
///
/// That isn't everything within an added or removed prefix: an exception added together with its
/// block leaves its addresses as they were.
pub(super) fn covered_anew<T>(
    before: &BTreeMap<Prefix, (Covered, T)>,
    now: &BTreeMap<Prefix, Covered>,
) -> Recovered {
    let none = Covered::default();
    // Returns whether pods match differently there; `None` if the coverage is unchanged.
    let compare = |(addr, len): &Prefix| {
        let before = prefix::longest(before, addr, *len).map_or(&none, |(_, (c, _))| c);
        let now = prefix::longest(now, addr, *len).map_or(&none, |(_, c)| c);
        (now != before).then(|| !(before.is_plain() && now.is_plain()))
    };
    // Maps each address at which something changes to the state up to the next one. A prefix sorts
    // after the prefixes that enclose it and before everything else that follows.
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
    let mut anew = Recovered::default();
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

/// Reports whether an address lies in one of these ranges, which are sorted and disjoint.
pub(super) fn within(ranges: &[RangeInclusive<Addr>], addr: &Addr) -> bool {
    let begun = ranges.partition_point(|range| range.start() <= addr);
    begun > 0 && ranges[begun - 1].contains(addr)
}

const LAST: Addr = Addr::v6([0xff; 16]);

/// Returns the next address, or the previous one.
fn stepped(addr: &Addr, step: fn(u128, u128) -> Option<u128>) -> Option<Addr> {
    let bits = u128::from_be_bytes(addr.octets());
    step(bits, 1).map(|bits| Addr::v6(bits.to_be_bytes()))
}

/// Returns the addresses that a prefix covers.
fn range(prefix: &Prefix) -> RangeInclusive<Addr> {
    prefix.0..=prefix::last(prefix)
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    /// Addresses at both ends of the address space, and at the end of IPv4.
    fn addr() -> impl Strategy<Value = Addr> {
        (0..3, 0..16_u8).prop_map(|(place, low)| match place {
            0 => Addr::v4([255, 255, 255, 240 | low]),
            1 => Addr::v6(u128::from(low).to_be_bytes()),
            _ => Addr::v6((u128::MAX - u128::from(low)).to_be_bytes()),
        })
    }

    /// Prefixes that nest or touch, few of which have equal coverage.
    fn cover() -> impl Strategy<Value = BTreeMap<Prefix, u32>> {
        let len = prop_oneof![Just(0), Just(96), 124..=128_u8];
        let prefix = (addr(), len).prop_map(|(addr, len)| (prefix::mask(&addr, len), len));
        btree_map(prefix, 0..=NAMED, 0..8)
    }

    /// A peer with a named port, which only a pod can have.
    const NAMED: u32 = 2;

    fn by(peer: u32) -> Covered {
        let plain = (peer != NAMED).then_some((peer, None));
        Covered {
            by: vec![peer],
            plain: plain.into_iter().collect(),
        }
    }

    /// Returns the value of the longest prefix that contains an address.
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
            let Recovered { all, apart } = covered_anew(&old, &new);
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
