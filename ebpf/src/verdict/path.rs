//! One packet on its way through one hook: flow, policy, and what is stored.

use super::{Context, Policy, Tables, Verdict, half, policy};
use crate::abi::{
    Addr, Control, Direction, Endpoint, EndpointWorld, Flow, FlowKey, Identity, Reason, Stat,
};
use crate::conntrack;
use crate::packet::{self, Frame, Packet, Shape};

/// One packet at one hook of one endpoint.
pub(super) struct Path<'a, T: Tables> {
    tables: &'a T,
    context: &'a Context,
    endpoint: &'a Endpoint,
    half: &'a EndpointWorld,
    direction: Direction,
}

impl<'a, T: Tables> Path<'a, T> {
    #[inline(always)]
    pub(super) fn new(
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
    pub(super) fn deny(&self, packet: &Packet, reason: Reason) -> Verdict {
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
    pub(super) fn unaccounted(&self, packet: &Packet) -> Option<Verdict> {
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
    pub(super) fn established(
        &self,
        key: &FlowKey,
        packet: &Packet,
        room: &mut Flow,
    ) -> Option<u8> {
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
        let by_pod = flow.opened_by == Direction::Egress as u8;
        if flow.flags & Flow::ALWAYS != 0 {
            // The node's address may have become somebody else's.
            return !by_pod
                || self.tables.identity(&key.remote).flags & Identity::IS_THIS_NODE != 0;
        }
        let (direction, port) = if by_pod {
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
    pub(super) fn related<F: Frame + ?Sized>(
        &self,
        frame: &F,
        packet: &Packet,
        inner: &mut Packet,
    ) -> bool {
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
    pub(super) fn decide(
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
        let stat = match self.ask(
            self.direction,
            peer,
            packet.protocol,
            packet.destination_port,
        ) {
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
    pub(super) fn always(
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
    pub(super) fn sender(&self) -> Option<&'a Endpoint> {
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
    pub(super) fn senders_egress(&self, sender: &Endpoint, packet: &Packet) -> Option<Verdict> {
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
