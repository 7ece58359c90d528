//! What the compiled tables say of one packet in one direction.

use super::memo::Asks;
use crate::abi::{Addr, Direction, EndpointWorld, Grant, PortKey, PortSet, World};

/// The policy tables of both worlds, read-only to the datapath.
///
/// The kernel implements this over eBPF maps, the policy package over ordered
/// maps in memory: one decision, two homes.
pub trait PolicyTables {
    /// The peer class of an address: its exact entry, else its longest prefix, else 0.
    fn class(&self, world: World, addr: &Addr) -> u32;
    /// What a ruleset grants a class: its entry, else that of class 0, else
    /// [`Grant::default`].
    fn grant(&self, world: World, ruleset: u32, class: u32) -> Grant;
    /// Whether the block of ports at `key` holds `port` (host order); of a summary
    /// ([`PortKey::SUMMARY`]) whether the block of that number is whole.
    fn port(&self, key: &PortKey, port: u16) -> bool;
}

/// What policy says of a packet in one direction of one endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Allowed by what is enforced and by what is staged.
    Allow,
    /// Allowed, but a staged policy would deny it.
    Audit,
    /// Denied by what is enforced.
    Deny,
}

/// Decides by policy alone: no flows, no spoofing checks, no node.
///
/// `peer` is the remote address, `protocol` the IANA number, `port` the
/// destination port of the packet that opens the connection, in host order
/// (0 where the protocol has none).
#[inline(always)]
pub fn policy<T: PolicyTables + ?Sized>(
    tables: &T,
    world: World,
    half: &EndpointWorld,
    direction: Direction,
    peer: &Addr,
    protocol: u8,
    port: u16,
) -> Policy {
    let (ruleset, asks) = Asks::of(half, direction, protocol, port);
    policy_of_class(tables, world, ruleset, || tables.class(world, peer), asks)
}

/// The same for a peer whose class is found elsewhere, and only if it matters.
#[inline(always)]
pub(super) fn policy_of_class<T: PolicyTables + ?Sized>(
    tables: &T,
    world: World,
    ruleset: u32,
    class: impl FnOnce() -> u32,
    asks: Asks,
) -> Policy {
    let (isolated, staged) = (asks.is(Asks::ISOLATED), asks.is(Asks::STAGED));
    if !isolated && !staged {
        return Policy::Allow;
    }
    let (protocol, port) = (asks.protocol(), asks.port());
    let grant = tables.grant(world, ruleset, class());
    if isolated && !in_set(tables, world, grant.enforced, protocol, port) {
        return Policy::Deny;
    }
    if staged && !in_set(tables, world, grant.staged, protocol, port) {
        return Policy::Audit;
    }
    Policy::Allow
}

/// Whether a port set holds a protocol and port.
#[inline(always)]
pub fn in_set<T: PolicyTables + ?Sized>(
    tables: &T,
    world: World,
    set: u32,
    protocol: u8,
    port: u16,
) -> bool {
    let whole = PortSet::whole(protocol);
    if set & whole != 0 {
        return true;
    }
    let blocks = set & PortSet::BLOCKS;
    if blocks == 0 || whole == PortSet::OTHER {
        return false;
    }
    let mut key = PortKey {
        world,
        set: blocks,
        protocol: u16::from(protocol),
        block: port >> 8,
    };
    // Single ports are asked for most, and are found at once.
    if tables.port(&key, port) {
        return true;
    }
    key.block = PortKey::SUMMARY;
    tables.port(&key, port >> 8)
}
