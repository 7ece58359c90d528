//! The egress hook of every other device: a pod's call of a Service, decided
//! once DNAT has shown where it goes.

use core::cell::Cell;
use core::hint::cold_path;

use super::path::{Hook, Path};
use super::unseen;
use super::{Context, Noted, Policy, Room, Tables, Verdict, endpoint_owns};
use crate::abi::{Addr, Control, Direction, EndpointWorld, Identity, Reason};
use crate::packet::{Packet, Shape, mark};

/// Decides on a packet that carries the Service bit and leaves by a device that
/// isn't a pod's. If it passes, the bit is to be cleared.
#[inline(always)]
pub fn to_network<T: Tables>(
    tables: &T,
    context: &Context,
    packet: &Packet,
    room: &mut Room,
) -> Verdict {
    let noted = &room.noted;
    let sender = tables.endpoint(context.tag.slot());
    let Some(sender) = sender.filter(|endpoint| endpoint.ifindex != 0) else {
        // Its slot is free: nobody can say any more what it may.
        return super::unknown_endpoint(&context.control, Direction::Egress, noted);
    };
    let path = Path::new(tables, context, sender, packet, noted, Hook::ToNetwork);
    let verdict = path.egress(&packet.destination);
    if path.is_followed(verdict) {
        path.follow(&mut room.work.track, false);
    }
    verdict
}

/// The verdict on a packet that another device than a pod's refuses: because it came in
/// with the address of an endpoint of this node, whose sender isn't that endpoint, or
/// because no hook saw it come in.
#[inline(always)]
pub fn refused<T: Tables>(
    tables: &T,
    context: &Context,
    packet: &Packet,
    noted: &Cell<Noted>,
) -> Verdict {
    let (reason, direction, source) = if context.unseen {
        let sender = unseen::sender(tables, context, packet);
        (Reason::Unseen, Direction::Egress, sender)
    } else {
        let outside = Identity::OUTSIDE;
        (Reason::SpoofedFromOutside, Direction::Ingress, outside)
    };
    noted.set(Noted {
        reason,
        audited: context.control.flags & Control::AUDIT != 0,
        direction,
        source,
        destination: tables.identity(&packet.destination).workload,
    });
    Verdict::NOTED
}

impl<T: Tables> Path<'_, T> {
    /// What the sender's egress says of a packet, now that its real destination is known.
    #[inline(always)]
    pub(super) fn egress(&self, to: &Addr) -> Verdict {
        const JUDGED: u32 = EndpointWorld::EGRESS_ISOLATED
            | EndpointWorld::EGRESS_STAGED
            | EndpointWorld::QUARANTINE;
        let flags = self.half.flags;
        if self.packet.shape != Shape::Ip || self.context.vlan {
            return self.without_flow();
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
        if flags & EndpointWorld::QUARANTINE != 0 {
            note(Reason::Quarantine, self.auditing())
        } else if flags & EndpointWorld::EGRESS_ISOLATED != 0
            // A node's address may be a Service's too, and is resolved as it is.
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

    /// Whether later fragments belong to a packet that passes.
    #[inline(always)]
    pub(super) fn is_followed(&self, verdict: Verdict) -> bool {
        let first = self.packet.first_fragment && self.packet.shape == Shape::Ip;
        if first {
            cold_path();
        }
        first && verdict.passes(self.noted)
    }
}
