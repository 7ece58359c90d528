//! Counts and events of denied and audited packets: off the fast path.

use core::cell::Cell;

use aya_ebpf::bindings::BPF_NOEXIST;
use ringfence_ebpf::abi::{DropCount, DropKey, Event, Protocol, Stat};
use ringfence_ebpf::packet::Packet;
use ringfence_ebpf::shared::Shared;
use ringfence_ebpf::verdict::{Context, Noted, Tables};

use super::maps::{BUDGET, DROPS, DROPS_OTHER, EVENTS, Maps, SOURCES, count};

/// The same as [`note`] in a function of its own: what comes before it is walked by the
/// verifier once, not once for each way to get there.
#[inline(never)]
pub(super) fn note_apart(context: &Context, packet: &Packet, noted: &Cell<Noted>) {
    note(context, packet, noted);
}

/// Counts the packet, exactly, and then tells about it, if there is room.
///
/// Within the hook a return from a function is saved, which costs a denied packet 6 ns
/// where the kernel must not trust the return predictor.
#[inline(always)]
pub(super) fn note(context: &Context, packet: &Packet, noted: &Cell<Noted>) {
    if noted.get().is_vague() {
        place(packet, noted);
    }
    let noted = &noted.get();
    add(
        &DropKey {
            source: noted.source,
            destination: noted.destination,
            direction: noted.direction as u8,
            reason: noted.reason as u8,
            protocol: Protocol::from_iana(packet.protocol) as u8,
            audited: u8::from(noted.audited),
        },
        u64::from(context.len),
    );
    if within_budget(context) {
        tell(context, packet, noted);
    }
}

/// Tells unknown pods from the outside.
#[inline(never)]
fn place(packet: &Packet, noted: &Cell<Noted>) {
    noted.set(noted.get().placed(&Maps, packet));
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
    // Another CPU was first, or the map or the source's share of it is full: then
    // it counts as `other`.
    if !bump(DROPS.get_ptr_mut(key), bytes) {
        bump(DROPS_OTHER.get_ptr_mut(key.other()), bytes);
    }
}

/// Whether a source may have one more series of its own, which then counts: one
/// pod that tries everybody must not leave the others nameless.
#[inline(always)]
fn may_name_another(source: u32) -> bool {
    if SOURCES.get_ptr(&source).is_none() {
        // Another CPU may be first: then its entry stands.
        let _ = SOURCES.insert(&source, &Shared::new(0), u64::from(BPF_NOEXIST));
    }
    // SAFETY: not preallocated: no element becomes another source's under us.
    match unsafe { SOURCES.get(&source) } {
        // CPUs may race here; the worst is a few series more.
        Some(series) => {
            let named = series.get();
            let may = named < DropKey::PER_SOURCE;
            series.set(named + u32::from(may));
            may
        }
        // No room to count sources: as many as there are have a share already.
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

/// Whether this endpoint may still tell something in this second.
#[inline(always)]
fn within_budget(context: &Context) -> bool {
    let limit = u64::from(context.control.events_per_second);
    if limit == 0 {
        return false;
    }
    let Some(budget) = BUDGET.get(context.slot) else {
        return false;
    };
    // CPUs may race here; the worst is a few events more or fewer.
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
fn tell(context: &Context, packet: &Packet, noted: &Noted) {
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
        source_workload: noted.source,
        destination_workload: noted.destination,
        endpoint,
        world: context.control.world(),
        len: context.len,
        ingress_ifindex: context.ingress_ifindex,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        ethertype: packet.ethertype,
        protocol: packet.protocol,
        direction: noted.direction as u8,
        reason: noted.reason as u8,
        audited: u8::from(noted.audited),
        detail: packet.detail,
        pad: [0; 13],
    });
    entry.submit(0);
}
