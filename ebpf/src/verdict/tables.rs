//! What the datapath reads and writes beside policy.

use core::ops::DerefMut;

use super::{Memo, PolicyTables};
use crate::abi::{Addr, CidrKey, Claim, Endpoint, FlowKey, Identity, ServiceKey, Stat, World};
use crate::conntrack::Clock;
use crate::shared::{SharedFlow, SharedQuota};

/// Endpoints, addresses, flows: over eBPF maps in the kernel, in memory in tests.
pub trait Tables: PolicyTables {
    /// What a CPU remembers.
    type MemoRef<'a>: DerefMut<Target = Memo>
    where
        Self: 'a;

    /// The endpoint in a slot; `None` where the slot is out of range.
    fn endpoint(&self, slot: u32) -> Option<&Endpoint>;
    /// Who an address is; [`Identity::UNKNOWN`] if no entry names it.
    fn identity(&self, addr: &Addr) -> Identity;
    /// Whether a Service has a port at an address.
    fn service(&self, key: &ServiceKey) -> bool;
    /// The peer class that prefixes give an address.
    fn class_by_prefix(&self, world: World, addr: &Addr) -> u32;

    /// Whom an address is counted as at which nobody is known: [`Identity::OUTSIDE`], or
    /// in pods' ranges [`Identity::UNKNOWN_POD`].
    #[inline(always)]
    fn range(&self, addr: &Addr) -> u32 {
        self.class_by_prefix(CidrKey::RANGES, addr)
    }

    /// Whether a UDP port is a tunnel's on this node, or the agent was told so;
    /// beside [`crate::packet::TUNNEL_PORTS`].
    fn is_tunnel_port(&self, port: u16) -> bool;

    /// What this CPU remembers at a place below [`Memo::ENTRIES`].
    fn memo(&self, place: u32) -> Option<Self::MemoRef<'_>>;

    /// What a key is found by in both tables of flows.
    fn tag(&self, key: &FlowKey) -> u64;
    /// A replied flow, live or not.
    fn flow(&self, tag: u64, key: &FlowKey) -> Option<&SharedFlow>;
    /// A flow that isn't replied yet or no longer, live or not.
    fn opening(&self, tag: u64, key: &FlowKey, clock: Clock) -> Option<&SharedFlow>;
    /// Stores a flow among those that aren't replied, in whose place one of its own
    /// pair, kind or endpoint may have to go; whether that worked.
    fn open(&self, tag: u64, key: &FlowKey, flow: &SharedFlow, clock: Clock) -> bool;
    /// Moves a flow of the endpoint in a slot to the replied ones; whether that worked.
    fn promote(&self, tag: u64, key: &FlowKey, flow: &SharedFlow, slot: u32, clock: Clock) -> bool;
    /// Moves a flow to the replied ones in the place of one of the same endpoint whose time
    /// is over; whether there was one.
    fn swap(&self, tag: u64, key: &FlowKey, flow: &SharedFlow, clock: Clock) -> bool;
    /// Takes a flow out of the replied ones; whether it was there.
    fn forget(&self, tag: u64, key: &FlowKey) -> bool;
    /// The quota of the endpoint in a slot, or of all together ([`Quota::NODE`](crate::abi::Quota::NODE)).
    fn quota(&self, slot: u32) -> Option<&SharedQuota>;
    /// How many of the flows that the quota counts as replied are gone: the
    /// agent's word.
    fn gone(&self, slot: u32) -> u32;

    /// The slot of the endpoint of this node that has an address; 0 if none has.
    fn local(&self, addr: &Addr) -> u32;

    /// Who has claimed a link-local address; [`Claim::default`] if nobody has.
    fn claimed(&self, addr: &Addr) -> Claim;
    /// Claims a link-local address for an endpoint, unless another one that is
    /// still there has it or the endpoint has claimed enough; whether that worked.
    fn claim(&self, addr: &Addr, endpoint: &Endpoint, slot: u32) -> bool;

    /// Coarse `CLOCK_MONOTONIC`, nanoseconds: dearer than the flows' clock.
    fn monotonic(&self) -> u64;
    /// Counts.
    fn count(&self, stat: Stat);
}
