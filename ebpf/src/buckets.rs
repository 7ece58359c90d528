//! The tables of flows: buckets of eight.
//!
//! A lookup in a hash table of the kernel's calls four functions, and where the
//! kernel has to mistrust what a processor predicts, each return costs as much as
//! the work (25 to 35 ns in all, measured). A flow that comes takes a lock there,
//! walks lists, and evicts another one when the table is full: 600 ns and more.
//! Here a flow's key has one bucket, whose eight ways are compared at once, in
//! place: nothing is called, nothing waits.
//!
//! Of flows that aren't replied a new one takes a free way, or that of the one
//! whose turn it is. Replied ones are never pushed out: what finds no free way and
//! no flow past its timeout goes to a hash table of the kernel's.
//!
//! CPUs share buckets without a lock. Who writes a flow takes its way with an
//! atomic exchange of the tag; who finds another at it stores nothing. Who reads
//! compares tag and key: tags are keyed hashes of 64 bits, so that a key that is
//! half written fits nobody. As with the kernel's own LRU tables, a flow that is
//! replaced while it is read may take one packet for another flow's.

use core::hint::black_box;

use crate::abi::{Bucket, FlowKey, Seed};
use crate::conntrack::{self, Clock};

impl FlowKey {
    /// The same key, without `memcmp`.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        let ports = (self.local_port ^ other.local_port) | (self.remote_port ^ other.remote_port);
        let rest = (self.endpoint ^ other.endpoint) | (self.protocol ^ other.protocol);
        self.remote.same(&other.remote) && self.local.same(&other.local) && rest | ports as u32 == 0
    }
}

impl Seed {
    /// The tag of a key: NH (Black et al., UMAC, 1999), a universal hash of one
    /// multiplication for two words.
    #[inline(always)]
    pub const fn tag(&self, key: &FlowKey) -> u64 {
        let (k, l, r) = (&self.0, key.local.words(), key.remote.words());
        let ports = (key.local_port as u32) << 16 | key.remote_port as u32;
        let sum = product(k[0], l[0], k[1], l[1])
            .wrapping_add(product(k[2], l[2], k[3], l[3]))
            .wrapping_add(product(k[4], r[0], k[5], r[1]))
            .wrapping_add(product(k[6], r[2], k[7], r[3]))
            .wrapping_add(product(k[8], key.endpoint, k[9], ports))
            .wrapping_add(product(k[10], key.protocol, k[11], ports));
        // Never one of the two that mean something else.
        if sum > Bucket::BUSY { sum } else { !sum }
    }

    /// The bucket of a tag among `BUCKETS`, a power of two.
    #[inline(always)]
    pub const fn bucket<const BUCKETS: u32>(tag: u64) -> u32 {
        // Its low bits are those of a sum of products: the middle ones mix best.
        let mixed = (tag ^ tag >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> (64 - BUCKETS.trailing_zeros())) as u32
    }
}

#[inline(always)]
const fn product(seed: u32, word: u32, other_seed: u32, other: u32) -> u64 {
    (seed.wrapping_add(word) as u64).wrapping_mul(other_seed.wrapping_add(other) as u64)
}

impl Bucket {
    /// The first way with a tag.
    #[inline(always)]
    pub fn way(&self, tag: u64) -> Option<usize> {
        let found = (0..Self::WAYS).find(|way| self.tags[*way] == tag)?;
        // What follows is the same for each way: the verifier must not walk it
        // eight times, so it is made to forget which one it is.
        let noise = tag as usize;
        Some((black_box(found ^ noise) ^ noise) & (Self::WAYS - 1))
    }

    /// The way of a key.
    #[inline(always)]
    pub fn find(&self, tag: u64, key: &FlowKey) -> Option<usize> {
        let way = self.way(tag)?;
        self.flows[way].key.same(key).then_some(way)
    }

    /// Notes that a way is in use.
    #[inline(always)]
    pub fn touch(&mut self, way: usize) {
        self.recent |= 1 << way;
    }

    /// The way for a flow that mustn't push out another: its tag's, a free one, or
    /// that of a flow past its timeout.
    #[inline(always)]
    pub fn room(&self, tag: u64, clock: Clock) -> Option<usize> {
        if let Some(way) = self.way(tag) {
            return Some(way);
        }
        if let Some(way) = self.way(Self::FREE) {
            return Some(way);
        }
        let over = |way: &usize| conntrack::expired(&self.flows[*way].flow, clock);
        (0..Self::WAYS).find(over)
    }

    /// The way for a new flow: its tag's, a free one, else the first from the one
    /// whose turn it is that hasn't been used since its last turn, else that one.
    #[inline(always)]
    pub fn place(&mut self, tag: u64) -> usize {
        if let Some(way) = self.way(tag) {
            return way;
        }
        if let Some(way) = self.way(Self::FREE) {
            return way;
        }
        const LAST: u32 = Bucket::WAYS as u32 - 1;
        let turn = self.turn & LAST;
        // Ways in the order of their turns, those that may go as ones.
        let idle = !self.recent & ((1 << Self::WAYS) - 1);
        let mut ahead = 0;
        let mut step = Self::WAYS as u32;
        while step > 0 {
            step -= 1;
            if idle >> ((turn + step) & LAST) & 1 != 0 {
                ahead = step;
            }
        }
        // Those that were passed over have had their turn.
        let mut passed = 0;
        while passed < LAST {
            if passed < ahead {
                self.recent &= !(1 << ((turn + passed) & LAST));
            }
            passed += 1;
        }
        let way = (turn + ahead) & LAST;
        self.turn = way + 1;
        way as usize
    }
}

#[cfg(test)]
#[path = "buckets_tests.rs"]
mod tests;
