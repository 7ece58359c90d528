//! The two hooks of a pod's host-side veth, compiled for BPF only.

#![allow(unsafe_code)]

#[cfg(feature = "bench")]
mod bench;
mod maps;
mod report;

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_skb_load_bytes};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ringfence_ebpf::abi::{Direction, Tag};
use ringfence_ebpf::packet::{self, Frame, Packet};
use ringfence_ebpf::verdict::{self, Context, Tables, Verdict};

use maps::Maps;

/// TC ingress of the host-side veth: what the pod sends.
#[classifier]
fn from_pod(ctx: TcContext) -> i32 {
    hook(&ctx, Direction::Egress)
}

/// TC egress of the host-side veth: what is about to reach the pod.
#[classifier]
fn to_pod(ctx: TcContext) -> i32 {
    hook(&ctx, Direction::Ingress)
}

/// A frame that may lie in fragments: `bpf_skb_load_bytes` reads what is not
/// linear too (AF_PACKET senders can deliver 14 linear bytes).
struct Skb<'a>(&'a TcContext);

impl Skb<'_> {
    /// # Safety
    /// Every bit pattern of `T` is valid.
    #[inline(always)]
    unsafe fn read<T>(&self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all of `value` or fails; on failure (offset
        // past the end) it is not read.
        unsafe {
            let failed = bpf_skb_load_bytes(
                self.0.skb.skb.cast(),
                offset,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            );
            (failed == 0).then(|| value.assume_init())
        }
    }
}

impl Frame for Skb<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        // SAFETY: bytes have no invalid patterns.
        unsafe { self.read(offset) }
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        // SAFETY: integers have no invalid patterns.
        unsafe { self.read(offset) }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }
}

#[inline(always)]
fn hook(ctx: &TcContext, direction: Direction) -> i32 {
    // SAFETY: the kernel passes a valid __sk_buff to classifiers.
    let skb = unsafe { &*ctx.skb.skb };
    let control = maps::control();
    let slot = verdict::find_slot(&Maps, skb.ifindex);
    let context = Context {
        control,
        slot,
        // SAFETY: a helper without arguments.
        now: unsafe { bpf_ktime_get_coarse_ns() },
        len: skb.len,
        ingress_ifindex: skb.ingress_ifindex,
        tag: Tag(skb.tc_index as u16),
        vlan: skb.vlan_present != 0,
    };
    let frame = Skb(ctx);
    let Some(scratch) = maps::scratch() else {
        // A per-CPU array of one has element 0; the verifier wants to hear it.
        return TC_ACT_SHOT;
    };
    packet::parse(&frame, &mut scratch.packet);
    let verdict = match Maps.endpoint(slot).filter(|_| slot != 0) {
        None => verdict::unknown_endpoint(&control, direction),
        Some(endpoint) => match direction {
            Direction::Egress => verdict::from_pod(&Maps, &context, endpoint, &frame, scratch),
            Direction::Ingress => verdict::to_pod(&Maps, &context, endpoint, &frame, scratch),
        },
    };
    if direction == Direction::Egress {
        tag(ctx, Tag::new(slot, verdict.service));
    }
    #[cfg(feature = "debug-log")]
    log(ctx, slot, &scratch.packet, &verdict);
    finish(&context, &scratch.packet, &verdict)
}

/// Says what became of one packet in 64. Costs a microsecond and room in the
/// program: compiled out of the release datapath.
///
/// Numbers only, of [`ringfence_ebpf::abi`]'s enums: the verifier walks every
/// length that a string could have.
#[cfg(feature = "debug-log")]
#[inline(never)]
fn log(ctx: &TcContext, slot: u32, packet: &Packet, verdict: &Verdict) {
    // SAFETY: a helper without arguments.
    if unsafe { aya_ebpf::helpers::bpf_get_prandom_u32() } & 63 != 0 {
        return;
    }
    aya_log_ebpf::debug!(
        ctx,
        "direction {} slot {} protocol {} ports {} {} reason {} passes {}",
        verdict.direction as u8,
        slot,
        packet.protocol,
        packet.source_port,
        packet.destination_port,
        verdict.reason.map_or(0, |reason| reason as u8),
        u8::from(verdict.passes()),
    );
}

/// The one place where a verdict becomes an action and a count.
#[inline(always)]
fn finish(context: &Context, packet: &Packet, verdict: &Verdict) -> i32 {
    if let Some(reason) = verdict.reason {
        report::note(context, packet, verdict, reason);
    }
    if verdict.passes() {
        // Next program: TC_ACT_OK would end the chain and switch the CNI's off.
        TC_ACT_UNSPEC
    } else {
        TC_ACT_SHOT
    }
}

/// Writes the sender's tag, always: a pod with CAP_NET_ADMIN can set its own.
///
/// `tc_classid` as well: without it a later tcx program's TC_ACT_OK zeroes
/// `tc_index` (Linux 6.6 and later).
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
    // Never reached: the verifier would refuse the loop.
    loop {}
}

// SAFETY: the loader reads this section as a string, and nothing else has
// this name.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
