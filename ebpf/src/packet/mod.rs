//! Bytes to a packet, or the reason why it can't be accounted for.
//!
//! The parser walks IPv4 options and IPv6 extension headers, never skips over
//! them by a fixed offset, and reads only inside what the IP header claims as
//! its own: link padding is no header.

mod numbers;
mod parse;

use crate::abi::{Addr, Direction, FlowKey, Reason};

pub use numbers::{ETHERNET, EXTENSION_HEADERS, ethertype, icmpv6, protocol, tcp};
pub use parse::{parse, quoted};

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
    /// IPv6 only: the hop limit.
    pub hop_limit: u8,
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
        hop_limit: 0,
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

    /// Whether it can be a packet of a flow, given whether the flow's opener sent
    /// it. An ICMP query is the opener's, its reply the other side's, and no
    /// other ICMP belongs to a flow, whatever its identifier.
    #[inline(always)]
    pub const fn fits_flow(&self, by_opener: bool) -> bool {
        match self.protocol {
            protocol::ICMP if by_opener => self.opens_flow(),
            protocol::ICMP => matches!(self.detail, 0 | 14 | 16 | 18),
            protocol::ICMPV6 if by_opener => self.opens_flow(),
            protocol::ICMPV6 => self.detail == icmpv6::ECHO_REPLY,
            _ => true,
        }
    }

    /// TCP flags; 0 for other protocols.
    #[inline(always)]
    pub const fn tcp_flags(&self) -> u8 {
        if self.protocol == protocol::TCP {
            self.detail
        } else {
            0
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

    /// Whether it is neighbour discovery, which routers don't forward: its hop
    /// limit is 255, and receivers refuse any other (RFC 4861, 6.1 and 7.1).
    #[inline(always)]
    pub const fn is_neighbour_discovery(&self) -> bool {
        self.protocol == protocol::ICMPV6
            && matches!(self.detail, icmpv6::ROUTER_SOLICIT..=icmpv6::REDIRECT)
            && self.hop_limit == 255
    }

    /// Whether it is multicast listener discovery: hop limit 1, to a group
    /// (RFC 2710, 3; RFC 3810, 5).
    #[inline(always)]
    pub const fn is_listener_discovery(&self) -> bool {
        self.protocol == protocol::ICMPV6
            && matches!(
                self.detail,
                icmpv6::MLD_QUERY..=icmpv6::MLD_DONE | icmpv6::MLD2_REPORT
            )
            && self.hop_limit == 1
            && self.destination.is_group_v6()
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
