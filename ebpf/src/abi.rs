//! Every type that crosses the border between the agent and the kernel.
//!
//! Layouts are fixed with `repr(C)`, have no implicit padding and are checked
//! by size asserts below. Integers are in host byte order unless a field says
//! otherwise; addresses are bytes in network order. Change anything here, and
//! [`ABI_VERSION`] rises: an agent builds tables of its own beside those of another
//! version, and moves over to them.
//!
//! What outlives that has versions of its own: [`CONNECTIONS_VERSION`],
//! [`COUNTERS_VERSION`]. Agents of all versions read some things of each other, so these
//! never change: the fields of [`Endpoint`] (new ones come behind), [`Name`], and map
//! `AGENT`. Nor does [`Tag`], nor what the mark says: a packet may pass programs of two
//! versions on its way.

/// Added to versions by a build that tests moves between versions.
const OTHER: u32 = 1000;

/// Version of all layouts in this module; part of the pin directory's name.
pub const ABI_VERSION: u32 = 7 + if cfg!(feature = "other-policy") {
    OTHER
} else {
    0
};

/// Version of what connections are kept in: [`Flow`], [`FlowKey`], [`Bucket`], [`Seed`],
/// [`Quota`], [`Claim`], how ways are taken and what states mean. Programs of one version
/// share these maps, also while a node moves from one [`ABI_VERSION`] to another. Never 0.
pub const CONNECTIONS_VERSION: u32 = 2 + if cfg!(feature = "other-connections") {
    OTHER
} else {
    0
};

/// The same of what counts: [`DropKey`], [`DropCount`], [`Stat`], and the numbers of
/// [`Reason`], [`Protocol`] and [`Direction`]. Never 0.
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
        // SAFETY: `repr(C)` over integers; the size assert below proves that the
        // fields leave no padding (each struct's fields add up to `$size`).
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
    EndpointWorld = 16,
    Tiers = 8,
    CidrKey = 20,
    RuleKey = 12,
    Grant = 8,
    PortKey = 12,
    PortBlock = 32,
    Identity = 16,
    ServiceKey = 20,
    FlowKey = 44,
    Flow = 80,
    Opening = 128,
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
    /// Endpoint slots: 32,767 usable (as many as a tag can name), slot 0 is never used.
    pub const ENDPOINTS: u32 = 32_768;
    /// CIDR prefixes with a peer class, both worlds together.
    pub const CIDRS: u32 = 524_288;
    /// (ruleset, class) pairs, both worlds together.
    pub const RULES: u32 = 524_288;
    /// Blocks of 256 ports and summaries of whole blocks, both worlds together.
    pub const PORTS: u32 = 131_072;
    /// Known addresses: of pods, nodes and Services, and those with a peer class.
    pub const ADDRESSES: u32 = 524_288;
    /// [`super::ServiceKey`].
    pub const SERVICES: u32 = 262_144;
    /// Words of map `TUNNELS`, one bit for each UDP port.
    pub const TUNNELS: u32 = 65_536 / u64::BITS;
    /// Buckets of [`super::Bucket::WAYS`] replied flows. A power of two.
    pub const FLOWS: u32 = 32_768;
    /// Replied flows that found their bucket full. Not an LRU table: none is pushed out.
    pub const FLOWS_MORE: u32 = 65_536;
    /// Buckets of [`super::Bucket::WAYS`] flows that aren't replied yet or no
    /// longer, in a table of their own so that a flood of them can't evict
    /// replied ones. A power of two.
    pub const OPENING: u32 = 8192;
    /// One endpoint's flows lie in one of so many parts of `OPENING`. A power of two.
    pub const OPENING_PARTS: u32 = 8;
    /// Link-local addresses that endpoints have claimed.
    pub const CLAIMS: u32 = 65_536;
    /// Addresses of endpoints: two and a link-local one each, and room for those that
    /// an endpoint gets before it loses another.
    pub const LOCALS: u32 = 4 * ENDPOINTS;
    /// Sources of denied packets that have series of their own.
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
/// One form for both families keeps one key per map; it costs about 5 ns a flow
/// lookup against a 16-byte IPv4 key (measured). Kept as words as they lie in
/// memory: the BPF backend reads and spills every byte of a byte array by itself.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Addr([u32; 4]);

impl Addr {
    /// `::`, and what an absent address is stored as.
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// The mapped form of an IPv4 address given in network order.
    #[inline(always)]
    pub const fn v4(a: [u8; 4]) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(a)])
    }

    /// An IPv6 address in network order.
    #[inline(always)]
    pub const fn v6(a: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
            u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
            u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
            u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
        ])
    }

    /// From words as they lie in memory, in network order.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The words as they lie in memory.
    #[inline(always)]
    pub const fn words(&self) -> &[u32; 4] {
        &self.0
    }

    /// The bytes in network order.
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

    /// Whether this is a mapped IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] | self.0[1] == 0 && self.0[2] == 0xffff_u32.to_be()
    }

    /// Whether this is an IPv6 group, `ff00::/8`.
    #[inline(always)]
    pub const fn is_group_v6(&self) -> bool {
        self.0[0].to_ne_bytes()[0] == 0xff
    }

    /// Whether this is a group of either family, or IPv4's limited broadcast.
    #[inline(always)]
    pub const fn is_group(&self) -> bool {
        if self.is_v4() {
            let first = self.0[3].to_ne_bytes()[0];
            first & 0xf0 == 0xe0 || self.0[3] == u32::MAX
        } else {
            self.is_group_v6()
        }
    }

    /// Whether this is link-local unicast of either family: `fe80::/10` or
    /// `169.254.0.0/16`.
    #[inline(always)]
    pub const fn is_on_link(&self) -> bool {
        self.is_link_local() || self.is_v4() && u32::from_be(self.0[3]) >> 16 == 0xa9fe
    }

    /// Whether this is IPv6 link-local unicast, `fe80::/10`.
    #[inline(always)]
    pub const fn is_link_local(&self) -> bool {
        u32::from_be(self.0[0]) >> 22 == 0xfe80 >> 6
    }

    /// Whether no other host may be reached by it: `127.0.0.0/8` (RFC 1122,
    /// 3.2.1.3), `::1` (RFC 4291, 2.5.3).
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        let w = &self.0;
        if self.is_v4() {
            w[3].to_ne_bytes()[0] == 127
        } else {
            w[0] | w[1] | w[2] == 0 && w[3] == 1_u32.to_be()
        }
    }

    /// Whether an interface identifier is made from a MAC (RFC 4291, appendix A).
    #[inline(always)]
    pub const fn is_made_from_mac(&self) -> bool {
        let [.., ff] = self.0[2].to_ne_bytes();
        let [fe, ..] = self.0[3].to_ne_bytes();
        ff == 0xff && fe == 0xfe
    }

    /// Equality without `memcmp`, which a 16-byte `==` becomes in BPF.
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

/// A MAC as it lies in memory: two numbers that compare in one step each.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mac {
    head: u32,
    tail: u16,
    pad: u16,
}

impl Mac {
    /// From the bytes on the wire.
    #[inline(always)]
    pub const fn new(b: [u8; 6]) -> Self {
        Self::from_parts(
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u16::from_ne_bytes([b[4], b[5]]),
        )
    }

    /// From its first four bytes and its last two, as they lie in memory.
    #[inline(always)]
    pub const fn from_parts(head: u32, tail: u16) -> Self {
        Self { head, tail, pad: 0 }
    }

    /// The bytes on the wire.
    pub const fn octets(&self) -> [u8; 6] {
        let (a, b) = (self.head.to_ne_bytes(), self.tail.to_ne_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1]]
    }

    /// Equality without `memcmp`.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        (self.head ^ other.head) | (self.tail ^ other.tail) as u32 == 0
    }

    /// Whether it is a group address (broadcast or multicast).
    #[inline(always)]
    pub const fn is_group(&self) -> bool {
        self.head.to_ne_bytes()[0] & 1 != 0
    }
}

/// One world of two; policy keys carry it.
pub type World = u32;

/// The one element that says what is in force; map `CONTROL`, index 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Control {
    /// Bit 0: the active world. The other bits: the generation of the tables, which
    /// rises with every change of an entry that packets may have read; what a CPU
    /// remembers of an older one is forgotten. Generation 0 means that nothing is
    /// remembered.
    ///
    /// One aligned word, so that no reader sees the world of one generation with the
    /// number of another. Read once per hook and packet with a single load; written
    /// with a single store.
    pub state: u64,
    /// Bits of [`Control`]'s constants.
    pub flags: u32,
    /// Events per second and endpoint that reach the ring; 0 means none.
    pub events_per_second: u32,
    /// Ticks of the flows' clock in a second: the kernel's `CONFIG_HZ`.
    pub ticks_per_second: u32,
    /// The bit of `skb->mark` without which a packet was seen by no hook where it came
    /// in ([`Kernel::seen_mark`]); 0 as long as some hooks may not set it.
    pub seen_mark: u32,
}

impl Control {
    /// Every denial is counted and reported as audited, and the packet passes.
    pub const AUDIT: u32 = 1;
    /// Some Services' addresses aren't in map `ADDRESSES`, for want of room there or in the
    /// agent's memory: any address may be one.
    pub const HIDES_SERVICES: u32 = 2;

    /// The word that puts a world in force under a generation.
    #[inline(always)]
    pub const fn state(generation: u64, world: World) -> u64 {
        generation << 1 | (world & 1) as u64
    }

    /// The active world, 0 or 1.
    #[inline(always)]
    pub const fn world(&self) -> World {
        (self.state & 1) as World
    }

    /// Whether a packet's mark shows that a hook saw it come in, or nobody asks.
    #[inline(always)]
    pub const fn saw(&self, mark: u32) -> bool {
        mark & self.seen_mark == self.seen_mark
    }

    /// The low 32 bits of the generation, by which a CPU tells what it may remember.
    #[inline(always)]
    pub const fn generation(&self) -> u32 {
        (self.state >> 1) as u32
    }
}

/// Where the running kernel keeps what `__sk_buff` doesn't show: byte offsets from
/// its type information (BTF). A global of the programs, set when they are loaded;
/// the verifier knows its values.
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
    /// The byte that holds `sk_buff.ip_summed`.
    pub skb_summed: u16,
    /// `sk_buff.csum_start`.
    pub skb_sum_start: u16,
    /// `sk_buff.csum_offset`.
    pub skb_sum_offset: u16,
    /// `sock.__sk_common.skc_net.net`.
    pub sock_net: u16,
    /// `net_device.nd_net.net`.
    pub device_net: u16,
    /// The bits of `ip_summed` in its byte.
    pub summed_bits: u8,
    /// 1 if the programs may read the kernel's `sk_buff` with plain loads
    /// (`bpf_cast_to_kern_ctx`, Linux 6.2); else they call a helper for each field.
    pub casts: u8,
    /// The bit of `skb->mark` that ingress hooks set in what they have seen. The agent's
    /// choice, not the kernel's. No pod can set it: the kernel clears the mark of a packet
    /// that leaves its network namespace (`skb_scrub_packet`).
    pub seen_mark: u32,
}

/// Instructions in the object that the agent completes when it loads it, since the
/// loader relocates neither calls of kernel functions nor offsets of the kernel's
/// fields.
pub mod marked {
    use super::Kernel;

    /// The call of `bpf_cast_to_kern_ctx`: the number stands for the function's id.
    /// As an instruction: opcode `call`, source register 2 (`BPF_PSEUDO_KFUNC_CALL`).
    pub const CAST: u64 = (CAST_ID as u64) << 32 | 0x2085;
    /// What stands for the function's id there.
    pub const CAST_ID: u32 = 0x5246_0001;
    /// Loads with a larger offset than this read a field of `sk_buff`.
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

    /// The offset that a load's marked one stands for.
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

/// What one direction of one endpoint is under, in one world.
///
/// World halves are separate so that only standby halves are ever rewritten.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EndpointWorld {
    /// Ruleset of packets to the pod.
    pub ingress: u32,
    /// Ruleset of packets from the pod.
    pub egress: u32,
    /// Bits of [`EndpointWorld`]'s constants.
    pub flags: u32,
    /// Rises only when a change may take something from this endpoint.
    pub epoch: u32,
}

impl EndpointWorld {
    /// An enforced policy selects the pod for ingress: what no rule allows is denied.
    pub const INGRESS_ISOLATED: u32 = 1;
    /// An enforced policy selects the pod for egress.
    pub const EGRESS_ISOLATED: u32 = 2;
    /// A staged policy selects the pod for ingress: what [`Grant::staged`]
    /// doesn't allow is audited.
    pub const INGRESS_STAGED: u32 = 4;
    /// A staged policy selects the pod for egress.
    pub const EGRESS_STAGED: u32 = 8;
    /// Cut off but for its node, open connections too.
    pub const QUARANTINE: u32 = 16;
}

/// What ClusterNetworkPolicies alone say in one world, for whom NetworkPolicies and labels
/// have no say: the pod's own node, and itself behind a Service.
///
/// [`EndpointWorld`]'s flags say which halves of these rulesets count.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tiers {
    /// Ruleset of packets to the pod; 0 where they have no say.
    pub ingress: u32,
    /// The same of packets from the pod.
    pub egress: u32,
}

/// One pod's interface on this node; map `ENDPOINTS`, index = slot.
///
/// The agent writes it, the kernel only reads it. Agents of other versions read it too:
/// these fields stay where they are from version [`Endpoint::SINCE`] on, and new ones
/// come behind them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Endpoint {
    /// Index of the host-side device; 0 marks a free slot.
    pub ifindex: u32,
    /// Never reused, never 0: a reused address or slot inherits no flow.
    pub id: u32,
    /// Workload id of the pod.
    pub workload: u32,
    /// Bits of [`Endpoint`]'s constants.
    pub flags: u32,
    /// The pod's IPv4 address, or [`Addr::UNSPECIFIED`].
    pub v4: Addr,
    /// The pod's IPv6 address, or [`Addr::UNSPECIFIED`].
    pub v6: Addr,
    /// The pod's link-local IPv6 address, made from its MAC (RFC 4291, EUI-64).
    /// Others that it claims by duplicate-address detection are in map `CLAIMS`.
    pub link_local: Addr,
    /// What is in force for it, by world.
    pub worlds: [EndpointWorld; 2],
    /// Until then (nanoseconds, `CLOCK_MONOTONIC`, coarse) an unknown TCP connection may be
    /// picked up as a reply: it was open before the endpoint was managed.
    pub pickup_until: u64,
    /// MAC of the pod's side.
    pub mac: Mac,
    /// What is in force for whom NetworkPolicies don't count, by world. Since version 7.
    pub tiers: [Tiers; 2],
}

impl Endpoint {
    /// The first [`ABI_VERSION`] with these fields in these places, up to
    /// [`Endpoint::HEAD`].
    pub const SINCE: u32 = 5;
    /// Bytes that every version since then has.
    pub const HEAD: usize = core::mem::offset_of!(Self, tiers);

    /// Another program behind ours on this interface clears the tag, so what it
    /// stands for can't be decided where the packet arrives.
    pub const TAG_LOST: u32 = 1;

    /// First slot to probe for an interface: the low bits of its index (a
    /// division would cost as much as a lookup). It may be slot 0, which an
    /// untagged packet names and nobody ever gets.
    ///
    /// Interface indexes that the kernel gives only grow, so their low bits hardly
    /// collide; a device that is moved in may bring any.
    #[inline(always)]
    pub const fn home_slot(ifindex: u32) -> u32 {
        ifindex & (capacity::ENDPOINTS - 1)
    }

    /// The slot probed after `slot`.
    #[inline(always)]
    pub const fn next_slot(slot: u32) -> u32 {
        Self::home_slot(slot + 1)
    }

    /// How many slots a hook probes before it calls an interface unknown.
    pub const PROBES: u32 = 8;
}

/// Map `CIDRS`: the class of a prefix. Value: `u32`.
///
/// The data part of its keys; the world comes first so that it is always wholly
/// matched. Prefix length = 32 + 128-bit prefix length (96 + n for IPv4's /n).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CidrKey {
    /// World.
    pub world: World,
    /// Address.
    pub addr: Addr,
}

impl CidrKey {
    /// Bits of the world in a prefix length.
    pub const WORLD_BITS: u32 = 32;
    /// In place of a world: the value says whom an address is counted as at which nobody
    /// is known. [`Identity::UNKNOWN_POD`] in the cluster's pod ranges, and
    /// [`Identity::OUTSIDE`] where there is no entry.
    pub const RANGES: World = 2;
}

/// Map `RULES`: what a ruleset grants a peer class.
///
/// A class without an entry is granted what class 0 is, the addresses that match no
/// peer; nothing if that has no entry either. So an entry that is there and grants
/// nothing denies its class what the ruleset grants all others.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RuleKey {
    /// World.
    pub world: World,
    /// Ruleset id.
    pub ruleset: u32,
    /// Peer class id.
    pub class: u32,
}

/// Map `TUNNELS`: the UDP ports that nodes unpack, as bits. Value: `u64`. The agent
/// writes it, in any world: a port that comes is closed at once.
pub struct TunnelPorts;

impl TunnelPorts {
    /// The element that holds a port's bit.
    #[inline(always)]
    pub const fn word(port: u16) -> u32 {
        port as u32 / u64::BITS
    }

    /// A port's bit in its element.
    #[inline(always)]
    pub const fn bit(port: u16) -> u64 {
        1 << (port as u32 % u64::BITS)
    }
}

/// Port set ids by what asks: see [`PortSet`]. The default grants nothing.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Grant {
    /// What enforced policies allow.
    #[cfg(not(feature = "other-policy"))]
    pub enforced: u32,
    /// What would be allowed if staged policies were enforced too.
    pub staged: u32,
    /// What enforced policies allow.
    #[cfg(feature = "other-policy")]
    pub enforced: u32,
}

/// Port set ids.
///
/// The low four bits say "every port of TCP, UDP, SCTP" and "every protocol
/// without ports"; the rest names the blocks in map `PORTS` that hold single
/// ports and ranges. So a whole protocol needs no second lookup.
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
    /// Every other protocol: ICMP, ICMPv6 and unknown ones.
    pub const OTHER: u32 = 8;
    /// Everything.
    pub const ALL: u32 = 15;
    /// Bits that name the blocks; 0 there means that there are none.
    pub const BLOCKS: u32 = !15;

    /// The bit that holds all of an IANA protocol.
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

/// Map `PORTS`: 256 ports of one protocol of one port set, or the blocks that the
/// set holds whole.
///
/// A block of which the set holds every port has no entry of its own, but a bit in
/// the entry at [`PortKey::SUMMARY`]. So a range takes three entries at most, however
/// many ports it spans.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PortKey {
    /// World.
    pub world: World,
    /// Port set id with its low four bits cleared ([`PortSet::BLOCKS`]).
    pub set: u32,
    /// IANA protocol number: 6, 17 or 132.
    pub protocol: u16,
    /// Port divided by 256, or [`PortKey::SUMMARY`].
    pub block: u16,
}

impl PortKey {
    /// Instead of a block's number: the entry says which blocks are whole. Bit n is
    /// block n's, in the place that [`PortBlock`] gives port n.
    pub const SUMMARY: u16 = 256;
}

/// One bit a port: port p of the block is bit `p % 64` of word `p % 256 / 64`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PortBlock(pub [u64; 4]);

impl PortBlock {
    /// Whether the port (host order) is in the set, given that it is in this block.
    #[inline(always)]
    pub const fn contains(&self, port: u16) -> bool {
        self.0[((port >> 6) & 3) as usize] & (1 << (port & 63)) != 0
    }

    /// Adds a port of this block.
    pub const fn insert(&mut self, port: u16) {
        self.0[((port >> 6) & 3) as usize] |= 1 << (port & 63);
    }
}

/// Map `ADDRESSES` (key [`Addr`]): who an address is, and its peer class.
///
/// One lookup gives both. Name and flags are of one world; the classes are kept
/// once per world like an endpoint's halves, and only a standby's is rewritten.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identity {
    /// Workload id.
    pub workload: u32,
    /// Bits of [`Identity`]'s constants.
    pub flags: u32,
    /// Peer class by world; [`Identity::BY_PREFIX`] where only `CIDRS` knows it.
    pub classes: [u32; 2],
}

impl Default for Identity {
    fn default() -> Self {
        Self::UNKNOWN
    }
}

impl Identity {
    /// Whom no entry names.
    pub const UNKNOWN: Self = Self {
        workload: Self::OUTSIDE,
        flags: 0,
        classes: [Self::BY_PREFIX; 2],
    };
    /// Instead of a class: the longest prefix in `CIDRS` says it.
    ///
    /// A known pod of class 0 has that class here where a prefix covers its address.
    pub const BY_PREFIX: u32 = u32::MAX;

    /// The class in a world, or [`Identity::BY_PREFIX`].
    #[inline(always)]
    pub const fn class(&self, world: World) -> u32 {
        if world & 1 == 0 {
            self.classes[0]
        } else {
            self.classes[1]
        }
    }

    /// Workload id of every address at which nobody is known, but in pods' ranges.
    pub const OUTSIDE: u32 = 0;
    /// Workload id of every node.
    pub const NODE: u32 = 1;
    /// Workload id of pods whose name found map `NAMES` full.
    pub const UNNAMED: u32 = 2;
    /// Workload id of what is in the cluster's pod ranges and isn't known. No entry of map
    /// `ADDRESSES` has it.
    pub const UNKNOWN_POD: u32 = 3;
    /// First id given to a workload of pods.
    pub const FIRST: u32 = 16;
    /// The address of some node.
    pub const IS_NODE: u32 = 1;
    /// An address of the node that runs this agent.
    pub const IS_THIS_NODE: u32 = 2;
    /// An address that a Service shows: a cluster, external or load-balancer IP.
    /// It is the Service's on the ports in map `SERVICES` alone. Never set for a
    /// pod's address.
    pub const IS_SERVICE: u32 = 4;
    /// A pod's address that a Service shows as well: it stays the pod's, but what
    /// goes to the ports in map `SERVICES` may end elsewhere.
    pub const IS_CLAIMED: u32 = 8;
    /// Either of them.
    pub const SHOWN: u32 = Self::IS_SERVICE | Self::IS_CLAIMED;

    /// Some of the ports of a Service at the address aren't in map `SERVICES`: who
    /// it is decides, and any port may end elsewhere.
    pub const IS_UNLISTED: u32 = 16;

    /// What is left of it on a port that no Service has there. An address that is
    /// nobody's but a Service's is nobody's then; its class never depends on that.
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

    /// Whether a node that unpacks tunnels may be there. Only pods' addresses are known to
    /// be no node's, whatever a Service shows: a node may have more of them than the
    /// cluster says.
    #[inline(always)]
    pub const fn may_unpack(&self) -> bool {
        self.workload < Self::FIRST || self.flags & !Self::BESIDE != 0
    }

    /// Flags that say nothing of who it is.
    pub const BESIDE: u32 = Self::IS_CLAIMED | Self::IS_UNLISTED;
}

/// Map `SERVICES`: a port at which nodes forward an address to a Service's
/// backends. The value is of no meaning; no entry means that no Service has it.
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

/// Key of a flow: one connection of one endpoint, seen from the endpoint, so that
/// both directions find it with one lookup.
///
/// The addresses come first and whole words follow: no implicit padding.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FlowKey {
    /// The endpoint's address.
    pub local: Addr,
    /// The peer's address.
    pub remote: Addr,
    /// [`Endpoint::id`].
    pub endpoint: u32,
    /// The endpoint's port (host order); for ICMP queries the identifier.
    pub local_port: u16,
    /// The peer's port (host order); for ICMP queries 0.
    pub remote_port: u16,
    /// IANA protocol number. In `OPENING` also: where the fragments of a packet lie,
    /// with [`FlowKey::FRAGMENTS`] times a hook's number.
    pub protocol: u32,
}

impl FlowKey {
    /// From here up, a key is that of the fragments of one packet, with its
    /// identification instead of ports.
    pub const FRAGMENTS: u32 = 256;

    /// The key of nothing.
    pub const EMPTY: Self = Self {
        local: Addr::UNSPECIFIED,
        remote: Addr::UNSPECIFIED,
        endpoint: 0,
        local_port: 0,
        remote_port: 0,
        protocol: 0,
    };
}

/// A tracked connection. Written by the kernel only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flow {
    /// Ticks of the flows' clock ([`Control::ticks_per_second`]).
    #[cfg(not(feature = "other-connections"))]
    pub last_seen: u64,
    /// Ticks of the flows' clock.
    pub opened: u64,
    /// Ticks of the flows' clock ([`Control::ticks_per_second`]).
    #[cfg(feature = "other-connections")]
    pub last_seen: u64,
    /// Packets by [`Direction`].
    pub packets: [u64; 2],
    /// Bytes on the wire without the link header's preamble, by [`Direction`].
    pub bytes: [u64; 2],
    /// [`EndpointWorld::epoch`] in which policy last allowed it.
    pub epoch: u32,
    /// Workload of the peer when it was opened.
    pub peer: u32,
    /// [`Direction`] of the packet that opened it.
    pub opened_by: u8,
    /// A value of [`crate::conntrack::State`].
    pub state: u8,
    /// Bits of [`Flow`]'s constants.
    pub flags: u8,
    /// With [`Flow::AUDITED`]: the minute in which it was counted last, its low eight bits.
    pub minute: u8,
    /// Seconds that it lives after its last packet.
    pub timeout: u32,
    /// By [`Direction`], of the last packet that may be the connection's: TCP's sequence
    /// number behind it in the high half, and in the low one what it acknowledges; SCTP's
    /// verification tag in the high half. Of no meaning in other protocols.
    pub numbers: [u64; 2],
}

impl Flow {
    /// Bit of [`Flow::epoch`], which no endpoint's ever gets to: what is enforced allowed it
    /// in the epoch that the other bits say, and what is staged didn't, or the agent audits.
    /// It is counted as audited once a minute as long as its opener sends.
    pub const AUDITED: u32 = 1 << 31;

    /// With this node: no NetworkPolicy and no label can take it back.
    pub const ALWAYS: u8 = 1;
    /// To a Service or a node address: its packets carry [`Tag::service`].
    pub const SERVICE: u8 = 2;
    /// Opened by a pod of this node whose packets show another address.
    pub const MASQUERADED: u8 = 4;
    /// Nobody saw which end opened it: both directions have allowed it, and with the next
    /// epoch it is as if it weren't there.
    pub const EITHER: u8 = 8;
    /// It was open before it was tracked.
    pub const PICKED_UP: u8 = 16;

    /// A flow of nothing.
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

/// One flow of a [`Bucket`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Opening {
    /// The flow.
    pub flow: Flow,
    /// Its key.
    pub key: FlowKey,
    /// `FLOWS`: the slot of its endpoint. Fills two lines of the cache.
    pub slot: u32,
}

/// Maps `FLOWS` and `OPENING`, index = [`Seed::bucket`]: flows whose keys share a
/// bucket. Written by the kernel only; see [`crate::buckets`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    /// What [`Seed::tag`] makes of each flow's key, or one of the two below. All in
    /// one line of the cache: most packets ask and find nothing.
    pub tags: [u64; Self::WAYS],
    /// `OPENING`: whose each flow is, a byte for each way, the lowest for the first:
    /// the bytes of [`Seed::owner`]. `FLOWS`: the first number is 1 once a flow has
    /// found the bucket full; see [`Bucket::is_crowded`].
    pub owners: [u64; 4],
    /// `OPENING`: the tick (its low 32 bits) up to which each flow holds its way;
    /// then any other may take it.
    pub until: [u32; Self::WAYS],
    /// The flows.
    pub flows: [Opening; Self::WAYS],
}

impl Bucket {
    /// Flows in a bucket.
    pub const WAYS: usize = 8;
    /// Tag of a way that holds nothing.
    pub const FREE: u64 = 0;
    /// Tag of a way that some CPU is writing.
    pub const BUSY: u64 = 1;
}

/// Map `SEED`, index 0: random numbers that make tags and buckets of keys, so that
/// nobody outside can choose keys that meet. Written by the agent, once: what lies
/// in `OPENING` is found by them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seed(pub [u32; 12]);

/// Map `QUOTA`, index = slot: what an endpoint keeps; slot 0, which no endpoint has:
/// what all of them keep together. Written by the kernel only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quota {
    /// [`Endpoint::id`]; another one starts from nothing.
    pub endpoint: u32,
    /// Flows put into `FLOWS`, less those that were taken out.
    pub replied: u32,
    /// Link-local addresses claimed.
    pub claims: u32,
    /// Zero.
    pub pad: u32,
}

impl Quota {
    /// The slot of what all endpoints keep together.
    pub const NODE: u32 = 0;
    /// Replied flows that all endpoints together may keep. Those whose bucket of `FLOWS`
    /// is full, one in seven where it is so many, fit into `FLOWS_MORE`.
    pub const ALL_REPLIED: u32 = capacity::FLOWS * Bucket::WAYS as u32;
    /// Replied flows that one endpoint may keep, and never more than there is room left
    /// for: whatever others keep, there is room for those of one more. The rest stays
    /// in `OPENING`.
    pub const REPLIED: u32 = Self::ALL_REPLIED / 4;
    /// The same of protocols without connections, whose flows come and go by themselves:
    /// they leave TCP and SCTP some room.
    pub const REPLIED_BRIEF: u32 = Self::REPLIED / 4 * 3;
    /// Link-local addresses that one endpoint may claim.
    pub const CLAIMS: u32 = 8;
}

/// Map `CLAIMS` (key [`Addr`]): whose a claimed link-local address is. Written by
/// the kernel only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Claim {
    /// [`Endpoint::id`].
    pub endpoint: u32,
    /// Its slot.
    pub slot: u32,
}

/// Which way a packet goes, seen from the pod.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// To the pod.
    Ingress = 0,
    /// From the pod.
    Egress = 1,
}

impl Direction {
    /// The other way.
    #[inline(always)]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }

    /// The word in metrics, events and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// From the byte in a map, if it is one.
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
        /// Why a packet was denied: a closed list, in metrics by name.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Reason { $($(#[$doc])+ $name = $value,)+ }

        impl Reason {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word in metrics, events and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// From the byte in a map, if it is one.
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
    /// The pod sent with a source address that it doesn't own.
    SpoofedAddress = 3 "spoofed_address",
    /// The pod sent with a MAC that it doesn't own.
    SpoofedMac = 4 "spoofed_mac",
    /// The pod sent ARP for an address or MAC that it doesn't own.
    SpoofedArp = 5 "spoofed_arp",
    /// The pod advertised a neighbour that it isn't.
    SpoofedNeighbour = 6 "spoofed_neighbour",
    /// The pod sent what only routers send: an advertisement, a redirect, a query of a
    /// group's listeners.
    RouterMessage = 7 "router_message",
    /// A header is cut short or contradicts itself.
    Malformed = 8 "malformed",
    /// A fragment that can't be tied to an allowed first fragment.
    Fragment = 9 "fragment",
    /// More IPv6 extension headers than are walked, or one that is unknown; a routing
    /// header or a source route that leads on from the destination.
    ExtensionHeader = 10 "extension_header",
    /// Neither IP nor ARP.
    NonIp = 11 "non_ip",
    /// VLAN-tagged.
    Vlan = 12 "vlan",
    /// The frame isn't addressed to the pod's MAC.
    NotAddressed = 13 "not_addressed",
    /// The program runs on an interface that has no endpoint (yet).
    UnknownEndpoint = 14 "unknown_endpoint",
    /// To a port or protocol by which a node would unpack what is inside: VXLAN,
    /// Geneve, IP-in-IP, GRE and the like, and the ports of the node's own tunnels.
    Tunnel = 15 "tunnel",
    /// To a Service's address that nothing has translated to a backend's.
    UnresolvedService = 16 "unresolved_service",
    /// The pod asked for a checksum to be written over header bytes that decide.
    ChecksumOffload = 17 "checksum_offload",
    /// From outside of this node, with the source address of one of its endpoints.
    SpoofedFromOutside = 18 "spoofed_from_outside",
    /// From a pod to a loopback address, 127.0.0.0/8 or ::1.
    Loopback = 23 "loopback",
    /// It passed the ingress hook of no device of this node.
    Unseen = 24 "unseen",
    /// The pod keeps as many connections as it may, and this one's answers would need one
    /// more to be kept.
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
    /// 1 if the packet passed because the denial was only audited.
    pub audited: u8,
}

impl DropKey {
    /// Entries of map `DROPS_OTHER`, where a count goes that finds `DROPS` full.
    pub const OTHER: u32 = 2 * 2 * 32 * 8;
    /// Series of their own that one source may have; more count as `other`.
    pub const PER_SOURCE: u32 = capacity::DROPS / 16;

    /// Index into `DROPS_OTHER`: the key without its workloads.
    #[inline(always)]
    pub const fn other(&self) -> u32 {
        ((self.audited & 1) as u32) << 9
            | ((self.direction & 1) as u32) << 8
            | ((self.reason & 31) as u32) << 3
            | (self.protocol & 7) as u32
    }
}

/// One counter of `DROPS` or `DROPS_OTHER` on one CPU.
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

/// Protocols as they are counted.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// Anything else, and what couldn't be parsed.
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
    /// From the IANA protocol number.
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

    /// The word in metrics, events and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
        }
    }

    /// From the byte in a map, if it is one.
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
    /// Flows opened by an allowed packet.
    FlowsAllowed = 0,
    /// Flows opened by a packet that a staged policy would have denied.
    FlowsAudited = 1,
    /// Events that the full ring couldn't take.
    EventsLost = 2,
    /// Events beyond an endpoint's rate.
    EventsSuppressed = 3,
    /// Flows that couldn't be stored: the next packet is decided anew.
    FlowsNotStored = 4,
    /// Answered flows that aren't kept for good, since their endpoint keeps as many as
    /// it may: they stay among the brief ones.
    FlowsOverQuota = 5,
    /// Fragmented packets whose later fragments will be dropped, since the first
    /// couldn't be noted.
    FragmentsNotStored = 6,
    /// Flows of connections that were open before anybody tracked them.
    FlowsPickedUp = 7,
    /// Live answered flows that weren't kept for good, and have given way to new ones: each
    /// of their packets is decided anew.
    FlowsEvicted = 8,
}

impl Stat {
    /// Entries of map `STATS`.
    pub const COUNT: u32 = 9;
}

/// Map `BUDGET`, index = slot: events of an endpoint in the current second.
/// Written by the kernel only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Budget {
    /// Start of the second, in ticks of the flows' clock.
    pub since: u64,
    /// Events since then.
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
    /// [`Endpoint::id`] of the endpoint that decided.
    pub endpoint: u32,
    /// World generation's low bit: the world that decided.
    pub world: World,
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
    /// 1 if audited only.
    pub audited: u8,
    /// TCP flags byte, or ICMP type.
    pub detail: u8,
    /// Zero.
    pub pad: [u8; 13],
}

/// A workload's `namespace/service`, NUL-padded; map `NAMES`, key workload id.
/// Kept by the agent alone so that counters keep their names across restarts.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name(pub [u8; 128]);

/// The tag that `from_pod` writes to `skb->tc_index`.
///
/// Bits 0-14: the sender's slot; 0 means untagged. Bit 15: to a Service or a
/// node address, so the sender's egress is decided where the packet arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag(pub u16);

impl Tag {
    const SERVICE: u16 = 1 << 15;

    /// Untagged.
    pub const NONE: Self = Self(0);
    /// This node itself sent it, by one of its bridges: what a bridge floods are
    /// copies, which have lost their socket. No endpoint has slot 0.
    pub const NODE: Self = Self(Self::SERVICE);

    /// A tag for an endpoint's slot.
    #[inline(always)]
    pub const fn new(slot: u32, service: bool) -> Self {
        Self((slot as u16 & 0x7fff) | if service { Self::SERVICE } else { 0 })
    }

    /// The sender's slot, 0 if untagged.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        (self.0 & 0x7fff) as u32
    }

    /// Whether the sender's egress is still to be decided.
    #[inline(always)]
    pub const fn service(self) -> bool {
        self.0 & Self::SERVICE != 0
    }
}
