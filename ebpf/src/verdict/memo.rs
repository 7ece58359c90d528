//! What a CPU has found out before: most packets that belong to no flow ask what
//! one a moment ago has asked. A hit costs a few nanoseconds, the lookups behind
//! it 45 to 150, most of them where only prefixes know the address.
//!
//! Nothing here can outlive a change: an answer holds for one generation of the
//! tables ([`crate::abi::Control::generation`]), and for one ruleset.

use super::Policy;
use crate::abi::{Addr, Direction, EndpointWorld, Identity};

/// One question and its answer.
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

/// What is asked of a ruleset, beside the address: port, protocol, and which of
/// its halves count.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Asks(u32);

impl Asks {
    /// An enforced policy isolates the endpoint in this direction.
    pub(super) const ISOLATED: u32 = 1;
    /// A staged one does.
    pub(super) const STAGED: u32 = 2;

    /// The ruleset of an endpoint in a direction, and what is asked of it.
    #[inline(always)]
    pub(super) const fn of(
        half: &EndpointWorld,
        direction: Direction,
        protocol: u8,
        port: u16,
    ) -> (u32, Self) {
        // Without branches, each of which the verifier would follow.
        const _: () =
            assert!(EndpointWorld::INGRESS_ISOLATED == 1 && EndpointWorld::EGRESS_ISOLATED == 2);
        const _: () =
            assert!(EndpointWorld::INGRESS_STAGED == 4 && EndpointWorld::EGRESS_STAGED == 8);
        const _: () = assert!(Asks::ISOLATED == 1 && Asks::STAGED == 2);
        let (ruleset, flags) = match direction {
            Direction::Ingress => (half.ingress, half.flags),
            Direction::Egress => (half.egress, half.flags >> 1),
        };
        let halves = (flags & 1) | (flags >> 1 & 2);
        let asks = (port as u32) << 16 | (protocol as u32) << 8 | halves;
        (ruleset, Self(asks))
    }

    #[inline(always)]
    pub(super) const fn is(self, half: u32) -> bool {
        self.0 & half != 0
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
    /// How many a CPU keeps: a power of two.
    pub const ENTRIES: u32 = 1024;

    /// Where a question has its place. Whoever knows how can make two meet, which
    /// costs both their lookups and nobody else anything.
    #[inline(always)]
    pub(super) const fn place(addr: &Addr, ruleset: u32, asks: Asks) -> u32 {
        const BITS: u32 = Memo::ENTRIES.trailing_zeros();
        let [a, b, c, d] = *addr.words();
        let near = (a ^ c ^ asks.0) as u64 | ((b ^ d) as u64) << 32;
        let mixed = (near ^ (ruleset as u64) << 8).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> (64 - BITS)) as u32
    }

    /// Whether it answers this question in this generation.
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

    /// Notes an answer.
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

    /// What was noted.
    #[inline(always)]
    pub(super) const fn peer(&self) -> Peer {
        Peer {
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

/// Who is at the other end, and what policy says of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Its workload, which a tag may know better.
    pub(super) workload: u32,
    /// Bits of [`Identity`]'s constants.
    pub(super) flags: u32,
    /// What was asked for.
    pub(super) policy: Policy,
}

impl Peer {
    /// Where nothing can be asked: closed.
    pub(super) const UNKNOWN: Self = Self {
        workload: Identity::OUTSIDE,
        flags: 0,
        policy: Policy::Deny,
    };
}
