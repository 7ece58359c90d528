//! Counts and events of denied and audited packets, off the fast path.

use core::cell::Cell;

use aya_ebpf::bindings::BPF_NOEXIST;
use ringfence_ebpf::abi::{DropCount, DropKey, Event, Protocol, Stat};
use ringfence_ebpf::packet::Packet;
use ringfence_ebpf::shared::Shared;
use ringfence_ebpf::verdict::{Context, Denial, Tables};

use super::maps::{BUDGET, DROPS, DROPS_OTHER, EVENTS, Maps, SOURCES, count};

/// [`note`] as a separate function: the verifier walks the code before the call once, not once
/// for each path that leads to it.
#[inline(never)]
pub(super) fn note_apart(context: &Context, packet: &Packet, denial: &Cell<Denial>) {
    note(context, packet, denial);
}

/// Counts the packet, always, and then emits an event if the budget allows.
///
/// Inlined into a hook, it saves a function return, which costs a denied packet 6 ns where the
/// kernel mitigates return speculation.
#[inline(always)]
pub(super) fn note(context: &Context, packet: &Packet, denial: &Cell<Denial>) {
    if denial.get().is_vague() {
        place(context, packet, denial);
    }
    let denial = &denial.get();
    add(
        &DropKey {
            source: denial.source,
            destination: denial.destination,
            direction: denial.direction as u8,
            reason: denial.reason as u8,
            protocol: Protocol::from_iana(packet.protocol) as u8,
            audited: u8::from(denial.audited),
        },
        u64::from(context.len),
    );
    if within_budget(context) {
        tell(context, packet, denial);
    }
}

/// Distinguishes unknown pods from addresses outside the cluster.
#[inline(never)]
fn place(context: &Context, packet: &Packet, denial: &Cell<Denial>) {
    denial.set(
        denial
            .get()
            .placed(&Maps, packet, context.control.generation()),
    );
}

#[inline(always)]
fn add(key: &DropKey, bytes: u64) {
    if bump(DROPS.get_ptr_mut(key), bytes) {
        return;
    }
    let first = DropCount { packets: 1, bytes };
    if may_name_another(key.source) && DROPS.insert(key, &first, u64::from(BPF_NOEXIST)).is_ok() {
        return;
    }
    // Either another CPU was first, or the map or the source's share of it is full: in that case
    // the packet counts as `other`.
    if !bump(DROPS.get_ptr_mut(key), bytes) {
        bump(DROPS_OTHER.get_ptr_mut(key.other()), bytes);
    }
}

/// Reports whether a source may have one more series, and counts it. A pod that tries every
/// destination must not use up the series of all others.
#[inline(always)]
fn may_name_another(source: u32) -> bool {
    if SOURCES.get_ptr(&source).is_none() {
        // Another CPU may be first: its entry remains.
        let _ = SOURCES.insert(&source, &Shared::new(0), u64::from(BPF_NOEXIST));
    }
    // SAFETY: not preallocated: no element is reused for another source while it is read.
    match unsafe { SOURCES.get(&source) } {
        // CPUs may race here; at worst there are a few series more.
        Some(series) => {
            let named = series.get();
            let may = named < DropKey::PER_SOURCE;
            series.set(named + u32::from(may));
            may
        }
        // The map of sources is full: all of its sources have a share already.
        None => false,
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

/// Reports whether this endpoint may emit one more event in the current second, and counts it.
#[inline(always)]
fn within_budget(context: &Context) -> bool {
    let limit = u64::from(context.control.events_per_second);
    if limit == 0 {
        return false;
    }
    let Some(budget) = BUDGET.get(context.slot) else {
        return false;
    };
    // CPUs may race here; at worst there are a few events more or fewer.
    let since = context.clock.now.saturating_sub(budget.since.get());
    let events = if since >= context.clock.second {
        budget.since.set(context.clock.now);
        0
    } else {
        budget.events.get()
    };
    if events >= limit {
        count(Stat::EventsSuppressed);
        return false;
    }
    budget.events.set(events + 1);
    true
}

#[inline(always)]
fn tell(context: &Context, packet: &Packet, denial: &Denial) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count(Stat::EventsLost);
        return;
    };
    let endpoint = match Maps.endpoint(context.slot) {
        Some(endpoint) => endpoint.id,
        None => 0,
    };
    entry.write(Event {
        time: Maps.monotonic(),
        source: packet.source,
        destination: packet.destination,
        source_workload: denial.source,
        destination_workload: denial.destination,
        endpoint,
        buffer: context.control.buffer(),
        len: context.len,
        ingress_ifindex: context.ingress_ifindex,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        ethertype: packet.ethertype,
        protocol: packet.protocol,
        direction: denial.direction as u8,
        reason: denial.reason as u8,
        audited: u8::from(denial.audited),
        detail: packet.detail,
        pad: [0; 13],
    });
    entry.submit(0);
}
