//! The egress hook of all devices that aren't a pod's. It decides a pod's packet to a Service once
//! DNAT has revealed the destination.

use core::cell::Cell;
use core::hint::cold_path;

use super::path::{Hook, Path};
use super::unseen;
use super::{Context, Denial, Policy, Tables, Verdict, Workspace, endpoint_owns};
use crate::abi::{Addr, Control, Direction, EndpointRules, Identity, Reason};
use crate::packet::{Layout, Packet, mark};

/// Returns the verdict on a packet that carries the Service bit and leaves by a device that isn't a
/// pod's. If the packet passes, the caller has to clear the bit.
#[inline(always)]
pub fn to_network<T: Tables>(
    tables: &T,
    context: &Context,
    packet: &Packet,
    workspace: &mut Workspace,
) -> Verdict {
    let denial = &workspace.denial;
    let sender = tables.endpoint(context.tag.slot());
    let Some(sender) = sender.filter(|endpoint| endpoint.ifindex != 0) else {
        // The slot is free: the sender's rules are gone.
        return super::unknown_endpoint(&context.control, Direction::Egress, denial);
    };
    let path = Path::new(tables, context, sender, packet, denial, Hook::ToNetwork);
    let verdict = path.egress(&packet.destination);
    if path.tracks_fragments(verdict) {
        path.track_fragments(&mut workspace.work.pending, false);
    }
    verdict
}

/// Returns the verdict on a packet refused at a device that isn't a pod's: either it arrived with
/// the address of an endpoint of this node but wasn't sent by that endpoint, or no hook saw it
/// arrive.
#[inline(always)]
pub fn refused<T: Tables>(
    tables: &T,
    context: &Context,
    packet: &Packet,
    denial: &Cell<Denial>,
) -> Verdict {
    let (reason, direction, source) = if context.unseen {
        let sender = unseen::sender(tables, context, packet);
        (Reason::Unseen, Direction::Egress, sender)
    } else {
        let outside = Identity::OUTSIDE;
        (Reason::SpoofedFromOutside, Direction::Ingress, outside)
    };
    denial.set(Denial {
        reason,
        audited: context.control.flags & Control::AUDIT != 0,
        direction,
        source,
        destination: tables.identity(&packet.destination).workload,
    });
    Verdict::NOTED
}

impl<T: Tables> Path<'_, T> {
    /// Returns the verdict on the sender's egress for a packet whose real destination is known.
    #[inline(always)]
    pub(super) fn egress(&self, to: &Addr) -> Verdict {
        const JUDGED: u32 = EndpointRules::EGRESS_ISOLATED
            | EndpointRules::EGRESS_STAGED
            | EndpointRules::QUARANTINE;
        let flags = self.rules.flags;
        if self.packet.layout != Layout::Ip || self.context.vlan {
            return self.without_connection();
        }
        let packet = self.packet;
        if flags & JUDGED == 0 && !packet.is(mark::TUNNEL) {
            return Verdict::ALLOW;
        }
        let port = packet.destination_port;
        let peer = self.judge(Direction::Egress, to, packet.protocol, port);
        if self.enters_tunnel(peer.workload, peer.flags) {
            return self.deny(Reason::Tunnel);
        }
        if flags & JUDGED == 0 {
            return Verdict::ALLOW;
        }
        if endpoint_owns(self.endpoint, to) {
            return self.to_itself(to);
        }
        let note =
            |reason, audited| self.note(reason, audited, self.endpoint.workload, peer.workload);
        if flags & EndpointRules::QUARANTINE != 0 {
            note(Reason::Quarantine, self.auditing())
        } else if flags & EndpointRules::EGRESS_ISOLATED != 0
            // A node's address may also be a Service's; it counts as resolved.
            && peer.flags & (Identity::IS_SERVICE | Identity::IS_NODE)
                == Identity::IS_SERVICE
        {
            note(Reason::UnresolvedService, self.auditing())
        } else {
            match peer.policy {
                Policy::Allow => Verdict::ALLOW,
                Policy::Audit => note(Reason::Policy, true),
                Policy::Deny => note(Reason::Policy, self.auditing()),
            }
        }
    }

    /// Reports whether later fragments have to be tracked for a packet with this verdict.
    #[inline(always)]
    pub(super) fn tracks_fragments(&self, verdict: Verdict) -> bool {
        let first = self.packet.first_fragment && self.packet.layout == Layout::Ip;
        if first {
            cold_path();
        }
        first && verdict.passes(self.denial)
    }
}
