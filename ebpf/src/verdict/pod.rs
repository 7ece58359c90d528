//! The two hooks of a pod's host-side device.

use core::hint::{black_box, cold_path};

use super::flows::Found;
use super::path::{Hook, Known, Path, peer_address};
use super::{Context, Noted, Policy, Room, Tables, Track, Verdict, Work, endpoint_owns};
use crate::abi::{Addr, Direction, Endpoint, EndpointWorld, Flow, Identity, Reason, Tag};
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
    if let Some(at) = frame.pending_checksum()
        && !packet.bears_checksum_at(at)
    {
        cold_path();
        return path.deny(Reason::ChecksumOffload);
    }
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
        Found::Denied(reason) => path.deny(reason),
        Found::Absent(known) => path.opens_from_pod(frame, &mut room.work, known),
    };
    path.followed(&mut room.work.track, verdict)
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
    if context.unseen && !path.may_be_the_kernels() {
        cold_path();
        return path.unseen();
    }
    room.by_sender = false;
    if path.senders_egress_counts() {
        cold_path();
        let egress = path.senders_egress();
        if !egress.passes(path.noted) {
            return egress;
        }
        room.by_sender = egress.noted;
    }
    if packet.shape != Shape::Ip || context.vlan {
        cold_path();
        let verdict = path.without_flow();
        let noted = verdict.noted || room.by_sender;
        return Verdict { noted, ..verdict };
    }
    let verdict = match path.established(&mut room.work.track) {
        // Nothing follows.
        Found::Passes(_) if !packet.first_fragment => return Verdict::ALLOW,
        Found::Passes(_) => {
            room.by_sender = false;
            Verdict::ALLOW
        }
        Found::Denied(reason) => path.deny(reason),
        Found::Absent(_) if path.belongs_to_pod(frame, &mut room.work) => Verdict::ALLOW,
        Found::Absent(known) => {
            let known = if path.is_owned() {
                known
            } else {
                Known::Untracked
            };
            let track = &mut room.work.track;
            track.audited = room.by_sender;
            let flags = path.judge_sender(track);
            path.opens_to_pod(track, known, flags)
        }
    };
    // What was only noted of the sender's egress is counted with the packet
    // that opens the flow, unless this end has more to say.
    let noted = verdict.noted || room.by_sender;
    let verdict = Verdict { noted, ..verdict };
    if packet.first_fragment && verdict.passes(path.noted) {
        cold_path();
        path.followed_to_pod(&mut room.work.track);
    }
    verdict
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
        let track = &mut work.track;
        track.audited = false;
        let mut asks = 0;
        if (packet.is_to_group() || to.is_on_link()) && self.is_judged() {
            cold_path();
            asks = self.on_link(&mut track.judged);
        } else {
            track.judged = *to;
        }
        // What follows is the same: the verifier must not walk it once for each.
        let noise = packet.transport_len;
        let asks = black_box(asks ^ noise) ^ noise;
        let port = packet.destination_port;
        let mut peer = self.judge(Direction::Egress, &track.judged, packet.protocol, port);
        if asks & Self::LOST != 0 {
            peer.policy = Policy::Deny;
        }
        let flags = self.flags(peer.flags) | (asks & u32::from(Flow::SERVICE)) as u8;
        let own = flags & Flow::ALWAYS != 0;
        let mut always = own || self.leads_to_service(peer.flags);
        if own && self.half.flags & EndpointWorld::QUARANTINE == 0 {
            // Whatever a Service shows there: no hook sees what the node takes for its own.
            peer.policy = self.by_tiers(Direction::Egress, &track.judged, packet.protocol, port);
            always = false;
        }
        let verdict = self.decide(track, known, &peer, flags, always);
        Verdict {
            service: flags & Flow::SERVICE != 0,
            ..verdict
        }
    }

    /// Nobody could tell, where the packet arrives, whose it is.
    const LOST: u32 = 1 << 8;

    /// Finds the address by which a packet to a group or a link-local address is judged:
    /// a neighbour's, for which its link-local one stands, or the one that it names. Who
    /// gets the packet shows where it arrives: there its sender's egress is decided once
    /// more ([`Flow::SERVICE`]), unless its tag doesn't get that far.
    #[inline(never)]
    fn on_link(&self, judged: &mut Addr) -> u32 {
        let to = &self.packet.destination;
        let neighbour = self.neighbour(to);
        *judged = *neighbour.map_or(to, |neighbour| peer_address(neighbour, to));
        let lost = self.endpoint.flags & Endpoint::TAG_LOST != 0 && neighbour.is_none();
        u32::from(Flow::SERVICE) | if lost { Self::LOST } else { 0 }
    }

    /// The endpoint of this node that has a link-local address, which stands for it.
    #[inline(always)]
    fn neighbour(&self, addr: &Addr) -> Option<&Endpoint> {
        if !addr.is_link_local() {
            return None;
        }
        let slot = match self.tables.local(addr) {
            0 => self.tables.claimed(addr).slot,
            slot => slot,
        };
        let endpoint = self.tables.endpoint(slot)?;
        spoof::owns(self.tables, endpoint, addr).then_some(endpoint)
    }

    /// Whether policy has a say in what the pod sends.
    #[inline(always)]
    fn is_judged(&self) -> bool {
        const JUDGED: u32 = EndpointWorld::EGRESS_ISOLATED
            | EndpointWorld::EGRESS_STAGED
            | EndpointWorld::QUARANTINE;
        self.half.flags & JUDGED != 0
    }

    /// Whether the packet is discovery, or an error about a flow of the endpoint's.
    #[inline(always)]
    fn belongs_to_pod<F: Frame + ?Sized>(&self, frame: &F, work: &mut Work) -> bool {
        let packet = self.packet;
        packet.is_neighbour_discovery()
            || packet.is_listener_discovery()
            || self.is_related(frame, work)
    }

    /// Whether the packet goes to an address of the endpoint's. What goes to another, as
    /// to a group, makes no flow: its sender's egress is decided for each packet, and no
    /// reply comes from there.
    #[inline(never)]
    fn is_owned(&self) -> bool {
        spoof::owns(self.tables, self.endpoint, &self.packet.destination)
    }

    /// Finds out who sent a packet to the pod, and what policy says of that; gives the
    /// flags of the flow that it opens. [`Flow::ALWAYS`]: no policy has a say.
    ///
    /// Apart from what follows on it: together they don't fit the stack.
    #[inline(never)]
    fn judge_sender(&self, track: &mut Track) -> u32 {
        let packet = self.packet;
        let sender = self.sender();
        let source = &packet.source;
        let shown = sender.map_or(source, |sender| peer_address(sender, source));
        track.judged = *shown;
        let (protocol, port) = (packet.protocol, packet.destination_port);
        track.peer = self.judge(Direction::Ingress, &track.judged, protocol, port);
        let Some(sender) = sender else {
            if !self.context.by_node {
                return 0;
            }
            // Probes, and whatever else the node itself sends.
            track.peer.workload = Identity::NODE;
            return u32::from(Flow::ALWAYS);
        };
        track.peer.workload = sender.workload;
        if sender.id == self.endpoint.id {
            // What a pod sends to its own address stays in its namespace: this came back
            // from a Service.
            let policy = self.by_tiers(Direction::Ingress, &track.judged, protocol, port);
            track.peer.policy = policy;
            let itself = if policy == Policy::Allow {
                Self::ITSELF
            } else {
                0
            };
            u32::from(Flow::MASQUERADED) | itself
        } else if endpoint_owns(sender, source) {
            0
        } else {
            u32::from(Flow::MASQUERADED)
        }
    }

    /// Beside the flags of a flow: the pod called itself, which nothing forbids.
    const ITSELF: u32 = 1 << 8;

    /// Decides on a packet to the pod that belongs to no flow, given whose it is.
    #[inline(never)]
    fn opens_to_pod(&self, track: &mut Track, known: Known, flags: u32) -> Verdict {
        let peer = track.peer;
        let always = flags & (u32::from(Flow::ALWAYS) | Self::ITSELF) != 0;
        self.decide(track, known, &peer, flags as u8, always)
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
        identity.may_unpack()
    }

    /// Whether the sender's egress is decided here: `from_pod` left it open, or decided
    /// by an address that isn't this endpoint's (a bridge delivers by MAC).
    #[inline(always)]
    pub(super) fn senders_egress_counts(&self) -> bool {
        let tag = self.context.tag;
        tag != Tag::NONE && (tag.service() || !self.is_owned())
    }

    /// The same packet as one of its sender's, which is decided here.
    #[inline(always)]
    pub(super) fn of_sender<'s>(&'s self, sender: &'s Endpoint) -> Path<'s, T> {
        Path::new(
            self.tables,
            self.context,
            sender,
            self.packet,
            self.noted,
            Hook::ToNetwork,
        )
    }

    /// The egress of a sender on this node, now that it has shown that the packet goes
    /// to this endpoint. Where the packet names a group or a link-local address, or one
    /// that isn't the endpoint's, the endpoint's own is judged in its place.
    #[inline(never)]
    fn senders_egress(&self) -> Verdict {
        let packet = self.packet;
        let Some(sender) = self.sender() else {
            // Its slot is free: nobody can say any more what it may.
            return self.deny(Reason::UnknownEndpoint);
        };
        let discovery = packet.is_neighbour_discovery() || packet.is_listener_discovery();
        let to = &packet.destination;
        let names_somebody = !packet.is_to_group() && !to.is_on_link();
        let itself = sender.id == self.endpoint.id;
        if discovery || itself && !(names_somebody && packet.shape == Shape::Ip) {
            return Verdict::ALLOW;
        }
        let path = self.of_sender(sender);
        if itself {
            return path.to_itself(to);
        }
        let to = if self.context.tag.service() && names_somebody {
            to
        } else {
            peer_address(self.endpoint, to)
        };
        let verdict = path.egress(to);
        // The address may be one that nobody knows yet; the endpoint is known.
        self.noted.set(Noted {
            destination: self.endpoint.workload,
            ..self.noted.get()
        });
        verdict
    }

    /// Whether the address is a known pod's or node's: a Service's has no neighbour.
    #[inline(always)]
    fn is_known(&self, addr: &Addr) -> bool {
        self.tables.identity(addr).without_service().workload != Identity::OUTSIDE
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
                && (to.is_group_v6() || to.is_link_local() || self.is_known(to))
    }
}
