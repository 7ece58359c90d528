//! Counts and events of denied and audited packets: off the fast path.

use aya_ebpf::bindings::BPF_NOEXIST;
use ringfence_ebpf::abi::{Budget, DropCount, DropKey, Event, Protocol, Reason, Stat};
use ringfence_ebpf::packet::Packet;
use ringfence_ebpf::verdict::{Context, Tables, Verdict};

use super::maps::{BUDGET, DROPS, DROPS_OTHER, EVENTS, Maps, count};

const SECOND: u64 = 1_000_000_000;

/// Counts the packet, exactly, and then tells about it, if there is room.
#[inline(never)]
pub(super) fn note(context: &Context, packet: &Packet, verdict: &Verdict, reason: Reason) {
    add(
        &DropKey {
            source: verdict.source,
            destination: verdict.destination,
            direction: verdict.direction as u8,
            reason: reason as u8,
            protocol: Protocol::from_iana(packet.protocol) as u8,
            audited: u8::from(verdict.audited),
        },
        u64::from(context.len),
    );
    if within_budget(context) {
        tell(context, packet, verdict, reason);
    }
}

#[inline(always)]
fn add(key: &DropKey, bytes: u64) {
    if bump(DROPS.get_ptr_mut(key), bytes) {
        return;
    }
    let first = DropCount { packets: 1, bytes };
    if DROPS.insert(key, &first, u64::from(BPF_NOEXIST)).is_ok() {
        return;
    }
    // Another CPU was first, or the map is full: then it counts as `other`.
    if !bump(DROPS.get_ptr_mut(key), bytes) {
        bump(DROPS_OTHER.get_ptr_mut(key.other()), bytes);
    }
}

#[inline(always)]
fn bump(counter: Option<*mut DropCount>, bytes: u64) -> bool {
    match counter {
        // SAFETY: this CPU's own element; hooks run with softirqs off.
        Some(counter) => unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes;
            true
        },
        None => false,
    }
}

/// Whether this endpoint may still tell something in this second.
#[inline(always)]
fn within_budget(context: &Context) -> bool {
    let limit = u64::from(context.control.events_per_second);
    if limit == 0 {
        return false;
    }
    let Some(budget) = BUDGET.get_ptr_mut(context.slot) else {
        return false;
    };
    // SAFETY: CPUs may race here; the worst is a few events more or fewer.
    let budget: &mut Budget = unsafe { &mut *budget };
    if context.now.saturating_sub(budget.since) >= SECOND {
        budget.since = context.now;
        budget.events = 0;
    }
    if budget.events >= limit {
        count(Stat::EventsSuppressed);
        return false;
    }
    budget.events += 1;
    true
}

#[inline(always)]
fn tell(context: &Context, packet: &Packet, verdict: &Verdict, reason: Reason) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count(Stat::EventsLost);
        return;
    };
    let endpoint = match Maps.endpoint(context.slot) {
        Some(endpoint) => endpoint.id,
        None => 0,
    };
    entry.write(Event {
        time: context.now,
        source: packet.source,
        destination: packet.destination,
        source_workload: verdict.source,
        destination_workload: verdict.destination,
        endpoint,
        world: context.control.world,
        len: context.len,
        ingress_ifindex: context.ingress_ifindex,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        ethertype: packet.ethertype,
        protocol: packet.protocol,
        direction: verdict.direction as u8,
        reason: reason as u8,
        audited: u8::from(verdict.audited),
        detail: packet.detail,
        pad: [0; 13],
    });
    entry.submit(0);
}
