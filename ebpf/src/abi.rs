//! Every type that crosses the boundary between the agent and the kernel.
//!
//! Layouts are fixed with `repr(C)`, have no implicit padding and are checked by the size asserts
//! below. Integers are in host byte order unless a field says otherwise; addresses are bytes in
//! network order. Any change here requires a higher [`ABI_VERSION`]: an agent then builds its own
//! tables beside those of the other version and migrates to them.
//!
//! Data that outlives such a migration has its own versions: [`CONNECTIONS_VERSION`] and
//! [`COUNTERS_VERSION`]. Agents of all versions read some of each other's data, so the following
//! never change: the fields of [`Endpoint`] (new ones are appended), [`Name`], and map `AGENT`.
//! [`Tag`] and the meaning of the mark never change either: a packet may pass programs of two
//! versions on its way.

/// Offset added to the versions by builds that test migration between versions.
const OTHER: u32 = 1000;

/// Version of all layouts in this module and of the names of maps; part of the pin directory's
/// name.
pub const ABI_VERSION: u32 = 8 + if cfg!(feature = "other-policy") {
    OTHER
} else {
    0
};

/// Version of everything that stores connections: [`Connection`], [`ConnectionKey`], [`Bucket`],
/// [`Seed`], [`Quota`], [`Claim`], the names of these maps, how ways are chosen, and the meaning
/// of states. Programs with the same version share these maps, even while a node migrates from
/// one [`ABI_VERSION`] to another. Never 0.
pub const CONNECTIONS_VERSION: u32 = 3 + if cfg!(feature = "other-connections") {
    OTHER
} else {
    0
};

/// Version of the counters: [`DropKey`], [`DropCount`], [`Stat`], and the numbers of [`Reason`],
/// [`Protocol`] and [`Direction`]. Never 0.
pub const COUNTERS_VERSION: u32 = 2 + if cfg!(feature = "other-connections") {
    OTHER
} else {
    0
};

/// Types that are plain bytes: no padding, no pointers, every bit pattern valid.
///
/// # Safety
/// The implementor is `repr(C)` (or an integer or array), has no padding bytes
/// and no bit pattern that is invalid, so that the kernel may fill it and the
/// agent may view it as bytes.
#[allow(unsafe_code)]
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($ty:ty = $size:literal),+ $(,)?) => {$(
        // SAFETY: `repr(C)` over integers; the size assert below proves that the fields leave no
        // padding (the sizes of each struct's fields add up to `$size`).
        #[allow(unsafe_code)]
        unsafe impl Plain for $ty {}
        const _: () = assert!(size_of::<$ty>() == $size);
    )+};
}

plain! {
    u32 = 4,
    u64 = 8,
    Addr = 16,
    Control = 24,
    Kernel = 24,
    Mac = 8,
    Endpoint = 128,
    EndpointRules = 16,
    Tiers = 8,
    CidrKey = 20,
    RuleKey = 12,
    Grant = 8,
    PortKey = 12,
    PortBlock = 32,
    Identity = 16,
    ServiceKey = 20,
    ConnectionKey = 44,
    Connection = 80,
    BucketEntry = 128,
    Bucket = 1152,
    Seed = 48,
    Quota = 16,
    Claim = 8,
    DropKey = 12,
    DropCount = 16,
    Budget = 16,
    Event = 88,
    Name = 128,
}

/// Capacity of each map, in entries (bytes for [`capacity::EVENTS`]).
pub mod capacity {
    /// Endpoint slots: 32,767 usable (as many as a tag can address); slot 0 is never used.
    pub const ENDPOINTS: u32 = 32_768;
    /// CIDR prefixes with a peer class, for both buffers together.
    pub const CIDRS: u32 = 524_288;
    /// (ruleset, class) pairs, for both buffers together.
    pub const RULES: u32 = 524_288;
    /// Blocks of 256 ports and summaries of full blocks, for both buffers together.
    pub const PORTS: u32 = 131_072;
    /// Known addresses: those of pods, nodes and Services, and those with a peer class.
    pub const ADDRESSES: u32 = 524_288;
    /// [`super::ServiceKey`].
    pub const SERVICES: u32 = 262_144;
    /// Words of map `TUNNELS`, which holds one bit per UDP port.
    pub const TUNNELS: u32 = 65_536 / u64::BITS;
    /// Buckets of [`super::Bucket::WAYS`] replied connections. A power of two.
    pub const CONNECTIONS: u32 = 32_768;
    /// Replied connections whose bucket is full. Not an LRU table: no entry is evicted.
    pub const CONN_OVERFLOW: u32 = 65_536;
    /// Buckets of [`super::Bucket::WAYS`] connections that aren't in state replied, either not
    /// yet or not any more. They have a separate table so that a flood of them can't evict
    /// replied connections. A power of two.
    pub const OPENING: u32 = 8192;
    /// The connections of one endpoint lie in a window of `OPENING / OPENING_PARTS` buckets,
    /// which starts at a hashed position. A power of two.
    pub const OPENING_PARTS: u32 = 8;
    /// Link-local addresses that endpoints have claimed.
    pub const CLAIMS: u32 = 65_536;
    /// Addresses of endpoints: two and a link-local one for each, with headroom for addresses
    /// that an endpoint gets before it loses another.
    pub const LOCALS: u32 = 4 * ENDPOINTS;
    /// Sources of denied packets that have their own series.
    pub const SOURCES: u32 = 65_536;
    /// Drop counters: one per (source, destination, direction, reason, protocol, audited).
    pub const DROPS: u32 = 65_536;
    /// Workload names.
    pub const NAMES: u32 = 262_144;
    /// The event ring, in bytes (a power of two).
    pub const EVENTS: u32 = 1 << 20;
}

/// An IPv6 address in network order; IPv4 is mapped to `::ffff:a.b.c.d`.
///
/// A single form for both families allows one key per map; it costs about 5 ns per connection
/// lookup compared with a 16-byte IPv4 key (measured). Stored as words in memory order, because
/// the BPF backend loads and spills every byte of a byte array separately.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Addr([u32; 4]);

impl Addr {
    /// `::`, which also represents an absent address.
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// Returns the mapped form of an IPv4 address given in network order.
    #[inline(always)]
    pub const fn v4(a: [u8; 4]) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(a)])
    }

    /// Creates an address from the bytes of an IPv6 address in network order.
    #[inline(always)]
    pub const fn v6(a: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
            u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
            u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
            u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
        ])
    }

    /// Creates an address from its words in memory order (network byte order).
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// Returns the words in memory order.
    #[inline(always)]
    pub const fn words(&self) -> &[u32; 4] {
        &self.0
    }

    /// Returns the bytes in network order.
    pub const fn octets(&self) -> [u8; 16] {
        let w = [
            self.0[0].to_ne_bytes(),
            self.0[1].to_ne_bytes(),
            self.0[2].to_ne_bytes(),
            self.0[3].to_ne_bytes(),
        ];
        [
            w[0][0], w[0][1], w[0][2], w[0][3], w[1][0], w[1][1], w[1][2], w[1][3], w[2][0],
            w[2][1], w[2][2], w[2][3], w[3][0], w[3][1], w[3][2], w[3][3],
        ]
    }

    /// Reports whether this is a mapped IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] | self.0[1] == 0 && self.0[2] == 0xffff_u32.to_be()
    }

    /// Reports whether this is an IPv6 multicast address, `ff00::/8`.
    #[inline(always)]
    pub const fn is_group_v6(&self) -> bool {
        self.0[0].to_ne_bytes()[0] == 0xff
    }

    /// Reports whether this is a multicast address of either family, or IPv4's limited broadcast.
    #[inline(always)]
    pub const fn is_group(&self) -> bool {
        if self.is_v4() {
            let first = self.0[3].to_ne_bytes()[0];
            first & 0xf0 == 0xe0 || self.0[3] == u32::MAX
        } else {
            self.is_group_v6()
        }
    }

    /// Reports whether this is link-local unicast of either family: `fe80::/10` or
    /// `169.254.0.0/16`.
    #[inline(always)]
    pub const fn is_on_link(&self) -> bool {
        self.is_link_local() || self.is_v4() && u32::from_be(self.0[3]) >> 16 == 0xa9fe
    }

    /// Reports whether this is IPv6 link-local unicast, `fe80::/10`.
    #[inline(always)]
    pub const fn is_link_local(&self) -> bool {
        u32::from_be(self.0[0]) >> 22 == 0xfe80 >> 6
    }

    /// Reports whether this is a loopback address: `127.0.0.0/8` (RFC 1122, 3.2.1.3) or `::1`
    /// (RFC 4291, 2.5.3).
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        let w = &self.0;
        if self.is_v4() {
            w[3].to_ne_bytes()[0] == 127
        } else {
            w[0] | w[1] | w[2] == 0 && w[3] == 1_u32.to_be()
        }
    }

    /// Reports whether the interface identifier is derived from a MAC (RFC 4291, appendix A).
    #[inline(always)]
    pub const fn is_made_from_mac(&self) -> bool {
        let [.., ff] = self.0[2].to_ne_bytes();
        let [fe, ..] = self.0[3].to_ne_bytes();
        ff == 0xff && fe == 0xfe
    }

    /// Compares without `memcmp`, which a 16-byte `==` compiles to in BPF.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        let (a, b) = (&self.0, &other.0);
        (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
    }
}

impl Ord for Addr {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.octets().cmp(&other.octets())
    }
}

impl PartialOrd for Addr {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl From<core::net::IpAddr> for Addr {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(a) => Self::v4(a.octets()),
            core::net::IpAddr::V6(a) => Self::v6(a.octets()),
        }
    }
}

impl From<Addr> for core::net::IpAddr {
    fn from(addr: Addr) -> Self {
        let a = addr.octets();
        if addr.is_v4() {
            core::net::Ipv4Addr::new(a[12], a[13], a[14], a[15]).into()
        } else {
            core::net::Ipv6Addr::from(a).into()
        }
    }
}

impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::net::IpAddr::from(*self).fmt(f)
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// A MAC address in memory order, as two numbers that compare in one step each.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mac {
    head: u32,
    tail: u16,
    pad: u16,
}

impl Mac {
    /// Creates a MAC from its bytes on the wire.
    #[inline(always)]
    pub const fn new(b: [u8; 6]) -> Self {
        Self::from_parts(
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u16::from_ne_bytes([b[4], b[5]]),
        )
    }

    /// Creates a MAC from its first four and last two bytes, in memory order.
    #[inline(always)]
    pub const fn from_parts(head: u32, tail: u16) -> Self {
        Self { head, tail, pad: 0 }
    }

    /// Returns the bytes on the wire.
    pub const fn octets(&self) -> [u8; 6] {
        let (a, b) = (self.head.to_ne_bytes(), self.tail.to_ne_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1]]
    }

    /// Compares without `memcmp`.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        (self.head ^ other.head) | (self.tail ^ other.tail) as u32 == 0
    }

    /// Reports whether it is a group address (broadcast or multicast).
    #[inline(always)]
    pub const fn is_group(&self) -> bool {
        self.head.to_ne_bytes()[0] & 1 != 0
    }
}

/// The number of one of the two buffers, 0 or 1; part of every policy key.
pub type Buffer = u32;

/// The state that is in force: the only element of map `CONTROL`, index 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Control {
    /// Bit 0 is the active buffer. The other bits are the generation of the tables, which rises
    /// with every change of an entry that packets may have read; answers that a CPU has memoized
    /// under an older generation are discarded. Under generation 0 nothing is memoized.
    ///
    /// One aligned word, so that no reader combines the buffer of one generation with the number
    /// of another. Each hook reads it once per packet with a single load; the agent writes it
    /// with a single store.
    pub state: u64,
    /// Bits of [`Control`]'s constants.
    pub flags: u32,
    /// Maximum number of events per second and endpoint that reach the ring; 0 disables events.
    pub events_per_second: u32,
    /// Ticks per second of the connections' clock: the kernel's `CONFIG_HZ`.
    pub ticks_per_second: u32,
    /// The bit of `skb->mark` that ingress hooks set ([`Kernel::seen_mark`]); a packet without it
    /// has passed no ingress hook. 0 while some hooks may not set it yet.
    pub seen_mark: u32,
}

impl Control {
    /// Audit mode: every denial is counted and reported as audited, and the packet passes.
    pub const AUDIT: u32 = 1;
    /// The addresses of some Services are missing from map `ADDRESSES`, because the map or the
    /// agent's memory is full: any address may belong to a Service.
    pub const HIDES_SERVICES: u32 = 2;

    /// Returns the word that activates a buffer under a generation.
    #[inline(always)]
    pub const fn state(generation: u64, buffer: Buffer) -> u64 {
        generation << 1 | (buffer & 1) as u64
    }

    /// Returns the active buffer, 0 or 1.
    #[inline(always)]
    pub const fn buffer(&self) -> Buffer {
        (self.state & 1) as Buffer
    }

    /// Reports whether a packet's mark shows that an ingress hook saw it, or the mark isn't
    /// required.
    #[inline(always)]
    pub const fn saw(&self, mark: u32) -> bool {
        mark & self.seen_mark == self.seen_mark
    }

    /// Returns the low 32 bits of the generation, by which a CPU validates what it has memoized.
    #[inline(always)]
    pub const fn generation(&self) -> u32 {
        (self.state >> 1) as u32
    }
}

/// Byte offsets of kernel fields that `__sk_buff` doesn't expose, taken from the running kernel's
/// type information (BTF). A global of the programs, set when they are loaded; the verifier knows
/// its values.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kernel {
    /// `sk_buff.sk`.
    pub skb_sock: u16,
    /// `sk_buff.dev`.
    pub skb_device: u16,
    /// `sk_buff.head`.
    pub skb_head: u16,
    /// `sk_buff.data`.
    pub skb_data: u16,
    /// The byte that contains `sk_buff.ip_summed`.
    pub skb_summed: u16,
    /// `sk_buff.csum_start`.
    pub skb_sum_start: u16,
    /// `sk_buff.csum_offset`.
    pub skb_sum_offset: u16,
    /// `sock.__sk_common.skc_net.net`.
    pub sock_net: u16,
    /// `net_device.nd_net.net`.
    pub device_net: u16,
    /// The bits of `ip_summed` within its byte.
    pub summed_bits: u8,
    /// 1 if the programs may read the kernel's `sk_buff` with plain loads
    /// (`bpf_cast_to_kern_ctx`, Linux 6.2); otherwise they call a helper for each field.
    pub casts: u8,
    /// The bit of `skb->mark` that ingress hooks set on every packet they see. Chosen by the
    /// agent, not by the kernel. No pod can set it: the kernel clears the mark of a packet that
    /// leaves its network namespace (`skb_scrub_packet`).
    pub seen_mark: u32,
}

/// Placeholder instructions in the object, which the agent patches at load time because the
/// loader relocates neither calls of kernel functions nor offsets of kernel fields.
pub mod marked {
    use super::Kernel;

    /// The call of `bpf_cast_to_kern_ctx`, with a placeholder for the function's id. As an
    /// instruction: opcode `call`, source register 2 (`BPF_PSEUDO_KFUNC_CALL`).
    pub const CAST: u64 = (CAST_ID as u64) << 32 | 0x2085;
    /// The placeholder for the function's id.
    pub const CAST_ID: u32 = 0x5246_0001;
    /// A load with an offset above this reads a field of `sk_buff`.
    pub const LOADS: i16 = 0x7a00;
    /// [`Kernel::skb_summed`].
    pub const SUMMED: i16 = LOADS + 1;
    /// [`Kernel::skb_head`].
    pub const HEAD: i16 = LOADS + 2;
    /// [`Kernel::skb_data`].
    pub const DATA: i16 = LOADS + 3;
    /// [`Kernel::skb_sum_start`].
    pub const SUM_START: i16 = LOADS + 4;
    /// [`Kernel::skb_sum_offset`].
    pub const SUM_OFFSET: i16 = LOADS + 5;

    /// Returns the real offset for a load's placeholder offset.
    pub const fn offset(kernel: &Kernel, mark: i16) -> Option<u16> {
        Some(match mark {
            SUMMED => kernel.skb_summed,
            HEAD => kernel.skb_head,
            DATA => kernel.skb_data,
            SUM_START => kernel.skb_sum_start,
            SUM_OFFSET => kernel.skb_sum_offset,
            _ => return None,
        })
    }
}

/// The rules of one endpoint in one buffer.
///
/// Each buffer has its own, so that only those of the standby buffer are ever rewritten.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EndpointRules {
    /// Ruleset for packets to the pod.
    pub ingress: u32,
    /// Ruleset for packets from the pod.
    pub egress: u32,
    /// Bits of [`EndpointRules`]'s constants.
    pub flags: u32,
    /// Rises only when a change may revoke access of this endpoint.
    pub epoch: u32,
}

impl EndpointRules {
    /// An enforced policy selects the pod for ingress: packets that no rule allows are denied.
    pub const INGRESS_ISOLATED: u32 = 1;
    /// An enforced policy selects the pod for egress.
    pub const EGRESS_ISOLATED: u32 = 2;
    /// A staged policy selects the pod for ingress: packets that [`Grant::staged`] doesn't allow
    /// are audited.
    pub const INGRESS_STAGED: u32 = 4;
    /// A staged policy selects the pod for egress.
    pub const EGRESS_STAGED: u32 = 8;
    /// The pod may exchange packets with its own node only; open connections are cut too.
    pub const QUARANTINE: u32 = 16;
}

/// The rulesets of ClusterNetworkPolicies alone, in one buffer. They apply where NetworkPolicies
/// and labels don't: between the pod and its own node, and between the pod and itself through a
/// Service.
///
/// The flags of [`EndpointRules`] select which grants of these rulesets apply, enforced or
/// staged.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tiers {
    /// Ruleset for packets to the pod; 0 if no ClusterNetworkPolicy applies.
    pub ingress: u32,
    /// Ruleset for packets from the pod; 0 if no ClusterNetworkPolicy applies.
    pub egress: u32,
}

/// One pod's interface on this node; map `ENDPOINTS`, index = slot.
///
/// Written by the agent; the kernel only reads it. Agents of other versions read it too: from
/// version [`Endpoint::SINCE`] on, these fields keep their offsets, and new fields are appended.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Endpoint {
    /// Index of the host-side device; 0 in a free slot.
    pub ifindex: u32,
    /// Never reused and never 0, so that no connection carries over to a later owner of the same
    /// address or slot.
    pub id: u32,
    /// Workload id of the pod.
    pub workload: u32,
    /// Bits of [`Endpoint`]'s constants.
    pub flags: u32,
    /// The pod's IPv4 address, or [`Addr::UNSPECIFIED`].
    pub v4: Addr,
    /// The pod's IPv6 address, or [`Addr::UNSPECIFIED`].
    pub v6: Addr,
    /// The pod's link-local IPv6 address, derived from its MAC (RFC 4291, EUI-64). Link-local
    /// addresses that it claims by duplicate-address detection are in map `CLAIMS`.
    pub link_local: Addr,
    /// The endpoint's rules, by buffer.
    pub rules: [EndpointRules; 2],
    /// End of the pick-up window (nanoseconds, coarse `CLOCK_MONOTONIC`). Until then an unknown
    /// TCP connection may be picked up as a reply, because it may be older than the endpoint's
    /// management.
    pub pickup_until: u64,
    /// MAC of the device inside the pod.
    pub mac: Mac,
    /// The endpoint's [`Tiers`], by buffer. Since version 7.
    pub tiers: [Tiers; 2],
}

impl Endpoint {
    /// The first [`ABI_VERSION`] in which the fields up to [`Endpoint::HEAD`] have these offsets.
    pub const SINCE: u32 = 5;
    /// Number of bytes that are common to all versions since then.
    pub const HEAD: usize = core::mem::offset_of!(Self, tiers);

    /// Another program, which runs after ours on this interface, clears the tag, so a decision
    /// that depends on the tag can't be left to the receiving end.
    pub const TAG_LOST: u32 = 1;

    /// Returns the first slot to probe for an interface: the low bits of its index (a division
    /// would cost as much as a lookup). This may be slot 0, which untagged packets refer to and
    /// which is never assigned.
    ///
    /// The kernel assigns increasing interface indexes, so their low bits rarely collide; but a
    /// device moved in from another namespace may have any index.
    #[inline(always)]
    pub const fn home_slot(ifindex: u32) -> u32 {
        ifindex & (capacity::ENDPOINTS - 1)
    }

    /// Returns the slot to probe after `slot`.
    #[inline(always)]
    pub const fn next_slot(slot: u32) -> u32 {
        Self::home_slot(slot + 1)
    }

    /// Number of slots that a hook probes before it treats an interface as unknown.
    pub const PROBES: u32 = 8;
}

/// Map `CIDRS`: the peer class of a prefix. Value: `u32`.
///
/// This is the data part of its keys. The buffer comes first so that it always matches in full.
/// Prefix length = 32 + 128-bit prefix length (96 + n for IPv4's /n).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CidrKey {
    /// Buffer.
    pub buffer: Buffer,
    /// Address.
    pub addr: Addr,
}

impl CidrKey {
    /// Number of bits that the buffer adds to a prefix length.
    pub const BUFFER_BITS: u32 = 32;
    /// Takes the place of the buffer in entries whose value is the workload id that ownerless
    /// addresses count as: [`Identity::UNKNOWN_POD`] in the cluster's pod ranges. Addresses
    /// without such an entry count as [`Identity::OUTSIDE`].
    pub const RANGES: Buffer = 2;
}

/// Map `RULES`: the grant of a ruleset to a peer class.
///
/// A class without an entry gets the grant of class 0 (addresses that match no peer), and nothing
/// if class 0 has no entry either. So an entry with an empty grant denies its class what the
/// ruleset grants to all others.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RuleKey {
    /// Buffer.
    pub buffer: Buffer,
    /// Ruleset id.
    pub ruleset: u32,
    /// Peer class id.
    pub class: u32,
}

/// Map `TUNNELS`: a bitmap of the UDP ports whose packets nodes decapsulate. Value: `u64`.
/// Written by the agent and shared by both buffers: a new port is closed at once.
pub struct TunnelPorts;

impl TunnelPorts {
    /// Returns the index of the element that contains a port's bit.
    #[inline(always)]
    pub const fn word(port: u16) -> u32 {
        port as u32 / u64::BITS
    }

    /// Returns a port's bit within its element.
    #[inline(always)]
    pub const fn bit(port: u16) -> u64 {
        1 << (port as u32 % u64::BITS)
    }
}

/// Port set ids granted by enforced policies, and with staged ones added; see [`PortSet`]. The
/// default grants nothing.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Grant {
    /// Allowed by enforced policies.
    #[cfg(not(feature = "other-policy"))]
    pub enforced: u32,
    /// Allowed if staged policies were enforced too.
    pub staged: u32,
    /// Allowed by enforced policies.
    #[cfg(feature = "other-policy")]
    pub enforced: u32,
}

/// Port set ids.
///
/// The low four bits mean "every port of TCP, UDP, SCTP" and "every protocol without ports"; the
/// remaining bits are the id of the blocks in map `PORTS` that contain single ports and ranges.
/// So a full protocol needs no second lookup.
pub struct PortSet;

impl PortSet {
    /// Nothing.
    pub const NONE: u32 = 0;
    /// Every TCP port.
    pub const ALL_TCP: u32 = 1;
    /// Every UDP port.
    pub const ALL_UDP: u32 = 2;
    /// Every SCTP port.
    pub const ALL_SCTP: u32 = 4;
    /// All other protocols: ICMP, ICMPv6 and unknown ones.
    pub const OTHER: u32 = 8;
    /// Everything.
    pub const ALL: u32 = 15;
    /// Mask of the blocks' id; 0 means that the set has no blocks.
    pub const BLOCKS: u32 = !15;

    /// Returns the bit that grants all of an IANA protocol.
    #[inline(always)]
    pub const fn whole(protocol: u8) -> u32 {
        match protocol {
            6 => Self::ALL_TCP,
            17 => Self::ALL_UDP,
            132 => Self::ALL_SCTP,
            _ => Self::OTHER,
        }
    }
}

/// Map `PORTS`: 256 ports of one protocol in one port set, or a summary of the blocks that the
/// set contains in full.
///
/// A block whose ports are all in the set has no entry of its own, but a bit in the entry at
/// [`PortKey::SUMMARY`]. So a range needs at most three entries, however many ports it spans.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PortKey {
    /// Buffer.
    pub buffer: Buffer,
    /// Port set id with its low four bits cleared ([`PortSet::BLOCKS`]).
    pub set: u32,
    /// IANA protocol number: 6, 17 or 132.
    pub protocol: u16,
    /// Port divided by 256, or [`PortKey::SUMMARY`].
    pub block: u16,
}

impl PortKey {
    /// Replaces the block's number in the summary entry, which lists the full blocks. Block n has
    /// the bit that port n has in a [`PortBlock`].
    pub const SUMMARY: u16 = 256;
}

/// One bit per port: port p of the block is bit `p % 64` of word `p % 256 / 64`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PortBlock(pub [u64; 4]);

impl PortBlock {
    /// Reports whether the set contains a port (host order) that belongs to this block.
    #[inline(always)]
    pub const fn contains(&self, port: u16) -> bool {
        self.0[((port >> 6) & 3) as usize] & (1 << (port & 63)) != 0
    }

    /// Adds a port of this block.
    pub const fn insert(&mut self, port: u16) {
        self.0[((port >> 6) & 3) as usize] |= 1 << (port & 63);
    }
}

/// Map `ADDRESSES` (key [`Addr`]): the owner of an address and its peer class.
///
/// One lookup returns both. Workload and flags are shared by both buffers. Classes are kept per
/// buffer, like an endpoint's rules, and only those of the standby buffer are rewritten.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identity {
    /// Workload id.
    pub workload: u32,
    /// Bits of [`Identity`]'s constants.
    pub flags: u32,
    /// Peer class by buffer; [`Identity::BY_PREFIX`] if only `CIDRS` contains it.
    pub classes: [u32; 2],
}

impl Default for Identity {
    fn default() -> Self {
        Self::UNKNOWN
    }
}

impl Identity {
    /// The identity of an address without an entry.
    pub const UNKNOWN: Self = Self {
        workload: Self::OUTSIDE,
        flags: 0,
        classes: [Self::BY_PREFIX; 2],
    };
    /// Replaces a class: the longest matching prefix in `CIDRS` determines it.
    ///
    /// A known pod of class 0 has class 0 here, not this, if a prefix covers its address.
    pub const BY_PREFIX: u32 = u32::MAX;

    /// Returns the class in a buffer, or [`Identity::BY_PREFIX`].
    #[inline(always)]
    pub const fn class(&self, buffer: Buffer) -> u32 {
        if buffer & 1 == 0 {
            self.classes[0]
        } else {
            self.classes[1]
        }
    }

    /// Workload id of all addresses without a known owner, except those in pod ranges.
    pub const OUTSIDE: u32 = 0;
    /// Workload id of every node.
    pub const NODE: u32 = 1;
    /// Workload id of pods whose name didn't fit into the full map `NAMES`.
    pub const UNNAMED: u32 = 2;
    /// Workload id of unknown addresses in the cluster's pod ranges. No entry of map `ADDRESSES`
    /// has it.
    pub const UNKNOWN_POD: u32 = 3;
    /// First id assigned to a workload of pods.
    pub const FIRST: u32 = 16;
    /// An address of any node.
    pub const IS_NODE: u32 = 1;
    /// An address of the node on which this agent runs.
    pub const IS_THIS_NODE: u32 = 2;
    /// A Service's address: a cluster, external or load-balancer IP. It belongs to the Service
    /// only on the ports in map `SERVICES`. Never set for a pod's address.
    pub const IS_SERVICE: u32 = 4;
    /// A pod's address that a Service lists as its own too. It remains the pod's address, but
    /// packets to the ports in map `SERVICES` may be forwarded elsewhere.
    pub const IS_CLAIMED: u32 = 8;
    /// Either of the two.
    pub const SHOWN: u32 = Self::IS_SERVICE | Self::IS_CLAIMED;

    /// Some ports of a Service at this address are missing from map `SERVICES`: policy decides by
    /// the address's owner, and packets to any port may be forwarded elsewhere.
    pub const IS_UNLISTED: u32 = 16;

    /// Returns the identity on a port that no Service has at this address. An address that
    /// belongs only to a Service has no owner on such a port; its class never depends on the
    /// port.
    #[inline(always)]
    pub const fn without_service(mut self) -> Self {
        const _: () = assert!(Identity::IS_UNLISTED == Identity::IS_CLAIMED << 1);
        if self.flags & (Self::IS_SERVICE | Self::IS_NODE) == Self::IS_SERVICE {
            self.workload = Self::OUTSIDE;
        }
        let claimed = (self.flags & Self::IS_UNLISTED) >> 1;
        self.flags = self.flags & !(Self::SHOWN | Self::IS_UNLISTED) | claimed;
        self
    }

    /// Reports whether the address may belong to a node that decapsulates tunnels. Only pods'
    /// addresses are known not to, whether or not a Service lists them: a node may have more
    /// addresses than the cluster reports.
    #[inline(always)]
    pub const fn may_unpack(&self) -> bool {
        self.workload < Self::FIRST || self.flags & !Self::BESIDE != 0
    }

    /// Flags that don't determine the owner.
    pub const BESIDE: u32 = Self::IS_CLAIMED | Self::IS_UNLISTED;
}

/// Map `SERVICES`: a port on which nodes forward packets to an address to a Service's backends.
/// The value is unused; without an entry no Service has the port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ServiceKey {
    /// The address.
    pub addr: Addr,
    /// IANA protocol number: 6, 17 or 132.
    pub protocol: u16,
    /// The Service's port, in host order.
    pub port: u16,
}

/// Key of one connection of one endpoint, from the endpoint's point of view, so that one lookup
/// finds it for both directions.
///
/// The addresses come first and full words follow, so there is no implicit padding.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ConnectionKey {
    /// The endpoint's address.
    pub local: Addr,
    /// The peer's address.
    pub remote: Addr,
    /// [`Endpoint::id`].
    pub endpoint: u32,
    /// The endpoint's port (host order); the identifier of ICMP queries.
    pub local_port: u16,
    /// The peer's port (host order); 0 for ICMP queries.
    pub remote_port: u16,
    /// IANA protocol number. In `OPENING`, the entry of a packet's fragments adds
    /// [`ConnectionKey::FRAGMENTS`] times the hook's number.
    pub protocol: u32,
}

impl ConnectionKey {
    /// Values from here on mark the key of one packet's fragments, which has the packet's
    /// identification instead of ports.
    pub const FRAGMENTS: u32 = 256;

    /// An empty key.
    pub const EMPTY: Self = Self {
        local: Addr::UNSPECIFIED,
        remote: Addr::UNSPECIFIED,
        endpoint: 0,
        local_port: 0,
        remote_port: 0,
        protocol: 0,
    };
}

/// A tracked connection. Written only by the kernel.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Connection {
    /// Time of the last packet, in ticks of the connections' clock
    /// ([`Control::ticks_per_second`]).
    #[cfg(not(feature = "other-connections"))]
    pub last_seen: u64,
    /// Time of the first packet, in ticks of the connections' clock.
    pub opened: u64,
    /// Time of the last packet, in ticks of the connections' clock
    /// ([`Control::ticks_per_second`]).
    #[cfg(feature = "other-connections")]
    pub last_seen: u64,
    /// Packets by [`Direction`].
    pub packets: [u64; 2],
    /// Bytes on the wire without the preamble of the link header, by [`Direction`].
    pub bytes: [u64; 2],
    /// The [`EndpointRules::epoch`] in which policy last allowed the connection.
    pub epoch: u32,
    /// Workload id of the peer when the connection was opened.
    pub peer: u32,
    /// [`Direction`] of the packet that opened it.
    pub opened_by: u8,
    /// A value of [`crate::conntrack::State`].
    pub state: u8,
    /// Bits of [`Connection`]'s constants.
    pub flags: u8,
    /// With [`Connection::AUDITED`]: low eight bits of the minute in which the connection was
    /// last counted.
    pub minute: u8,
    /// Lifetime after the last packet, in seconds.
    pub timeout: u32,
    /// By [`Direction`], from the last packet that plausibly belongs to the connection. TCP: the
    /// sequence number after the segment in the high half, the acknowledgement number in the low
    /// half. SCTP: the verification tag in the high half. Unused by other protocols.
    pub numbers: [u64; 2],
}

impl Connection {
    /// Bit of [`Connection::epoch`], above any epoch that an endpoint can reach. Set if enforced
    /// policies allowed the connection in the epoch given by the other bits but staged policies
    /// didn't, or if the agent runs in audit mode. The connection is counted as audited once a
    /// minute while its opener sends.
    pub const AUDITED: u32 = 1 << 31;

    /// The connection is with this node: no NetworkPolicy and no label can revoke it.
    pub const ALWAYS: u8 = 1;
    /// The connection leads to a Service or a node address: its packets carry [`Tag::service`].
    pub const SERVICE: u8 = 2;
    /// Opened by a pod of this node whose packets have a translated source address.
    pub const MASQUERADED: u8 = 4;
    /// The opener is unknown: both directions allowed the connection, and from the next epoch on
    /// it counts as absent.
    pub const EITHER: u8 = 8;
    /// The connection was open before it was tracked.
    pub const PICKED_UP: u8 = 16;

    /// An empty connection.
    pub const EMPTY: Self = Self {
        last_seen: 0,
        opened: 0,
        packets: [0; 2],
        bytes: [0; 2],
        epoch: 0,
        peer: 0,
        opened_by: 0,
        state: 0,
        flags: 0,
        minute: 0,
        timeout: 0,
        numbers: [0; 2],
    };
}

/// One connection of a [`Bucket`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BucketEntry {
    /// The connection.
    pub connection: Connection,
    /// Its key.
    pub key: ConnectionKey,
    /// `CONNECTIONS`: the slot of the connection's endpoint. It pads the entry to two cache
    /// lines.
    pub slot: u32,
}

/// Maps `CONNECTIONS` and `OPENING`, index = [`Seed::bucket`]: connections whose keys share a
/// bucket. Written only by the kernel; see [`crate::buckets`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    /// [`Seed::tag`] of each connection's key, or [`Bucket::FREE`] or [`Bucket::BUSY`]. All tags
    /// share one cache line, because most lookups find nothing.
    pub tags: [u64; Self::WAYS],
    /// `OPENING`: the owner of each connection. Each word holds one byte of [`Seed::owner`] (high
    /// byte first) for all ways, the lowest byte for the first way. `CONNECTIONS`: the first word
    /// is 1 once an insert has found the bucket full; see [`Bucket::is_crowded`].
    pub owners: [u64; 4],
    /// `OPENING`: the tick (low 32 bits) until which each connection holds its way; after that
    /// any other connection may take it.
    pub until: [u32; Self::WAYS],
    /// The connections.
    pub connections: [BucketEntry; Self::WAYS],
}

impl Bucket {
    /// Number of connections in a bucket.
    pub const WAYS: usize = 8;
    /// Tag of a free way.
    pub const FREE: u64 = 0;
    /// Tag of a way that a CPU is writing.
    pub const BUSY: u64 = 1;
}

/// Map `SEED`, index 0: random numbers from which tags and buckets of keys are computed, so that
/// no outsider can choose keys that collide. Written once by the agent: entries in `OPENING` are
/// found by these numbers.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seed(pub [u32; 12]);

/// Map `QUOTA`, index = slot: what an endpoint occupies. Slot 0, which no endpoint has, holds the
/// sum over all endpoints. Written only by the kernel.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quota {
    /// [`Endpoint::id`]; a different id restarts from zero.
    pub endpoint: u32,
    /// Number of connections inserted into `CONNECTIONS`, less those removed.
    pub replied: u32,
    /// Number of link-local addresses claimed.
    pub claims: u32,
    /// Zero.
    pub pad: u32,
}

impl Quota {
    /// The slot of the sum over all endpoints.
    pub const NODE: u32 = 0;
    /// Maximum number of replied connections of all endpoints together. At this number one in
    /// seven finds its bucket of `CONNECTIONS` full; these fit into `CONN_OVERFLOW`.
    pub const ALL_REPLIED: u32 = capacity::CONNECTIONS * Bucket::WAYS as u32;
    /// Maximum number of replied connections of one endpoint. An endpoint also never gets more
    /// than the space that is left, so that there is always room for one more endpoint's
    /// connections. The rest stay in `OPENING`.
    pub const REPLIED: u32 = Self::ALL_REPLIED / 4;
    /// The same maximum for connectionless protocols, whose entries come and go by themselves:
    /// they leave some room for TCP and SCTP.
    pub const REPLIED_BRIEF: u32 = Self::REPLIED / 4 * 3;
    /// Maximum number of link-local addresses that one endpoint may claim.
    pub const CLAIMS: u32 = 8;
}

/// Map `CLAIMS` (key [`Addr`]): the endpoint that claimed a link-local address. Written only by
/// the kernel.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Claim {
    /// [`Endpoint::id`].
    pub endpoint: u32,
    /// The endpoint's slot.
    pub slot: u32,
}

/// The direction of a packet, from the pod's point of view.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// To the pod.
    Ingress = 0,
    /// From the pod.
    Egress = 1,
}

impl Direction {
    /// Returns the opposite direction.
    #[inline(always)]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }

    /// Returns the name used in metrics, events and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// Converts the byte in a map, if it is valid.
    pub const fn from_u8(v: u8) -> Option<Self> {
        match v {
            0 => Some(Self::Ingress),
            1 => Some(Self::Egress),
            _ => None,
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident = $value:literal $text:literal,)+) => {
        /// Why a packet was denied: a closed list, used by name in metrics.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Reason { $($(#[$doc])+ $name = $value,)+ }

        impl Reason {
            /// All reasons, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Returns the name used in metrics, events and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// Converts the byte in a map, if it is valid.
            pub const fn from_u8(v: u8) -> Option<Self> {
                match v { $($value => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// A policy isolates the pod in this direction, and no rule allows the packet.
    Policy = 1 "policy",
    /// The pod is under quarantine.
    Quarantine = 2 "quarantine",
    /// The pod sent a packet with a source address that it doesn't own.
    SpoofedAddress = 3 "spoofed_address",
    /// The pod sent a frame with a source MAC that it doesn't own.
    SpoofedMac = 4 "spoofed_mac",
    /// The pod sent ARP for an address or MAC that it doesn't own.
    SpoofedArp = 5 "spoofed_arp",
    /// The pod sent a neighbour advertisement or solicitation for an address or MAC that isn't
    /// its own.
    SpoofedNeighbour = 6 "spoofed_neighbour",
    /// The pod sent a message that only routers send: an advertisement, a redirect, a query for a
    /// group's listeners.
    RouterMessage = 7 "router_message",
    /// A header is truncated or contradicts itself.
    Malformed = 8 "malformed",
    /// A fragment that can't be matched to an allowed first fragment.
    Fragment = 9 "fragment",
    /// An unknown IPv6 extension header, more of them than the parser walks, or a routing header
    /// or source route that leads beyond the destination.
    ExtensionHeader = 10 "extension_header",
    /// Neither IP nor ARP.
    NonIp = 11 "non_ip",
    /// VLAN-tagged.
    Vlan = 12 "vlan",
    /// The frame isn't addressed to the pod's MAC.
    NotAddressed = 13 "not_addressed",
    /// The program runs on an interface without an endpoint, or without one yet.
    UnknownEndpoint = 14 "unknown_endpoint",
    /// Sent to a port or protocol whose packets a node would decapsulate: VXLAN, Geneve,
    /// IP-in-IP, GRE and the like, and the ports of the node's own tunnels.
    Tunnel = 15 "tunnel",
    /// Sent to a Service's address that was never translated to a backend's.
    UnresolvedService = 16 "unresolved_service",
    /// The pod requested that a checksum be written over header bytes on which the verdict
    /// depends.
    ChecksumOffload = 17 "checksum_offload",
    /// Received from outside this node with the source address of one of its endpoints.
    SpoofedFromOutside = 18 "spoofed_from_outside",
    /// Sent by a pod to a loopback address, 127.0.0.0/8 or ::1.
    Loopback = 23 "loopback",
    /// The packet has passed no ingress hook of this node.
    Unseen = 24 "unseen",
    /// The pod has reached its limit of connections, and replies to this packet would require one
    /// more.
    ConnectionLimit = 25 "connection_limit",
}

/// Map `DROPS`: exact counters, per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct DropKey {
    /// Workload id of the sender.
    pub source: u32,
    /// Workload id of the receiver.
    pub destination: u32,
    /// [`Direction`].
    pub direction: u8,
    /// [`Reason`].
    pub reason: u8,
    /// [`Protocol`].
    pub protocol: u8,
    /// 1 if the denial was only audited and the packet passed.
    pub audited: u8,
}

impl DropKey {
    /// Entries of map `DROPS_OTHER`, which counts packets that find `DROPS` full.
    pub const OTHER: u32 = 2 * 2 * 32 * 8;
    /// Maximum number of series of one source; packets beyond that count as `other`.
    pub const PER_SOURCE: u32 = capacity::DROPS / 16;

    /// Returns the index into `DROPS_OTHER`: the key without its workloads.
    #[inline(always)]
    pub const fn other(&self) -> u32 {
        ((self.audited & 1) as u32) << 9
            | ((self.direction & 1) as u32) << 8
            | ((self.reason & 31) as u32) << 3
            | (self.protocol & 7) as u32
    }
}

/// One CPU's counter in `DROPS` or `DROPS_OTHER`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DropCount {
    /// Packets.
    #[cfg(not(feature = "other-connections"))]
    pub packets: u64,
    /// Bytes, `skb->len`.
    pub bytes: u64,
    /// Packets.
    #[cfg(feature = "other-connections")]
    pub packets: u64,
}

/// Protocols distinguished by the counters.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// Any other protocol, and packets that couldn't be parsed.
    Other = 0,
    /// TCP.
    Tcp = 1,
    /// UDP.
    Udp = 2,
    /// SCTP.
    Sctp = 3,
    /// ICMP and ICMPv6.
    Icmp = 4,
}

impl Protocol {
    /// Converts an IANA protocol number.
    #[inline(always)]
    pub const fn from_iana(number: u8) -> Self {
        match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            132 => Self::Sctp,
            1 | 58 => Self::Icmp,
            _ => Self::Other,
        }
    }

    /// Returns the name used in metrics, events and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
        }
    }

    /// Converts the byte in a map, if it is valid.
    pub const fn from_u8(v: u8) -> Option<Self> {
        match v {
            0 => Some(Self::Other),
            1 => Some(Self::Tcp),
            2 => Some(Self::Udp),
            3 => Some(Self::Sctp),
            4 => Some(Self::Icmp),
            _ => None,
        }
    }
}

/// Index into map `STATS` (per-CPU `u64` counters).
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stat {
    /// Connections opened by an allowed packet.
    ConnectionsAllowed = 0,
    /// Connections opened by a packet that a staged policy would have denied.
    ConnectionsAudited = 1,
    /// Events lost because the ring was full.
    EventsLost = 2,
    /// Events beyond an endpoint's rate limit.
    EventsSuppressed = 3,
    /// Connections that couldn't be stored: policy decides the next packet again.
    ConnectionsNotStored = 4,
    /// Answered connections that stay in `OPENING` because their endpoint has reached its quota.
    ConnectionsOverQuota = 5,
    /// Fragmented packets whose later fragments will be dropped because the first one couldn't be
    /// recorded.
    FragmentsNotStored = 6,
    /// Connections that were open before they were tracked.
    ConnectionsPickedUp = 7,
    /// Live replied connections evicted from `OPENING` by new ones: policy decides each of their
    /// packets again.
    ConnectionsEvicted = 8,
}

impl Stat {
    /// Entries of map `STATS`.
    pub const COUNT: u32 = 9;
}

/// Map `BUDGET`, index = slot: an endpoint's events in the current second. Written only by the
/// kernel.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Budget {
    /// Start of the second, in ticks of the connections' clock.
    pub since: u64,
    /// Events since the start of the second.
    pub events: u64,
}

/// One record of the ring `EVENTS`: a denied or audited packet.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// Nanoseconds, coarse `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Workload id of the sender.
    pub source_workload: u32,
    /// Workload id of the receiver.
    pub destination_workload: u32,
    /// [`Endpoint::id`] of the endpoint whose rules decided.
    pub endpoint: u32,
    /// The active buffer when the packet was decided.
    pub buffer: Buffer,
    /// `skb->len` in bytes.
    pub len: u32,
    /// `skb->ingress_ifindex`.
    pub ingress_ifindex: u32,
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// EtherType, host order.
    pub ethertype: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// [`Direction`].
    pub direction: u8,
    /// [`Reason`].
    pub reason: u8,
    /// 1 if the denial was only audited.
    pub audited: u8,
    /// TCP flags byte, or ICMP type.
    pub detail: u8,
    /// Zero.
    pub pad: [u8; 13],
}

/// A workload's `namespace/service`, NUL-padded; map `NAMES`, key workload id. Only the agent
/// uses it, so that counters keep their names across restarts.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name(pub [u8; 128]);

/// The tag that `from_pod` writes to `skb->tc_index`.
///
/// Bits 0-14 are the sender's slot; 0 means untagged. Bit 15 marks a packet to a Service or a
/// node address, for which the sender's egress is decided at the receiving end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag(pub u16);

impl Tag {
    const SERVICE: u16 = 1 << 15;

    /// Untagged.
    pub const NONE: Self = Self(0);
    /// Sent by this node itself through one of its bridges: a bridge floods copies, which have
    /// lost their socket. No endpoint has slot 0.
    pub const NODE: Self = Self(Self::SERVICE);

    /// Creates a tag for an endpoint's slot.
    #[inline(always)]
    pub const fn new(slot: u32, service: bool) -> Self {
        Self((slot as u16 & 0x7fff) | if service { Self::SERVICE } else { 0 })
    }

    /// Returns the sender's slot, 0 if untagged.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        (self.0 & 0x7fff) as u32
    }

    /// Reports whether the sender's egress is yet to be decided.
    #[inline(always)]
    pub const fn service(self) -> bool {
        self.0 & Self::SERVICE != 0
    }
}
