//! The hooks, compiled for BPF only.

#![allow(unsafe_code)]

#[cfg(feature = "bench")]
mod bench;
mod buckets;
mod maps;
mod report;
mod skb;

use core::cell::Cell;
use core::hint::cold_path;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_jiffies64;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ringfence_ebpf::abi::{Control, Direction, Tag};
use ringfence_ebpf::conntrack::Clock;
use ringfence_ebpf::packet::{self, Frame, Packet};
use ringfence_ebpf::verdict::{self, Context, Denial, Tables as _, Verdict};

use maps::Maps;
use skb::Skb;

/// TC ingress of a pod's host-side veth: packets that the pod sends.
#[classifier]
fn from_pod(ctx: TcContext) -> i32 {
    pod(&ctx, Direction::Egress, &Skb(&ctx))
}

/// TC egress of a pod's host-side veth: packets about to reach the pod.
#[classifier]
fn to_pod(ctx: TcContext) -> i32 {
    pod(&ctx, Direction::Ingress, &Skb(&ctx))
}

/// TC egress of every other device with link headers: a pod's calls of Services, after DNAT.
#[classifier]
fn to_network(ctx: TcContext) -> i32 {
    network(&ctx, true)
}

/// TC egress of every other device without link headers: its packets start with IP.
#[classifier]
fn to_network_l3(ctx: TcContext) -> i32 {
    network(&ctx, false)
}

/// TC egress of a bridge. Packets from the node itself are marked before the bridge copies them.
/// All other packets are handled as on any other device.
#[classifier]
fn to_bridge(ctx: TcContext) -> i32 {
    // SAFETY: the kernel passes a valid __sk_buff to classifiers.
    let skb = unsafe { &*ctx.skb.skb };
    if skb.ingress_ifindex == 0 && skb.tc_index as u16 == Tag::NONE.0 {
        // IGMP reports of groups that the node has joined have no socket. No other IPv4 packet is
        // without a device: refragmentation preserves it.
        if skb::is_sent_here(&ctx) || Skb(&ctx).is_igmp() {
            see(&ctx, Tag::NODE);
        }
        return TC_ACT_UNSPEC;
    }
    network(&ctx, true)
}

/// TC ingress of a bridge: packets that it passes up have arrived on one of its ports, whose hook
/// has seen them.
#[classifier]
fn from_bridge(ctx: TcContext) -> i32 {
    // SAFETY: the kernel passes a valid __sk_buff to classifiers.
    let skb = unsafe { &*ctx.skb.skb };
    if skb.mark & skb::seen_mark() != 0 {
        return TC_ACT_UNSPEC;
    }
    cold_path();
    // The bridge sends its own listener queries up here too (br_multicast_send_query).
    if maps::control().saw(skb.mark) || Skb(&ctx).may_be_of_group() {
        return TC_ACT_UNSPEC;
    }
    refuse(&ctx, true)
}

/// TC ingress of every device that is neither a pod's nor a bridge. A tag on an arriving packet
/// comes from another node and is cleared; a packet with the source address of one of this node's
/// endpoints is refused.
#[classifier]
fn from_network(ctx: TcContext) -> i32 {
    see(&ctx, Tag::NONE);
    let Some(source) = Skb(&ctx).source() else {
        return TC_ACT_UNSPEC;
    };
    if source.is_on_link() || Maps.local(&source) == 0 {
        return TC_ACT_UNSPEC;
    }
    cold_path();
    refuse(&ctx, false)
}

/// Counts a packet that a device other than a pod's refuses: one that no hook has seen, or that
/// arrived with an endpoint's source address.
#[inline(never)]
fn refuse(ctx: &TcContext, unseen: bool) -> i32 {
    // SAFETY: the kernel passes a valid __sk_buff to classifiers.
    let skb = unsafe { &*ctx.skb.skb };
    let Some(scratch) = maps::scratch() else {
        return TC_ACT_SHOT;
    };
    // Slot 0 belongs to no endpoint: the events don't count for the endpoint whose address it is.
    let context = scratch.context.write(Context {
        unseen,
        ..context(skb, maps::control(), 0)
    });
    let packet = scratch.packet.write(Packet::EMPTY);
    packet.ethertype = u16::from_be(skb.protocol as u16);
    let frame = Skb(ctx);
    packet.source = frame.source().unwrap_or_default();
    packet.destination = frame.destination().unwrap_or_default();
    packet.protocol = frame.protocol().unwrap_or_default();
    let denial = &scratch.workspace.denial;
    let verdict = verdict::refused(&Maps, context, packet, denial);
    finish(context, packet, verdict, denial, false)
}

/// Reads the connections' clock for the agent, in test runs; never attached.
#[classifier]
fn clock(_: TcContext) -> i32 {
    if let Some(ticks) = maps::TICKS.get_ptr_mut(0) {
        // SAFETY: an aligned element of an array; the helper has no arguments.
        unsafe { *ticks = bpf_jiffies64() };
    }
    TC_ACT_UNSPEC
}

/// Returns what a hook knows besides the frame's bytes and the sender.
#[inline(always)]
fn context(skb: &__sk_buff, control: Control, slot: u32) -> Context {
    Context {
        control,
        slot,
        clock: Clock {
            // SAFETY: the helper has no arguments; the kernel inlines it as one load.
            now: unsafe { bpf_jiffies64() },
            second: u64::from(control.ticks_per_second),
        },
        len: skb.len,
        ingress_ifindex: skb.ingress_ifindex,
        by_node: false,
        unseen: false,
        tag: Tag::NONE,
        vlan: skb.vlan_present != 0,
    }
}

/// Identifies the sender of a packet that is about to reach a pod, as far as that is proven. A
/// tag counts as proof only if a hook of this node vouches for it.
#[inline(always)]
fn identify(ctx: &TcContext, skb: &__sk_buff, context: &mut Context) {
    let carried = Tag(skb.tc_index as u16);
    let seen = context.control.saw(skb.mark);
    if seen && skb.ingress_ifindex != 0 && carried != Tag::NODE {
        // Forwarded, like most packets.
        context.tag = carried;
        return;
    }
    context.by_node = skb.ingress_ifindex == 0
        && (carried == Tag::NODE && seen || carried == Tag::NONE && skb::is_sent_here(ctx));
    context.unseen = !seen && !context.by_node;
    if seen && carried != Tag::NODE {
        context.tag = carried;
    }
}

#[inline(always)]
fn pod<F: Frame>(ctx: &TcContext, direction: Direction, frame: &F) -> i32 {
    // SAFETY: the kernel passes a valid __sk_buff to classifiers.
    let skb = unsafe { &*ctx.skb.skb };
    let Some(scratch) = maps::scratch() else {
        // A per-CPU array of one has element 0; the check is for the verifier.
        return TC_ACT_SHOT;
    };
    let found = verdict::find(&Maps, skb.ifindex);
    let slot = found.map_or(0, |(slot, _)| slot);
    // The control is read last: kept across a lookup it would be spilled.
    let context = scratch.context.write(context(skb, maps::control(), slot));
    if direction == Direction::Ingress {
        identify(ctx, skb, context);
    }
    let packet = maps::room_for_packet(&mut scratch.packet);
    packet::parse(frame, packet);
    let workspace = &mut scratch.workspace;
    let verdict = match found {
        None => verdict::unknown_endpoint(&context.control, direction, &workspace.denial),
        Some((_, endpoint)) => match direction {
            Direction::Egress => {
                verdict::from_pod(&Maps, context, endpoint, frame, packet, workspace)
            }
            Direction::Ingress => {
                verdict::to_pod(&Maps, context, endpoint, frame, packet, workspace)
            }
        },
    };
    if direction == Direction::Egress {
        see(ctx, Tag::new(slot, verdict.service));
    }
    #[cfg(feature = "debug-log")]
    log(ctx, slot, packet, verdict, &scratch.workspace.denial.get());
    // Only a pod's own denied packets come in storms.
    let near = direction == Direction::Egress;
    finish(context, packet, verdict, &scratch.workspace.denial, near)
}

#[inline(always)]
fn network(ctx: &TcContext, link_header: bool) -> i32 {
    // SAFETY: the kernel passes a valid __sk_buff to classifiers.
    let skb = unsafe { &*ctx.skb.skb };
    if skb.mark & skb::seen_mark() == 0 && leaves_unseen(ctx) {
        cold_path();
        return refuse(ctx, true);
    }
    let carried = Tag(skb.tc_index as u16);
    if !carried.service() || carried == Tag::NODE {
        return TC_ACT_UNSPEC;
    }
    let Some(scratch) = maps::scratch() else {
        return TC_ACT_SHOT;
    };
    let context = scratch.context.write(Context {
        tag: carried,
        ..context(skb, maps::control(), carried.slot())
    });
    let frame = Skb(ctx);
    let packet = maps::room_for_packet(&mut scratch.packet);
    if link_header {
        packet::parse(&frame, packet);
    } else {
        packet::parse_l3(&frame, u16::from_be(skb.protocol as u16), packet);
    }
    let verdict = verdict::to_network(&Maps, context, packet, &mut scratch.workspace);
    if verdict.passes(&scratch.workspace.denial) {
        tag(ctx, Tag::new(carried.slot(), false));
    }
    finish(context, packet, verdict, &scratch.workspace.denial, false)
}

/// Reports whether a packet that is about to leave without the mark arrived on a device. A packet
/// with neither device nor socket is the kernel's own if it is in one piece: packets that IPv6
/// has refragmented have neither (`ip6_copy_metadata`).
#[inline(never)]
fn leaves_unseen(ctx: &TcContext) -> bool {
    // SAFETY: the kernel passes a valid __sk_buff to classifiers.
    let skb = unsafe { &*ctx.skb.skb };
    if maps::control().saw(skb.mark) {
        return false;
    }
    // SAFETY: a field of `__sk_buff` (Linux 5.1); the pointer isn't dereferenced.
    let socket = unsafe { skb.__bindgen_anon_2.sk };
    skb.ingress_ifindex != 0 || socket.is_null() && Skb(ctx).may_be_piece_v6()
}

/// Logs the fate of one packet in 64. Costs a microsecond and space in the program: compiled out
/// of the release datapath.
///
/// Logs only numbers, those of the enums in [`ringfence_ebpf::abi`]: the verifier walks every
/// possible length of a string.
#[cfg(feature = "debug-log")]
#[inline(never)]
fn log(ctx: &TcContext, slot: u32, packet: &Packet, verdict: Verdict, denial: &Denial) {
    // SAFETY: the helper has no arguments.
    if unsafe { aya_ebpf::helpers::bpf_get_prandom_u32() } & 63 != 0 {
        return;
    }
    aya_log_ebpf::debug!(
        ctx,
        "direction {} slot {} protocol {} ports {} {} reason {} passes {}",
        denial.direction as u8,
        slot,
        packet.protocol,
        packet.source_port,
        packet.destination_port,
        if verdict.noted {
            denial.reason as u8
        } else {
            0
        },
        u8::from(!verdict.noted || denial.audited),
    );
}

/// The only place that turns a verdict into an action and a count. The counting is inlined into
/// the hook if `near` is set.
#[inline(always)]
fn finish(
    context: &Context,
    packet: &Packet,
    verdict: Verdict,
    denial: &Cell<Denial>,
    near: bool,
) -> i32 {
    if verdict.noted {
        cold_path();
        if near {
            report::note(context, packet, denial);
        } else {
            report::note_apart(context, packet, denial);
        }
    }
    if verdict.passes(denial) {
        // Continues with the next program: TC_ACT_OK would end the chain and disable the CNI's
        // programs.
        TC_ACT_UNSPEC
    } else {
        TC_ACT_SHOT
    }
}

/// Writes the sender's tag and marks the packet as seen.
///
/// The mark proves the tag: a pod with CAP_NET_ADMIN can get packets past the ingress hook with a
/// tag of its own choice (an `ifb` makes the kernel skip the classifiers of the next device,
/// `tc_skip_classify`), but not with a mark.
#[inline(always)]
fn see(ctx: &TcContext, sender: Tag) {
    tag(ctx, sender);
    // SAFETY: writable for classifiers (Linux 4.1).
    unsafe { (*ctx.skb.skb).mark |= skb::seen_mark() };
}

/// Writes the sender's tag unconditionally: a pod with CAP_NET_ADMIN can set its own.
///
/// Also writes `tc_classid`: otherwise TC_ACT_OK of a later tcx program zeroes `tc_index` (Linux
/// 6.6 and later).
#[inline(always)]
fn tag(ctx: &TcContext, tag: Tag) {
    // SAFETY: both fields are writable for classifiers (Linux 4.1).
    unsafe {
        (*ctx.skb.skb).tc_index = u32::from(tag.0);
        (*ctx.skb.skb).tc_classid = u32::from(tag.0);
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Unreachable: the verifier would reject the loop.
    loop {}
}

// SAFETY: the loader reads this section as a string, and nothing else has this name.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
