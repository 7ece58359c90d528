//! ICMP errors that belong to a connection.

use super::Tables;
use super::path::Path;
use crate::abi::{ConnectionKey, Direction, EndpointRules, Identity};
use crate::packet::{self, Frame, Packet};
use crate::shared::SharedConnection;

impl<T: Tables> Path<'_, T> {
    /// Reports whether the packet is an ICMP error about a live connection of this endpoint.
    /// Path-MTU discovery depends on these errors.
    #[inline(never)]
    pub(super) fn related<F: Frame + ?Sized>(
        &self,
        frame: &F,
        inner: &mut Packet,
        key: &mut ConnectionKey,
    ) -> bool {
        if self.rules.flags & EndpointRules::QUARANTINE != 0 {
            return false;
        }
        if packet::quoted(frame, self.packet, inner).is_none() {
            return false;
        }
        // An error goes to the sender of the packet that it quotes. Sent to any other address, it
        // could carry arbitrary data past policy.
        if !self.packet.destination.same(&inner.source) {
            return false;
        }
        if self.direction == Direction::Ingress && !self.may_report(inner) {
            return false;
        }
        // The quoted packet went in the opposite direction.
        inner.put_connection_key(self.direction.reverse(), self.endpoint.id, key);
        let live = |connection: &SharedConnection| {
            self.is_current(connection.epoch.get()) && !connection.expired(self.context.clock)
        };
        let tag = self.tables.tag(key);
        match self.tables.connection(tag, key) {
            Some(connection) => live(connection),
            None => self
                .tables
                .opening(tag, key, self.context.clock)
                .is_some_and(live),
        }
    }

    /// Reports whether the sender of an ICMP error can have seen the packet that it quotes, as
    /// far as this node can tell.
    ///
    /// This node has seen every packet that its pods send. A pod has seen only packets sent to it,
    /// so it can report only as the far end, from the address that the quoted packet was sent to
    /// (NAT rewrites the error's source like that of a reply). Any other sender may be a router on
    /// the path, unless the quoted packet went to another endpoint of this node, where there is no
    /// router.
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
