//! Baselines for measuring the hooks, and the variation of their packets (`cargo xtask bench
//! packet`). Never part of the release object.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::helpers::bpf_skb_store_bytes;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{Array, LruHashMap};
use aya_ebpf::programs::TcContext;
use ringfence_ebpf::abi::{Connection, ConnectionKey, Direction, Endpoint};
use ringfence_ebpf::packet::{self, Frame, Head};

use super::{Skb, maps};

/// How to vary the next packets; written by the bench.
#[repr(C)]
#[derive(Clone, Copy)]
struct Vary {
    /// Number of packets so far.
    turn: u32,
    /// Bits of the constants below.
    what: u32,
    /// Slot of the endpoint.
    slot: u32,
    /// Offset of the peer's last two address bytes in the frame.
    peer_at: u32,
    /// Offset of the source port in the frame.
    port_at: u32,
    /// Number of peers to choose from.
    peers: u32,
}

/// A different source port for each packet.
const PORTS: u32 = 1;
/// A random peer for each packet.
const PEERS: u32 = 2;
/// The endpoint's epoch rises before each packet.
const STALE: u32 = 4;

#[map]
static VARY: Array<Vary> = Array::with_max_entries(1, 0);

/// Connections stored as other firewalls store them; inserted by the bench.
#[map]
static FLOOR: LruHashMap<ConnectionKey, Connection> = LruHashMap::with_max_entries(262_144, 0);

/// A classifier that does nothing: measures the cost of the call.
#[classifier]
fn empty(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// The minimum of any stateful firewall: parse, and look up a connection key in one of the
/// kernel's hash tables.
#[classifier]
fn floor(ctx: TcContext) -> i32 {
    parse_and_look(&ctx)
}

/// The harness alone: its cost is subtracted from that of the programs below.
#[classifier]
fn vary(ctx: TcContext) -> i32 {
    change(&ctx);
    TC_ACT_UNSPEC
}

#[classifier]
fn vary_floor(ctx: TcContext) -> i32 {
    change(&ctx);
    parse_and_look(&ctx)
}

#[classifier]
fn vary_from_pod(ctx: TcContext) -> i32 {
    change(&ctx);
    super::pod(&ctx, Direction::Egress, &Skb(&ctx))
}

#[classifier]
fn vary_to_pod(ctx: TcContext) -> i32 {
    change(&ctx);
    super::pod(&ctx, Direction::Ingress, &Skb(&ctx))
}

/// `from_pod` without the check for pending checksums.
#[classifier]
fn from_pod_unchecked(ctx: TcContext) -> i32 {
    super::pod(&ctx, Direction::Egress, &Otherwise::<false>(Skb(&ctx)))
}

/// `from_pod` for a frame that is treated as one with a pending checksum: a test run can't create
/// one.
#[classifier]
fn from_pod_pending(ctx: TcContext) -> i32 {
    super::pod(&ctx, Direction::Egress, &Otherwise::<true>(Skb(&ctx)))
}

/// A frame that always or never reports a pending checksum.
struct Otherwise<'a, const PENDING: bool>(Skb<'a>);

impl<const PENDING: bool> Frame for Otherwise<'_, PENDING> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.load(offset)
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.0.words(offset)
    }

    #[inline(always)]
    fn head<const N: usize>(&self) -> Option<impl Head> {
        self.0.head::<N>()
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn pending_checksum(&self) -> Option<u32> {
        if PENDING {
            self.0.checksum_place(false)
        } else {
            None
        }
    }
}

#[inline(always)]
fn parse_and_look(ctx: &TcContext) -> i32 {
    let Some(scratch) = maps::scratch() else {
        return TC_ACT_UNSPEC;
    };
    let packet = maps::room_for_packet(&mut scratch.packet);
    packet::parse(&Skb(ctx), packet);
    let mut key = ConnectionKey::EMPTY;
    packet.put_connection_key(Direction::Egress, 1, &mut key);
    match FLOOR.get_ptr(&key) {
        // Read so that the lookup can't be optimized away.
        // SAFETY: nothing writes here during a run.
        Some(connection) if unsafe { (*connection).state } > 3 => 0,
        _ => TC_ACT_UNSPEC,
    }
}

#[inline(never)]
fn change(ctx: &TcContext) {
    let Some(vary) = VARY.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: test runs of one bench are sequential.
    let vary = unsafe { &mut *vary };
    vary.turn = vary.turn.wrapping_add(1);
    if vary.what & PORTS != 0 {
        store(ctx, vary.port_at, (vary.turn as u16).to_be());
    }
    if vary.what & PEERS != 0 {
        let random = vary.turn.wrapping_mul(0x9e37_79b1);
        let peer = (u64::from(random) * u64::from(vary.peers)) >> 32;
        store(ctx, vary.peer_at, (peer as u16).to_be());
    }
    if vary.what & STALE != 0
        && let Some(endpoint) = maps::ENDPOINTS.get_ptr_mut(vary.slot)
    {
        // SAFETY: nothing else accesses this endpoint.
        let endpoint: &mut Endpoint = unsafe { &mut *endpoint };
        endpoint.rules[0].epoch += 1;
        endpoint.rules[1].epoch += 1;
    }
}

#[inline(always)]
fn store(ctx: &TcContext, at: u32, value: u16) {
    // SAFETY: the helper reads two bytes, and rejects offsets outside of the frame.
    unsafe {
        bpf_skb_store_bytes(
            ctx.skb.skb.cast(),
            at,
            core::ptr::from_ref(&value).cast(),
            2,
            0,
        );
    }
}
