//! The flow that a packet belongs to: found, asked about, confirmed, stored.

use super::path::Path;
use super::{Policy, Tables};
use crate::abi::{Direction, EndpointWorld, Flow, FlowKey, Identity, Stat};
use crate::conntrack;
use crate::packet::{self, Frame, Packet};

/// What the flow tables know of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// It belongs to a flow that policy allows; the flow's flags.
    Passes(u8),
    /// It belongs to a flow that policy has taken back.
    Revoked,
    /// It has to be decided in full.
    Absent,
}

impl<T: Tables> Path<'_, T> {
    /// Looks for the flow that the packet belongs to.
    #[inline(always)]
    pub(super) fn established(&self, key: &FlowKey, packet: &Packet, room: &mut Flow) -> Found {
        if packet.is_syn() || self.half.flags & EndpointWorld::QUARANTINE != 0 {
            return Found::Absent;
        }
        if let Some(mut flow) = self.tables.flow(key) {
            return self.take_in(&mut flow, key, packet);
        }
        let Some(mut flow) = self.tables.opening(key) else {
            return Found::Absent;
        };
        let found = self.take_in(&mut flow, key, packet);
        if matches!(found, Found::Passes(_)) && flow.state != conntrack::State::Opening as u8 {
            *room = *flow;
            drop(flow);
            if !self.tables.promote(key, room) {
                self.tables.count(Stat::FlowsNotStored);
            }
        }
        found
    }

    /// Takes the packet into a live flow that policy allows now.
    ///
    /// Where the epoch is old, the opener's packet is decided in full; the
    /// other side's only asks whether the opener would still be allowed. It must
    /// not be decided as if it opened something: that would turn a revoked
    /// flow into one of the other side's own.
    #[inline(always)]
    fn take_in(&self, flow: &mut Flow, key: &FlowKey, packet: &Packet) -> Found {
        let now = self.context.now;
        let by_opener = flow.opened_by == self.direction as u8;
        if conntrack::expired(flow, packet.protocol, now) || !packet.fits_flow(by_opener) {
            return Found::Absent;
        }
        if flow.epoch != self.half.epoch {
            if by_opener {
                return Found::Absent;
            }
            match self.again(flow, key, packet.protocol) {
                Policy::Allow => flow.epoch = self.half.epoch,
                Policy::Deny if !self.auditing() => return Found::Revoked,
                // Stays old until its opener speaks, who is then counted.
                Policy::Deny | Policy::Audit => {}
            }
        }
        conntrack::advance(
            flow,
            self.direction,
            packet.tcp_flags(),
            self.context.len,
            now,
        );
        Found::Passes(flow.flags)
    }

    /// Asks policy once more, in the direction in which the flow was opened.
    #[inline(never)]
    fn again(&self, flow: &Flow, key: &FlowKey, protocol: u8) -> Policy {
        let by_pod = flow.opened_by == Direction::Egress as u8;
        if flow.flags & Flow::ALWAYS != 0 {
            // The node's address may have become somebody else's.
            let kept =
                !by_pod || self.tables.identity(&key.remote).flags & Identity::IS_THIS_NODE != 0;
            return if kept { Policy::Allow } else { Policy::Deny };
        }
        let (direction, port) = if by_pod {
            (Direction::Egress, key.remote_port)
        } else {
            (Direction::Ingress, key.local_port)
        };
        self.ask(direction, &key.remote, protocol, port)
    }

    /// Whether it is an ICMP error about a live flow of this endpoint, which
    /// path-MTU discovery can't do without.
    #[inline(never)]
    pub(super) fn related<F: Frame + ?Sized>(
        &self,
        frame: &F,
        packet: &Packet,
        inner: &mut Packet,
    ) -> bool {
        if !packet.is_icmp_error() || self.half.flags & EndpointWorld::QUARANTINE != 0 {
            return false;
        }
        // An error goes to the sender of the packet that it quotes; to anybody
        // else it would carry what it likes past policy.
        if packet::quoted(frame, packet, inner).is_none() || !packet.destination.same(&inner.source)
        {
            return false;
        }
        // The packet that met the error went the other way.
        let key = inner.flow_key(self.direction.reverse(), self.endpoint.id);
        let live = |flow: &Flow| {
            flow.epoch == self.half.epoch
                && !conntrack::expired(flow, inner.protocol, self.context.now)
        };
        match self.tables.flow(&key) {
            Some(flow) => live(&flow),
            None => self.tables.opening(&key).is_some_and(|flow| live(&flow)),
        }
    }

    /// Tracks an allowed packet's connection.
    #[inline(always)]
    pub(super) fn open(
        &self,
        key: &FlowKey,
        packet: &Packet,
        flow: &mut Flow,
        workload: u32,
        flags: u8,
        stat: Stat,
    ) {
        if packet.opens_flow()
            && self.half.flags & EndpointWorld::QUARANTINE == 0
            && !self.confirm(key, packet, workload, flags)
        {
            *flow = conntrack::opened(
                self.direction,
                self.half.epoch,
                workload,
                self.context.len,
                self.context.now,
            );
            flow.flags = flags;
            self.store(key, flow, stat);
        }
    }

    #[inline(always)]
    fn store(&self, key: &FlowKey, flow: &Flow, stat: Stat) {
        // A reused port takes its old entry over, wherever that lies.
        if let Some(mut old) = self.tables.flow(key) {
            *old = *flow;
        } else if !self.tables.open(key, flow) {
            self.tables.count(Stat::FlowsNotStored);
            return;
        }
        self.tables.count(stat);
    }

    /// Confirms a live flow whose opener was decided anew: it goes on as it was.
    #[inline(always)]
    fn confirm(&self, key: &FlowKey, packet: &Packet, workload: u32, flags: u8) -> bool {
        if packet.is_syn() {
            return false;
        }
        let Some(mut flow) = self.tables.flow(key) else {
            return false;
        };
        let now = self.context.now;
        if flow.opened_by != self.direction as u8 || conntrack::expired(&flow, packet.protocol, now)
        {
            return false;
        }
        flow.epoch = self.half.epoch;
        flow.peer = workload;
        flow.flags = flags;
        conntrack::advance(
            &mut flow,
            self.direction,
            packet.tcp_flags(),
            self.context.len,
            now,
        );
        true
    }

    #[inline(always)]
    pub(super) fn adopt(&self, key: &FlowKey, flow: &mut Flow, workload: u32) {
        let context = self.context;
        *flow = conntrack::opened(
            self.direction.reverse(),
            self.half.epoch,
            workload,
            0,
            context.now,
        );
        flow.packets = [0; 2];
        conntrack::advance(flow, self.direction, 0, context.len, context.now);
        self.store(key, flow, Stat::FlowsAllowed);
    }
}
