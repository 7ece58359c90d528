//! Bytes to a packet, or the reason why it can't be accounted for.
//!
//! The parser walks IPv4 options and IPv6 extension headers, never skips over
//! them by a fixed offset, and reads only inside what the IP header claims as
//! its own: link padding is no header.

mod marks;
mod numbers;
mod parse;
mod plain;
mod quoted;

use core::hint::cold_path;

use crate::abi::{Addr, Direction, FlowKey, Mac, Reason};

pub use numbers::{
    ETHERNET, EXTENSION_HEADERS, TUNNEL_PORTS, ethertype, icmpv6, is_tunnel_port,
    is_tunnel_protocol, protocol, sctp, tcp,
};
pub use parse::{parse_any, parse_l3};
pub use quoted::quoted;

/// Parses a frame into `packet`, which may lie in a map: a BPF stack has 512 bytes.
/// What was in it is of no meaning.
///
/// Most frames are plain, and read in one piece; [`parse_any`] says the same of
/// them, only slower.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) {
    if !plain::parse(frame, packet) {
        cold_path();
        parse_odd(frame, packet);
    }
}

#[inline(never)]
fn parse_odd<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) {
    parse_any(frame, packet);
}

/// A frame as the hook sees it, from the Ethernet header on.
pub trait Frame {
    /// `N` bytes at `offset`, wherever they lie in memory; `None` past the end.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// `N` words at `offset`, as they lie in memory.
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
    /// The first `N` bytes, if they lie in one piece.
    fn head<const N: usize>(&self) -> Option<impl Head>;
    /// Length in bytes.
    fn len(&self) -> u32;
    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Where a checksum will be written when the frame leaves, in bytes from its
    /// start; the two bytes there are not yet what the receiver will see.
    fn pending_checksum(&self) -> Option<u32> {
        None
    }
}

/// The start of a frame, in one piece; the offsets are known to be within.
pub trait Head {
    /// Two bytes at `AT`, as they lie in memory.
    fn half<const AT: usize>(&self) -> u16;
    /// Four bytes at `AT`, as they lie in memory.
    fn word<const AT: usize>(&self) -> u32;
}

impl Head for &[u8] {
    fn half<const AT: usize>(&self) -> u16 {
        u16::from_ne_bytes([self[AT], self[AT + 1]])
    }

    fn word<const AT: usize>(&self) -> u32 {
        u32::from_ne_bytes([self[AT], self[AT + 1], self[AT + 2], self[AT + 3]])
    }
}

impl Frame for [u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = offset as usize;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
    }

    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = [0; N];
        for (i, word) in words.iter_mut().enumerate() {
            *word = u32::from_ne_bytes(self.load::<4>(offset.checked_add(4 * i as u32)?)?);
        }
        Some(words)
    }

    fn head<const N: usize>(&self) -> Option<impl Head> {
        self.get(..N)
    }

    fn len(&self) -> u32 {
        <[u8]>::len(self) as u32
    }
}

/// What a packet means to a flow.
pub mod mark {
    /// It asks for a new connection: a TCP SYN without ACK, an SCTP INIT.
    pub const STARTS: u8 = 1;
    /// It answers a new connection (TCP's SYN-ACK), or ends one, or its half of it: whether
    /// that is so, its numbers say.
    pub const TURNS: u8 = 2;
    /// Of a protocol (TCP) whose opener shows that it got the answer.
    pub const SHAKES: u8 = 4;
    /// If it is allowed, it opens a flow. ICMP replies and errors don't: a flow
    /// made by a stray echo reply would let the peer's queries in. Nor does what turns a
    /// connection: without one it is of no meaning.
    pub const OPENS: u8 = 8;
    /// It can be a packet of a flow's opener: of ICMP only queries are.
    pub const BY_OPENER: u8 = 16;
    /// It can be one of the other side's: of ICMP only replies are.
    pub const BY_OTHER: u8 = 32;
    /// An ICMP or ICMPv6 error, which quotes a packet.
    pub const ERROR: u8 = 64;
    /// Of a protocol in which tunnels run. Of UDP the port says whether a node that
    /// it reaches would unpack what is inside.
    pub const TUNNEL: u8 = 128;
    /// Of any protocol without ICMP's rules.
    pub const ANY: u8 = OPENS | BY_OPENER | BY_OTHER;
}

/// What the bytes turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// IP, with all headers up to the ports accounted for.
    Ip,
    /// ARP for IPv4 over Ethernet: `source`, `destination` and `sender_mac` are its own.
    Arp,
    /// Something that can't be accounted for; addresses are set if they were read.
    Fault(Reason),
}

/// A parsed frame. Ports in host order, addresses and MACs as on the wire. Fields of one
/// kind of packets only are of no meaning in others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// What it is.
    pub shape: Shape,
    /// EtherType.
    pub ethertype: u16,
    /// Sender's MAC in the Ethernet header.
    pub source_mac: Mac,
    /// Receiver's MAC in the Ethernet header.
    pub destination_mac: Mac,
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Source port. ICMP: the identifier of a query, 0 of a reply.
    pub source_port: u16,
    /// Destination port. ICMP: the identifier of a reply, 0 of a query.
    pub destination_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// TCP flags, ICMP type, or type of the first SCTP chunk (0 is data).
    pub detail: u8,
    /// What it means to a flow: bits of [`mark`], set by whoever reads the
    /// transport header, so that nobody else has to tell protocols apart.
    pub marks: u8,
    /// IPv6 only: the hop limit.
    pub hop_limit: u8,
    /// Offset of the transport header from the start of the frame.
    pub transport: u32,
    /// Bytes of the transport header and payload that the IP header claims.
    pub transport_len: u32,
    /// ARP only: the sender's MAC in its body.
    pub sender_mac: Mac,
    /// Whether more fragments of the packet follow this first one.
    pub first_fragment: bool,
    /// Of a fragment: where it belongs in the packet's payload, in bytes; 0 of the first,
    /// and of whatever can't be accounted for otherwise.
    pub fragment_at: u16,
    /// Of any fragment: bytes of the packet's payload that it holds.
    pub fragment_len: u32,
    /// Of any fragment: what ties it to the others.
    pub identification: u32,
    /// TCP only: bytes of data, of a segment with SYN, FIN or RST.
    pub payload: u32,
    /// TCP: the sequence number behind its data in the high half, and in the low one the
    /// number that it acknowledges. SCTP: the verification tag in the high half.
    pub numbers: u64,
}

impl Packet {
    /// A packet of which nothing is known yet.
    pub const EMPTY: Self = Self {
        shape: Shape::Fault(Reason::Malformed),
        ethertype: 0,
        source_mac: Mac::from_parts(0, 0),
        destination_mac: Mac::from_parts(0, 0),
        source: Addr::UNSPECIFIED,
        destination: Addr::UNSPECIFIED,
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        detail: 0,
        marks: 0,
        hop_limit: 0,
        transport: 0,
        transport_len: 0,
        sender_mac: Mac::from_parts(0, 0),
        first_fragment: false,
        fragment_at: 0,
        fragment_len: 0,
        identification: 0,
        payload: 0,
        numbers: 0,
    };

    /// Whether it has one of the marks.
    #[inline(always)]
    pub const fn is(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    /// Whether a checksum that is still to be written at `at` (bytes from the frame's
    /// start) leaves alone all that a verdict reads. The packet's own transport
    /// checksum does; so does one behind the headers, as of a packet inside of a
    /// tunnel's.
    #[inline(always)]
    pub const fn bears_checksum_at(&self, at: u32) -> bool {
        let (own, read) = match self.protocol {
            // Ports and flags.
            protocol::TCP => (16, 20),
            protocol::UDP => (6, 8),
            // The type of the first chunk; its sum has four bytes.
            protocol::SCTP => (8, 16),
            // Errors quote headers, neighbour discovery names addresses.
            protocol::ICMP | protocol::ICMPV6 => (2, u32::MAX / 2),
            _ => (0, 0),
        };
        match self.shape {
            Shape::Ip => at >= self.transport + read || own != 0 && at == self.transport + own,
            // A later fragment's payload; a whole frame that is no IP but for the
            // link header.
            Shape::Fault(Reason::Fragment) if self.fragment_at != 0 => at >= self.transport,
            Shape::Fault(Reason::NonIp) => at >= ETHERNET,
            _ => false,
        }
    }

    /// The key by which its fragments are tied together at one hook, given by a
    /// number from 0 on, written where it is to lie.
    #[inline(always)]
    pub fn put_fragment_key(
        &self,
        hook: u32,
        direction: Direction,
        endpoint: u32,
        key: &mut FlowKey,
    ) {
        self.put_flow_key(direction, endpoint, key);
        let protocol = match self.ethertype {
            ethertype::IPV4 => u32::from(self.protocol),
            // There a later fragment may name another header than the first one.
            _ => 0,
        };
        key.protocol = protocol + (hook + 1) * FlowKey::FRAGMENTS;
        key.local_port = (self.identification >> 16) as u16;
        key.remote_port = self.identification as u16;
    }

    /// Whether it goes to everybody on the link or to a group: by its address, or by its
    /// MAC, as a subnet's broadcast does, whose address shows nothing.
    #[inline(always)]
    pub const fn is_to_group(&self) -> bool {
        self.destination_mac.is_group() || self.destination.is_group()
    }

    /// Whether it is neighbour discovery, which routers don't forward: its hop
    /// limit is 255, and receivers refuse any other (RFC 4861, 6.1 and 7.1).
    #[inline(always)]
    pub const fn is_neighbour_discovery(&self) -> bool {
        self.protocol == protocol::ICMPV6
            && matches!(self.detail, icmpv6::ROUTER_SOLICIT..=icmpv6::REDIRECT)
            && self.hop_limit == 255
    }

    /// Whether it is multicast listener discovery: hop limit 1, to a group
    /// (RFC 2710, 3; RFC 3810, 5). A report longer than a few records without sources
    /// needs is taken for what it may be, data in disguise.
    #[inline(always)]
    pub const fn is_listener_discovery(&self) -> bool {
        let longest = match self.detail {
            // A query of version 2 may name sources; only routers send one.
            icmpv6::MLD_QUERY => u32::MAX,
            icmpv6::MLD_REPORT | icmpv6::MLD_DONE => 24,
            icmpv6::MLD2_REPORT => 8 + 20 * Self::MLD2_RECORDS,
            _ => return false,
        };
        self.protocol == protocol::ICMPV6
            && self.transport_len <= longest
            && self.hop_limit == 1
            && self.destination.is_group_v6()
    }

    /// Records of an MLD version 2 report that pass for listener discovery: a pod
    /// that starts reports its solicited-node groups, one for each address.
    const MLD2_RECORDS: u32 = 8;

    /// The key of its flow, seen from the endpoint, written where it is to lie: a
    /// copy of it costs what ten loads and stores cost.
    #[inline(always)]
    pub fn put_flow_key(&self, direction: Direction, endpoint: u32, key: &mut FlowKey) {
        key.endpoint = endpoint;
        key.protocol = u32::from(self.protocol);
        match direction {
            Direction::Egress => {
                key.local = self.source;
                key.remote = self.destination;
                key.local_port = self.source_port;
                key.remote_port = self.destination_port;
            }
            Direction::Ingress => {
                key.local = self.destination;
                key.remote = self.source;
                key.local_port = self.destination_port;
                key.remote_port = self.source_port;
            }
        }
    }
}
