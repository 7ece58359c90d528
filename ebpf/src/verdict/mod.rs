//! Endpoint, packet and tables to a verdict.
//!
//! [`from_pod`] and [`to_pod`] decide for the two hooks of a pod's host-side
//! device, [`to_network`] for what leaves by any other; [`policy()`] is what all
//! of them, `matrix` and `explain` ask of the compiled tables. Nothing here reads
//! a clock or a map by itself.

mod errors;
mod flows;
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
    Addr, Control, Direction, Endpoint, EndpointWorld, FlowKey, Identity, Reason, Stat, Tag, World,
};
use crate::conntrack::Clock;
use crate::packet::Packet;
use crate::shared::SharedFlow;

use memo::Peer;
use opens::New;

pub use memo::Memo;
pub use network::{refused, to_network};
pub use pod::{from_pod, to_pod};
pub use policy::{Policy, PolicyTables, in_set, policy};
pub use tables::Tables;

/// What the hook knows beside the frame's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// What is in force, read once for this packet.
    pub control: Control,
    /// The endpoint's slot.
    pub slot: u32,
    /// The flows' clock.
    pub clock: Clock,
    /// `skb->len`, bytes.
    pub len: u32,
    /// `skb->ingress_ifindex`, for people only. 0 proves nothing: a packet that was
    /// forwarded and refragmented has it too.
    pub ingress_ifindex: u32,
    /// Whether a socket of this node is known to have sent the packet, and no device
    /// to have brought it.
    pub by_node: bool,
    /// Nothing shows that a hook of this node saw the packet come in, nor that a socket
    /// of this node sent it.
    pub unseen: bool,
    /// The tag that the packet carries.
    pub tag: Tag,
    /// Whether the packet carries a VLAN tag, which is never in its bytes at tc.
    pub vlan: bool,
}

/// What becomes of a packet: it passes, or [`Room::noted`] says the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// It is denied, or would be ([`Noted::audited`]).
    pub noted: bool,
    /// Egress only: the destination may lead anywhere (a Service, a node), so
    /// the sender's egress has to be decided again where the packet arrives.
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

    /// Whether the packet passes.
    #[inline(always)]
    pub fn passes(self, noted: &Cell<Noted>) -> bool {
        !self.noted || noted.get().audited
    }
}

/// What is counted of a packet that is denied, or would be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Noted {
    /// Why.
    pub reason: Reason,
    /// The reason was only noted; the packet passes.
    pub audited: bool,
    /// In which direction, of which end, that was decided.
    pub direction: Direction,
    /// The sender's workload id.
    pub source: u32,
    /// The receiver's workload id.
    pub destination: u32,
}

impl Noted {
    /// On an interface of nobody's.
    const NOBODY: Self = Self {
        reason: Reason::UnknownEndpoint,
        audited: false,
        direction: Direction::Ingress,
        source: Identity::OUTSIDE,
        destination: Identity::OUTSIDE,
    };

    /// Whether an end of the packet may be an unknown pod, which [`Noted::placed`] tells.
    #[inline(always)]
    pub const fn is_vague(&self) -> bool {
        // Without branches, each of which the verifier would follow.
        (self.source == Identity::OUTSIDE) | (self.destination == Identity::OUTSIDE)
    }

    /// The same with unknown pods told from the outside, by the packet's addresses. Not
    /// where it is noted: a program's calls share 512 bytes of stack.
    #[inline(always)]
    #[must_use]
    pub fn placed<T: Tables>(mut self, tables: &T, packet: &Packet) -> Self {
        if self.source == Identity::OUTSIDE {
            self.source = tables.range(&packet.source);
        }
        if self.destination == Identity::OUTSIDE {
            self.destination = tables.range(&packet.destination);
        }
        self
    }
}

/// Room for what is too large for a BPF stack of 512 bytes; what was in it is of
/// no meaning.
#[derive(Clone, Debug)]
pub struct Scratch {
    /// For the packet that is decided.
    pub packet: MaybeUninit<Packet>,
    /// For what else the hook knows of it.
    pub context: MaybeUninit<Context>,
    /// For everything else.
    pub room: Room,
}

/// The part of [`Scratch`] that deciding needs.
#[derive(Clone, Debug)]
pub struct Room {
    /// What there is to count, where the verdict says so. Not in the verdict
    /// itself: the verifier would walk what follows once for each value.
    pub noted: Cell<Noted>,
    /// Whether the sender's egress is what was noted; in memory for the same reason.
    by_sender: bool,
    work: Work,
}

#[derive(Clone, Debug)]
struct Work {
    /// The packet that an ICMP error quotes.
    inner: MaybeUninit<Packet>,
    /// The key of its flow.
    quoted: FlowKey,
    track: Track,
}

/// A flow on its way into a table.
///
/// Apart from the rest: the kernel refuses the type information of functions
/// that get a `MaybeUninit`.
#[derive(Clone, Debug)]
struct Track {
    flow: SharedFlow,
    key: FlowKey,
    /// What the key is found by, once it has been looked for.
    tag: u64,
    /// What is noted of the flow, if the packet opens one.
    new: New,
    /// Whether the flow is audited by another word than this end's on this packet.
    audited: bool,
    /// The address by which the other end is judged. In memory, wherever it comes from:
    /// the verifier walks what follows once for each kind of pointer.
    judged: Addr,
    /// Who that is, and what policy says of it.
    peer: Peer,
}

impl Track {
    fn empty() -> Self {
        Self {
            flow: SharedFlow::default(),
            key: FlowKey::EMPTY,
            tag: 0,
            new: New {
                peer: Identity::OUTSIDE,
                flags: 0,
                stat: Stat::FlowsAllowed,
                asked: Policy::Deny,
            },
            audited: false,
            judged: Addr::UNSPECIFIED,
            peer: Peer::UNKNOWN,
        }
    }
}

impl Scratch {
    /// With nothing in it yet.
    pub fn empty() -> Self {
        Self {
            packet: MaybeUninit::uninit(),
            context: MaybeUninit::uninit(),
            room: Room {
                noted: Cell::new(Noted::NOBODY),
                by_sender: false,
                work: Work {
                    inner: MaybeUninit::uninit(),
                    quoted: FlowKey::EMPTY,
                    track: Track::empty(),
                },
            },
        }
    }
}

/// Finds the endpoint of an interface: its slot and itself.
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

/// The slot of an interface that doesn't sit in its first one.
#[inline(never)]
fn away<T: Tables + ?Sized>(tables: &T, ifindex: u32) -> Option<u32> {
    let mut slot = Endpoint::home_slot(ifindex);
    for _ in 1..Endpoint::PROBES {
        slot = Endpoint::next_slot(slot);
        match tables.endpoint(slot) {
            Some(endpoint) if endpoint.ifindex == ifindex => return Some(slot),
            // A freed slot doesn't end the search: others may lie behind it.
            _ => {}
        }
    }
    None
}

/// The verdict on a frame of an interface that has no endpoint: closed.
#[inline(always)]
pub fn unknown_endpoint(control: &Control, direction: Direction, noted: &Cell<Noted>) -> Verdict {
    noted.set(Noted {
        audited: control.flags & Control::AUDIT != 0,
        direction,
        ..Noted::NOBODY
    });
    Verdict::NOTED
}

/// Whether the address is the endpoint's own.
#[inline(always)]
pub fn endpoint_owns(endpoint: &Endpoint, addr: &Addr) -> bool {
    let unset = addr.same(&Addr::UNSPECIFIED);
    !unset && (endpoint.v4.same(addr) || endpoint.v6.same(addr) || endpoint.link_local.same(addr))
}

/// The half of the endpoint that is in force in a world.
#[inline(always)]
fn half(endpoint: &Endpoint, world: World) -> &EndpointWorld {
    if world & 1 == 0 {
        &endpoint.worlds[0]
    } else {
        &endpoint.worlds[1]
    }
}
