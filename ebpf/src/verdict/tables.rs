//! What the datapath reads and writes beside policy.

use core::ops::DerefMut;

use super::{Memo, PolicyTables};
use crate::abi::{
    Addr, Claim, Endpoint, Flow, FlowKey, FragmentKey, Fragments, Identity, Quota, Stat, World,
};
use crate::conntrack::Clock;

/// Endpoints, addresses, flows: over eBPF maps in the kernel, in memory in tests.
pub trait Tables: PolicyTables {
    /// A flow that may be changed in place.
    type FlowRef<'a>: DerefMut<Target = Flow>
    where
        Self: 'a;
    /// What a CPU remembers.
    type MemoRef<'a>: DerefMut<Target = Memo>
    where
        Self: 'a;
    /// An endpoint's quota.
    type QuotaRef<'a>: DerefMut<Target = Quota>
    where
        Self: 'a;

    /// The endpoint in a slot; `None` where the slot is out of range.
    fn endpoint(&self, slot: u32) -> Option<&Endpoint>;
    /// Who an address is; [`Identity::UNKNOWN`] if no entry names it.
    fn identity(&self, addr: &Addr) -> Identity;
    /// The peer class that prefixes give an address.
    fn class_by_prefix(&self, world: World, addr: &Addr) -> u32;

    /// Whether a UDP port is a tunnel's on this node, or the agent was told so;
    /// beside [`crate::packet::TUNNEL_PORTS`].
    fn is_tunnel_port(&self, port: u16) -> bool;

    /// What this CPU remembers at a place below [`Memo::ENTRIES`].
    fn memo(&self, place: u32) -> Option<Self::MemoRef<'_>>;

    /// What a key is found by in both tables of flows.
    fn tag(&self, key: &FlowKey) -> u64;
    /// A replied flow, live or not.
    fn flow(&self, tag: u64, key: &FlowKey) -> Option<Self::FlowRef<'_>>;
    /// A flow that isn't replied yet or no longer, live or not.
    fn opening(&self, tag: u64, key: &FlowKey) -> Option<Self::FlowRef<'_>>;
    /// Stores a flow among those that aren't replied; whether that worked.
    fn open(&self, tag: u64, key: &FlowKey, flow: &Flow) -> bool;
    /// Moves a flow to the replied ones; whether that worked.
    fn promote(&self, tag: u64, key: &FlowKey, flow: Self::FlowRef<'_>, clock: Clock) -> bool;
    /// Moves a flow from the replied ones to the others; whether that worked.
    fn demote(&self, tag: u64, key: &FlowKey, flow: Self::FlowRef<'_>) -> bool;
    /// The quota of the endpoint in a slot.
    fn quota(&self, slot: u32) -> Option<Self::QuotaRef<'_>>;
    /// How many of the flows that the quota counts as replied are gone: the
    /// agent's word.
    fn gone(&self, slot: u32) -> u32;

    /// What an allowed first fragment left.
    fn fragments(&self, key: &FragmentKey) -> Option<Fragments>;
    /// Keeps it; whether that worked.
    fn keep_fragments(&self, key: &FragmentKey, fragments: &Fragments) -> bool;

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
