//! Endpoint, packet and tables to a verdict.
//!
//! [`from_pod`] and [`to_pod`] decide for the two hooks of a pod's host-side
//! device; [`policy`] is what both of them, `matrix` and `explain` ask of the
//! compiled tables. Nothing here reads a clock or a map by itself.

use core::ops::DerefMut;

use crate::abi::{
    Addr, Control, Direction, Endpoint, EndpointWorld, Flow, FlowKey, Grant, Identity, PortKey,
    PortSet, Reason, Stat, Tag, World,
};
use crate::conntrack;
use crate::packet::{self, Frame, Packet, Shape};
use crate::spoof;

/// The policy tables of both worlds, read-only to the datapath.
///
/// The kernel implements this over eBPF maps, the policy package over ordered
/// maps in memory: one decision, two homes.
pub trait PolicyTables {
    /// The peer class of an address: its exact entry, else its longest prefix, else 0.
    fn class(&self, world: World, addr: &Addr) -> u32;
    /// What a ruleset grants a class; [`Grant::default`] if there is no entry.
    fn grant(&self, world: World, ruleset: u32, class: u32) -> Grant;
    /// Whether the block of ports at `key` holds `port` (host order).
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
    let (ruleset, isolated, staged) = match direction {
        Direction::Ingress => (
            half.ingress,
            half.flags & EndpointWorld::INGRESS_ISOLATED != 0,
            half.flags & EndpointWorld::INGRESS_STAGED != 0,
        ),
        Direction::Egress => (
            half.egress,
            half.flags & EndpointWorld::EGRESS_ISOLATED != 0,
            half.flags & EndpointWorld::EGRESS_STAGED != 0,
        ),
    };
    if !isolated && !staged {
        return Policy::Allow;
    }
    let class = tables.class(world, peer);
    let grant = tables.grant(world, ruleset, class);
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
    if set == PortSet::ALL {
        return true;
    }
    let whole = match protocol {
        6 => PortSet::ALL_TCP,
        17 => PortSet::ALL_UDP,
        132 => PortSet::ALL_SCTP,
        _ => return false,
    };
    if set & whole != 0 {
        return true;
    }
    let blocks = set & PortSet::BLOCKS;
    blocks != 0
        && tables.port(
            &PortKey {
                world,
                set: blocks,
                protocol: protocol as u16,
                block: port >> 8,
            },
            port,
        )
}

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
    if packet.is_neighbour_discovery() || endpoint_owns(endpoint, &packet.destination) {
        return Verdict::allow(Direction::Egress);
    }
    *key = packet.flow_key(Direction::Egress, endpoint.id);
    if let Some(flags) = path.established(key, packet, flow) {
        return Verdict {
            service: flags & Flow::SERVICE != 0,
            ..Verdict::allow(Direction::Egress)
        };
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
    if packet.is_neighbour_discovery() {
        return Verdict::allow(Direction::Ingress);
    }
    *key = packet.flow_key(Direction::Ingress, endpoint.id);
    if path.established(key, packet, flow).is_some() || path.related(frame, packet, inner) {
        return Verdict::allow(Direction::Ingress);
    }
    if context.ingress_ifindex == 0 && context.tag.slot() == 0 {
        // Probes, and whatever else the node itself sends. A packet that is
        // forwarded never has ingress_ifindex 0.
        return path.always(key, packet, flow, Identity::NODE, 0);
    }
    let mut peer = packet.source;
    let workload = match path.sender() {
        Some(sender) if sender.id == endpoint.id => {
            return path.always(key, packet, flow, endpoint.workload, 0);
        }
        Some(sender) => {
            if context.tag.service() {
                if let Some(verdict) = path.senders_egress(sender, packet) {
                    return verdict;
                }
            }
            peer = peer_address(sender, &packet.source);
            sender.workload
        }
        None => tables.identity(&packet.source).workload,
    };
    path.decide(key, packet, flow, &peer, workload, 0)
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

/// One packet at one hook of one endpoint.
struct Path<'a, T: Tables> {
    tables: &'a T,
    context: &'a Context,
    endpoint: &'a Endpoint,
    half: &'a EndpointWorld,
    direction: Direction,
}

impl<'a, T: Tables> Path<'a, T> {
    #[inline(always)]
    fn new(
        tables: &'a T,
        context: &'a Context,
        endpoint: &'a Endpoint,
        direction: Direction,
    ) -> Self {
        Self {
            tables,
            context,
            endpoint,
            half: half(endpoint, context.control.world),
            direction,
        }
    }

    /// A denial with both names; audited if the whole agent audits.
    #[inline(always)]
    fn deny(&self, packet: &Packet, reason: Reason) -> Verdict {
        let (source, destination) = match self.direction {
            Direction::Egress => (
                self.endpoint.workload,
                self.tables.identity(&packet.destination).workload,
            ),
            Direction::Ingress => (
                match self.sender() {
                    Some(sender) => sender.workload,
                    None if self.context.ingress_ifindex == 0 => Identity::NODE,
                    None => self.tables.identity(&packet.source).workload,
                },
                self.endpoint.workload,
            ),
        };
        self.noted(reason, self.auditing(), source, destination)
    }

    #[inline(always)]
    fn noted(&self, reason: Reason, audited: bool, source: u32, destination: u32) -> Verdict {
        Verdict {
            reason: Some(reason),
            audited,
            direction: self.direction,
            source,
            destination,
            service: false,
        }
    }

    #[inline(always)]
    fn auditing(&self) -> bool {
        self.context.control.flags & Control::AUDIT != 0
    }

    /// Frames without a flow: ARP passes (its sender was checked where it was
    /// sent); what the parser can't account for passes only where no policy
    /// isolates the endpoint.
    #[inline(always)]
    fn unaccounted(&self, packet: &Packet) -> Option<Verdict> {
        let reason = match packet.shape {
            _ if self.context.vlan => Reason::Vlan,
            Shape::Ip => return None,
            Shape::Arp => return Some(Verdict::allow(self.direction)),
            Shape::Fault(reason) => reason,
        };
        let (isolated, staged) = match self.direction {
            Direction::Ingress => (
                EndpointWorld::INGRESS_ISOLATED,
                EndpointWorld::INGRESS_STAGED,
            ),
            Direction::Egress => (EndpointWorld::EGRESS_ISOLATED, EndpointWorld::EGRESS_STAGED),
        };
        let flags = self.half.flags;
        let verdict = self.deny(packet, reason);
        Some(if flags & (isolated | EndpointWorld::QUARANTINE) != 0 {
            verdict
        } else if flags & staged != 0 {
            Verdict {
                audited: true,
                ..verdict
            }
        } else {
            Verdict::allow(self.direction)
        })
    }

    /// The flags of the flow that the packet belongs to, if policy allows that now.
    #[inline(always)]
    fn established(&self, key: &FlowKey, packet: &Packet, room: &mut Flow) -> Option<u8> {
        if packet.is_syn() || self.half.flags & EndpointWorld::QUARANTINE != 0 {
            return None;
        }
        if let Some(mut flow) = self.tables.flow(key) {
            let flags = flow.flags;
            return self.passes_by(&mut flow, key, packet).then_some(flags);
        }
        let mut flow = self.tables.opening(key)?;
        let flags = flow.flags;
        if !self.passes_by(&mut flow, key, packet) {
            return None;
        }
        if flow.state != conntrack::State::Opening as u8 {
            *room = *flow;
            drop(flow);
            if !self.tables.promote(key, room) {
                self.tables.count(Stat::FlowsNotStored);
            }
        }
        Some(flags)
    }

    /// Takes the packet into a found flow, unless that has expired or policy
    /// has taken it back.
    #[inline(always)]
    fn passes_by(&self, flow: &mut Flow, key: &FlowKey, packet: &Packet) -> bool {
        let now = self.context.now;
        if conntrack::expired(flow, packet.protocol, now) {
            return false;
        }
        if flow.epoch != self.half.epoch {
            if !self.still_allowed(flow, key, packet.protocol) {
                return false;
            }
            flow.epoch = self.half.epoch;
        }
        let flags = if packet.protocol == packet::protocol::TCP {
            packet.detail
        } else {
            0
        };
        conntrack::advance(flow, self.direction, flags, self.context.len, now);
        true
    }

    /// Asks policy once more, in the direction in which the flow was opened.
    #[inline(never)]
    fn still_allowed(&self, flow: &Flow, key: &FlowKey, protocol: u8) -> bool {
        if flow.flags & Flow::ALWAYS != 0 {
            return true;
        }
        let (direction, port) = if flow.opened_by == Direction::Egress as u8 {
            (Direction::Egress, key.remote_port)
        } else {
            (Direction::Ingress, key.local_port)
        };
        self.auditing()
            || policy(
                self.tables,
                self.context.control.world,
                self.half,
                direction,
                &key.remote,
                protocol,
                port,
            ) != Policy::Deny
    }

    /// Whether it is an ICMP error about a live flow of this endpoint, which
    /// path-MTU discovery can't do without.
    #[inline(never)]
    fn related<F: Frame + ?Sized>(&self, frame: &F, packet: &Packet, inner: &mut Packet) -> bool {
        if !packet.is_icmp_error() || self.half.flags & EndpointWorld::QUARANTINE != 0 {
            return false;
        }
        if packet::quoted(frame, packet, inner).is_none() {
            return false;
        }
        // The packet that met the error went the other way.
        let key = inner.flow_key(self.direction.reverse(), self.endpoint.id);
        let live = |flow: &Flow| {
            flow.epoch == self.half.epoch
                && !conntrack::expired(flow, inner.protocol, self.context.now)
        };
        match self.tables.flow(&key) {
            Some(flow) => live(&flow),
            None => self.tables.opening(&key).is_some_and(|flow| live(&flow)),
        }
    }

    /// The full decision of this endpoint in this direction.
    #[inline(always)]
    fn decide(
        &self,
        key: &FlowKey,
        packet: &Packet,
        room: &mut Flow,
        peer: &Addr,
        workload: u32,
        flags: u8,
    ) -> Verdict {
        let (source, destination) = match self.direction {
            Direction::Egress => (self.endpoint.workload, workload),
            Direction::Ingress => (workload, self.endpoint.workload),
        };
        if self.half.flags & EndpointWorld::QUARANTINE != 0 {
            return self.noted(Reason::Quarantine, self.auditing(), source, destination);
        }
        let port = packet.destination_port;
        let stat = match self.ask(self.direction, peer, packet.protocol, port) {
            Policy::Allow => Stat::FlowsAllowed,
            Policy::Deny if self.picks_up(packet, peer) => {
                // It goes on as the flow that its other end opened.
                self.adopt(key, room, workload);
                return Verdict::allow(self.direction);
            }
            Policy::Deny if !self.auditing() => {
                return self.noted(Reason::Policy, false, source, destination);
            }
            Policy::Deny | Policy::Audit => {
                self.open(key, packet, room, workload, flags, Stat::FlowsAudited);
                return self.noted(Reason::Policy, true, source, destination);
            }
        };
        self.open(key, packet, room, workload, flags, stat);
        Verdict::allow(self.direction)
    }

    /// Allowed whatever policy says.
    #[inline(always)]
    fn always(
        &self,
        key: &FlowKey,
        packet: &Packet,
        room: &mut Flow,
        workload: u32,
        flags: u8,
    ) -> Verdict {
        let flags = flags | Flow::ALWAYS;
        self.open(key, packet, room, workload, flags, Stat::FlowsAllowed);
        Verdict::allow(self.direction)
    }

    #[inline(always)]
    fn ask(&self, direction: Direction, peer: &Addr, protocol: u8, port: u16) -> Policy {
        let world = self.context.control.world;
        policy(
            self.tables,
            world,
            self.half,
            direction,
            peer,
            protocol,
            port,
        )
    }

    /// Whether an unknown TCP packet may be the reply of a connection that was
    /// open before the endpoint came under management. A bounded window: a FIN
    /// to an open port gets silence, so loose pick-up is a port scanner.
    #[inline(always)]
    fn picks_up(&self, packet: &Packet, peer: &Addr) -> bool {
        use packet::tcp;
        packet.protocol == packet::protocol::TCP
            && self.context.now < self.endpoint.pickup_until
            && packet.detail & (tcp::ACK | tcp::FIN | tcp::RST | tcp::SYN) == tcp::ACK
            && self.ask(
                self.direction.reverse(),
                peer,
                packet.protocol,
                packet.source_port,
            ) != Policy::Deny
    }

    #[inline(always)]
    fn adopt(&self, key: &FlowKey, flow: &mut Flow, workload: u32) {
        let context = self.context;
        *flow = conntrack::opened(
            self.direction.reverse(),
            self.half.epoch,
            workload,
            0,
            context.now,
        );
        flow.packets = [0; 2];
        conntrack::advance(flow, self.direction, 0, context.len, context.now);
        self.store(key, flow, Stat::FlowsAllowed);
    }

    /// Tracks an allowed packet's connection.
    #[inline(always)]
    fn open(
        &self,
        key: &FlowKey,
        packet: &Packet,
        flow: &mut Flow,
        workload: u32,
        flags: u8,
        stat: Stat,
    ) {
        if packet.opens_flow() && self.half.flags & EndpointWorld::QUARANTINE == 0 {
            *flow = conntrack::opened(
                self.direction,
                self.half.epoch,
                workload,
                self.context.len,
                self.context.now,
            );
            flow.flags = flags;
            self.store(key, flow, stat);
        }
    }

    #[inline(always)]
    fn store(&self, key: &FlowKey, flow: &Flow, stat: Stat) {
        // A reused port takes its old entry over, wherever that lies.
        if let Some(mut old) = self.tables.flow(key) {
            *old = *flow;
        } else if !self.tables.open(key, flow) {
            self.tables.count(Stat::FlowsNotStored);
            return;
        }
        self.tables.count(stat);
    }

    /// The sender's endpoint on this node, by its tag.
    #[inline(always)]
    fn sender(&self) -> Option<&'a Endpoint> {
        match self.context.tag.slot() {
            0 => None,
            slot => self
                .tables
                .endpoint(slot)
                .filter(|endpoint| endpoint.ifindex != 0),
        }
    }

    /// The decision that `from_pod` couldn't take: the sender's egress, now
    /// that DNAT has shown where the packet goes.
    #[inline(always)]
    fn senders_egress(&self, sender: &Endpoint, packet: &Packet) -> Option<Verdict> {
        let world = self.context.control.world;
        let half = half(sender, world);
        let denied = |reason| Verdict {
            direction: Direction::Egress,
            ..self.noted(
                reason,
                self.auditing(),
                sender.workload,
                self.endpoint.workload,
            )
        };
        if half.flags & EndpointWorld::QUARANTINE != 0 {
            return Some(denied(Reason::Quarantine));
        }
        let asked = policy(
            self.tables,
            world,
            half,
            Direction::Egress,
            &packet.destination,
            packet.protocol,
            packet.destination_port,
        );
        match asked {
            Policy::Deny if !self.auditing() => Some(denied(Reason::Policy)),
            // Would-be denials are noted once, by the receiver's own decision.
            _ => None,
        }
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
