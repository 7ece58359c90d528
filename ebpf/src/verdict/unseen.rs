//! Packets without proof that a hook of this node saw them arrive: they bypassed a hook, or arrived
//! by a device that has none yet.

use super::path::Path;
use super::{Context, Denial, Tables, Verdict};
use crate::abi::Reason;
use crate::packet::{Layout, Packet};

/// Returns the workload of an unseen packet's sender: the pod whose device the packet arrived by,
/// or else the owner of its source address.
#[inline(always)]
pub(super) fn sender<T: Tables>(tables: &T, context: &Context, packet: &Packet) -> u32 {
    match super::find(tables, context.ingress_ifindex) {
        // Index 0 would match a free slot, which belongs to no device.
        Some((_, sender)) if context.ingress_ifindex != 0 => sender.workload,
        _ => tables.identity(&packet.source).workload,
    }
}

impl<T: Tables> Path<'_, T> {
    /// Reports whether a packet that no hook has seen and that has no socket may be one that the
    /// kernel itself sends without a socket: ARP, resets, answers of closed connections. Those
    /// arrive by no device and aren't fragmented; a packet that was forwarded and refragmented
    /// shows no device either.
    #[inline(always)]
    pub(super) fn may_be_the_kernels(&self) -> bool {
        let packet = self.packet;
        self.context.ingress_ifindex == 0
            && !packet.first_fragment
            && packet.layout != Layout::Fault(Reason::Fragment)
    }

    /// Denies the packet and records the pod whose device it arrived by as the sender.
    #[inline(never)]
    pub(super) fn unseen(&self) -> Verdict {
        let verdict = self.deny(Reason::Unseen);
        self.denial.set(Denial {
            source: sender(self.tables, self.context, self.packet),
            ..self.denial.get()
        });
        verdict
    }
}
