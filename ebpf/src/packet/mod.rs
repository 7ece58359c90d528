//! Parses bytes into a packet, or into the reason why they can't be accounted for.
//!
//! The parser walks IPv4 options and IPv6 extension headers and never skips them
//! by a fixed offset. It reads only within the length claimed by the IP header: link
//! padding is never read as a header.

mod marks;
mod numbers;
mod parse;
mod plain;
mod quoted;

use core::hint::cold_path;

use crate::abi::{Addr, ConnectionKey, Direction, Mac, Reason};

pub use numbers::{
    ETHERNET, EXTENSION_HEADERS, TUNNEL_PORTS, ethertype, icmpv6, is_tunnel_port,
    is_tunnel_protocol, protocol, sctp, tcp,
};
pub use parse::{parse_any, parse_l3};
pub use quoted::quoted;

/// Parses a frame into `packet`, whose previous contents are ignored. `packet` may be in
/// a map: a BPF stack has 512 bytes.
///
/// Most frames are plain and are read in one piece; [`parse_any`] gives the same result
/// for them, only more slowly.
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

/// A frame as the hook sees it, starting with the Ethernet header.
pub trait Frame {
    /// Returns `N` bytes at `offset`, wherever they are in memory; `None` past the end.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// Returns `N` words at `offset`, in memory byte order.
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
    /// Returns the first `N` bytes, if they are contiguous.
    fn head<const N: usize>(&self) -> Option<impl Head>;
    /// Returns the length in bytes.
    fn len(&self) -> u32;
    /// Reports whether the frame has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Returns the offset, in bytes from the frame's start, of a checksum that will be written when
    /// the frame leaves. The two bytes there aren't yet those that the receiver will see.
    fn pending_checksum(&self) -> Option<u32> {
        None
    }
}

/// The contiguous start of a frame; the offsets are known to be within it.
pub trait Head {
    /// Returns two bytes at `AT`, in memory byte order.
    fn half<const AT: usize>(&self) -> u16;
    /// Returns four bytes at `AT`, in memory byte order.
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

/// What a packet means for a connection.
pub mod mark {
    /// The packet asks for a new connection: a TCP SYN without ACK, an SCTP INIT.
    pub const STARTS: u8 = 1;
    /// The packet answers a new connection (TCP's SYN-ACK), or ends a connection or one direction
    /// of it. It is accepted only if its sequence numbers fit.
    pub const TURNS: u8 = 2;
    /// The packet's protocol (TCP) has a handshake in which the opener confirms the answer.
    pub const SHAKES: u8 = 4;
    /// If allowed, the packet opens a connection. ICMP replies and errors don't: a connection
    /// opened by a stray echo reply would let the peer's queries in. Nor does a packet with
    /// [`TURNS`]: without a connection it means nothing.
    pub const OPENS: u8 = 8;
    /// The packet can come from a connection's opener: for ICMP, only queries can.
    pub const BY_OPENER: u8 = 16;
    /// The packet can come from the other side: for ICMP, only replies can.
    pub const BY_OTHER: u8 = 32;
    /// The packet is an ICMP or ICMPv6 error, which quotes a packet.
    pub const ERROR: u8 = 64;
    /// The packet's protocol can carry a tunnel. For UDP, the port decides whether a node
    /// that it reaches would decapsulate it.
    pub const TUNNEL: u8 = 128;
    /// The marks of any protocol to which ICMP's rules don't apply.
    pub const ANY: u8 = OPENS | BY_OPENER | BY_OTHER;
}

/// What the parser recognized.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// IP, with all headers up to the ports accounted for.
    Ip,
    /// ARP for IPv4 over Ethernet: `source`, `destination` and `sender_mac` come from its body.
    Arp,
    /// A frame that can't be accounted for; addresses are set if they were read.
    Fault(Reason),
}

/// A parsed frame. Ports are in host order, addresses and MACs as on the wire. Fields that
/// apply to one kind of packet are undefined for others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// What the parser recognized.
    pub layout: Layout,
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
    /// Source port. For ICMP, the identifier of a query, 0 for a reply.
    pub source_port: u16,
    /// Destination port. For ICMP, the identifier of a reply, 0 for a query.
    pub destination_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// TCP flags, ICMP type, or type of the first SCTP chunk (0 is data).
    pub detail: u8,
    /// What the packet means for a connection: bits of [`mark`], set where the transport
    /// header is read, so that other code needn't distinguish protocols.
    pub marks: u8,
    /// IPv6 only: the hop limit.
    pub hop_limit: u8,
    /// Offset of the transport header from the start of the frame.
    pub transport: u32,
    /// Bytes of transport header and payload claimed by the IP header.
    pub transport_len: u32,
    /// ARP only: the sender's MAC in its body.
    pub sender_mac: Mac,
    /// Whether more fragments of the packet follow this first one.
    pub first_fragment: bool,
    /// Fragments: offset within the packet's payload, in bytes; 0 for the first fragment, and for a
    /// packet that is a [`Layout::Fault`] for any other reason.
    pub fragment_at: u16,
    /// Fragments: bytes of the packet's payload that this one holds.
    pub fragment_len: u32,
    /// Fragments: the identification shared by all fragments of a packet.
    pub identification: u32,
    /// TCP only: bytes of data in a segment with SYN, FIN or RST.
    pub payload: u32,
    /// TCP: the sequence number after the segment's data in the high half, and the acknowledgment
    /// number in the low half. SCTP: the verification tag in the high half.
    pub numbers: u64,
}

impl Packet {
    /// A packet that hasn't been parsed yet.
    pub const EMPTY: Self = Self {
        layout: Layout::Fault(Reason::Malformed),
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

    /// Reports whether the packet has at least one of the marks.
    #[inline(always)]
    pub const fn is(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    /// Reports whether a checksum yet to be written at `at` (bytes from the frame's start)
    /// leaves all bytes that a verdict reads unchanged. This holds for the packet's own
    /// transport checksum, and for one behind the headers, such as that of a packet inside
    /// a tunnel.
    #[inline(always)]
    pub const fn bears_checksum_at(&self, at: u32) -> bool {
        let (own, read) = match self.protocol {
            // Ports and flags.
            protocol::TCP => (16, 20),
            protocol::UDP => (6, 8),
            // The type of the first chunk. SCTP's checksum has four bytes.
            protocol::SCTP => (8, 16),
            // Errors quote headers, neighbour discovery names addresses.
            protocol::ICMP | protocol::ICMPV6 => (2, u32::MAX / 2),
            _ => (0, 0),
        };
        match self.layout {
            Layout::Ip => at >= self.transport + read || own != 0 && at == self.transport + own,
            // The payload of a later fragment, or everything after the link header in a
            // frame that isn't IP.
            Layout::Fault(Reason::Fragment) if self.fragment_at != 0 => at >= self.transport,
            Layout::Fault(Reason::NonIp) => at >= ETHERNET,
            _ => false,
        }
    }

    /// Writes to `key` the key that ties the packet's fragments together at one hook. `hook`
    /// is the hook's number, from 0.
    #[inline(always)]
    pub fn put_fragment_key(
        &self,
        hook: u32,
        direction: Direction,
        endpoint: u32,
        key: &mut ConnectionKey,
    ) {
        self.put_connection_key(direction, endpoint, key);
        let protocol = match self.ethertype {
            ethertype::IPV4 => u32::from(self.protocol),
            // In IPv6, a later fragment may name a different next header than the first one.
            _ => 0,
        };
        key.protocol = protocol + (hook + 1) * ConnectionKey::FRAGMENTS;
        key.local_port = (self.identification >> 16) as u16;
        key.remote_port = self.identification as u16;
    }

    /// Reports whether the packet is addressed to a group or to everyone on the link: by its
    /// address, or by its MAC for a subnet broadcast, which can't be recognized by its address.
    #[inline(always)]
    pub const fn is_to_group(&self) -> bool {
        self.destination_mac.is_group() || self.destination.is_group()
    }

    /// Reports whether the packet is neighbour discovery, which routers don't forward: its hop
    /// limit is 255, and receivers reject any other (RFC 4861, 6.1 and 7.1).
    #[inline(always)]
    pub const fn is_neighbour_discovery(&self) -> bool {
        self.protocol == protocol::ICMPV6
            && matches!(self.detail, icmpv6::ROUTER_SOLICIT..=icmpv6::REDIRECT)
            && self.hop_limit == 255
    }

    /// Reports whether the packet is multicast listener discovery: hop limit 1, to a group
    /// (RFC 2710, 3; RFC 3810, 5). A report longer than needed for a few records without
    /// sources is rejected, since it may be data in disguise.
    #[inline(always)]
    pub const fn is_listener_discovery(&self) -> bool {
        let longest = match self.detail {
            // A version 2 query may name sources; only routers send queries.
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

    /// Maximum number of records in an MLD version 2 report that passes as listener discovery: a
    /// pod reports its solicited-node groups when it starts, one for each address.
    const MLD2_RECORDS: u32 = 8;

    /// Writes to `key` the packet's connection key, from the endpoint's point of view. Written
    /// in place: copying a key costs as much as ten loads and stores.
    #[inline(always)]
    pub fn put_connection_key(&self, direction: Direction, endpoint: u32, key: &mut ConnectionKey) {
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
