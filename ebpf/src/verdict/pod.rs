//! The two hooks of a pod's host-side device.

use core::hint::cold_path;

use super::flows::Found;
use super::path::{Hook, Known, Path};
use super::{Context, Noted, Room, Tables, Verdict, Work, endpoint_owns};
use crate::abi::{Addr, Direction, Endpoint, EndpointWorld, Flow, Identity, Reason};
use crate::packet::{Frame, Packet, Shape, icmpv6, mark};
use crate::spoof;

/// Decides on a frame that a pod sends.
#[inline(always)]
pub fn from_pod<T: Tables, F: Frame + ?Sized>(
    tables: &T,
    context: &Context,
    endpoint: &Endpoint,
    frame: &F,
    packet: &Packet,
    room: &mut Room,
) -> Verdict {
    let path = Path::new(
        tables,
        context,
        endpoint,
        packet,
        &room.noted,
        Hook::FromPod,
    );
    if let Some(reason) = spoof::check(tables, endpoint, context.slot, frame, packet) {
        cold_path();
        return path.deny(reason);
    }
    if context.vlan {
        // Linux takes a tag of VLAN 0 off after tc and delivers what is inside.
        return path.deny(Reason::Vlan);
    }
    if packet.shape != Shape::Ip {
        cold_path();
        return path.without_flow();
    }
    // Before flows: one that the other side has opened may lead to a tunnel too.
    if path.may_be_unpacked() && path.is_for_tunnel() {
        return path.deny(Reason::Tunnel);
    }
    let verdict = match path.established(&mut room.work.track) {
        Found::Passes(flags) => Verdict {
            service: flags & Flow::SERVICE != 0,
            ..Verdict::ALLOW
        },
        Found::Revoked => path.deny(Reason::Policy),
        Found::Absent(known) => path.opens_from_pod(frame, &mut room.work, known),
    };
    path.followed(verdict)
}

/// Decides on a frame that is about to reach a pod.
#[inline(always)]
pub fn to_pod<T: Tables, F: Frame + ?Sized>(
    tables: &T,
    context: &Context,
    endpoint: &Endpoint,
    frame: &F,
    packet: &Packet,
    room: &mut Room,
) -> Verdict {
    let path = Path::new(tables, context, endpoint, packet, &room.noted, Hook::ToPod);
    if !spoof::addressed_to(endpoint, packet) {
        cold_path();
        return path.deny(Reason::NotAddressed);
    }
    let egress = if context.tag.service() {
        cold_path();
        path.senders_egress()
    } else {
        Verdict::ALLOW
    };
    if !egress.passes(path.noted) {
        return egress;
    }
    room.by_sender = egress.noted;
    if packet.shape != Shape::Ip || context.vlan {
        cold_path();
        let verdict = path.without_flow();
        let noted = verdict.noted || room.by_sender;
        return Verdict { noted, ..verdict };
    }
    let verdict = match path.established(&mut room.work.track) {
        Found::Passes(_) => return path.followed(Verdict::ALLOW),
        Found::Revoked => path.deny(Reason::Policy),
        Found::Absent(known) => path.opens_to_pod(frame, &mut room.work, known),
    };
    // What was only noted of the sender's egress is counted with the packet
    // that opens the flow, unless this end has more to say.
    let noted = verdict.noted || room.by_sender;
    path.followed(Verdict { noted, ..verdict })
}

impl<T: Tables> Path<'_, T> {
    /// Decides on a packet from the pod that belongs to no flow.
    #[inline(always)]
    fn opens_from_pod<F: Frame + ?Sized>(
        &self,
        frame: &F,
        work: &mut Work,
        known: Known,
    ) -> Verdict {
        let to = &self.packet.destination;
        if endpoint_owns(self.endpoint, to) || self.stays_on_link() {
            return Verdict::ALLOW;
        }
        if self.is_related(frame, work) {
            return Verdict::ALLOW;
        }
        if to.is_loopback() {
            // With `route_localnet`, which kube-proxy sets, the node would take it for
            // its own, and forward its ports as those of its other addresses.
            return self.deny(Reason::Loopback);
        }
        let packet = self.packet;
        let peer = self.judge(
            Direction::Egress,
            to,
            packet.protocol,
            packet.destination_port,
        );
        let flags = self.flags(peer.flags);
        let track = &mut work.track;
        let verdict = if flags & Flow::ALWAYS != 0 || self.leads_to_service(peer.flags) {
            self.always(track, known, peer.workload, flags)
        } else {
            self.decide(track, known, (&peer, to), flags)
        };
        Verdict {
            service: flags & Flow::SERVICE != 0,
            ..verdict
        }
    }

    /// Decides on a packet to the pod that belongs to no flow.
    #[inline(never)]
    fn opens_to_pod<F: Frame + ?Sized>(&self, frame: &F, work: &mut Work, known: Known) -> Verdict {
        let packet = self.packet;
        if packet.is_neighbour_discovery() || packet.is_listener_discovery() {
            return Verdict::ALLOW;
        }
        if self.is_related(frame, work) {
            return Verdict::ALLOW;
        }
        let track = &mut work.track;
        let sender = self.sender();
        if self.context.ingress_ifindex == 0 && self.context.tag.slot() == 0 {
            // Probes, and whatever else the node itself sends. A packet that is
            // forwarded never has ingress_ifindex 0.
            return self.always(track, known, Identity::NODE, Flow::ALWAYS);
        }
        if let Some(sender) = sender
            && sender.id == self.endpoint.id
        {
            return self.always(track, known, sender.workload, Flow::ALWAYS);
        }
        let source = &self.packet.source;
        let addr = &mut work.judged;
        *addr = sender.map_or(*source, |sender| peer_address(sender, source));
        let port = packet.destination_port;
        let mut peer = self.judge(Direction::Ingress, addr, packet.protocol, port);
        let mut flags = 0;
        if let Some(sender) = sender {
            peer.workload = sender.workload;
            if !endpoint_owns(sender, source) {
                flags = Flow::MASQUERADED;
            }
        }
        self.decide(track, known, (&peer, addr), flags)
    }

    /// Lets the fragments follow that belong to a packet that passes.
    #[inline(always)]
    fn followed(&self, verdict: Verdict) -> Verdict {
        if self.packet.first_fragment && verdict.passes(self.noted) {
            cold_path();
            self.follow(verdict.service);
        }
        verdict
    }

    #[inline(always)]
    fn is_related<F: Frame + ?Sized>(&self, frame: &F, work: &mut Work) -> bool {
        self.packet.is(mark::ERROR)
            && self.related(frame, work.inner.write(Packet::EMPTY), &mut work.quoted)
    }

    /// Whether the peer is a Service's address, so that this end can't know yet
    /// whom the packet is for: that is decided where it arrives. Where the tag
    /// doesn't get that far, and for a pod that is cut off, the address is judged.
    #[inline(always)]
    pub(super) fn leads_to_service(&self, flags: u32) -> bool {
        flags & Identity::IS_SERVICE != 0
            && self.half.flags & EndpointWorld::QUARANTINE == 0
            && self.endpoint.flags & Endpoint::TAG_LOST == 0
    }

    #[inline(never)]
    fn is_for_tunnel(&self) -> bool {
        let identity = self.tables.identity(&self.packet.destination);
        identity.workload < Identity::FIRST || identity.flags != 0
    }

    /// The decision that `from_pod` couldn't take: the egress of a sender on this
    /// node, now that DNAT has shown that the packet goes to this endpoint.
    #[inline(never)]
    fn senders_egress(&self) -> Verdict {
        let Some(sender) = self.sender() else {
            // Its slot is free: nobody can say any more what it may.
            return self.deny(Reason::UnknownEndpoint);
        };
        if sender.id == self.endpoint.id {
            return Verdict::ALLOW;
        }
        let path = Path::new(
            self.tables,
            self.context,
            sender,
            self.packet,
            self.noted,
            Hook::ToNetwork,
        );
        let verdict = path.egress();
        // The address may be one that nobody knows yet; the endpoint is known.
        self.noted.set(Noted {
            destination: self.endpoint.workload,
            ..self.noted.get()
        });
        verdict
    }

    /// Whether it is neighbour or listener discovery that goes no further than a
    /// neighbour: otherwise a cut-off pod could send what it likes as such.
    #[inline(always)]
    fn stays_on_link(&self) -> bool {
        let packet = self.packet;
        let to = &packet.destination;
        // Reports, not queries: those are the router's.
        packet.is_listener_discovery() && packet.detail != icmpv6::MLD_QUERY
            || packet.is_neighbour_discovery()
                && (to.is_group_v6()
                    || to.is_link_local()
                    || self.tables.identity(to).workload != Identity::OUTSIDE)
    }
}

/// The address by which a known sender is judged: a masqueraded packet shows
/// the node's, and is judged as the pod's all the same. So is one from the
/// sender's link-local address, which no policy names.
#[inline(always)]
fn peer_address(sender: &Endpoint, source: &Addr) -> Addr {
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
