//! The decision: computes a verdict from an endpoint, a packet and the tables.
//!
//! [`from_pod`] and [`to_pod`] decide at the two hooks of a pod's host-side device, [`to_network`]
//! for packets that leave by any other device. All of them, and the `matrix` and `explain`
//! commands, use [`policy()`] to query the compiled tables. Nothing here reads a clock or a map
//! directly.

mod connections;
mod errors;
mod fragments;
mod kept;
mod memo;
mod network;
mod older;
mod opens;
mod path;
mod pod;
mod policy;
mod tables;
mod tiers;
mod unseen;

use core::cell::Cell;
use core::hint::cold_path;
use core::mem::MaybeUninit;

use crate::abi::{
    Addr, Buffer, ConnectionKey, Control, Direction, Endpoint, EndpointRules, Identity, Reason,
    Stat, Tag,
};
use crate::conntrack::Clock;
use crate::packet::Packet;
use crate::shared::SharedConnection;

use memo::PeerPolicy;
use opens::New;

pub use memo::Memo;
pub use network::{refused, to_network};
pub use pod::{from_pod, to_pod};
pub use policy::{Policy, PolicyTables, in_set, policy};
pub use tables::Tables;

/// What the hook knows about the packet besides the frame's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The current control word, read once per packet.
    pub control: Control,
    /// The endpoint's slot.
    pub slot: u32,
    /// The conntrack clock.
    pub clock: Clock,
    /// `skb->len`, bytes.
    pub len: u32,
    /// `skb->ingress_ifindex`, used in reports only. 0 proves nothing: it is also 0 on a
    /// packet that was forwarded and refragmented.
    pub ingress_ifindex: u32,
    /// Whether a socket of this node is known to have sent the packet, and the packet arrived by no
    /// device.
    pub by_node: bool,
    /// Whether there is no proof that a hook of this node saw the packet arrive, or that a socket
    /// of this node sent it.
    pub unseen: bool,
    /// The tag carried by the packet.
    pub tag: Tag,
    /// Whether the packet has a VLAN tag. At tc the tag is never part of the frame's bytes.
    pub vlan: bool,
}

/// The decision on a packet. If it is `noted`, [`Workspace::denial`] has the details.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Whether the packet is denied, or would be if it weren't audited ([`Denial::audited`]).
    pub noted: bool,
    /// Egress only: the destination (a Service, a node) may forward the packet anywhere,
    /// so the sender's egress has to be decided again where the packet arrives.
    pub service: bool,
}

impl Verdict {
    const ALLOW: Self = Self {
        noted: false,
        service: false,
    };
    const NOTED: Self = Self {
        noted: true,
        service: false,
    };

    /// Reports whether the packet passes.
    #[inline(always)]
    pub fn passes(self, denial: &Cell<Denial>) -> bool {
        !self.noted || denial.get().audited
    }
}

/// The details counted for a packet that is denied, or that would be if it weren't audited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denial {
    /// Why the packet is denied.
    pub reason: Reason,
    /// Whether the reason is only recorded and the packet passes.
    pub audited: bool,
    /// The direction in which the decision was made: egress of the sender or ingress of
    /// the receiver.
    pub direction: Direction,
    /// The sender's workload id.
    pub source: u32,
    /// The receiver's workload id.
    pub destination: u32,
}

impl Denial {
    /// A denial on an interface that has no endpoint.
    const NOBODY: Self = Self {
        reason: Reason::UnknownEndpoint,
        audited: false,
        direction: Direction::Ingress,
        source: Identity::OUTSIDE,
        destination: Identity::OUTSIDE,
    };

    /// Reports whether either end may be an unknown pod; [`Denial::placed`] resolves that.
    #[inline(always)]
    pub const fn is_vague(&self) -> bool {
        // Branch-free, since the verifier follows each branch.
        (self.source == Identity::OUTSIDE) | (self.destination == Identity::OUTSIDE)
    }

    /// Returns the same denial with unknown pods distinguished from outside addresses, by the
    /// packet's addresses. The hook that records the denial doesn't do this: all nested calls
    /// of a program share 512 bytes of stack.
    #[inline(always)]
    #[must_use]
    pub fn placed<T: Tables>(mut self, tables: &T, packet: &Packet, generation: u32) -> Self {
        if self.source == Identity::OUTSIDE {
            self.source = memo::range(tables, &packet.source, generation);
        }
        if self.destination == Identity::OUTSIDE {
            self.destination = memo::range(tables, &packet.destination, generation);
        }
        self
    }
}

/// Scratch memory for values too large for the 512-byte BPF stack. Its previous
/// contents are never read.
#[derive(Clone, Debug)]
pub struct Scratch {
    /// The packet being decided.
    pub packet: MaybeUninit<Packet>,
    /// The rest of what the hook knows about the packet.
    pub context: MaybeUninit<Context>,
    /// Everything else.
    pub workspace: Workspace,
}

/// The part of [`Scratch`] used by the decision.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The details to count, if the verdict is `noted`. Kept out of the verdict
    /// itself: the verifier would walk the code that follows once for each value.
    pub denial: Cell<Denial>,
    /// Whether the recorded denial is of the sender's egress. In memory for the same reason.
    by_sender: bool,
    work: Inner,
}

#[derive(Clone, Debug)]
struct Inner {
    /// The packet quoted by an ICMP error.
    inner: MaybeUninit<Packet>,
    /// The connection key of the quoted packet.
    quoted: ConnectionKey,
    pending: Pending,
}

/// A connection that is about to be looked up or stored.
///
/// Kept apart from the other fields: the kernel rejects the type information of functions
/// that take a `MaybeUninit`.
#[derive(Clone, Debug)]
struct Pending {
    connection: SharedConnection,
    key: ConnectionKey,
    /// The hash by which the tables find the key, once it has been computed.
    tag: u64,
    /// The properties of the connection, if the packet opens one.
    new: New,
    /// Whether the connection is audited for a reason other than this end's decision on
    /// this packet.
    audited: bool,
    /// The other end's address that policy is evaluated against. Always copied here, whatever its
    /// origin: the verifier walks the code that follows once for each kind of pointer.
    judged: Addr,
    /// The peer at that address, and the policy decision on it.
    peer: PeerPolicy,
}

impl Pending {
    fn empty() -> Self {
        Self {
            connection: SharedConnection::default(),
            key: ConnectionKey::EMPTY,
            tag: 0,
            new: New {
                peer: Identity::OUTSIDE,
                flags: 0,
                stat: Stat::ConnectionsAllowed,
                asked: Policy::Deny,
            },
            audited: false,
            judged: Addr::UNSPECIFIED,
            peer: PeerPolicy::UNKNOWN,
        }
    }
}

impl Scratch {
    /// Returns an empty scratch.
    pub fn empty() -> Self {
        Self {
            packet: MaybeUninit::uninit(),
            context: MaybeUninit::uninit(),
            workspace: Workspace {
                denial: Cell::new(Denial::NOBODY),
                by_sender: false,
                work: Inner {
                    inner: MaybeUninit::uninit(),
                    quoted: ConnectionKey::EMPTY,
                    pending: Pending::empty(),
                },
            },
        }
    }
}

/// Looks up the endpoint of an interface and its slot.
#[inline(always)]
pub fn find<T: Tables + ?Sized>(tables: &T, ifindex: u32) -> Option<(u32, &Endpoint)> {
    let home = Endpoint::home_slot(ifindex);
    let slot = match tables.endpoint(home) {
        Some(endpoint) if endpoint.ifindex == ifindex => home,
        _ => {
            cold_path();
            away(tables, ifindex)?
        }
    };
    let endpoint = tables.endpoint(slot)?;
    Some((slot, endpoint))
}

/// Returns the slot of an interface whose endpoint isn't in its home slot.
#[inline(never)]
fn away<T: Tables + ?Sized>(tables: &T, ifindex: u32) -> Option<u32> {
    let mut slot = Endpoint::home_slot(ifindex);
    for _ in 1..Endpoint::PROBES {
        slot = Endpoint::next_slot(slot);
        match tables.endpoint(slot) {
            Some(endpoint) if endpoint.ifindex == ifindex => return Some(slot),
            // A freed slot doesn't end the search: later slots may be in use.
            _ => {}
        }
    }
    None
}

/// Returns the verdict on a frame of an interface that has no endpoint: denied.
#[inline(always)]
pub fn unknown_endpoint(control: &Control, direction: Direction, denial: &Cell<Denial>) -> Verdict {
    denial.set(Denial {
        audited: control.flags & Control::AUDIT != 0,
        direction,
        ..Denial::NOBODY
    });
    Verdict::NOTED
}

/// Reports whether the address is one of the endpoint's own.
#[inline(always)]
pub fn endpoint_owns(endpoint: &Endpoint, addr: &Addr) -> bool {
    let unset = addr.same(&Addr::UNSPECIFIED);
    !unset && (endpoint.v4.same(addr) || endpoint.v6.same(addr) || endpoint.link_local.same(addr))
}

/// Returns the endpoint's rules in a buffer.
#[inline(always)]
fn rules(endpoint: &Endpoint, buffer: Buffer) -> &EndpointRules {
    if buffer & 1 == 0 {
        &endpoint.rules[0]
    } else {
        &endpoint.rules[1]
    }
}
