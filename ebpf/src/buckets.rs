//! The tables of connections: buckets of eight ways.
//!
//! A lookup in one of the kernel's hash tables calls four functions, and where the kernel has to
//! mitigate return speculation, each return costs as much as the work (25 to 35 ns in total,
//! measured). Inserting a new connection there takes a lock, walks lists, and evicts another
//! entry if the table is full: 600 ns and more. Here each key has one bucket, whose eight ways
//! are compared in place without calls or locks.
//!
//! Replied connections are never evicted: a connection that finds neither a free way nor an
//! expired connection goes to a hash table of the kernel. A new connection that isn't replied
//! always gets a way, because without a connection the reply to an allowed packet is denied. In a
//! full bucket, shares decide which connection is evicted, without any counters: first the
//! endpoint with the most ways in the bucket, then its kind of connections (a direction and a
//! protocol) with the most, then the pair of ends with the most, and of these the least recently
//! used connection. The new connection counts as one of them. So an endpoint that opens many
//! connections evicts its own, and one that opens few keeps them. The connections of an endpoint
//! are confined to one part of the table, so that many endpoints would have to cooperate to fill
//! a bucket with nothing but their own connections. A keyed hash identifies the owner of a
//! connection: nobody can choose to be mistaken for another owner, or the bucket in which to meet
//! one.
//!
//! CPUs share buckets without a lock. A writer takes a way by an atomic exchange of its tag; if
//! another CPU holds it, the writer stores nothing. A reader compares tag and key: tags are keyed
//! hashes of 64 bits, so that a partially written key matches no lookup. Each integer is read and
//! written as a unit ([`crate::shared`]), unordered with respect to others. As with the kernel's
//! own LRU tables, a reader of a connection that is being replaced may attribute one packet to
//! another connection.

use core::hint::black_box;

use crate::abi::{Bucket, ConnectionKey, Direction, Identity, Seed, capacity};
use crate::conntrack::{self, Clock, State};
use crate::packet::protocol;
use crate::shared::{SharedBucket, SharedConnection};

impl Seed {
    /// Returns the tag of a key: NH (Black et al., UMAC, 1999), a universal hash with one
    /// multiplication per two words.
    #[inline(always)]
    pub const fn tag(&self, key: &ConnectionKey) -> u64 {
        let (k, l, r) = (&self.0, key.local.words(), key.remote.words());
        let ports = (key.local_port as u32) << 16 | key.remote_port as u32;
        let sum = product(k[0], l[0], k[1], l[1])
            .wrapping_add(product(k[2], l[2], k[3], l[3]))
            .wrapping_add(product(k[4], r[0], k[5], r[1]))
            .wrapping_add(product(k[6], r[2], k[7], r[3]))
            .wrapping_add(product(k[8], key.endpoint, k[9], ports))
            .wrapping_add(product(k[10], key.protocol, k[11], ports));
        // Never one of the two reserved tags.
        if sum > Bucket::BUSY { sum } else { !sum }
    }

    /// Returns the bucket of a tag among `BUCKETS`, a power of two.
    #[inline(always)]
    pub const fn bucket<const BUCKETS: u32>(tag: u64) -> u32 {
        // A tag is a sum of products, whose low bits are weak: the middle bits mix best.
        (mixed(tag) >> (64 - BUCKETS.trailing_zeros())) as u32
    }

    /// Returns the bucket of a connection that isn't replied, within the endpoint's part of
    /// `BUCKETS`, a power of two.
    #[inline(always)]
    pub const fn opening_bucket<const BUCKETS: u32>(&self, tag: u64, endpoint: u32) -> u32 {
        let part = BUCKETS / capacity::OPENING_PARTS;
        let first = (self.endpoint(endpoint) >> 32) as u32;
        first.wrapping_add((mixed(tag) >> (64 - part.trailing_zeros())) as u32) & (BUCKETS - 1)
    }

    /// Returns the owner of a connection, from the high byte down: the endpoint, the kind (who
    /// opened the connection, the protocol, and whether the entry represents fragments), and two
    /// bytes for the pair of ends.
    ///
    /// An address without a known owner counts by its /64, which is what one subscriber has; a
    /// pod can't have more than its own.
    #[inline(always)]
    pub fn owner(&self, key: &ConnectionKey, connection: &SharedConnection) -> u32 {
        let (k, r) = (&self.0, key.remote.words());
        let is_known = !matches!(
            connection.peer.get(),
            Identity::OUTSIDE | Identity::UNKNOWN_POD
        );
        let subscriber = !is_known && !key.remote.is_v4();
        let host = if subscriber { 0 } else { u32::MAX };
        let kind = kind(key.protocol, connection.opened_by.get());
        let pair = product(k[1], r[0], k[2], r[1])
            .wrapping_add(product(k[3], r[2] & host, k[4], r[3] & host))
            .wrapping_add(product(k[5], kind, k[6], key.endpoint));
        let endpoint = (self.endpoint(key.endpoint) >> 56) as u32;
        endpoint << 24 | kind << 16 | (mixed(pair) >> 48) as u32
    }

    /// Hashes an endpoint.
    #[inline(always)]
    const fn endpoint(&self, endpoint: u32) -> u64 {
        mixed(product(self.0[7], endpoint, self.0[8], endpoint))
    }
}

/// Returns the kind in an owner.
#[inline(always)]
const fn kind(protocol_number: u32, opened_by: u8) -> u32 {
    let protocol = match protocol_number as u8 {
        protocol::TCP => 0,
        protocol::UDP => 1,
        protocol::ICMP | protocol::ICMPV6 => 2,
        _ => 3,
    };
    let fragments = (protocol_number >= ConnectionKey::FRAGMENTS) as u32;
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
    /// Returns the first way with a tag.
    #[inline(always)]
    pub fn way(&self, tag: u64) -> Option<usize> {
        let found = (0..Bucket::WAYS).find(|way| self.tags[*way].get() == tag)?;
        // The subsequent code is the same for each way. To keep the verifier from walking it
        // eight times, it is made to forget which way this is.
        let noise = tag as usize;
        Some((black_box(found ^ noise) ^ noise) & (Bucket::WAYS - 1))
    }

    /// Returns the way of a key.
    #[inline(always)]
    pub fn find(&self, tag: u64, key: &ConnectionKey) -> Option<usize> {
        let way = self.way(tag)?;
        self.connections[way].key.is(key).then_some(way)
    }

    /// `OPENING`: extends the time for which a connection holds its way.
    #[inline(always)]
    pub fn touch(&self, way: usize, clock: Clock) {
        self.until[way].set(until(&self.connections[way].connection, clock));
    }

    /// `CONNECTIONS`: reports whether an insert has ever found the bucket full, so that
    /// connections may be in `CONN_OVERFLOW`.
    #[inline(always)]
    pub fn is_crowded(&self) -> bool {
        self.owners[0].get() != 0
    }

    /// `CONNECTIONS`: records that an insert has found the bucket full.
    #[inline(always)]
    pub fn crowd(&self) {
        self.owners[0].set(1);
    }

    /// Returns a way for a connection that must not evict another: the way with its tag, a free
    /// one, or that of an expired connection.
    #[inline(always)]
    pub fn room(&self, tag: u64, clock: Clock) -> Option<usize> {
        if let Some(way) = self.way(tag) {
            return Some(way);
        }
        if let Some(way) = self.way(Bucket::FREE) {
            return Some(way);
        }
        let over = |way: &usize| self.connections[*way].connection.expired(clock);
        (0..Bucket::WAYS).find(over)
    }

    /// `CONNECTIONS`: returns the way of an expired connection of an endpoint.
    #[inline(always)]
    pub fn over(&self, endpoint: u32, clock: Clock) -> Option<usize> {
        let over = |way: &usize| {
            let held = &self.connections[*way];
            held.key.endpoint.get() == endpoint && held.connection.expired(clock)
        };
        (0..Bucket::WAYS).find(over)
    }

    /// `OPENING`: reports whether a live replied connection holds a way under a different tag.
    #[inline(always)]
    pub fn holds_answered(&self, way: usize, tag: u64, now: u64) -> bool {
        let held = self.tags[way].get();
        let left = self.until[way].get().wrapping_sub(now as u32);
        let answered = self.connections[way].connection.state.get() == State::Replied as u8;
        held > Bucket::BUSY && held != tag && left >> 31 == 0 && answered
    }

    /// Returns the way for a new connection: the way with its tag, a free one, one that its
    /// connection no longer holds, or else that of the connection to evict.
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
            // Below 2^63. From the top: whether the connection's time is over, how many ways its
            // endpoint, kind and pair hold here, how little of its time is left, and the number
            // of the way.
            let score = u64::from(left >> 31) << 62
                | (wide >> (8 * way) & 0xff) << 43
                | (near >> (8 * way) & 0xff) << 35
                | u64::from(!left) << 3
                | way as u64;
            // Takes the larger score without a branch. LLVM would turn a mask that it sees
            // through into one, and the verifier would walk every path that eight branches make
            // possible.
            let less = most.wrapping_sub(score);
            most = most.wrapping_sub(less & black_box(((less as i64) >> 63) as u64));
            way = black_box(way + 1);
        }
        most as usize & (Bucket::WAYS - 1)
    }

    /// Counts, for every way, the ways held by the same endpoint and kind (high and low half of
    /// the way's byte of the first number), and by the same pair (second number). A new
    /// connection counts as one of them. All ways are counted in parallel, since a BPF program
    /// has few registers.
    #[inline(always)]
    fn shares(&self, owner: u32) -> [u64; 2] {
        let bytes = owner.to_be_bytes();
        let [mut wide, mut narrow] = self.near(|number, _| spread(bytes[number]));
        let mut turn = 8;
        while turn < u64::BITS {
            let [more, pair] = self.near(|_, own| own.rotate_left(turn));
            wide += more;
            narrow += pair;
            // One rotation at a time: in parallel they would need more stack than there is.
            turn = black_box(turn + 8);
        }
        [wide, narrow]
    }

    /// Sets a one for each way whose endpoint and kind, and whose pair, equal those of another
    /// owner. `other` returns its bytes, given the number of an owner's byte and those bytes of
    /// all ways.
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

    /// `OPENING`: records the owner of the connection in a way, and until when it holds the way.
    #[inline(always)]
    pub fn own(&self, way: usize, owner: u32, connection: &SharedConnection, clock: Clock) {
        let shift = (8 * way as u32) & 63;
        for (bytes, own) in self.owners.iter().zip(owner.to_be_bytes()) {
            bytes.set(bytes.get() & !(0xff << shift) | u64::from(own) << shift);
        }
        self.until[way].set(until(connection, clock));
    }
}

/// Sets a one in each byte that is zero.
#[inline(always)]
const fn zeros(bytes: u64) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    !((bytes & LOW).wrapping_add(LOW) | bytes | LOW) >> 7
}

/// Repeats a byte eight times.
#[inline(always)]
fn spread(byte: u8) -> u64 {
    u64::from(byte) * 0x0101_0101_0101_0101
}

/// Returns the tick until which a connection holds its way.
#[inline(always)]
fn until(connection: &SharedConnection, clock: Clock) -> u32 {
    let lease = u64::from(conntrack::lease(connection)) * clock.second;
    connection.last_seen.get().wrapping_add(lease) as u32
}

#[cfg(test)]
#[path = "buckets_tests.rs"]
mod tests;
