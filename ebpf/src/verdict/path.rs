//! One packet at one hook, and the policy decision on it.

use core::cell::Cell;

use super::memo::{Asks, Memo, PeerPolicy};
use super::opens::New;
use super::policy::policy_of_class;
use super::{Context, Denial, Pending, Policy, Tables, Verdict, rules};
use crate::abi::{
    Addr, Connection, Control, Direction, Endpoint, EndpointRules, Identity, Reason, ServiceKey,
    Stat,
};
use crate::packet::{self, Layout, Packet};

/// The hook that decides on a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hook {
    /// The packet is about to reach the endpoint.
    ToPod = 0,
    /// The endpoint sends the packet.
    FromPod = 1,
    /// The packet leaves by another device, after DNAT; the endpoint is the sender.
    ToNetwork = 2,
}

/// One packet at one hook of one endpoint.
pub(super) struct Path<'a, T: Tables> {
    pub(super) tables: &'a T,
    pub(super) context: &'a Context,
    pub(super) endpoint: &'a Endpoint,
    pub(super) rules: &'a EndpointRules,
    pub(super) packet: &'a Packet,
    /// Where a denial is recorded.
    pub(super) denial: &'a Cell<Denial>,
    pub(super) hook: Hook,
    pub(super) direction: Direction,
}

/// What the connection tables hold for a packet's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// Not looked up: the packet needs a full decision whatever the tables hold.
    Unasked,
    /// No connection.
    Nothing,
    /// A connection, but the packet doesn't simply continue it.
    Something,
    /// No connection is stored for the packet, whatever the tables hold.
    Untracked,
}

impl<'a, T: Tables> Path<'a, T> {
    #[inline(always)]
    pub(super) fn new(
        tables: &'a T,
        context: &'a Context,
        endpoint: &'a Endpoint,
        packet: &'a Packet,
        denial: &'a Cell<Denial>,
        hook: Hook,
    ) -> Self {
        Self {
            tables,
            context,
            endpoint,
            rules: rules(endpoint, context.control.buffer()),
            packet,
            denial,
            hook,
            direction: match hook {
                Hook::ToPod => Direction::Ingress,
                Hook::FromPod | Hook::ToNetwork => Direction::Egress,
            },
        }
    }

    /// Denies the packet and records both workloads. The denial is audited if the agent runs in
    /// audit mode.
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
        self.denial.set(Denial {
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

    /// Returns the verdict on a frame that has no connection. ARP passes (its sender was checked
    /// where it was sent), and so does a fragment that follows an allowed one. A frame that the
    /// parser can't account for passes only if no policy isolates the endpoint.
    #[inline(never)]
    pub(super) fn without_connection(&self) -> Verdict {
        let reason = match self.packet.layout {
            _ if self.context.vlan => Reason::Vlan,
            Layout::Arp => return Verdict::ALLOW,
            Layout::Fault(reason) => reason,
            // Callers never pass these.
            Layout::Ip => Reason::Malformed,
        };
        if reason == Reason::Fragment
            && let Some(verdict) = self.of_first_fragment()
        {
            return verdict;
        }
        let (isolated, staged) = match self.direction {
            Direction::Ingress => (
                EndpointRules::INGRESS_ISOLATED,
                EndpointRules::INGRESS_STAGED,
            ),
            Direction::Egress => (EndpointRules::EGRESS_ISOLATED, EndpointRules::EGRESS_STAGED),
        };
        let flags = self.rules.flags;
        let enforced = flags & (isolated | EndpointRules::QUARANTINE) != 0;
        if !enforced && flags & staged == 0 {
            return Verdict::ALLOW;
        }
        let verdict = self.deny(reason);
        if !enforced {
            self.denial.set(Denial {
                audited: true,
                ..self.denial.get()
            });
        }
        verdict
    }

    /// Makes this endpoint's full decision in this direction for the peer whose address is in
    /// `pending`. With `always`, the packet passes regardless of policy.
    ///
    /// The only caller of `open`, because the verifier walks the callee once for each call site.
    #[inline(always)]
    pub(super) fn decide(
        &self,
        pending: &mut Pending,
        known: Known,
        peer: &PeerPolicy,
        flags: u8,
        always: bool,
    ) -> Verdict {
        pending.new = New {
            peer: peer.workload,
            flags,
            stat: Stat::ConnectionsAllowed,
            asked: if always { Policy::Allow } else { peer.policy },
        };
        if self.rules.flags & EndpointRules::QUARANTINE != 0 && !always {
            return self.note_peer(Reason::Quarantine, self.auditing(), pending);
        }
        let asked = pending.new.asked;
        // Tracked as the reply of a connection that the other end opened.
        let adopted = asked != Policy::Allow
            && self.endpoint.pickup_until != 0
            && self.picks_up(pending, known);
        if asked == Policy::Deny && !adopted && !self.auditing() {
            return self.note_peer(Reason::Policy, false, pending);
        }
        let allowed = asked == Policy::Allow || adopted;
        if !allowed {
            pending.new.stat = Stat::ConnectionsAudited;
        }
        self.open(pending, known, adopted);
        if allowed {
            Verdict::ALLOW
        } else {
            self.note_peer(Reason::Policy, true, pending)
        }
    }

    /// Records a denial with both workloads; the peer's is in `pending`.
    #[inline(always)]
    fn note_peer(&self, reason: Reason, audited: bool, pending: &Pending) -> Verdict {
        let (own, peer) = (self.endpoint.workload, pending.new.peer);
        match self.direction {
            Direction::Egress => self.note(reason, audited, own, peer),
            Direction::Ingress => self.note(reason, audited, peer, own),
        }
    }

    /// Looks up the peer at an address, and the policy decision on a packet from or to it.
    #[inline(always)]
    pub(super) fn judge(
        &self,
        direction: Direction,
        addr: &Addr,
        protocol: u8,
        port: u16,
    ) -> PeerPolicy {
        let (ruleset, asks) = Asks::of(self.rules, direction, protocol, port);
        self.judge_by(ruleset, asks, addr)
    }

    /// Does the same as [`Self::judge`] for a given ruleset.
    #[inline(always)]
    pub(super) fn judge_by(&self, ruleset: u32, asks: Asks, addr: &Addr) -> PeerPolicy {
        let place = Memo::place(addr, ruleset, asks);
        let Some(mut memo) = self.tables.memo(place) else {
            return PeerPolicy::UNKNOWN;
        };
        if !memo.answers(addr, ruleset, asks, self.context.control.generation()) {
            self.look_up(addr, ruleset, asks, &mut memo);
        }
        memo.peer()
    }

    /// Looks up the peer and the decision in the tables, bypassing the cache, and stores them in
    /// `memo`.
    #[inline(never)]
    fn look_up(&self, addr: &Addr, ruleset: u32, asks: Asks, memo: &mut Memo) {
        let (tables, control) = (self.tables, &self.context.control);
        let buffer = control.buffer();
        let mut identity = tables.identity(addr);
        if identity.flags & Identity::SHOWN != 0 && !self.is_forwarded(addr, asks) {
            identity = identity.without_service();
        }
        if control.flags & Control::HIDES_SERVICES != 0 {
            // Treat the address like that of a Service that lists no ports: policy decides here,
            // and again after DNAT.
            identity.flags |= Identity::IS_CLAIMED;
        }
        if identity.workload == Identity::OUTSIDE {
            identity.workload = tables.range(addr);
        }
        let class = || match identity.class(buffer) {
            Identity::BY_PREFIX => tables.class_by_prefix(buffer, addr),
            class => class,
        };
        let policy = policy_of_class(tables, buffer, ruleset, class, asks);
        memo.note(
            (addr, ruleset, asks),
            control.generation(),
            &identity,
            policy,
        );
    }

    /// Reports whether a Service has this port at the address.
    #[inline(never)]
    fn is_forwarded(&self, addr: &Addr, asks: Asks) -> bool {
        self.tables.service(&ServiceKey {
            addr: *addr,
            protocol: u16::from(asks.protocol()),
            port: asks.port(),
        })
    }

    /// Reports whether the packet goes to a node's end of a tunnel, where the inner packet would
    /// emerge with an arbitrary source.
    #[inline(always)]
    pub(super) fn enters_tunnel(&self, workload: u32, flags: u32) -> bool {
        let who = Identity {
            workload,
            flags,
            ..Identity::UNKNOWN
        };
        self.may_be_unpacked() && who.may_unpack()
    }

    /// Reports whether a node that receives the packet would decapsulate it. All nodes of a
    /// cluster run the same tunnels, so this node's tunnel ports count for all.
    #[inline(always)]
    pub(super) fn may_be_unpacked(&self) -> bool {
        let packet = self.packet;
        let port = packet.destination_port;
        packet.is(packet::mark::TUNNEL)
            && (packet.protocol != packet::protocol::UDP
                || packet::is_tunnel_port(port)
                || self.tables.is_tunnel_port(port))
    }

    /// Returns the sender's endpoint on this node, identified by the packet's tag.
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

    /// Returns the flags of a connection to a peer: bits of [`Connection`] from bits of
    /// [`Identity`].
    #[inline(always)]
    pub(super) fn flags(&self, who: u32) -> u8 {
        let mut flags = 0;
        if who & (Identity::IS_NODE | Identity::SHOWN) != 0 {
            // A node's port may forward anywhere (NodePort, hostPort).
            flags |= Connection::SERVICE;
        }
        if who & Identity::IS_THIS_NODE != 0 {
            flags |= Connection::ALWAYS;
        }
        flags
    }
}

/// Returns the address of a known endpoint that policy is evaluated against: the pod's own. A
/// masqueraded packet shows the node's address instead, and a link-local address is named by no
/// policy.
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
