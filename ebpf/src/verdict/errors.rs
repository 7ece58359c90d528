//! ICMP errors: which of them belong to a flow.

use super::Tables;
use super::path::Path;
use crate::abi::{Direction, EndpointWorld, FlowKey, Identity};
use crate::packet::{self, Frame, Packet};
use crate::shared::SharedFlow;

impl<T: Tables> Path<'_, T> {
    /// Whether it is an ICMP error about a live flow of this endpoint, which
    /// path-MTU discovery can't do without.
    #[inline(never)]
    pub(super) fn related<F: Frame + ?Sized>(
        &self,
        frame: &F,
        inner: &mut Packet,
        key: &mut FlowKey,
    ) -> bool {
        if self.half.flags & EndpointWorld::QUARANTINE != 0 {
            return false;
        }
        if packet::quoted(frame, self.packet, inner).is_none() {
            return false;
        }
        // An error goes to the sender of the packet that it quotes; to anybody
        // else it would carry what it likes past policy.
        if !self.packet.destination.same(&inner.source) {
            return false;
        }
        if self.direction == Direction::Ingress && !self.may_report(inner) {
            return false;
        }
        // The packet that met the error went the other way.
        inner.put_flow_key(self.direction.reverse(), self.endpoint.id, key);
        let live = |flow: &SharedFlow| {
            self.is_current(flow.epoch.get()) && !flow.expired(self.context.clock)
        };
        let tag = self.tables.tag(key);
        match self.tables.flow(tag, key) {
            Some(flow) => live(flow),
            None => self
                .tables
                .opening(tag, key, self.context.clock)
                .is_some_and(live),
        }
    }

    /// Whether the sender of an ICMP error can have seen the packet that it quotes, as
    /// far as this node can tell.
    ///
    /// This node has seen all that its pods send. A pod has only seen what was for it:
    /// it reports as the far end, under the address that the quoted packet went to (NAT
    /// rewrites the error's source as it does a reply's). Anybody else may be a router on
    /// the way, unless there is none: to another endpoint of this node.
    #[inline(never)]
    fn may_report(&self, quoted: &Packet) -> bool {
        let packet = self.packet;
        if self.context.by_node || packet.source.same(&quoted.destination) {
            return true;
        }
        if self.context.tag.slot() != 0 {
            return false;
        }
        let who = self.tables.identity(&packet.source);
        let is_pod = who.workload >= Identity::FIRST
            && who.flags & (Identity::IS_NODE | Identity::IS_SERVICE) == 0;
        !is_pod && self.tables.local(&quoted.destination) == 0
    }
}
