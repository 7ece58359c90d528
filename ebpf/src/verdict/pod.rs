//! The two hooks of a pod's host-side device.

use core::hint::{black_box, cold_path};

use super::connections::Found;
use super::path::{Hook, Known, Path, peer_address};
use super::{Context, Denial, Inner, Pending, Policy, Tables, Verdict, Workspace, endpoint_owns};
use crate::abi::{Addr, Connection, Direction, Endpoint, EndpointRules, Identity, Reason, Tag};
use crate::packet::{Frame, Layout, Packet, icmpv6, mark};
use crate::spoof;

/// Returns the verdict on a frame sent by a pod.
#[inline(always)]
pub fn from_pod<T: Tables, F: Frame + ?Sized>(
    tables: &T,
    context: &Context,
    endpoint: &Endpoint,
    frame: &F,
    packet: &Packet,
    workspace: &mut Workspace,
) -> Verdict {
    let path = Path::new(
        tables,
        context,
        endpoint,
        packet,
        &workspace.denial,
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
        // Linux strips a tag of VLAN 0 after tc and delivers the packet inside.
        return path.deny(Reason::Vlan);
    }
    if packet.layout != Layout::Ip {
        cold_path();
        return path.without_connection();
    }
    // Checked before the connection lookup: replies on a connection opened by the other side may
    // enter a tunnel too.
    if path.may_be_unpacked() && path.is_for_tunnel() {
        return path.deny(Reason::Tunnel);
    }
    let verdict = match path.established(&mut workspace.work.pending) {
        Found::Passes(flags) => Verdict {
            service: flags & Connection::SERVICE != 0,
            ..Verdict::ALLOW
        },
        Found::Denied(reason) => path.deny(reason),
        Found::Absent(known) => path.opens_from_pod(frame, &mut workspace.work, known),
    };
    path.track_if_first(&mut workspace.work.pending, verdict)
}

/// Returns the verdict on a frame that is about to be delivered to a pod.
#[inline(always)]
pub fn to_pod<T: Tables, F: Frame + ?Sized>(
    tables: &T,
    context: &Context,
    endpoint: &Endpoint,
    frame: &F,
    packet: &Packet,
    workspace: &mut Workspace,
) -> Verdict {
    let path = Path::new(
        tables,
        context,
        endpoint,
        packet,
        &workspace.denial,
        Hook::ToPod,
    );
    if !spoof::addressed_to(endpoint, packet) {
        cold_path();
        return path.deny(Reason::NotAddressed);
    }
    if context.unseen && !path.may_be_the_kernels() {
        cold_path();
        return path.unseen();
    }
    workspace.by_sender = false;
    if path.senders_egress_counts() {
        cold_path();
        let egress = path.senders_egress();
        if !egress.passes(path.denial) {
            return egress;
        }
        workspace.by_sender = egress.noted;
    }
    if packet.layout != Layout::Ip || context.vlan {
        cold_path();
        let verdict = path.without_connection();
        let noted = verdict.noted || workspace.by_sender;
        return Verdict { noted, ..verdict };
    }
    let verdict = match path.established(&mut workspace.work.pending) {
        // No later fragments to track.
        Found::Passes(_) if !packet.first_fragment => return Verdict::ALLOW,
        Found::Passes(_) => {
            workspace.by_sender = false;
            Verdict::ALLOW
        }
        Found::Denied(reason) => path.deny(reason),
        Found::Absent(_) if path.belongs_to_pod(frame, &mut workspace.work) => Verdict::ALLOW,
        Found::Absent(known) => {
            let known = if path.is_owned() {
                known
            } else {
                Known::Untracked
            };
            let pending = &mut workspace.work.pending;
            pending.audited = workspace.by_sender;
            let flags = path.judge_sender(pending);
            path.opens_to_pod(pending, known, flags)
        }
    };
    // An audited denial of the sender's egress is counted with the packet that opens the
    // connection, unless this end records a denial of its own.
    let noted = verdict.noted || workspace.by_sender;
    let verdict = Verdict { noted, ..verdict };
    if packet.first_fragment && verdict.passes(path.denial) {
        cold_path();
        path.track_if_first_to_pod(&mut workspace.work.pending);
    }
    verdict
}

impl<T: Tables> Path<'_, T> {
    /// Returns the verdict on a packet from the pod that belongs to no connection.
    #[inline(always)]
    fn opens_from_pod<F: Frame + ?Sized>(
        &self,
        frame: &F,
        work: &mut Inner,
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
            // With `route_localnet`, which kube-proxy sets, the node would accept the packet as its
            // own and forward ports of the loopback address like those of its other addresses.
            return self.deny(Reason::Loopback);
        }
        let packet = self.packet;
        let pending = &mut work.pending;
        pending.audited = false;
        let mut asks = 0;
        if (packet.is_to_group() || to.is_on_link()) && self.is_judged() {
            cold_path();
            asks = self.on_link(&mut pending.judged);
        } else {
            pending.judged = *to;
        }
        // Both cases share the code below: keep the verifier from walking it twice.
        let noise = packet.transport_len;
        let asks = black_box(asks ^ noise) ^ noise;
        let port = packet.destination_port;
        let mut peer = self.judge(Direction::Egress, &pending.judged, packet.protocol, port);
        if asks & Self::LOST != 0 {
            peer.policy = Policy::Deny;
        }
        let flags = self.flags(peer.flags) | (asks & u32::from(Connection::SERVICE)) as u8;
        let own = flags & Connection::ALWAYS != 0;
        let mut always = own || self.leads_to_service(peer.flags);
        if own && self.rules.flags & EndpointRules::QUARANTINE == 0 {
            // Applies to a Service's address too: no hook sees packets that the node delivers to
            // itself.
            peer.policy = self.by_tiers(Direction::Egress, &pending.judged, packet.protocol, port);
            always = false;
        }
        let verdict = self.decide(pending, known, &peer, flags, always);
        Verdict {
            service: flags & Connection::SERVICE != 0,
            ..verdict
        }
    }

    /// Set if the hook where the packet arrives couldn't identify its sender.
    const LOST: u32 = 1 << 8;

    /// Sets `judged` to the address that policy is evaluated against for a packet to a group or a
    /// link-local address: the main address of the neighbour that owns the link-local address, or
    /// else the packet's destination. The receiver is known only where the packet arrives, so the
    /// sender's egress is decided again there ([`Connection::SERVICE`]), unless the tag is lost on
    /// the way ([`Self::LOST`]).
    #[inline(never)]
    fn on_link(&self, judged: &mut Addr) -> u32 {
        let to = &self.packet.destination;
        let neighbour = self.neighbour(to);
        *judged = *neighbour.map_or(to, |neighbour| peer_address(neighbour, to));
        let lost = self.endpoint.flags & Endpoint::TAG_LOST != 0 && neighbour.is_none();
        u32::from(Connection::SERVICE) | if lost { Self::LOST } else { 0 }
    }

    /// Returns the endpoint of this node that owns a link-local address.
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

    /// Reports whether any egress policy or quarantine applies to the pod.
    #[inline(always)]
    fn is_judged(&self) -> bool {
        const JUDGED: u32 = EndpointRules::EGRESS_ISOLATED
            | EndpointRules::EGRESS_STAGED
            | EndpointRules::QUARANTINE;
        self.rules.flags & JUDGED != 0
    }

    /// Reports whether the packet is neighbour or listener discovery, or an error about a
    /// connection of the endpoint.
    #[inline(always)]
    fn belongs_to_pod<F: Frame + ?Sized>(&self, frame: &F, work: &mut Inner) -> bool {
        let packet = self.packet;
        packet.is_neighbour_discovery()
            || packet.is_listener_discovery()
            || self.is_related(frame, work)
    }

    /// Reports whether the packet's destination is an address of the endpoint. A packet to any
    /// other address, such as a group, opens no connection: its sender's egress is decided for each
    /// packet, and no reply comes from that address.
    #[inline(never)]
    fn is_owned(&self) -> bool {
        spoof::owns(self.tables, self.endpoint, &self.packet.destination)
    }

    /// Identifies the sender of a packet to the pod and evaluates policy for it. Returns the flags
    /// of the connection that the packet opens; with [`Connection::ALWAYS`], no policy applies.
    ///
    /// Separate from the steps that follow because together they don't fit on the stack.
    #[inline(never)]
    fn judge_sender(&self, pending: &mut Pending) -> u32 {
        let packet = self.packet;
        let sender = self.sender();
        let source = &packet.source;
        let shown = sender.map_or(source, |sender| peer_address(sender, source));
        pending.judged = *shown;
        let (protocol, port) = (packet.protocol, packet.destination_port);
        pending.peer = self.judge(Direction::Ingress, &pending.judged, protocol, port);
        let Some(sender) = sender else {
            if !self.context.by_node {
                return 0;
            }
            // Probes, and anything else sent by the node itself.
            pending.peer.workload = Identity::NODE;
            return u32::from(Connection::ALWAYS);
        };
        pending.peer.workload = sender.workload;
        if sender.id == self.endpoint.id {
            // Packets that a pod sends to its own address stay in its namespace: this one came back
            // through a Service.
            let policy = self.by_tiers(Direction::Ingress, &pending.judged, protocol, port);
            pending.peer.policy = policy;
            let itself = if policy == Policy::Allow {
                Self::ITSELF
            } else {
                0
            };
            u32::from(Connection::MASQUERADED) | itself
        } else if endpoint_owns(sender, source) {
            0
        } else {
            u32::from(Connection::MASQUERADED)
        }
    }

    /// Set in addition to the connection's flags if the pod called itself and no policy denies it.
    const ITSELF: u32 = 1 << 8;

    /// Returns the verdict on a packet to the pod that belongs to no connection, after its sender
    /// has been identified.
    #[inline(never)]
    fn opens_to_pod(&self, pending: &mut Pending, known: Known, flags: u32) -> Verdict {
        let peer = pending.peer;
        let always = flags & (u32::from(Connection::ALWAYS) | Self::ITSELF) != 0;
        self.decide(pending, known, &peer, flags as u8, always)
    }

    #[inline(always)]
    fn is_related<F: Frame + ?Sized>(&self, frame: &F, work: &mut Inner) -> bool {
        self.packet.is(mark::ERROR)
            && self.related(frame, work.inner.write(Packet::EMPTY), &mut work.quoted)
    }

    /// Reports whether the peer address is a Service's, so that the real destination isn't known
    /// yet and egress is decided where the packet arrives. Returns `false` if the tag would be lost
    /// on the way or the pod is quarantined: policy is then evaluated against the Service's address
    /// itself.
    #[inline(always)]
    pub(super) fn leads_to_service(&self, flags: u32) -> bool {
        flags & Identity::IS_SERVICE != 0
            && self.rules.flags & EndpointRules::QUARANTINE == 0
            && self.endpoint.flags & Endpoint::TAG_LOST == 0
    }

    #[inline(never)]
    fn is_for_tunnel(&self) -> bool {
        let identity = self.tables.identity(&self.packet.destination);
        identity.may_unpack()
    }

    /// Reports whether the sender's egress has to be decided here: `from_pod` left the decision
    /// open, or made it for an address that isn't this endpoint's (a bridge delivers by MAC).
    #[inline(always)]
    pub(super) fn senders_egress_counts(&self) -> bool {
        let tag = self.context.tag;
        tag != Tag::NONE && (tag.service() || !self.is_owned())
    }

    /// Returns the path of the same packet from its sender's point of view, at this hook.
    #[inline(always)]
    pub(super) fn of_sender<'s>(&'s self, sender: &'s Endpoint) -> Path<'s, T> {
        Path::new(
            self.tables,
            self.context,
            sender,
            self.packet,
            self.denial,
            Hook::ToNetwork,
        )
    }

    /// Returns the verdict on the egress of a sender on this node, now that the packet is known to
    /// go to this endpoint. If the packet's destination is a group, a link-local address or an
    /// address that isn't the endpoint's, policy is evaluated against the endpoint's own address
    /// instead.
    #[inline(never)]
    fn senders_egress(&self) -> Verdict {
        let packet = self.packet;
        let Some(sender) = self.sender() else {
            // The slot is free: the sender's rules are gone.
            return self.deny(Reason::UnknownEndpoint);
        };
        let discovery = packet.is_neighbour_discovery() || packet.is_listener_discovery();
        let to = &packet.destination;
        let names_somebody = !packet.is_to_group() && !to.is_on_link();
        let itself = sender.id == self.endpoint.id;
        if discovery || itself && !(names_somebody && packet.layout == Layout::Ip) {
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
        // The address may have no identity yet, but the endpoint is known.
        self.denial.set(Denial {
            destination: self.endpoint.workload,
            ..self.denial.get()
        });
        verdict
    }

    /// Reports whether the address belongs to a known pod or node. A Service's address doesn't
    /// count, because no neighbour has it.
    #[inline(always)]
    fn is_known(&self, addr: &Addr) -> bool {
        self.tables.identity(addr).without_service().workload != Identity::OUTSIDE
    }

    /// Reports whether the packet is neighbour or listener discovery that can't get past a
    /// neighbour. Without this limit, a quarantined pod could send arbitrary data as discovery.
    #[inline(always)]
    fn stays_on_link(&self) -> bool {
        let packet = self.packet;
        let to = &packet.destination;
        // Reports only: queries come from the router.
        packet.is_listener_discovery() && packet.detail != icmpv6::MLD_QUERY
            || packet.is_neighbour_discovery()
                && (to.is_group_v6() || to.is_link_local() || self.is_known(to))
    }
}
