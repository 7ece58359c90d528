//! The tables of flows: [`ringfence_ebpf::buckets`] over maps that all CPUs share.

use core::arch::asm;
use core::hint::black_box;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use ringfence_ebpf::abi::{Bucket, FlowKey, Seed, Stat, capacity};
use ringfence_ebpf::conntrack::Clock;
use ringfence_ebpf::shared::{Shared, SharedBucket, SharedFlow};

use super::maps::{ENDPOINTS, count};

#[map]
static FLOWS: Array<SharedBucket> = Array::pinned(capacity::FLOWS, 0);
#[map]
static FLOWS_MORE: HashMap<FlowKey, SharedFlow> = HashMap::pinned(capacity::FLOWS_MORE, 0);
#[map]
static OPENING: Array<SharedBucket> = Array::pinned(capacity::OPENING, 0);
/// A number on its way past the verifier.
#[map]
static PLACE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SEED: Array<Seed> = Array::pinned(1, 0);

/// What a key is found by.
#[inline(always)]
pub(super) fn tag(key: &FlowKey) -> u64 {
    // An array of one has element 0; the verifier wants to hear it.
    SEED.get(0).map_or(Bucket::BUSY, |seed| seed.tag(key))
}

/// A replied flow.
#[inline(always)]
pub(super) fn flow(tag: u64, key: &FlowKey) -> Option<&'static SharedFlow> {
    let bucket = flows_bucket(tag)?;
    if let Some(way) = bucket.find(tag, key) {
        return Some(&bucket.flows[way & LAST_WAY].flow);
    }
    if !bucket.is_crowded() {
        return None;
    }
    flow_of_more(key)
}

/// A flow that isn't. That there is none, as of all that is denied, is found out without
/// a call.
#[inline(always)]
pub(super) fn opening(tag: u64, key: &FlowKey, clock: Clock) -> Option<&'static SharedFlow> {
    let bucket = opening_bucket(tag, key)?;
    let way = bucket.way(tag)?;
    used(bucket, way, key, clock)
}

/// The flow of a way that has a key's tag, and is in use if it has the key as well.
#[inline(never)]
fn used(
    bucket: &'static SharedBucket,
    way: usize,
    key: &FlowKey,
    clock: Clock,
) -> Option<&'static SharedFlow> {
    let way = way & LAST_WAY;
    if !bucket.flows[way].key.is(key) {
        return None;
    }
    bucket.touch(way, clock);
    Some(&bucket.flows[way].flow)
}

/// Stores one there.
#[inline(never)]
pub(super) fn open(tag: u64, key: &FlowKey, flow: &SharedFlow, clock: Clock) -> bool {
    let (Some(bucket), Some(seed)) = (opening_bucket(tag, key), SEED.get(0)) else {
        return false;
    };
    let owner = seed.owner(key, flow);
    let mut tries = TRIES;
    while tries > 0 {
        tries -= 1;
        // Its bytes are taken apart here, not before the loop: there is no stack for that.
        let owner = black_box(owner);
        let way = forgotten(bucket.place(tag, owner, clock.now)) & LAST_WAY;
        let evicts = bucket.holds_answered(way, tag, clock.now);
        if write(bucket, way, tag, key, flow) {
            if evicts {
                count(Stat::FlowsEvicted);
            }
            bucket.own(way, owner, flow, clock);
            return true;
        }
    }
    false
}

/// How often a way is looked for where another CPU takes the one that was found.
const TRIES: u32 = 2;

/// The same way, of which the verifier knows nothing any more: otherwise it would walk
/// what follows once for each comparison that has led to it.
#[inline(always)]
fn forgotten(way: usize) -> usize {
    let Some(place) = PLACE.get_ptr_mut(0) else {
        // A per-CPU array of one has element 0, which Linux 6.12 doesn't know.
        // Not the way: the verifier would tell all from each other that led to it.
        return 0;
    };
    // SAFETY: this CPU's own element; hooks run with softirqs off.
    unsafe {
        place.write_volatile(way as u64);
        place.read_volatile() as usize
    }
}

/// Moves one to the replied ones.
#[inline(never)]
pub(super) fn promote(
    tag: u64,
    key: &FlowKey,
    flow: &SharedFlow,
    slot: u32,
    clock: &Clock,
) -> bool {
    let Some(bucket) = flows_bucket(tag) else {
        return false;
    };
    let stored = match bucket.room(tag, *clock).or_else(|| left(bucket)) {
        // Two CPUs may promote at once: whose entry stands doesn't matter.
        Some(way) => {
            let stored = write(bucket, way, tag, key, flow);
            if stored {
                bucket.flows[way & LAST_WAY].slot.set(slot);
            }
            stored
        }
        None => {
            bucket.crowd();
            FLOWS_MORE.insert(key, flow, u64::from(BPF_NOEXIST)).is_ok()
                || FLOWS_MORE.get_ptr(key).is_some()
        }
    };
    if stored && let Some(bucket) = opening_bucket(tag, key) {
        release(bucket, tag, key);
    }
    stored
}

/// The way of a flow whose endpoint has left.
#[inline(never)]
fn left(bucket: &SharedBucket) -> Option<usize> {
    let mut way = Bucket::WAYS;
    while way > 0 {
        way -= 1;
        let held = &bucket.flows[way & LAST_WAY];
        let there = ENDPOINTS.get(held.slot.get());
        if there.is_none_or(|endpoint| endpoint.id != held.key.endpoint.get()) {
            return Some(way);
        }
    }
    None
}

/// Moves one to the replied ones, in the place of one of the same endpoint.
#[inline(never)]
pub(super) fn swap(tag: u64, key: &FlowKey, flow: &SharedFlow, clock: &Clock) -> bool {
    let Some(bucket) = flows_bucket(tag) else {
        return false;
    };
    let Some(way) = bucket.over(key.endpoint, *clock) else {
        return false;
    };
    let stored = write(bucket, way, tag, key, flow);
    if stored && let Some(bucket) = opening_bucket(tag, key) {
        release(bucket, tag, key);
    }
    stored
}

/// Takes one out of the replied ones.
#[inline(never)]
pub(super) fn forget(tag: u64, key: &FlowKey) -> bool {
    flows_bucket(tag).is_some_and(|bucket| release(bucket, tag, key))
        || FLOWS_MORE.remove(key).is_ok()
}

/// Bounds a way for the verifier.
const LAST_WAY: usize = Bucket::WAYS - 1;

/// The bucket of a tag among the flows that aren't replied.
#[inline(always)]
fn opening_bucket(tag: u64, key: &FlowKey) -> Option<&'static SharedBucket> {
    let number = SEED
        .get(0)?
        .opening_bucket::<{ capacity::OPENING }>(tag, key.endpoint);
    OPENING.get(number)
}

/// The same among those that are.
#[inline(always)]
fn flows_bucket(tag: u64) -> Option<&'static SharedBucket> {
    FLOWS.get(Seed::bucket::<{ capacity::FLOWS }>(tag))
}

/// Writes a flow to a way of a bucket, unless another CPU is at it.
#[inline(always)]
fn write(bucket: &SharedBucket, way: usize, tag: u64, key: &FlowKey, flow: &SharedFlow) -> bool {
    let way = way & LAST_WAY;
    let before = bucket.tags[way].get();
    if before == Bucket::BUSY || !exchange(&bucket.tags[way], before, Bucket::BUSY) {
        return false;
    }
    let opening = &bucket.flows[way];
    opening.flow.copy(flow);
    // Loaded here, not before the caller's loop, for the same reason.
    opening.key.set(black_box(key));
    exchange(&bucket.tags[way], Bucket::BUSY, tag)
}

/// Frees a key's way, if it has one.
#[inline(always)]
fn release(bucket: &SharedBucket, tag: u64, key: &FlowKey) -> bool {
    match bucket.find(tag, key) {
        Some(way) => exchange(&bucket.tags[way & LAST_WAY], tag, Bucket::FREE),
        None => false,
    }
}

/// A replied flow that found its bucket full.
#[inline(never)]
fn flow_of_more(key: &FlowKey) -> Option<&'static SharedFlow> {
    // SAFETY: the element may be evicted and reused under us, by stores that the view
    // expects; the worst is one packet accounted to another flow.
    unsafe { FLOWS_MORE.get(key) }
}

/// Sets a tag, if it still is what it was; Linux 5.12.
#[inline(always)]
fn exchange(tag: &Shared<u64>, before: u64, now: u64) -> bool {
    let found: u64;
    // `core` has no such operation for BPF.
    // SAFETY: an aligned element of an array, that all CPUs store to in this way only.
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
