//! What the hooks are measured against (`cargo xtask bench packet`): never part
//! of the release object.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ringfence_ebpf::abi::Direction;
use ringfence_ebpf::packet::{self, Packet};
use ringfence_ebpf::verdict::Tables;

use super::{Skb, maps};

/// A classifier that does nothing: the cost of being called.
#[classifier]
fn empty(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// What no stateful firewall can do without: parse, and one lookup by flow key.
#[classifier]
fn floor(ctx: TcContext) -> i32 {
    let Some(scratch) = maps::scratch() else {
        return TC_ACT_UNSPEC;
    };
    let packet = scratch.packet.write(Packet::EMPTY);
    packet::parse(&Skb(&ctx), packet);
    let key = packet.flow_key(Direction::Egress, 1);
    match maps::Maps.flow(&key) {
        // Read, so that the lookup can't be left out.
        Some(flow) if flow.state > 2 => 0,
        _ => TC_ACT_UNSPEC,
    }
}
