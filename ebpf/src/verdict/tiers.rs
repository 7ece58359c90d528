//! What ClusterNetworkPolicies alone say, for whom NetworkPolicies and labels have no say:
//! the pod's own node, and the pod itself behind a Service.

use super::memo::{Asks, Peer};
use super::path::Path;
use super::{Policy, Tables, Verdict};
use crate::abi::{Addr, Direction, Identity, Reason};

impl<T: Tables> Path<'_, T> {
    /// The ruleset of what they say; 0 where they say nothing.
    #[inline(always)]
    pub(super) fn tiers(&self, direction: Direction) -> u32 {
        let tiers = match self.context.control.world() & 1 {
            0 => &self.endpoint.tiers[0],
            _ => &self.endpoint.tiers[1],
        };
        match direction {
            Direction::Ingress => tiers.ingress,
            Direction::Egress => tiers.egress,
        }
    }

    /// What they say of a packet; everything is allowed where they say nothing. A function
    /// of its own, for the verifier to walk once.
    #[inline(never)]
    pub(super) fn by_tiers(
        &self,
        direction: Direction,
        addr: &Addr,
        protocol: u8,
        port: u16,
    ) -> Policy {
        self.asked(direction, addr, protocol, port)
    }

    /// The same where the stack has no room for one more call.
    #[inline(always)]
    fn asked(&self, direction: Direction, addr: &Addr, protocol: u8, port: u16) -> Policy {
        let ruleset = self.tiers(direction);
        if ruleset == 0 {
            return Policy::Allow;
        }
        let (_, asks) = Asks::of(self.half, direction, protocol, port);
        self.judge_by(ruleset, asks, addr).policy
    }

    /// What they say of a flow with this node that was opened before they said it, given
    /// the peer by their ruleset.
    #[inline(always)]
    pub(super) fn again_with_node(&self, by_pod: bool, ruleset: u32, peer: &Peer) -> Policy {
        if !by_pod {
            return Policy::Allow;
        }
        // The node's address may have become somebody else's.
        if peer.flags & Identity::IS_THIS_NODE == 0 {
            return Policy::Deny;
        }
        if ruleset == 0 {
            return Policy::Allow;
        }
        peer.policy
    }

    /// The egress of a packet that comes back to its sender from a Service: a pod may call
    /// itself, unless they say otherwise.
    #[inline(always)]
    pub(super) fn to_itself(&self, to: &Addr) -> Verdict {
        let (packet, own) = (self.packet, self.endpoint.workload);
        let port = packet.destination_port;
        let audited = match self.asked(Direction::Egress, to, packet.protocol, port) {
            Policy::Allow => return Verdict::ALLOW,
            Policy::Audit => true,
            Policy::Deny => self.auditing(),
        };
        self.note(Reason::Policy, audited, own, own)
    }
}
