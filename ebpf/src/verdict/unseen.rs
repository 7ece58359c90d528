//! Packets of which nothing shows that a hook of this node saw them come in: they got
//! past one, or came by a device that has none yet.

use super::path::Path;
use super::{Context, Noted, Tables, Verdict};
use crate::abi::Reason;
use crate::packet::{Packet, Shape};

/// Whose an unseen packet is: the pod's by whose device it came, else of whom its
/// address is.
#[inline(always)]
pub(super) fn sender<T: Tables>(tables: &T, context: &Context, packet: &Packet) -> u32 {
    match super::find(tables, context.ingress_ifindex) {
        // A free slot is of no device.
        Some((_, sender)) if context.ingress_ifindex != 0 => sender.workload,
        _ => tables.identity(&packet.source).workload,
    }
}

impl<T: Tables> Path<'_, T> {
    /// Whether a packet that no hook has seen and no socket shows may be one that the
    /// kernel itself makes without a socket: ARP, resets, answers of connections that are
    /// over. Those come in by no device and are in one piece; what was forwarded and
    /// refragmented shows no device either.
    #[inline(always)]
    pub(super) fn may_be_the_kernels(&self) -> bool {
        let packet = self.packet;
        self.context.ingress_ifindex == 0
            && !packet.first_fragment
            && packet.shape != Shape::Fault(Reason::Fragment)
    }

    /// A denial in the name of the pod by whose device the packet came.
    #[inline(never)]
    pub(super) fn unseen(&self) -> Verdict {
        let verdict = self.deny(Reason::Unseen);
        self.noted.set(Noted {
            source: sender(self.tables, self.context, self.packet),
            ..self.noted.get()
        });
        verdict
    }
}
