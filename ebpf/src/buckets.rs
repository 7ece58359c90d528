//! The tables of flows: buckets of eight.
//!
//! A lookup in a hash table of the kernel's calls four functions, and where the
//! kernel has to mistrust what a processor predicts, each return costs as much as
//! the work (25 to 35 ns in all, measured). A flow that comes takes a lock there,
//! walks lists, and evicts another one when the table is full: 600 ns and more.
//! Here a flow's key has one bucket, whose eight ways are compared at once, in
//! place: nothing is called, nothing waits.
//!
//! Replied flows are never pushed out: what finds no free way and no flow past its
//! timeout goes to a hash table of the kernel's. Of the others a new one always gets
//! a way, since without a flow the answer to an allowed packet is denied. Who gives
//! way in a full bucket is decided by shares, without a counter anywhere: of the
//! endpoint that holds most ways there, of its kind of flows (a direction and a
//! protocol) that holds most, of the pair of ends that holds most, the one that was
//! used longest ago, where the new flow counts as one of them. So whoever opens many
//! pushes out its own, and one who opens few keeps them. An endpoint's flows lie in
//! one of several parts of the table, so that many endpoints have to agree before
//! their like is all that a bucket holds. Whose a flow is says a keyed hash: nobody
//! can choose to be taken for another, or where to meet it.
//!
//! CPUs share buckets without a lock. Who writes a flow takes its way with an
//! atomic exchange of the tag; who finds another at it stores nothing. Who reads
//! compares tag and key: tags are keyed hashes of 64 bits, so that a key that is
//! half written fits nobody. Each of its integers is read and written as a whole
//! ([`crate::shared`]), in no order with others. As with the kernel's own LRU tables, a flow that is
//! replaced while it is read may take one packet for another flow's.

use core::hint::black_box;

use crate::abi::{Bucket, Direction, FlowKey, Identity, Seed, capacity};
use crate::conntrack::{self, Clock, State};
use crate::packet::protocol;
use crate::shared::{SharedBucket, SharedFlow};

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
        (mixed(tag) >> (64 - BUCKETS.trailing_zeros())) as u32
    }

    /// The bucket of a flow that isn't replied, among `BUCKETS`, a power of two: in
    /// the endpoint's part of them.
    #[inline(always)]
    pub const fn opening_bucket<const BUCKETS: u32>(&self, tag: u64, endpoint: u32) -> u32 {
        let part = BUCKETS / capacity::OPENING_PARTS;
        let first = (self.endpoint(endpoint) >> 32) as u32;
        first.wrapping_add((mixed(tag) >> (64 - part.trailing_zeros())) as u32) & (BUCKETS - 1)
    }

    /// Whose a flow is, from its high byte down: the endpoint, the kind (who opened
    /// it, the protocol, and whether it stands for fragments), and two bytes for the
    /// pair of ends.
    ///
    /// An address that is nobody's counts by its /64, which is what one subscriber
    /// has; a pod can't have more than its own.
    #[inline(always)]
    pub fn owner(&self, key: &FlowKey, flow: &SharedFlow) -> u32 {
        let (k, r) = (&self.0, key.remote.words());
        let is_known = !matches!(flow.peer.get(), Identity::OUTSIDE | Identity::UNKNOWN_POD);
        let subscriber = !is_known && !key.remote.is_v4();
        let host = if subscriber { 0 } else { u32::MAX };
        let kind = kind(key.protocol, flow.opened_by.get());
        let pair = product(k[1], r[0], k[2], r[1])
            .wrapping_add(product(k[3], r[2] & host, k[4], r[3] & host))
            .wrapping_add(product(k[5], kind, k[6], key.endpoint));
        let endpoint = (self.endpoint(key.endpoint) >> 56) as u32;
        endpoint << 24 | kind << 16 | (mixed(pair) >> 48) as u32
    }

    /// An endpoint, hashed.
    #[inline(always)]
    const fn endpoint(&self, endpoint: u32) -> u64 {
        mixed(product(self.0[7], endpoint, self.0[8], endpoint))
    }
}

/// An owner's kind.
#[inline(always)]
const fn kind(protocol_number: u32, opened_by: u8) -> u32 {
    let protocol = match protocol_number as u8 {
        protocol::TCP => 0,
        protocol::UDP => 1,
        protocol::ICMP | protocol::ICMPV6 => 2,
        _ => 3,
    };
    let fragments = (protocol_number >= FlowKey::FRAGMENTS) as u32;
    fragments << 3 | protocol << 1 | (opened_by == Direction::Egress as u8) as u32
}

#[inline(always)]
const fn mixed(sum: u64) -> u64 {
    (sum ^ sum >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[inline(always)]
const fn product(seed: u32, word: u32, other_seed: u32, other: u32) -> u64 {
    (seed.wrapping_add(word) as u64).wrapping_mul(other_seed.wrapping_add(other) as u64)
}

impl SharedBucket {
    /// The first way with a tag.
    #[inline(always)]
    pub fn way(&self, tag: u64) -> Option<usize> {
        let found = (0..Bucket::WAYS).find(|way| self.tags[*way].get() == tag)?;
        // What follows is the same for each way: the verifier must not walk it
        // eight times, so it is made to forget which one it is.
        let noise = tag as usize;
        Some((black_box(found ^ noise) ^ noise) & (Bucket::WAYS - 1))
    }

    /// The way of a key.
    #[inline(always)]
    pub fn find(&self, tag: u64, key: &FlowKey) -> Option<usize> {
        let way = self.way(tag)?;
        self.flows[way].key.is(key).then_some(way)
    }

    /// Notes that a way of `OPENING` is in use, by what is known of its flow.
    #[inline(always)]
    pub fn touch(&self, way: usize, clock: Clock) {
        self.until[way].set(until(&self.flows[way].flow, clock));
    }

    /// `FLOWS`: whether a flow has ever found the bucket full, so that it may lie in
    /// `FLOWS_MORE`.
    #[inline(always)]
    pub fn is_crowded(&self) -> bool {
        self.owners[0].get() != 0
    }

    /// `FLOWS`: notes that a flow has found it full.
    #[inline(always)]
    pub fn crowd(&self) {
        self.owners[0].set(1);
    }

    /// The way for a flow that mustn't push out another: its tag's, a free one, or
    /// that of a flow past its timeout.
    #[inline(always)]
    pub fn room(&self, tag: u64, clock: Clock) -> Option<usize> {
        if let Some(way) = self.way(tag) {
            return Some(way);
        }
        if let Some(way) = self.way(Bucket::FREE) {
            return Some(way);
        }
        let over = |way: &usize| self.flows[*way].flow.expired(clock);
        (0..Bucket::WAYS).find(over)
    }

    /// `FLOWS`: the way of an endpoint's flow whose time is over.
    #[inline(always)]
    pub fn over(&self, endpoint: u32, clock: Clock) -> Option<usize> {
        let over = |way: &usize| {
            let held = &self.flows[*way];
            held.key.endpoint.get() == endpoint && held.flow.expired(clock)
        };
        (0..Bucket::WAYS).find(over)
    }

    /// `OPENING`: whether a way is held by a live answered flow, under another tag.
    #[inline(always)]
    pub fn holds_answered(&self, way: usize, tag: u64, now: u64) -> bool {
        let held = self.tags[way].get();
        let left = self.until[way].get().wrapping_sub(now as u32);
        let answered = self.flows[way].flow.state.get() == State::Replied as u8;
        held > Bucket::BUSY && held != tag && left >> 31 == 0 && answered
    }

    /// The way for a new flow: its tag's, a free one, one whose flow holds it no
    /// longer, else that of the flow which has to give way.
    #[inline(always)]
    pub fn place(&self, tag: u64, owner: u32, now: u64) -> usize {
        if let Some(way) = self.way(tag) {
            return way;
        }
        if let Some(way) = self.way(Bucket::FREE) {
            return way;
        }
        let [wide, near] = self.shares(owner);
        let (mut most, mut way) = (0_u64, 0);
        while way < Bucket::WAYS {
            let left = self.until[way].get().wrapping_sub(now as u32);
            // Below 2^63: whether its time is over, what its endpoint, kind and pair
            // hold here, how little is left of its time, and which way it is.
            let score = u64::from(left >> 31) << 62
                | (wide >> (8 * way) & 0xff) << 43
                | (near >> (8 * way) & 0xff) << 35
                | u64::from(!left) << 3
                | way as u64;
            // The larger one, without a branch, which LLVM would make of a mask that it
            // sees through: the verifier would walk all ways that eight of them can go.
            let less = most.wrapping_sub(score);
            most = most.wrapping_sub(less & black_box(((less as i64) >> 63) as u64));
            way = black_box(way + 1);
        }
        most as usize & (Bucket::WAYS - 1)
    }

    /// How many ways are held by each one's endpoint and kind (high and low half of
    /// its byte of the first number), and by its pair (the second), where a new flow
    /// counts as one of them. All ways at once, since a BPF program has few registers.
    #[inline(always)]
    fn shares(&self, owner: u32) -> [u64; 2] {
        let bytes = owner.to_be_bytes();
        let [mut wide, mut narrow] = self.near(|number, _| spread(bytes[number]));
        let mut turn = 8;
        while turn < u64::BITS {
            let [more, pair] = self.near(|_, own| own.rotate_left(turn));
            wide += more;
            narrow += pair;
            // One turn after the other: all at once they would need more stack than
            // there is.
            turn = black_box(turn + 8);
        }
        [wide, narrow]
    }

    /// A one for each way whose endpoint and kind, and whose pair, are those of another,
    /// given by the number of an owner's byte and those bytes of all ways.
    #[inline(always)]
    fn near(&self, other: impl Fn(usize, u64) -> u64) -> [u64; 2] {
        let apart = |number: usize| {
            let own = self.owners[number].get();
            own ^ other(number, own)
        };
        let endpoint = apart(0);
        let kind = endpoint | apart(1);
        let pair = kind | apart(2) | apart(3);
        [zeros(endpoint) << 4 | zeros(kind), zeros(pair)]
    }

    /// `OPENING`: notes whose the flow in a way is, and until when it holds it.
    #[inline(always)]
    pub fn own(&self, way: usize, owner: u32, flow: &SharedFlow, clock: Clock) {
        let shift = (8 * way as u32) & 63;
        for (bytes, own) in self.owners.iter().zip(owner.to_be_bytes()) {
            bytes.set(bytes.get() & !(0xff << shift) | u64::from(own) << shift);
        }
        self.until[way].set(until(flow, clock));
    }
}

/// A one in each byte that is zero.
#[inline(always)]
const fn zeros(bytes: u64) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    !((bytes & LOW).wrapping_add(LOW) | bytes | LOW) >> 7
}

/// A byte, eight times.
#[inline(always)]
fn spread(byte: u8) -> u64 {
    u64::from(byte) * 0x0101_0101_0101_0101
}

/// Until when a flow holds its way.
#[inline(always)]
fn until(flow: &SharedFlow, clock: Clock) -> u32 {
    let lease = u64::from(conntrack::lease(flow)) * clock.second;
    flow.last_seen.get().wrapping_add(lease) as u32
}

#[cfg(test)]
#[path = "buckets_tests.rs"]
mod tests;
