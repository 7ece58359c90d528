//! Endpoint, packet and tables to a verdict.
//!
//! [`from_pod`] and [`to_pod`] decide for the two hooks of a pod's host-side
//! device; [`policy()`] is what both of them, `matrix` and `explain` ask of the
//! compiled tables. Nothing here reads a clock or a map by itself.

mod flows;
mod path;
mod policy;

use core::ops::DerefMut;

use crate::abi::{
    Addr, Control, Direction, Endpoint, EndpointWorld, Flow, FlowKey, Identity, Reason, Stat, Tag,
    World,
};
use crate::packet::{Frame, Packet, icmpv6};
use crate::spoof;

use flows::Found;
use path::Path;
pub use policy::{Policy, PolicyTables, in_set, policy};

/// Everything that the datapath reads and writes beside policy.
pub trait Tables: PolicyTables {
    /// A flow that may be changed in place.
    type FlowRef<'a>: DerefMut<Target = Flow>
    where
        Self: 'a;
    /// The endpoint in a slot; `None` where the slot is out of range.
    fn endpoint(&self, slot: u32) -> Option<&Endpoint>;
    /// Who an address is; [`Identity::default`] (outside) if unknown.
    fn identity(&self, addr: &Addr) -> Identity;
    /// A replied flow, live or not.
    fn flow(&self, key: &FlowKey) -> Option<Self::FlowRef<'_>>;
    /// An unreplied flow, live or not.
    fn opening(&self, key: &FlowKey) -> Option<Self::FlowRef<'_>>;
    /// Stores an unreplied flow; whether that worked.
    fn open(&self, key: &FlowKey, flow: &Flow) -> bool;
    /// Moves a flow from the unreplied to the replied ones; whether that worked.
    fn promote(&self, key: &FlowKey, flow: &Flow) -> bool;
    /// Counts.
    fn count(&self, stat: Stat);
}

/// What the hook knows beside the frame's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// What is in force, read once for this packet.
    pub control: Control,
    /// The endpoint's slot.
    pub slot: u32,
    /// Coarse `CLOCK_MONOTONIC`, nanoseconds.
    pub now: u64,
    /// `skb->len`, bytes.
    pub len: u32,
    /// `skb->ingress_ifindex`; 0 is this node's own traffic.
    pub ingress_ifindex: u32,
    /// The tag that the packet carries.
    pub tag: Tag,
    /// Whether the packet carries a VLAN tag, which is never in its bytes at tc.
    pub vlan: bool,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Why it is denied, or would be ([`Verdict::audited`]); `None`: allowed.
    pub reason: Option<Reason>,
    /// The reason was only noted; the packet passes.
    pub audited: bool,
    /// In which direction, of which end, that was decided.
    pub direction: Direction,
    /// Sender's workload id; set where there is a reason.
    pub source: u32,
    /// Receiver's workload id; set where there is a reason.
    pub destination: u32,
    /// Egress only: the destination may lead anywhere (a Service, a node), so
    /// the sender's egress has to be decided again where the packet arrives.
    pub service: bool,
}

impl Verdict {
    /// Whether the packet passes.
    #[inline(always)]
    pub const fn passes(&self) -> bool {
        self.reason.is_none() || self.audited
    }

    #[inline(always)]
    const fn allow(direction: Direction) -> Self {
        Self {
            reason: None,
            audited: false,
            direction,
            source: 0,
            destination: 0,
            service: false,
        }
    }
}

/// Room for what is too large for a BPF stack of 512 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    /// The packet that is decided.
    pub packet: Packet,
    /// The packet that an ICMP error quotes.
    inner: Packet,
    /// A flow on its way into a table.
    flow: Flow,
    /// Its key.
    key: FlowKey,
}

impl Scratch {
    /// Nothing in it yet.
    pub const EMPTY: Self = Self {
        packet: Packet::EMPTY,
        inner: Packet::EMPTY,
        flow: Flow::EMPTY,
        key: FlowKey {
            local: Addr::UNSPECIFIED,
            remote: Addr::UNSPECIFIED,
            endpoint: 0,
            local_port: 0,
            remote_port: 0,
            protocol: 0,
        },
    };
}

/// Finds the endpoint of an interface: its slot, or 0.
#[inline(always)]
pub fn find_slot<T: Tables + ?Sized>(tables: &T, ifindex: u32) -> u32 {
    let mut slot = Endpoint::home_slot(ifindex);
    for _ in 0..Endpoint::PROBES {
        match tables.endpoint(slot) {
            Some(endpoint) if endpoint.ifindex == ifindex => return slot,
            // A freed slot doesn't end the search: others may lie behind it.
            _ => slot = Endpoint::next_slot(slot),
        }
    }
    0
}

/// The verdict on a frame of an interface that has no endpoint: closed.
#[inline(always)]
pub fn unknown_endpoint(control: &Control, direction: Direction) -> Verdict {
    Verdict {
        reason: Some(Reason::UnknownEndpoint),
        audited: control.flags & Control::AUDIT != 0,
        ..Verdict::allow(direction)
    }
}

/// Decides on a frame that a pod sends.
#[inline(always)]
pub fn from_pod<T: Tables, F: Frame + ?Sized>(
    tables: &T,
    context: &Context,
    endpoint: &Endpoint,
    frame: &F,
    scratch: &mut Scratch,
) -> Verdict {
    let Scratch {
        packet,
        inner,
        flow,
        key,
    } = scratch;
    let packet = &*packet;
    let path = Path::new(tables, context, endpoint, Direction::Egress);
    if let Some(reason) = spoof::check(endpoint, frame, packet) {
        return path.deny(packet, reason);
    }
    if let Some(verdict) = path.unaccounted(packet) {
        return verdict;
    }
    if stays_on_link(tables, packet) || endpoint_owns(endpoint, &packet.destination) {
        return Verdict::allow(Direction::Egress);
    }
    *key = packet.flow_key(Direction::Egress, endpoint.id);
    match path.established(key, packet, flow) {
        Found::Absent => {}
        Found::Revoked => return path.deny(packet, Reason::Policy),
        Found::Passes(flags) => {
            return Verdict {
                service: flags & Flow::SERVICE != 0,
                ..Verdict::allow(Direction::Egress)
            };
        }
    }
    if path.related(frame, packet, inner) {
        return Verdict::allow(Direction::Egress);
    }
    let peer = tables.identity(&packet.destination);
    // A node's port may lead anywhere (NodePort, hostPort).
    let service = peer.flags & Identity::IS_NODE != 0;
    let flags = if service { Flow::SERVICE } else { 0 };
    let verdict = if peer.flags & Identity::IS_THIS_NODE != 0 {
        path.always(key, packet, flow, peer.workload, flags)
    } else {
        path.decide(key, packet, flow, &packet.destination, peer.workload, flags)
    };
    Verdict { service, ..verdict }
}

/// Decides on a frame that is about to reach a pod.
#[inline(always)]
pub fn to_pod<T: Tables, F: Frame + ?Sized>(
    tables: &T,
    context: &Context,
    endpoint: &Endpoint,
    frame: &F,
    scratch: &mut Scratch,
) -> Verdict {
    let Scratch {
        packet,
        inner,
        flow,
        key,
    } = scratch;
    let packet = &*packet;
    let path = Path::new(tables, context, endpoint, Direction::Ingress);
    if !spoof::addressed_to(endpoint, packet) {
        return path.deny(packet, Reason::NotAddressed);
    }
    if let Some(verdict) = path.unaccounted(packet) {
        return verdict;
    }
    if packet.is_neighbour_discovery() || packet.is_listener_discovery() {
        return Verdict::allow(Direction::Ingress);
    }
    *key = packet.flow_key(Direction::Ingress, endpoint.id);
    // The sender's own egress comes first, for every packet: neither its
    // quarantine nor a revocation waits for this end's flow.
    let sender = path.sender();
    let egress = sender
        .filter(|sender| context.tag.service() && sender.id != endpoint.id)
        .and_then(|sender| path.senders_egress(sender, packet));
    if let Some(denied) = egress.filter(|verdict| !verdict.passes()) {
        return denied;
    }
    match path.established(key, packet, flow) {
        Found::Absent => {}
        Found::Revoked => return path.deny(packet, Reason::Policy),
        Found::Passes(_) => return Verdict::allow(Direction::Ingress),
    }
    if path.related(frame, packet, inner) {
        return Verdict::allow(Direction::Ingress);
    }
    if context.ingress_ifindex == 0 && context.tag.slot() == 0 {
        // Probes, and whatever else the node itself sends. A packet that is
        // forwarded never has ingress_ifindex 0.
        return path.always(key, packet, flow, Identity::NODE, 0);
    }
    let (peer, workload) = match sender {
        Some(sender) if sender.id == endpoint.id => {
            return path.always(key, packet, flow, endpoint.workload, 0);
        }
        Some(sender) => (peer_address(sender, &packet.source), sender.workload),
        None => (packet.source, tables.identity(&packet.source).workload),
    };
    let verdict = path.decide(key, packet, flow, &peer, workload, 0);
    // What was only noted of the sender's egress is counted with the packet
    // that opens the flow, unless this end has more to say.
    match egress {
        Some(noted) if verdict.reason.is_none() => noted,
        _ => verdict,
    }
}

/// Whether it is neighbour or listener discovery that goes no further than a
/// neighbour: otherwise a cut-off pod could send what it likes as such.
#[inline(always)]
fn stays_on_link<T: Tables + ?Sized>(tables: &T, packet: &Packet) -> bool {
    let to = &packet.destination;
    // Reports, not queries: those are the router's.
    packet.is_listener_discovery() && packet.detail != icmpv6::MLD_QUERY
        || packet.is_neighbour_discovery()
            && (to.is_group_v6()
                || to.is_link_local()
                || tables.identity(to).workload != Identity::OUTSIDE)
}

/// Whether the address is the endpoint's own.
#[inline(always)]
pub fn endpoint_owns(endpoint: &Endpoint, addr: &Addr) -> bool {
    let unset = addr.same(&Addr::UNSPECIFIED);
    !unset && (endpoint.v4.same(addr) || endpoint.v6.same(addr) || endpoint.link_local.same(addr))
}

/// The address by which a known sender is judged: a masqueraded packet shows
/// the node's, and is judged as the pod's all the same.
#[inline(always)]
fn peer_address(sender: &Endpoint, source: &Addr) -> Addr {
    if endpoint_owns(sender, source) {
        return *source;
    }
    let (own, other) = if source.is_v4() {
        (sender.v4, sender.v6)
    } else {
        (sender.v6, sender.v4)
    };
    if own.same(&Addr::UNSPECIFIED) {
        other
    } else {
        own
    }
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
