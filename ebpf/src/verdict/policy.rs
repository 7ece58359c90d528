//! The decision of the compiled tables on a packet in one direction.

use super::memo::Asks;
use crate::abi::{Addr, Buffer, Direction, EndpointRules, Grant, PortKey, PortSet};

/// The policy tables of both buffers, read-only to the datapath.
///
/// The kernel implements this over eBPF maps, the policy package over ordered maps in memory; both
/// use the same decision code.
pub trait PolicyTables {
    /// Returns the peer class of an address: its exact entry, else its longest prefix, else 0.
    fn class(&self, buffer: Buffer, addr: &Addr) -> u32;
    /// Returns the grant of a ruleset to a class: its entry, else that of class 0, else
    /// [`Grant::default`].
    fn grant(&self, buffer: Buffer, ruleset: u32, class: u32) -> Grant;
    /// Reports whether the block of ports at `key` holds `port` (host order); for a summary
    /// ([`PortKey::SUMMARY`]), whether the block with that number is complete.
    fn port(&self, key: &PortKey, port: u16) -> bool;
}

/// The policy decision on a packet in one direction of one endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Allowed by both enforced and staged policies.
    Allow,
    /// Allowed, but a staged policy would deny it.
    Audit,
    /// Denied by an enforced policy.
    Deny,
}

/// Returns the decision of policy alone. Connections, spoofing checks and the node's own traffic
/// are not considered.
///
/// `peer` is the remote address, `protocol` the IANA number, `port` the
/// destination port of the packet that opens the connection, in host order
/// (0 where the protocol has none).
#[inline(always)]
pub fn policy<T: PolicyTables + ?Sized>(
    tables: &T,
    buffer: Buffer,
    rules: &EndpointRules,
    direction: Direction,
    peer: &Addr,
    protocol: u8,
    port: u16,
) -> Policy {
    let (ruleset, asks) = Asks::of(rules, direction, protocol, port);
    policy_of_class(tables, buffer, ruleset, || tables.class(buffer, peer), asks)
}

/// Returns the same decision for a peer whose class the caller supplies; `class` is called only if
/// the class is needed.
#[inline(always)]
pub(super) fn policy_of_class<T: PolicyTables + ?Sized>(
    tables: &T,
    buffer: Buffer,
    ruleset: u32,
    class: impl FnOnce() -> u32,
    asks: Asks,
) -> Policy {
    let (isolated, staged) = (asks.is(Asks::ISOLATED), asks.is(Asks::STAGED));
    if !isolated && !staged {
        return Policy::Allow;
    }
    let (protocol, port) = (asks.protocol(), asks.port());
    let grant = tables.grant(buffer, ruleset, class());
    if isolated && !in_set(tables, buffer, grant.enforced, protocol, port) {
        return Policy::Deny;
    }
    if staged && !in_set(tables, buffer, grant.staged, protocol, port) {
        return Policy::Audit;
    }
    Policy::Allow
}

/// Reports whether a port set holds a protocol and port.
#[inline(always)]
pub fn in_set<T: PolicyTables + ?Sized>(
    tables: &T,
    buffer: Buffer,
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
        buffer,
        set: blocks,
        protocol: u16::from(protocol),
        block: port >> 8,
    };
    // Single ports are the most common case, so they are looked up first.
    if tables.port(&key, port) {
        return true;
    }
    key.block = PortKey::SUMMARY;
    tables.port(&key, port >> 8)
}
