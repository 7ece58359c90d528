//! Decisions by ClusterNetworkPolicies alone, for peers that NetworkPolicies and labels don't
//! govern: the pod's own node, and the pod itself behind a Service.

use super::memo::{Asks, PeerPolicy};
use super::path::Path;
use super::{Policy, Tables, Verdict};
use crate::abi::{Addr, Direction, Identity, Reason};

impl<T: Tables> Path<'_, T> {
    /// Returns the ruleset of the endpoint's ClusterNetworkPolicies; 0 if none applies.
    #[inline(always)]
    pub(super) fn tiers(&self, direction: Direction) -> u32 {
        let tiers = match self.context.control.buffer() & 1 {
            0 => &self.endpoint.tiers[0],
            _ => &self.endpoint.tiers[1],
        };
        match direction {
            Direction::Ingress => tiers.ingress,
            Direction::Egress => tiers.egress,
        }
    }

    /// Returns the ClusterNetworkPolicies' decision on a packet; `Allow` if none applies. A
    /// separate function, so that the verifier walks it once.
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

    /// Does the same as [`Self::by_tiers`] inline, for callers whose stack has no room for another
    /// call.
    #[inline(always)]
    fn asked(&self, direction: Direction, addr: &Addr, protocol: u8, port: u16) -> Policy {
        let ruleset = self.tiers(direction);
        if ruleset == 0 {
            return Policy::Allow;
        }
        let (_, asks) = Asks::of(self.rules, direction, protocol, port);
        self.judge_by(ruleset, asks, addr).policy
    }

    /// Rechecks a connection with this node that was opened in an older epoch. `ruleset` is that of
    /// the ClusterNetworkPolicies, and `peer` the result of looking it up.
    #[inline(always)]
    pub(super) fn again_with_node(&self, by_pod: bool, ruleset: u32, peer: &PeerPolicy) -> Policy {
        if !by_pod {
            return Policy::Allow;
        }
        // The address may belong to another peer by now.
        if peer.flags & Identity::IS_THIS_NODE == 0 {
            return Policy::Deny;
        }
        if ruleset == 0 {
            return Policy::Allow;
        }
        peer.policy
    }

    /// Returns the verdict on the egress of a packet that comes back to its sender from a Service:
    /// a pod may call itself, unless ClusterNetworkPolicies forbid it.
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
