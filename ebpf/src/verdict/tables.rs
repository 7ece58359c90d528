//! The tables, other than the policy tables, that the datapath reads and writes.

use core::ops::DerefMut;

use super::{Memo, PolicyTables};
use crate::abi::{
    Addr, Buffer, CidrKey, Claim, ConnectionKey, Endpoint, Identity, ServiceKey, Stat,
};
use crate::conntrack::Clock;
use crate::shared::{SharedConnection, SharedQuota};

/// Endpoints, addresses and connections: eBPF maps in the kernel, memory in tests.
pub trait Tables: PolicyTables {
    /// Reference to an entry of the CPU's cache.
    type MemoRef<'a>: DerefMut<Target = Memo>
    where
        Self: 'a;

    /// Returns the endpoint in a slot; `None` if the slot is out of range.
    fn endpoint(&self, slot: u32) -> Option<&Endpoint>;
    /// Returns the identity of an address; [`Identity::UNKNOWN`] if it has no entry.
    fn identity(&self, addr: &Addr) -> Identity;
    /// Reports whether a Service has a port at an address.
    fn service(&self, key: &ServiceKey) -> bool;
    /// Returns the peer class of an address by prefix.
    fn class_by_prefix(&self, buffer: Buffer, addr: &Addr) -> u32;

    /// Returns the workload id under which an unknown address is counted:
    /// [`Identity::UNKNOWN_POD`] in pod ranges, else [`Identity::OUTSIDE`].
    #[inline(always)]
    fn range(&self, addr: &Addr) -> u32 {
        self.class_by_prefix(CidrKey::RANGES, addr)
    }

    /// Reports whether a UDP port belongs to a tunnel on this node or was configured as one, in
    /// addition to [`crate::packet::TUNNEL_PORTS`].
    fn is_tunnel_port(&self, port: u16) -> bool;

    /// Returns this CPU's cache entry at an index below [`Memo::ENTRIES`].
    fn memo(&self, place: u32) -> Option<Self::MemoRef<'_>>;

    /// Returns the hash by which both connection tables find a key.
    fn tag(&self, key: &ConnectionKey) -> u64;
    /// Returns an answered connection, live or not.
    fn connection(&self, tag: u64, key: &ConnectionKey) -> Option<&SharedConnection>;
    /// Returns a connection that isn't answered yet or is over, live or not.
    fn opening(&self, tag: u64, key: &ConnectionKey, clock: Clock) -> Option<&SharedConnection>;
    /// Stores a connection among the unanswered ones; this may evict another connection of the same
    /// pair, kind or endpoint. Returns whether it was stored.
    fn open(
        &self,
        tag: u64,
        key: &ConnectionKey,
        connection: &SharedConnection,
        clock: Clock,
    ) -> bool;
    /// Moves a connection of the endpoint in a slot to the answered ones; returns whether that
    /// worked.
    fn promote(
        &self,
        tag: u64,
        key: &ConnectionKey,
        connection: &SharedConnection,
        slot: u32,
        clock: Clock,
    ) -> bool;
    /// Moves a connection to the answered ones in place of an expired one of the same endpoint;
    /// returns whether there was one.
    fn swap(
        &self,
        tag: u64,
        key: &ConnectionKey,
        connection: &SharedConnection,
        clock: Clock,
    ) -> bool;
    /// Removes a connection from the answered ones; returns whether it was there.
    fn forget(&self, tag: u64, key: &ConnectionKey) -> bool;
    /// Returns the quota of the endpoint in a slot, or of the whole node
    /// ([`Quota::NODE`](crate::abi::Quota::NODE)).
    fn quota(&self, slot: u32) -> Option<&SharedQuota>;
    /// Returns how many of the connections counted by the quota are gone, as reported by
    /// the agent.
    fn gone(&self, slot: u32) -> u32;

    /// Returns the slot of this node's endpoint that has an address; 0 if there is none.
    fn local(&self, addr: &Addr) -> u32;

    /// Returns the claim on a link-local address; [`Claim::default`] if there is none.
    fn claimed(&self, addr: &Addr) -> Claim;
    /// Claims a link-local address for an endpoint, unless another existing endpoint has
    /// claimed it or the endpoint is at its limit; returns whether that worked.
    fn claim(&self, addr: &Addr, endpoint: &Endpoint, slot: u32) -> bool;

    /// Returns coarse `CLOCK_MONOTONIC` in nanoseconds; slower to read than the conntrack clock.
    fn monotonic(&self) -> u64;
    /// Increments a counter.
    fn count(&self, stat: Stat);
}
