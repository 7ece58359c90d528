//! The tables of flows: [`ringfence_ebpf::buckets`] over maps that all CPUs share.

use core::arch::asm;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap};
use ringfence_ebpf::abi::{Bucket, Flow, FlowKey, Seed, capacity};
use ringfence_ebpf::conntrack::Clock;

#[map]
static FLOWS: Array<Bucket> = Array::pinned(capacity::FLOWS, 0);
#[map]
static FLOWS_MORE: LruHashMap<FlowKey, Flow> = LruHashMap::pinned(capacity::FLOWS_MORE, 0);
#[map]
static OPENING: Array<Bucket> = Array::pinned(capacity::OPENING, 0);
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
pub(super) fn flow(tag: u64, key: &FlowKey) -> Option<&'static mut Flow> {
    let bucket = flows_bucket(tag)?;
    if let Some(way) = bucket.find(tag, key) {
        return Some(&mut bucket.flows[way & LAST_WAY].flow);
    }
    if bucket.turn == 0 {
        return None;
    }
    // SAFETY: the element may be evicted and reused under us. Its fields
    // are counters, times and bytes without invalid patterns; the worst is
    // one packet accounted to another flow.
    flow_of_more(key).map(|flow| unsafe { &mut *flow })
}

/// A flow that isn't.
#[inline(never)]
pub(super) fn opening(tag: u64, key: &FlowKey) -> Option<&'static mut Flow> {
    let bucket = opening_bucket(tag)?;
    let way = bucket.find(tag, key)?;
    bucket.touch(way);
    Some(&mut bucket.flows[way & LAST_WAY].flow)
}

/// Stores one there.
#[inline(never)]
pub(super) fn open(tag: u64, key: &FlowKey, flow: &Flow) -> bool {
    let Some(bucket) = opening_bucket(tag) else {
        return false;
    };
    let way = bucket.place(tag);
    write(bucket, way, tag, key, flow)
}

/// Moves one to the replied ones.
#[inline(never)]
pub(super) fn promote(tag: u64, key: &FlowKey, flow: &mut Flow, clock: Clock) -> bool {
    let Some(bucket) = flows_bucket(tag) else {
        return false;
    };
    let stored = match bucket.room(tag, clock) {
        // Two CPUs may promote at once: whose entry stands doesn't matter.
        Some(way) => write(bucket, way, tag, key, flow),
        None => {
            bucket.turn = 1;
            FLOWS_MORE
                .insert(key, &*flow, u64::from(BPF_NOEXIST))
                .is_ok()
                || FLOWS_MORE.get_ptr(key).is_some()
        }
    };
    if stored && let Some(bucket) = opening_bucket(tag) {
        release(bucket, tag, key);
    }
    stored
}

/// Moves one back.
#[inline(never)]
pub(super) fn demote(tag: u64, key: &FlowKey, flow: &mut Flow) -> bool {
    // There first: there is no moment without it. Only who takes it out
    // counts it.
    open(tag, key, flow)
        && (flows_bucket(tag).is_some_and(|bucket| release(bucket, tag, key))
            || FLOWS_MORE.remove(key).is_ok())
}

/// Bounds a way for the verifier.
const LAST_WAY: usize = Bucket::WAYS - 1;

/// The bucket of a tag among the flows that aren't replied.
#[inline(always)]
fn opening_bucket(tag: u64) -> Option<&'static mut Bucket> {
    let bucket = OPENING.get_ptr_mut(Seed::bucket::<{ capacity::OPENING }>(tag))?;
    // SAFETY: other CPUs write here too; see `ringfence_ebpf::buckets` for why any
    // state that they leave can be read.
    Some(unsafe { &mut *bucket })
}

/// The same among those that are.
#[inline(always)]
fn flows_bucket(tag: u64) -> Option<&'static mut Bucket> {
    let bucket = FLOWS.get_ptr_mut(Seed::bucket::<{ capacity::FLOWS }>(tag))?;
    // SAFETY: as above.
    Some(unsafe { &mut *bucket })
}

/// Writes a flow to a way of a bucket, unless another CPU is at it.
#[inline(always)]
fn write(bucket: &mut Bucket, way: usize, tag: u64, key: &FlowKey, flow: &Flow) -> bool {
    let way = way & LAST_WAY;
    let before = bucket.tags[way];
    if before == Bucket::BUSY || !exchange(&mut bucket.tags[way], before, Bucket::BUSY) {
        return false;
    }
    let opening = &mut bucket.flows[way];
    opening.flow = *flow;
    opening.key = *key;
    exchange(&mut bucket.tags[way], Bucket::BUSY, tag)
}

/// Frees a key's way, if it has one.
#[inline(always)]
fn release(bucket: &mut Bucket, tag: u64, key: &FlowKey) -> bool {
    match bucket.find(tag, key) {
        Some(way) => exchange(&mut bucket.tags[way & LAST_WAY], tag, Bucket::FREE),
        None => false,
    }
}

/// A replied flow that found its bucket full.
#[inline(never)]
fn flow_of_more(key: &FlowKey) -> Option<*mut Flow> {
    FLOWS_MORE.get_ptr_mut(key)
}

/// Sets a tag, if it still is what it was; Linux 5.12.
#[inline(always)]
fn exchange(tag: &mut u64, before: u64, now: u64) -> bool {
    let found: u64;
    // `core` has no such operation for BPF.
    // SAFETY: an aligned element of an array, that all CPUs change in this way only.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({tag} + 0, r0, {now})",
            tag = in(reg) core::ptr::from_mut(tag),
            now = in(reg) now,
            inlateout("r0") before => found,
            options(nostack)
        );
    }
    found == before
}
