//! One packet on its way through one hook, and what policy says of it.

use super::{Context, Policy, Tables, Verdict, half, policy};
use crate::abi::{
    Addr, Control, Direction, Endpoint, EndpointWorld, Flow, FlowKey, Identity, Reason, Stat,
};
use crate::packet::{self, Packet, Shape};

/// One packet at one hook of one endpoint.
pub(super) struct Path<'a, T: Tables> {
    pub(super) tables: &'a T,
    pub(super) context: &'a Context,
    pub(super) endpoint: &'a Endpoint,
    pub(super) half: &'a EndpointWorld,
    pub(super) direction: Direction,
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
    pub(super) fn auditing(&self) -> bool {
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
        let enforced = flags & (isolated | EndpointWorld::QUARANTINE) != 0;
        if !enforced && flags & staged == 0 {
            return Some(Verdict::allow(self.direction));
        }
        let verdict = self.deny(packet, reason);
        Some(Verdict {
            audited: verdict.audited || !enforced,
            ..verdict
        })
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
            Policy::Deny if self.picks_up(key, packet, peer) => {
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
    pub(super) fn ask(&self, direction: Direction, peer: &Addr, protocol: u8, port: u16) -> Policy {
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
    fn picks_up(&self, key: &FlowKey, packet: &Packet, peer: &Addr) -> bool {
        use packet::tcp;
        packet.protocol == packet::protocol::TCP
            && self.context.now < self.endpoint.pickup_until
            && packet.detail & (tcp::ACK | tcp::FIN | tcp::RST | tcp::SYN) == tcp::ACK
            // What has an entry was tracked, and policy has taken it back.
            && self.tables.flow(key).is_none()
            && self.tables.opening(key).is_none()
            && self.ask(
                self.direction.reverse(),
                peer,
                packet.protocol,
                packet.source_port,
            ) != Policy::Deny
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
    /// that DNAT has shown where the packet goes. `None` if nothing is to be noted.
    #[inline(always)]
    pub(super) fn senders_egress(&self, sender: &Endpoint, packet: &Packet) -> Option<Verdict> {
        let world = self.context.control.world;
        let half = half(sender, world);
        let noted = |reason, audited| {
            Some(Verdict {
                direction: Direction::Egress,
                ..self.noted(reason, audited, sender.workload, self.endpoint.workload)
            })
        };
        if half.flags & EndpointWorld::QUARANTINE != 0 {
            return noted(Reason::Quarantine, self.auditing());
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
            Policy::Allow => None,
            Policy::Audit => noted(Reason::Policy, true),
            Policy::Deny => noted(Reason::Policy, self.auditing()),
        }
    }
}
