//! The tables of connections: [`ringfence_ebpf::buckets`] over maps that all CPUs share.

use core::arch::asm;
use core::hint::black_box;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use ringfence_ebpf::abi::{Bucket, ConnectionKey, Seed, Stat, capacity};
use ringfence_ebpf::conntrack::Clock;
use ringfence_ebpf::shared::{Shared, SharedBucket, SharedConnection};

use super::maps::{ENDPOINTS, count};

#[map]
static CONNECTIONS: Array<SharedBucket> = Array::pinned(capacity::CONNECTIONS, 0);
#[map]
static CONN_OVERFLOW: HashMap<ConnectionKey, SharedConnection> =
    HashMap::pinned(capacity::CONN_OVERFLOW, 0);
#[map]
static OPENING: Array<SharedBucket> = Array::pinned(capacity::OPENING, 0);
/// Scratch memory through which a number passes to hide it from the verifier.
#[map]
static PLACE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SEED: Array<Seed> = Array::pinned(1, 0);

/// Returns the tag by which a key is found.
#[inline(always)]
pub(super) fn tag(key: &ConnectionKey) -> u64 {
    // An array of one has element 0; the check is for the verifier.
    SEED.get(0).map_or(Bucket::BUSY, |seed| seed.tag(key))
}

/// Looks up a replied connection.
#[inline(always)]
pub(super) fn connection(tag: u64, key: &ConnectionKey) -> Option<&'static SharedConnection> {
    let bucket = connections_bucket(tag)?;
    if let Some(way) = bucket.find(tag, key) {
        return Some(&bucket.connections[way & LAST_WAY].connection);
    }
    if !bucket.is_crowded() {
        return None;
    }
    connection_of_more(key)
}

/// Looks up a connection that isn't replied. A miss, as for every denied packet, needs no call.
#[inline(always)]
pub(super) fn opening(
    tag: u64,
    key: &ConnectionKey,
    clock: Clock,
) -> Option<&'static SharedConnection> {
    let bucket = opening_bucket(tag, key)?;
    let way = bucket.way(tag)?;
    used(bucket, way, key, clock)
}

/// Returns the connection of a way with a key's tag, and extends its lease, if the way has the
/// key too.
#[inline(never)]
fn used(
    bucket: &'static SharedBucket,
    way: usize,
    key: &ConnectionKey,
    clock: Clock,
) -> Option<&'static SharedConnection> {
    let way = way & LAST_WAY;
    if !bucket.connections[way].key.is(key) {
        return None;
    }
    bucket.touch(way, clock);
    Some(&bucket.connections[way].connection)
}

/// Stores a connection among those that aren't replied.
#[inline(never)]
pub(super) fn open(
    tag: u64,
    key: &ConnectionKey,
    connection: &SharedConnection,
    clock: Clock,
) -> bool {
    let (Some(bucket), Some(seed)) = (opening_bucket(tag, key), SEED.get(0)) else {
        return false;
    };
    let owner = seed.owner(key, connection);
    let mut tries = TRIES;
    while tries > 0 {
        tries -= 1;
        // The owner is split into bytes here, not before the loop: there is no stack for them.
        let owner = black_box(owner);
        let way = forgotten(bucket.place(tag, owner, clock.now)) & LAST_WAY;
        let evicts = bucket.holds_answered(way, tag, clock.now);
        if write(bucket, way, tag, key, connection) {
            if evicts {
                count(Stat::ConnectionsEvicted);
            }
            bucket.own(way, owner, connection, clock);
            return true;
        }
    }
    false
}

/// Number of attempts to find a way when another CPU takes the one that was found.
const TRIES: u32 = 2;

/// Returns the same way, but unknown to the verifier: otherwise the verifier would walk the
/// subsequent code once for each comparison that led to the way.
#[inline(always)]
fn forgotten(way: usize) -> usize {
    let Some(place) = PLACE.get_ptr_mut(0) else {
        // A per-CPU array of one has element 0, which Linux 6.12 doesn't know. Returning the way
        // would let the verifier distinguish all paths that led to it.
        return 0;
    };
    // SAFETY: this CPU's own element; hooks run with softirqs off.
    unsafe {
        place.write_volatile(way as u64);
        place.read_volatile() as usize
    }
}

/// Moves a connection to the replied ones.
#[inline(never)]
pub(super) fn promote(
    tag: u64,
    key: &ConnectionKey,
    connection: &SharedConnection,
    slot: u32,
    clock: &Clock,
) -> bool {
    let Some(bucket) = connections_bucket(tag) else {
        return false;
    };
    let stored = match bucket.room(tag, *clock).or_else(|| left(bucket)) {
        // If two CPUs promote at once, it doesn't matter whose entry remains.
        Some(way) => {
            let stored = write(bucket, way, tag, key, connection);
            if stored {
                bucket.connections[way & LAST_WAY].slot.set(slot);
            }
            stored
        }
        None => {
            bucket.crowd();
            CONN_OVERFLOW
                .insert(key, connection, u64::from(BPF_NOEXIST))
                .is_ok()
                || CONN_OVERFLOW.get_ptr(key).is_some()
        }
    };
    if stored && let Some(bucket) = opening_bucket(tag, key) {
        release(bucket, tag, key);
    }
    stored
}

/// Returns the way of a connection whose endpoint no longer exists.
#[inline(never)]
fn left(bucket: &SharedBucket) -> Option<usize> {
    let mut way = Bucket::WAYS;
    while way > 0 {
        way -= 1;
        let held = &bucket.connections[way & LAST_WAY];
        let there = ENDPOINTS.get(held.slot.get());
        if there.is_none_or(|endpoint| endpoint.id != held.key.endpoint.get()) {
            return Some(way);
        }
    }
    None
}

/// Moves a connection to the replied ones, in place of an expired one of the same endpoint.
#[inline(never)]
pub(super) fn swap(
    tag: u64,
    key: &ConnectionKey,
    connection: &SharedConnection,
    clock: &Clock,
) -> bool {
    let Some(bucket) = connections_bucket(tag) else {
        return false;
    };
    let Some(way) = bucket.over(key.endpoint, *clock) else {
        return false;
    };
    let stored = write(bucket, way, tag, key, connection);
    if stored && let Some(bucket) = opening_bucket(tag, key) {
        release(bucket, tag, key);
    }
    stored
}

/// Removes a connection from the replied ones.
#[inline(never)]
pub(super) fn forget(tag: u64, key: &ConnectionKey) -> bool {
    connections_bucket(tag).is_some_and(|bucket| release(bucket, tag, key))
        || CONN_OVERFLOW.remove(key).is_ok()
}

/// Mask that bounds a way for the verifier.
const LAST_WAY: usize = Bucket::WAYS - 1;

/// Returns the bucket of a tag among connections that aren't replied.
#[inline(always)]
fn opening_bucket(tag: u64, key: &ConnectionKey) -> Option<&'static SharedBucket> {
    let number = SEED
        .get(0)?
        .opening_bucket::<{ capacity::OPENING }>(tag, key.endpoint);
    OPENING.get(number)
}

/// Returns the bucket of a tag among replied connections.
#[inline(always)]
fn connections_bucket(tag: u64) -> Option<&'static SharedBucket> {
    CONNECTIONS.get(Seed::bucket::<{ capacity::CONNECTIONS }>(tag))
}

/// Writes a connection to a way of a bucket, unless another CPU is writing there.
#[inline(always)]
fn write(
    bucket: &SharedBucket,
    way: usize,
    tag: u64,
    key: &ConnectionKey,
    connection: &SharedConnection,
) -> bool {
    let way = way & LAST_WAY;
    let before = bucket.tags[way].get();
    if before == Bucket::BUSY || !exchange(&bucket.tags[way], before, Bucket::BUSY) {
        return false;
    }
    let opening = &bucket.connections[way];
    opening.connection.copy(connection);
    // Loaded here, not before the caller's loop: there is no stack for it.
    opening.key.set(black_box(key));
    exchange(&bucket.tags[way], Bucket::BUSY, tag)
}

/// Frees a key's way, if it has one.
#[inline(always)]
fn release(bucket: &SharedBucket, tag: u64, key: &ConnectionKey) -> bool {
    match bucket.find(tag, key) {
        Some(way) => exchange(&bucket.tags[way & LAST_WAY], tag, Bucket::FREE),
        None => false,
    }
}

/// Looks up a replied connection whose bucket was full.
#[inline(never)]
fn connection_of_more(key: &ConnectionKey) -> Option<&'static SharedConnection> {
    // SAFETY: the element may be removed and reused concurrently, by stores that the view
    // tolerates; at worst one packet is accounted to another connection.
    unsafe { CONN_OVERFLOW.get(key) }
}

/// Sets a tag if it still has the expected value; Linux 5.12.
#[inline(always)]
fn exchange(tag: &Shared<u64>, before: u64, now: u64) -> bool {
    let found: u64;
    // `core` lacks this operation for BPF.
    // SAFETY: an aligned element of an array, to which all CPUs store only in this way.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({tag} + 0, r0, {now})",
            tag = in(reg) tag.as_ptr(),
            now = in(reg) now,
            inlateout("r0") before => found,
            options(nostack)
        );
    }
    found == before
}
