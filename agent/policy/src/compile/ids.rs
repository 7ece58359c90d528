//! Ids that are hashes of what they stand for.
//!
//! So an unrelated change doesn't renumber, and two agents (or one agent before
//! and after a restart) number alike. Two contents of one hash are told apart
//! in the order of their contents, never by chance or by who came first.

use ringfence_ebpf::abi::PortSet;
use serde::Serialize;

use crate::intern::HashSet;

/// Which ids may be given.
#[derive(Debug)]
pub(super) struct Space {
    mask: u32,
    step: u32,
}

/// Class and ruleset ids; 0 is the class of no match and the ruleset of no policy.
pub(super) const PLAIN: Space = Space {
    mask: u32::MAX,
    step: 1,
};

/// Ids of blocks: the low bits belong to whole protocols.
pub(super) const BLOCKS: Space = Space {
    mask: PortSet::BLOCKS,
    step: 16,
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

impl Space {
    /// The id that a hash asks for; 0 is none.
    pub(super) fn preferred(&self, hash: u64) -> u32 {
        // The upper half is folded in: FNV's low bits alone depend on few input bits.
        #[allow(clippy::cast_possible_truncation)]
        let id = (hash ^ (hash >> 32)) as u32 & self.mask;
        #[cfg(test)]
        let id = id & FEW.get();
        id
    }
}

#[cfg(test)]
thread_local! {
    /// Bits that ids may have: with few of them there are clashes.
    pub(super) static FEW: std::cell::Cell<u32> = const { std::cell::Cell::new(u32::MAX) };
}

/// Gives contents ids one by one, as long as each gets the one it asks for.
#[derive(Debug)]
pub(super) struct Ids {
    space: Space,
    taken: HashSet<u32>,
}

/// Two contents ask for one id: all have to be numbered anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clash;

impl Ids {
    pub(super) fn new(space: Space) -> Self {
        Self {
            space,
            taken: HashSet::default(),
        }
    }

    /// The id that a hash asks for.
    pub(super) fn take(&mut self, hash: u64) -> Result<u32, Clash> {
        let id = self.space.preferred(hash);
        (id != 0 && self.taken.insert(id))
            .then_some(id)
            .ok_or(Clash)
    }

    /// Gives an id free.
    pub(super) fn free(&mut self, id: u32) {
        self.taken.remove(&id);
    }

    /// Numbers all contents: each gets what it asks for or the next free one,
    /// in the order of what they ask for and, where that is the same, of the
    /// contents. Whether all got what they asked for.
    pub(super) fn assign<T>(
        &mut self,
        contents: &mut [(u64, T)],
        order: impl Fn(&T, &T) -> std::cmp::Ordering,
        mut give: impl FnMut(&T, u32),
    ) -> bool {
        let space = &self.space;
        self.taken.clear();
        contents.sort_by(|a, b| {
            let by_id = space.preferred(a.0).cmp(&space.preferred(b.0));
            by_id.then_with(|| order(&a.1, &b.1))
        });
        let mut preferred = true;
        for (hash, content) in contents {
            let mut id = space.preferred(*hash);
            while id == 0 || !self.taken.insert(id) {
                id = id.wrapping_add(space.step);
                preferred = false;
            }
            give(content, id);
        }
        preferred
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assign(space: Space, contents: &[(&'static str, u64)]) -> (Vec<(&'static str, u32)>, bool) {
        let mut ids = Ids::new(space);
        let mut contents: Vec<_> = contents.iter().map(|(c, h)| (*h, *c)).collect();
        let mut given = Vec::new();
        let all = ids.assign(&mut contents, Ord::cmp, |c, id| given.push((*c, id)));
        given.sort_unstable();
        (given, all)
    }

    #[test]
    fn contents_of_one_hash_get_ids_in_the_order_of_contents() {
        let forward = assign(PLAIN, &[("a", 7), ("b", 7), ("c", 9)]);
        assert_eq!(forward, assign(PLAIN, &[("c", 9), ("b", 7), ("a", 7)]));
        assert_eq!(forward, (vec![("a", 7), ("b", 8), ("c", 9)], false));
        assert!(assign(PLAIN, &[("a", 7), ("b", 8)]).1);
    }

    #[test]
    fn one_by_one_nobody_gets_an_id_that_it_did_not_ask_for() {
        let mut ids = Ids::new(PLAIN);
        assert_eq!(ids.take(7), Ok(7));
        assert_eq!(ids.take(7), Err(Clash));
        ids.free(7);
        assert_eq!(ids.take(7), Ok(7));
        assert_eq!(ids.take(0), Err(Clash));
    }

    #[test]
    fn zero_is_never_given() {
        assert_eq!(assign(PLAIN, &[("a", 0)]), (vec![("a", 1)], false));
        assert_eq!(assign(BLOCKS, &[("a", 3)]), (vec![("a", 16)], false));
        let top = u64::from(PortSet::BLOCKS);
        let both = assign(BLOCKS, &[("a", top), ("b", top)]);
        assert_eq!(both.0, [("a", PortSet::BLOCKS), ("b", 16)]);
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(fnv([]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(*b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
