//! Bytes to a packet, or the reason why it can't be accounted for.
//!
//! The parser walks IPv4 options and IPv6 extension headers, never skips over
//! them by a fixed offset, and reads only inside what the IP header claims as
//! its own: link padding is no header.

use crate::abi::{Addr, Direction, FlowKey, Reason};

/// A frame as the hook sees it, from the Ethernet header on.
pub trait Frame {
    /// `N` bytes at `offset`, wherever they lie in memory; `None` past the end.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// `N` words at `offset`, as they lie in memory.
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
    /// Length in bytes.
    fn len(&self) -> u32;
    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
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

    fn len(&self) -> u32 {
        <[u8]>::len(self) as u32
    }
}

/// IANA protocol numbers that the datapath knows.
pub mod protocol {
    #![allow(missing_docs)]
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// TCP flag bits (RFC 9293).
pub mod tcp {
    #![allow(missing_docs)]
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// ICMPv6 types (RFC 4443, 4861, 2710, 3810).
pub mod icmpv6 {
    #![allow(missing_docs)]
    pub const ECHO_REQUEST: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    pub const MLD_QUERY: u8 = 130;
    pub const MLD_REPORT: u8 = 131;
    pub const MLD_DONE: u8 = 132;
    pub const ROUTER_SOLICIT: u8 = 133;
    pub const ROUTER_ADVERT: u8 = 134;
    pub const NEIGHBOUR_SOLICIT: u8 = 135;
    pub const NEIGHBOUR_ADVERT: u8 = 136;
    pub const REDIRECT: u8 = 137;
    pub const MLD2_REPORT: u8 = 143;
}

/// EtherTypes (host order).
pub mod ethertype {
    #![allow(missing_docs)]
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const VLAN: u16 = 0x8100;
    pub const QINQ: u16 = 0x88a8;
    pub const IPV6: u16 = 0x86dd;
}

/// Length of an Ethernet header in bytes.
pub const ETHERNET: u32 = 14;

/// How many IPv6 extension headers are walked. RFC 8200 expects each kind at
/// most once (destination options twice): six, and one to spare.
pub const EXTENSION_HEADERS: u32 = 7;

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

/// A MAC as it lies in memory: two numbers that compare in one step each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mac(u32, u16);

impl Mac {
    /// From the bytes on the wire.
    #[inline(always)]
    pub const fn new(b: [u8; 6]) -> Self {
        Self(
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u16::from_ne_bytes([b[4], b[5]]),
        )
    }

    /// Equality without `memcmp`.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        self.0 == other.0 && self.1 == other.1
    }

    /// Whether it is a group address (broadcast or multicast).
    #[inline(always)]
    pub const fn is_group(&self) -> bool {
        self.0.to_ne_bytes()[0] & 1 != 0
    }
}

/// A parsed frame. Ports in host order, addresses and MACs as on the wire.
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
    /// TCP flags, or ICMP type.
    pub detail: u8,
    /// Offset of the transport header from the start of the frame.
    pub transport: u32,
    /// Bytes of the transport header and payload that the IP header claims.
    pub transport_len: u32,
    /// ARP only: the sender's MAC in its body.
    pub sender_mac: Mac,
}

impl Packet {
    /// A packet of which nothing is known yet.
    pub const EMPTY: Self = Self {
        shape: Shape::Fault(Reason::Malformed),
        ethertype: 0,
        source_mac: Mac(0, 0),
        destination_mac: Mac(0, 0),
        source: Addr::UNSPECIFIED,
        destination: Addr::UNSPECIFIED,
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        detail: 0,
        transport: 0,
        transport_len: 0,
        sender_mac: Mac(0, 0),
    };

    /// Whether it is a TCP SYN without ACK.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.protocol == protocol::TCP && self.detail & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// Whether an allowed packet of this kind opens a flow.
    ///
    /// ICMP replies and errors don't: a flow made by a stray echo reply would
    /// let the peer's queries in.
    #[inline(always)]
    pub const fn opens_flow(&self) -> bool {
        match self.protocol {
            protocol::ICMP => matches!(self.detail, 8 | 13 | 15 | 17),
            protocol::ICMPV6 => self.detail == icmpv6::ECHO_REQUEST,
            _ => true,
        }
    }

    /// Whether it is an ICMP or ICMPv6 error, which quotes a packet.
    #[inline(always)]
    pub const fn is_icmp_error(&self) -> bool {
        match self.protocol {
            protocol::ICMP => matches!(self.detail, 3 | 11 | 12),
            protocol::ICMPV6 => self.detail >= 1 && self.detail <= 4,
            _ => false,
        }
    }

    /// Whether it is neighbour discovery or multicast listener discovery.
    #[inline(always)]
    pub const fn is_neighbour_discovery(&self) -> bool {
        self.protocol == protocol::ICMPV6
            && matches!(
                self.detail,
                icmpv6::MLD_QUERY..=icmpv6::REDIRECT | icmpv6::MLD2_REPORT
            )
    }

    /// The key of its flow, seen from the endpoint.
    #[inline(always)]
    pub const fn flow_key(&self, direction: Direction, endpoint: u32) -> FlowKey {
        let protocol = self.protocol as u32;
        match direction {
            Direction::Egress => FlowKey {
                local: self.source,
                remote: self.destination,
                endpoint,
                local_port: self.source_port,
                remote_port: self.destination_port,
                protocol,
            },
            Direction::Ingress => FlowKey {
                local: self.destination,
                remote: self.source,
                endpoint,
                local_port: self.destination_port,
                remote_port: self.source_port,
                protocol,
            },
        }
    }
}

/// Parses a frame into `packet`, which may lie in a map: a BPF stack has 512 bytes.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) {
    *packet = Packet::EMPTY;
    let Some(e) = frame.load::<14>(0) else {
        return;
    };
    packet.destination_mac = Mac::new([e[0], e[1], e[2], e[3], e[4], e[5]]);
    packet.source_mac = Mac::new([e[6], e[7], e[8], e[9], e[10], e[11]]);
    packet.ethertype = u16::from_be_bytes([e[12], e[13]]);
    packet.shape = match packet.ethertype {
        ethertype::IPV4 => ipv4(frame, ETHERNET, packet),
        ethertype::IPV6 => ipv6(frame, ETHERNET, packet),
        ethertype::ARP => arp(frame, packet),
        ethertype::VLAN | ethertype::QINQ => Shape::Fault(Reason::Vlan),
        _ => Shape::Fault(Reason::NonIp),
    };
}

/// The flow that an ICMP or ICMPv6 error quotes: the addresses and ports of the
/// packet that met the error go to `inner`. `None` if it can't be told.
#[inline(always)]
pub fn quoted<F: Frame + ?Sized>(frame: &F, error: &Packet, inner: &mut Packet) -> Option<()> {
    *inner = Packet::EMPTY;
    inner.ethertype = error.ethertype;
    let at = error.transport + 8;
    if error.transport_len < 8 + 28 {
        return None;
    }
    // Errors quote a packet's start, so its claimed length reaches past the end:
    // only the addresses, the protocol and the first eight bytes are read.
    let transport = if error.protocol == protocol::ICMP {
        let header = Ipv4(frame.words(at)?);
        if !header.is_sound() || header.fragment() & FRAGMENT_OFFSET != 0 {
            return None;
        }
        header.addresses(inner);
        at + header.len()
    } else {
        let header = Ipv6(frame.words(at)?);
        if header.version() != 6 {
            return None;
        }
        header.addresses(inner);
        inner.protocol = header.next();
        at + 40
    };
    let words = frame.words::<2>(transport)?;
    match inner.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => set_ports(inner, words[0]),
        protocol::ICMP | protocol::ICMPV6 => {
            inner.detail = (u32::from_be(words[0]) >> 24) as u8;
            if !icmp_ports(words[1], inner) {
                return None;
            }
        }
        _ => {}
    }
    inner.shape = Shape::Ip;
    Some(())
}

#[inline(always)]
fn arp<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Shape {
    let Some(w) = frame.words::<7>(ETHERNET) else {
        return Shape::Fault(Reason::Malformed);
    };
    // Hardware Ethernet, protocol IPv4, lengths 6 and 4.
    if u32::from_be(w[0]) != 0x0001_0800 || u32::from_be(w[1]) >> 16 != 0x0604 {
        return Shape::Fault(Reason::NonIp);
    }
    let (a, b, c) = (w[2].to_ne_bytes(), w[3].to_ne_bytes(), w[4].to_ne_bytes());
    packet.sender_mac = Mac::new([a[0], a[1], a[2], a[3], b[0], b[1]]);
    packet.source = Addr::v4([b[2], b[3], c[0], c[1]]);
    packet.destination = Addr::v4(w[6].to_ne_bytes());
    packet.detail = u32::from_be(w[1]) as u8;
    Shape::Arp
}

/// Bits of the fragment offset in IPv4's flags-and-offset field.
const FRAGMENT_OFFSET: u32 = 0x1fff;
/// "More fragments" in the same field.
const MORE_FRAGMENTS: u32 = 0x2000;

/// An IPv4 header without options, as it lies in memory (RFC 791).
struct Ipv4([u32; 5]);

impl Ipv4 {
    #[inline(always)]
    const fn first(&self) -> u32 {
        u32::from_be(self.0[0])
    }

    #[inline(always)]
    const fn len(&self) -> u32 {
        (self.first() >> 24 & 0xf) * 4
    }

    #[inline(always)]
    const fn is_sound(&self) -> bool {
        self.first() >> 28 == 4 && self.len() >= 20
    }

    #[inline(always)]
    const fn fragment(&self) -> u32 {
        u32::from_be(self.0[1]) & 0xffff
    }

    /// Addresses and protocol.
    #[inline(always)]
    const fn addresses(&self, packet: &mut Packet) {
        packet.protocol = (u32::from_be(self.0[2]) >> 16) as u8;
        packet.source = Addr::v4(self.0[3].to_ne_bytes());
        packet.destination = Addr::v4(self.0[4].to_ne_bytes());
    }
}

/// An IPv6 header, as it lies in memory (RFC 8200).
struct Ipv6([u32; 10]);

impl Ipv6 {
    #[inline(always)]
    const fn version(&self) -> u32 {
        u32::from_be(self.0[0]) >> 28
    }

    #[inline(always)]
    const fn payload_len(&self) -> u32 {
        u32::from_be(self.0[1]) >> 16
    }

    #[inline(always)]
    const fn next(&self) -> u8 {
        (u32::from_be(self.0[1]) >> 8) as u8
    }

    #[inline(always)]
    const fn addresses(&self, packet: &mut Packet) {
        let w = &self.0;
        packet.source = Addr::from_words([w[2], w[3], w[4], w[5]]);
        packet.destination = Addr::from_words([w[6], w[7], w[8], w[9]]);
    }
}

/// The length that an IP header claims. BIG TCP packets are longer than the
/// field can say and carry 0 there (Linux 5.19 for IPv6, 6.3 for IPv4).
#[inline(always)]
const fn claimed_len(field: u32, room: u32) -> u32 {
    if field == 0 && room > 0xffff {
        room
    } else {
        field
    }
}

#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F, at: u32, packet: &mut Packet) -> Shape {
    let Some(header) = frame.words(at).map(Ipv4) else {
        return Shape::Fault(Reason::Malformed);
    };
    header.addresses(packet);
    let len = header.len();
    let room = frame.len().saturating_sub(at);
    let claimed = claimed_len(header.first() & 0xffff, room);
    if !header.is_sound() || claimed < len || claimed > room {
        return Shape::Fault(Reason::Malformed);
    }
    packet.transport = at + len;
    packet.transport_len = claimed - len;
    if header.fragment() & FRAGMENT_OFFSET != 0 {
        return Shape::Fault(Reason::Fragment);
    }
    transport(frame, packet, header.fragment() & MORE_FRAGMENTS != 0)
}

#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &F, at: u32, packet: &mut Packet) -> Shape {
    let Some(header) = frame.words(at).map(Ipv6) else {
        return Shape::Fault(Reason::Malformed);
    };
    header.addresses(packet);
    let room = frame.len().saturating_sub(at + 40);
    let claimed = claimed_len(header.payload_len(), room);
    if header.version() != 6 || claimed > room {
        return Shape::Fault(Reason::Malformed);
    }
    if packet.source.is_v4() || packet.destination.is_v4() {
        // Never legal on the wire (RFC 4291, 2.5.5.2), and here it would pass
        // for the IPv4 address that it maps.
        return Shape::Fault(Reason::Malformed);
    }
    extensions(frame, packet, header.next(), at + 40, at + 40 + claimed)
}

/// Walks the extension headers from `offset` to the transport header.
#[inline(always)]
fn extensions<F: Frame + ?Sized>(
    frame: &F,
    packet: &mut Packet,
    mut next: u8,
    mut offset: u32,
    end: u32,
) -> Shape {
    let mut first_fragment = false;
    for walked in 0..=EXTENSION_HEADERS {
        if !matches!(next, 0 | 43 | 44 | 51 | 60) {
            packet.protocol = next;
            packet.transport = offset;
            packet.transport_len = end.saturating_sub(offset);
            return transport(frame, packet, first_fragment);
        }
        // Hop-by-hop options may only come first (RFC 8200, 4.1).
        if walked == EXTENSION_HEADERS || (next == 0 && walked != 0) {
            break;
        }
        let Some(words) = frame.words::<1>(offset) else {
            return Shape::Fault(Reason::Malformed);
        };
        let word = u32::from_be(words[0]);
        if next == 44 {
            if word & 0xfff8 != 0 {
                return Shape::Fault(Reason::Fragment);
            }
            first_fragment = word & 1 != 0;
        }
        let units = word >> 16 & 0xff;
        offset += match next {
            44 => 8,
            51 => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        next = (word >> 24) as u8;
        if offset > end {
            return Shape::Fault(Reason::Malformed);
        }
    }
    Shape::Fault(Reason::ExtensionHeader)
}

/// Reads what the flow key needs. A first fragment has to hold the whole
/// transport header: a SYN split at byte 8 was answered with a SYN-ACK.
#[inline(always)]
fn transport<F: Frame + ?Sized>(frame: &F, packet: &mut Packet, first_fragment: bool) -> Shape {
    let short = Shape::Fault(if first_fragment {
        Reason::Fragment
    } else {
        Reason::Malformed
    });
    let least = match packet.protocol {
        protocol::TCP => 20,
        protocol::UDP | protocol::ICMP | protocol::ICMPV6 => 8,
        protocol::SCTP => 12,
        _ => return Shape::Ip,
    };
    if packet.transport_len < least {
        return short;
    }
    let Some(words) = frame.words::<2>(packet.transport) else {
        return short;
    };
    match packet.protocol {
        protocol::TCP => {
            let Some(word) = frame.words::<1>(packet.transport + 12) else {
                return short;
            };
            let word = u32::from_be(word[0]);
            let header_len = (word >> 28) * 4;
            if header_len < 20 || packet.transport_len < header_len {
                return short;
            }
            packet.detail = (word >> 16) as u8;
            set_ports(packet, words[0]);
        }
        protocol::UDP | protocol::SCTP => set_ports(packet, words[0]),
        _ => {
            // ICMP is of the family that carries it; the other one is no ICMP.
            if (packet.protocol == protocol::ICMP) != (packet.ethertype == ethertype::IPV4) {
                return Shape::Fault(Reason::Malformed);
            }
            packet.detail = (u32::from_be(words[0]) >> 24) as u8;
            icmp_ports(words[1], packet);
        }
    }
    Shape::Ip
}

#[inline(always)]
const fn set_ports(packet: &mut Packet, word: u32) {
    let word = u32::from_be(word);
    packet.source_port = (word >> 16) as u16;
    packet.destination_port = word as u16;
}

/// Puts a query's identifier on the querier's side, so that both directions of
/// one query share a key and a query from the peer has another. Whether it was
/// a query or a reply. `word` is the second of the ICMP header.
#[inline(always)]
const fn icmp_ports(word: u32, packet: &mut Packet) -> bool {
    let identifier = (u32::from_be(word) >> 16) as u16;
    let (query, reply) = match packet.protocol {
        protocol::ICMP => (
            matches!(packet.detail, 8 | 13 | 15 | 17),
            matches!(packet.detail, 0 | 14 | 16 | 18),
        ),
        _ => (
            packet.detail == icmpv6::ECHO_REQUEST,
            packet.detail == icmpv6::ECHO_REPLY,
        ),
    };
    if query {
        packet.source_port = identifier;
    } else if reply {
        packet.destination_port = identifier;
    }
    query || reply
}
