//! Per-CPU cache of policy decisions. Most packets that belong to no connection need the same
//! decision as another packet a moment earlier. A hit costs a few nanoseconds; the lookups that it
//! saves cost 45 to 150, and the most for an address that matches only by prefix.
//!
//! A cached decision is valid for one generation of the tables
//! ([`crate::abi::Control::generation`]) and for one ruleset, so it never outlives a change.

use super::{Policy, Tables};
use crate::abi::{Addr, Direction, EndpointRules, Identity};

/// One query and the cached decision.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Memo {
    addr: Addr,
    ruleset: u32,
    asks: Asks,
    generation: u32,
    workload: u32,
    flags: u32,
    policy: u32,
}

/// The query to a ruleset, apart from the address: port, protocol, and whether enforced and staged
/// policies apply.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Asks(u32);

impl Asks {
    /// An enforced policy isolates the endpoint in this direction.
    pub(super) const ISOLATED: u32 = 1;
    /// A staged policy isolates the endpoint in this direction.
    pub(super) const STAGED: u32 = 2;
    /// Asks for the range of an address instead of a ruleset: no endpoint sets this bit.
    const RANGE: u32 = 4;

    /// Returns the endpoint's ruleset in a direction, and the query to that ruleset.
    #[inline(always)]
    pub(super) const fn of(
        rules: &EndpointRules,
        direction: Direction,
        protocol: u8,
        port: u16,
    ) -> (u32, Self) {
        // Branch-free, since the verifier follows each branch.
        const _: () =
            assert!(EndpointRules::INGRESS_ISOLATED == 1 && EndpointRules::EGRESS_ISOLATED == 2);
        const _: () =
            assert!(EndpointRules::INGRESS_STAGED == 4 && EndpointRules::EGRESS_STAGED == 8);
        const _: () = assert!(Asks::ISOLATED == 1 && Asks::STAGED == 2);
        let (ruleset, flags) = match direction {
            Direction::Ingress => (rules.ingress, rules.flags),
            Direction::Egress => (rules.egress, rules.flags >> 1),
        };
        let isolation = (flags & 1) | (flags >> 1 & 2);
        let asks = (port as u32) << 16 | (protocol as u32) << 8 | isolation;
        (ruleset, Self(asks))
    }

    #[inline(always)]
    pub(super) const fn is(self, rules: u32) -> bool {
        self.0 & rules != 0
    }

    #[inline(always)]
    pub(super) const fn protocol(self) -> u8 {
        (self.0 >> 8) as u8
    }

    #[inline(always)]
    pub(super) const fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

impl Memo {
    /// Entries per CPU: a power of two.
    pub const ENTRIES: u32 = 1024;

    /// Returns the index of a query's entry. An attacker who knows the hash can make two queries
    /// collide, which costs both of them their cache hits and affects no others.
    #[inline(always)]
    pub(super) const fn place(addr: &Addr, ruleset: u32, asks: Asks) -> u32 {
        const BITS: u32 = Memo::ENTRIES.trailing_zeros();
        let [a, b, c, d] = *addr.words();
        let near = (a ^ c ^ asks.0) as u64 | ((b ^ d) as u64) << 32;
        let mixed = (near ^ (ruleset as u64) << 8).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> (64 - BITS)) as u32
    }

    /// Reports whether the entry holds the decision for this query in this generation.
    #[inline(always)]
    pub(super) const fn answers(
        &self,
        addr: &Addr,
        ruleset: u32,
        asks: Asks,
        generation: u32,
    ) -> bool {
        let other = (self.ruleset ^ ruleset) | (self.asks.0 ^ asks.0);
        let older = self.generation ^ generation;
        generation != 0 && other | older == 0 && self.addr.same(addr)
    }

    /// Stores a decision.
    #[inline(always)]
    pub(super) const fn note(
        &mut self,
        asked: (&Addr, u32, Asks),
        generation: u32,
        identity: &Identity,
        policy: Policy,
    ) {
        self.addr = *asked.0;
        self.ruleset = asked.1;
        self.asks = asked.2;
        self.generation = generation;
        self.workload = identity.workload;
        self.flags = identity.flags;
        self.policy = match policy {
            Policy::Allow => 2,
            Policy::Audit => 1,
            Policy::Deny => 0,
        };
    }

    /// Returns the stored decision.
    #[inline(always)]
    pub(super) const fn peer(&self) -> PeerPolicy {
        PeerPolicy {
            workload: self.workload,
            flags: self.flags,
            policy: match self.policy {
                2 => Policy::Allow,
                1 => Policy::Audit,
                _ => Policy::Deny,
            },
        }
    }
}

/// Returns the workload id under which packets of an unknown address are counted
/// ([`Tables::range`]). Without the cache, each denied packet to or from an unknown address would
/// cost a lookup in a prefix tree, which takes 30 to 150 ns.
#[inline(always)]
pub(super) fn range<T: Tables>(tables: &T, addr: &Addr, generation: u32) -> u32 {
    let asked = (addr, 0, Asks(Asks::RANGE));
    let Some(mut memo) = tables.memo(Memo::place(asked.0, asked.1, asked.2)) else {
        return Identity::OUTSIDE;
    };
    if !memo.answers(asked.0, asked.1, asked.2, generation) {
        let identity = Identity {
            workload: tables.range(addr),
            ..Identity::default()
        };
        memo.note(asked, generation, &identity, Policy::Deny);
    }
    memo.workload
}

/// The peer at the other end, and the policy decision on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerPolicy {
    /// The peer's workload. The packet's tag may identify it more precisely.
    pub(super) workload: u32,
    /// Bits of [`Identity`]'s constants.
    pub(super) flags: u32,
    /// The decision.
    pub(super) policy: Policy,
}

impl PeerPolicy {
    /// The result if no lookup is possible: denied.
    pub(super) const UNKNOWN: Self = Self {
        workload: Identity::OUTSIDE,
        flags: 0,
        policy: Policy::Deny,
    };
}
