//! Ids that are hashes of what they stand for.
//!
//! So an unrelated change doesn't renumber, and two agents (or one agent before
//! and after a restart) number alike. Two contents of one hash are told apart
//! in the order of their contents, never by chance.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_ebpf::abi::PortSet;
use serde::Serialize;

/// Which ids may be given.
pub(super) struct Space {
    mask: u32,
    step: u32,
    reserved: &'static [u32],
}

/// Class and ruleset ids; 0 is the class of no match and the ruleset of no policy.
pub(super) const PLAIN: Space = Space {
    mask: u32::MAX,
    step: 1,
    reserved: &[0],
};

/// Ids of blocks: the low three bits belong to whole protocols, and with all
/// other bits set it would read as "everything".
pub(super) const BLOCKS: Space = Space {
    mask: PortSet::BLOCKS,
    step: 8,
    reserved: &[0, PortSet::BLOCKS],
};

/// FNV-1a, 64 bits.
pub(super) fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The hash of a canonical value: its compact JSON, in which sets are sorted.
pub(super) fn of<T: Serialize>(content: &T) -> u64 {
    // Serializing to memory fails only for maps with keys that aren't text or
    // numbers; no content has one, and an empty text would only mean more collisions.
    fnv(serde_json::to_vec(content).unwrap_or_default())
}

/// Gives each content its hash's low bits, or the next free id after that.
pub(super) fn assign<T: Ord>(
    contents: impl IntoIterator<Item = (T, u64)>,
    space: &Space,
) -> BTreeMap<T, u32> {
    let sorted: BTreeMap<T, u64> = contents.into_iter().collect();
    let mut taken: BTreeSet<u32> = space.reserved.iter().copied().collect();
    let place = |(content, hash): (T, u64)| {
        // The upper half is folded in: FNV's low bits alone depend on few input bits.
        #[allow(clippy::cast_possible_truncation)]
        let mut id = (hash ^ (hash >> 32)) as u32 & space.mask;
        while !taken.insert(id) {
            id = id.wrapping_add(space.step);
        }
        (content, id)
    };
    sorted.into_iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_of_one_hash_get_ids_in_the_order_of_contents() {
        let forward = assign([("a", 7), ("b", 7), ("c", 8)], &PLAIN);
        let backward = assign([("c", 8), ("b", 7), ("a", 7)], &PLAIN);
        assert_eq!(forward, backward);
        assert_eq!(forward, BTreeMap::from([("a", 7), ("b", 8), ("c", 9)]));
    }

    #[test]
    fn reserved_ids_are_never_given() {
        assert_eq!(assign([("a", 0)], &PLAIN)["a"], 1);
        assert_eq!(assign([("a", 0)], &BLOCKS)["a"], 8);
        let top = u64::from(PortSet::BLOCKS);
        assert_eq!(assign([("a", top)], &BLOCKS)["a"], 8);
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(fnv([]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(*b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
