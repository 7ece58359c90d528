//! One packet on its way through one hook, and what policy says of it.

use core::cell::Cell;

use super::memo::{Asks, Memo, Peer};
use super::opens::New;
use super::policy::policy_of_class;
use super::{Context, Noted, Policy, Tables, Track, Verdict, half};
use crate::abi::{
    Addr, Control, Direction, Endpoint, EndpointWorld, Flow, Identity, Reason, ServiceKey, Stat,
};
use crate::packet::{self, Packet, Shape};

/// Where a packet is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hook {
    /// On its way to the endpoint.
    ToPod = 0,
    /// As the endpoint sends it.
    FromPod = 1,
    /// On its way out by another device, after DNAT; the endpoint is the sender.
    ToNetwork = 2,
}

/// One packet at one hook of one endpoint.
pub(super) struct Path<'a, T: Tables> {
    pub(super) tables: &'a T,
    pub(super) context: &'a Context,
    pub(super) endpoint: &'a Endpoint,
    pub(super) half: &'a EndpointWorld,
    pub(super) packet: &'a Packet,
    /// Where it goes when something is noted.
    pub(super) noted: &'a Cell<Noted>,
    pub(super) hook: Hook,
    pub(super) direction: Direction,
}

/// What the flow tables hold under a packet's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// Nobody asked: the packet is decided anew whatever they hold.
    Unasked,
    /// Nothing.
    Nothing,
    /// Something that the packet can't be taken into as it is.
    Something,
    /// Whatever they hold, the packet leaves no flow.
    Untracked,
}

impl<'a, T: Tables> Path<'a, T> {
    #[inline(always)]
    pub(super) fn new(
        tables: &'a T,
        context: &'a Context,
        endpoint: &'a Endpoint,
        packet: &'a Packet,
        noted: &'a Cell<Noted>,
        hook: Hook,
    ) -> Self {
        Self {
            tables,
            context,
            endpoint,
            half: half(endpoint, context.control.world()),
            packet,
            noted,
            hook,
            direction: match hook {
                Hook::ToPod => Direction::Ingress,
                Hook::FromPod | Hook::ToNetwork => Direction::Egress,
            },
        }
    }

    /// A denial with both names; audited if the whole agent audits.
    #[inline(never)]
    pub(super) fn deny(&self, reason: Reason) -> Verdict {
        let (source, destination) = match self.direction {
            Direction::Egress => (
                self.endpoint.workload,
                self.tables.identity(&self.packet.destination).workload,
            ),
            Direction::Ingress => (
                match self.sender() {
                    Some(sender) => sender.workload,
                    None if self.context.by_node => Identity::NODE,
                    None => self.tables.identity(&self.packet.source).workload,
                },
                self.endpoint.workload,
            ),
        };
        self.note(reason, self.auditing(), source, destination)
    }

    #[inline(always)]
    pub(super) fn note(
        &self,
        reason: Reason,
        audited: bool,
        source: u32,
        destination: u32,
    ) -> Verdict {
        self.noted.set(Noted {
            reason,
            audited,
            direction: self.direction,
            source,
            destination,
        });
        Verdict::NOTED
    }

    #[inline(always)]
    pub(super) fn auditing(&self) -> bool {
        self.context.control.flags & Control::AUDIT != 0
    }

    /// Frames without a flow: ARP passes (its sender was checked where it was
    /// sent), and so does a fragment that follows an allowed one; what the parser
    /// can't account for passes only where no policy isolates the endpoint.
    #[inline(never)]
    pub(super) fn without_flow(&self) -> Verdict {
        let reason = match self.packet.shape {
            _ if self.context.vlan => Reason::Vlan,
            Shape::Arp => return Verdict::ALLOW,
            Shape::Fault(reason) => reason,
            // Not asked for.
            Shape::Ip => Reason::Malformed,
        };
        if reason == Reason::Fragment
            && let Some(verdict) = self.follows()
        {
            return verdict;
        }
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
            return Verdict::ALLOW;
        }
        let verdict = self.deny(reason);
        if !enforced {
            self.noted.set(Noted {
                audited: true,
                ..self.noted.get()
            });
        }
        verdict
    }

    /// The full decision of this endpoint in this direction, on the peer whose address
    /// lies in `track`. What passes `always` does so whatever policy says.
    ///
    /// One place that stores flows, for all of them: the verifier walks what it calls
    /// once for each place.
    #[inline(always)]
    pub(super) fn decide(
        &self,
        track: &mut Track,
        known: Known,
        peer: &Peer,
        flags: u8,
        always: bool,
    ) -> Verdict {
        track.new = New {
            peer: peer.workload,
            flags,
            stat: Stat::FlowsAllowed,
            asked: if always { Policy::Allow } else { peer.policy },
        };
        if self.half.flags & EndpointWorld::QUARANTINE != 0 && !always {
            return self.note_peer(Reason::Quarantine, self.auditing(), track);
        }
        let asked = track.new.asked;
        // It goes on as the flow that its other end opened.
        let adopted = asked != Policy::Allow
            && self.endpoint.pickup_until != 0
            && self.picks_up(track, known);
        if asked == Policy::Deny && !adopted && !self.auditing() {
            return self.note_peer(Reason::Policy, false, track);
        }
        let allowed = asked == Policy::Allow || adopted;
        if !allowed {
            track.new.stat = Stat::FlowsAudited;
        }
        self.open(track, known, adopted);
        if allowed {
            Verdict::ALLOW
        } else {
            self.note_peer(Reason::Policy, true, track)
        }
    }

    /// Notes a denial with both names, that of the peer from `track`.
    #[inline(always)]
    fn note_peer(&self, reason: Reason, audited: bool, track: &Track) -> Verdict {
        let (own, peer) = (self.endpoint.workload, track.new.peer);
        match self.direction {
            Direction::Egress => self.note(reason, audited, own, peer),
            Direction::Ingress => self.note(reason, audited, peer, own),
        }
    }

    /// Who is at an address, and what policy says of a packet from or to there.
    #[inline(always)]
    pub(super) fn judge(&self, direction: Direction, addr: &Addr, protocol: u8, port: u16) -> Peer {
        let (ruleset, asks) = Asks::of(self.half, direction, protocol, port);
        self.judge_by(ruleset, asks, addr)
    }

    /// The same by a ruleset.
    #[inline(always)]
    pub(super) fn judge_by(&self, ruleset: u32, asks: Asks, addr: &Addr) -> Peer {
        let place = Memo::place(addr, ruleset, asks);
        let Some(mut memo) = self.tables.memo(place) else {
            return Peer::UNKNOWN;
        };
        if !memo.answers(addr, ruleset, asks, self.context.control.generation()) {
            self.look_up(addr, ruleset, asks, &mut memo);
        }
        memo.peer()
    }

    /// The same from the tables.
    #[inline(never)]
    fn look_up(&self, addr: &Addr, ruleset: u32, asks: Asks, memo: &mut Memo) {
        let (tables, control) = (self.tables, &self.context.control);
        let world = control.world();
        let mut identity = tables.identity(addr);
        if identity.flags & Identity::SHOWN != 0 && !self.is_forwarded(addr, asks) {
            identity = identity.without_service();
        }
        if control.flags & Control::HIDES_SERVICES != 0 {
            // As at an address of a Service that lists no ports: policy decides here, and
            // once more behind DNAT.
            identity.flags |= Identity::IS_CLAIMED;
        }
        if identity.workload == Identity::OUTSIDE {
            identity.workload = tables.range(addr);
        }
        let class = || match identity.class(world) {
            Identity::BY_PREFIX => tables.class_by_prefix(world, addr),
            class => class,
        };
        let policy = policy_of_class(tables, world, ruleset, class, asks);
        memo.note(
            (addr, ruleset, asks),
            control.generation(),
            &identity,
            policy,
        );
    }

    /// Whether a Service has the port at the address.
    #[inline(never)]
    fn is_forwarded(&self, addr: &Addr, asks: Asks) -> bool {
        self.tables.service(&ServiceKey {
            addr: *addr,
            protocol: u16::from(asks.protocol()),
            port: asks.port(),
        })
    }

    /// Whether the packet is for a tunnel's end on a node: what is inside would come out
    /// there with any source.
    #[inline(always)]
    pub(super) fn enters_tunnel(&self, workload: u32, flags: u32) -> bool {
        let who = Identity {
            workload,
            flags,
            ..Identity::UNKNOWN
        };
        self.may_be_unpacked() && who.may_unpack()
    }

    /// Whether a node that the packet reaches would unpack it. Nodes of a cluster
    /// run the same tunnels, so the ports of this one's count for all.
    #[inline(always)]
    pub(super) fn may_be_unpacked(&self) -> bool {
        let packet = self.packet;
        let port = packet.destination_port;
        packet.is(packet::mark::TUNNEL)
            && (packet.protocol != packet::protocol::UDP
                || packet::is_tunnel_port(port)
                || self.tables.is_tunnel_port(port))
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

    /// The flow of a packet that a first look has let through, and the flags of
    /// what it leads to: bits of [`Flow`], from bits of [`Identity`].
    #[inline(always)]
    pub(super) fn flags(&self, who: u32) -> u8 {
        let mut flags = 0;
        if who & (Identity::IS_NODE | Identity::SHOWN) != 0 {
            // A node's port may lead anywhere (NodePort, hostPort).
            flags |= Flow::SERVICE;
        }
        if who & Identity::IS_THIS_NODE != 0 {
            flags |= Flow::ALWAYS;
        }
        flags
    }
}

/// The address by which a known endpoint is judged: a masqueraded packet shows the
/// node's, and is judged as the pod's all the same. So is one from or to a link-local
/// address, which no policy names.
#[inline(always)]
pub(super) fn peer_address<'e>(endpoint: &'e Endpoint, shown: &Addr) -> &'e Addr {
    let (own, other) = if shown.is_v4() {
        (&endpoint.v4, &endpoint.v6)
    } else {
        (&endpoint.v6, &endpoint.v4)
    };
    if own.same(&Addr::UNSPECIFIED) {
        other
    } else {
        own
    }
}
