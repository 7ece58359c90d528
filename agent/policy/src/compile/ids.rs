//! Ids that are hashes of their content.
//!
//! An unrelated change therefore doesn't renumber, and an agent assigns the same ids before and
//! after a restart. The hash has a key that lives as long as the tables do: a policy author can't
//! construct two contents with the same hash. Contents that collide by chance get their ids in the
//! order of their contents, never in the order of their arrival.

use std::fmt;

use ringfence_ebpf::abi::PortSet;
use serde::Serialize;
use siphasher::sip::SipHasher13;

use crate::intern::HashSet;

/// The range of valid ids.
#[derive(Debug)]
pub(super) struct Space {
    mask: u32,
    step: u32,
}

/// Class and ruleset ids; 0 is the class that matches nothing and the ruleset without policies.
pub(super) const PLAIN: Space = Space {
    mask: u32::MAX,
    step: 1,
};

/// Ids of blocks: the low bits are used for whole protocols.
pub(super) const BLOCKS: Space = Space {
    mask: PortSet::BLOCKS,
    step: 16,
};

/// The key of the hash behind ids. The same objects give the same tables under the same key; tables
/// of different keys can't be compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IdKey([u64; 2]);

impl IdKey {
    /// The key of tables that stay in this process; it is no secret.
    pub const FIXED: Self = Self([0; 2]);

    /// Derives a key from a secret that is as hard to guess as 128 random bits.
    pub fn from_secret(secret: &[u8]) -> Self {
        Self([1, 2].map(|half| SipHasher13::new_with_keys(half, half).hash(secret)))
    }

    /// Hashes bytes with SipHash-1-3.
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        SipHasher13::new_with_keys(self.0[0], self.0[1]).hash(bytes)
    }

    /// Hashes a canonical value: its compact JSON, in which sets are sorted.
    pub(super) fn of<T: Serialize>(&self, content: &T) -> u64 {
        // Serializing to memory fails only for maps whose keys aren't text or numbers. No content
        // has one, and an empty text would only cause more collisions.
        self.hash(&serde_json::to_vec(content).unwrap_or_default())
    }
}

impl Default for IdKey {
    fn default() -> Self {
        Self::FIXED
    }
}

/// Omits the key, so that it never ends up in a log.
impl fmt::Debug for IdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdKey")
    }
}

impl Space {
    /// Returns the preferred id of a hash; 0 is not a valid id.
    pub(super) fn preferred(&self, hash: u64) -> u32 {
        #[allow(clippy::cast_possible_truncation)]
        let id = hash as u32 & self.mask;
        #[cfg(test)]
        let id = id & FEW.get();
        id
    }
}

#[cfg(test)]
thread_local! {
    /// A mask for ids: with few bits there are collisions.
    pub(super) static FEW: std::cell::Cell<u32> = const { std::cell::Cell::new(u32::MAX) };
}

/// Assigns ids to contents one by one, as long as the result equals that of numbering all of them.
///
/// A free id that no content has skipped may be given to any content that prefers it. Only when an
/// id is freed that some content skipped would that content get it in a full numbering.
#[derive(Debug)]
pub(super) struct Ids {
    space: Space,
    taken: HashSet<u32>,
    /// Ids that contents preferred or probed and found taken.
    passed: HashSet<u32>,
    /// One of the skipped ids was freed.
    disturbed: bool,
}

/// Two contents prefer the same id: all have to be renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clash;

impl Ids {
    pub(super) fn new(space: Space) -> Self {
        Self {
            space,
            taken: HashSet::default(),
            passed: HashSet::default(),
            disturbed: false,
        }
    }

    /// Takes the preferred id of a hash.
    pub(super) fn take(&mut self, hash: u64) -> Result<u32, Clash> {
        let id = self.space.preferred(hash);
        (id != 0 && self.taken.insert(id))
            .then_some(id)
            .ok_or(Clash)
    }

    /// Frees an id.
    pub(super) fn free(&mut self, id: u32) {
        self.taken.remove(&id);
        self.disturbed |= self.passed.contains(&id);
    }

    /// Fails if a full numbering would give some contents other ids.
    pub(super) fn check(&self) -> Result<(), Clash> {
        match self.disturbed {
            true => Err(Clash),
            false => Ok(()),
        }
    }

    /// Numbers all contents: each gets its preferred id or the next free one, in the order of
    /// preferred ids and, where these are equal, of the contents.
    pub(super) fn assign<T>(
        &mut self,
        contents: &mut [(u64, T)],
        order: impl Fn(&T, &T) -> std::cmp::Ordering,
        mut give: impl FnMut(&T, u32),
    ) {
        let space = &self.space;
        self.taken.clear();
        self.passed.clear();
        self.disturbed = false;
        contents.sort_by(|a, b| {
            let by_id = space.preferred(a.0).cmp(&space.preferred(b.0));
            by_id.then_with(|| order(&a.1, &b.1))
        });
        for (hash, content) in contents {
            let mut id = space.preferred(*hash);
            while id == 0 || !self.taken.insert(id) {
                self.passed.insert(id);
                id = id.wrapping_add(space.step);
            }
            give(content, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assign(space: Space, contents: &[(&'static str, u64)]) -> (Vec<(&'static str, u32)>, bool) {
        let mut ids = Ids::new(space);
        let mut contents: Vec<_> = contents.iter().map(|(c, h)| (*h, *c)).collect();
        let mut given = Vec::new();
        ids.assign(&mut contents, Ord::cmp, |c, id| given.push((*c, id)));
        given.sort_unstable();
        (given, ids.passed.is_empty())
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
    fn an_id_that_somebody_passed_over_does_not_go_unnoticed() {
        let mut ids = Ids::new(PLAIN);
        let mut contents = [(7, "a"), (7, "b"), (8, "c"), (20, "d")];
        let mut given = Vec::new();
        ids.assign(&mut contents, Ord::cmp, |c, id| given.push((*c, id)));
        assert_eq!(given, [("a", 7), ("b", 8), ("c", 9), ("d", 20)]);
        assert_eq!((ids.take(10), ids.check()), (Ok(10), Ok(())));
        for id in [9, 10, 20] {
            ids.free(id);
            assert_eq!(ids.check(), Ok(()), "{id} was passed over by nobody");
        }
        ids.free(8);
        assert_eq!(ids.check(), Err(Clash), "c would have it now");
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
    fn contents_that_clash_under_one_key_do_not_under_another() {
        let id = |key: IdKey, n: u32| PLAIN.preferred(key.of(&n));
        // Two of 200,000 contents that share a 32-bit id.
        let mut first = std::collections::HashMap::new();
        let clash = (0..200_000).find_map(|n| {
            let other = first.insert(id(IdKey::FIXED, n), n)?;
            Some((other, n))
        });
        let (a, b) = clash.expect("4.7 pairs are to be expected");
        assert_eq!(id(IdKey::FIXED, a), id(IdKey::FIXED, b));
        let other = IdKey::from_secret(b"another");
        assert_ne!(id(other, a), id(other, b));
    }

    #[test]
    fn a_key_depends_on_every_byte_of_its_secret_and_is_the_same_each_time() {
        let key = IdKey::from_secret(&[7; 48]);
        assert_eq!(key, IdKey::from_secret(&[7; 48]));
        for at in 0..48 {
            let mut secret = [7; 48];
            secret[at] ^= 1;
            let other = IdKey::from_secret(&secret);
            assert!(key.0[0] != other.0[0] && key.0[1] != other.0[1], "{at}");
        }
        assert_ne!(key.0[0], key.0[1]);
    }

    #[test]
    fn the_hash_is_siphash_1_3() {
        // The reference's key 00 01 02 … and its empty message.
        let key = IdKey([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        assert_eq!(key.hash(&[]), 0xabac_0158_050f_c4dc);
    }
}
