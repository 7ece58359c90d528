//! The full parser, which walks header by header.

use super::{ETHERNET, EXTENSION_HEADERS, Frame, Layout, Packet, ethertype, protocol};
use crate::abi::{Addr, Mac, Reason};

/// Parses any frame, header by header, wherever its bytes are.
#[inline(always)]
pub fn parse_any<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) {
    *packet = Packet::EMPTY;
    let Some(e) = frame.load::<14>(0) else {
        return;
    };
    packet.destination_mac = Mac::new([e[0], e[1], e[2], e[3], e[4], e[5]]);
    packet.source_mac = Mac::new([e[6], e[7], e[8], e[9], e[10], e[11]]);
    packet.ethertype = u16::from_be_bytes([e[12], e[13]]);
    packet.layout = match packet.ethertype {
        ethertype::IPV4 => ipv4(frame, ETHERNET, packet),
        ethertype::IPV6 => ipv6(frame, ETHERNET, packet),
        ethertype::ARP => arp(frame, packet),
        ethertype::VLAN | ethertype::QINQ => Layout::Fault(Reason::Vlan),
        _ => Layout::Fault(Reason::NonIp),
    };
}

/// Parses a packet of a device without link headers. The kernel supplies its
/// EtherType.
#[inline(never)]
pub fn parse_l3<F: Frame + ?Sized>(frame: &F, kind: u16, packet: &mut Packet) {
    *packet = Packet::EMPTY;
    packet.ethertype = kind;
    packet.layout = match kind {
        ethertype::IPV4 => ipv4(frame, 0, packet),
        ethertype::IPV6 => ipv6(frame, 0, packet),
        _ => Layout::Fault(Reason::NonIp),
    };
}

#[inline(always)]
fn arp<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Layout {
    let Some(w) = frame.words::<7>(ETHERNET) else {
        return Layout::Fault(Reason::Malformed);
    };
    // Hardware type Ethernet or IEEE 802 (Linux accepts both on Ethernet devices, see
    // arp_process), protocol IPv4, lengths 6 and 4.
    let kind = u32::from_be(w[0]);
    if !matches!(kind, 0x0001_0800 | 0x0006_0800) || u32::from_be(w[1]) >> 16 != 0x0604 {
        return Layout::Fault(Reason::NonIp);
    }
    let (a, b, c) = (w[2].to_ne_bytes(), w[3].to_ne_bytes(), w[4].to_ne_bytes());
    packet.sender_mac = Mac::new([a[0], a[1], a[2], a[3], b[0], b[1]]);
    packet.source = Addr::v4([b[2], b[3], c[0], c[1]]);
    packet.destination = Addr::v4(w[6].to_ne_bytes());
    packet.detail = u32::from_be(w[1]) as u8;
    Layout::Arp
}

/// Bits of the fragment offset in IPv4's flags-and-offset field.
pub(super) const FRAGMENT_OFFSET: u32 = 0x1fff;
/// "More fragments" in the same field.
const MORE_FRAGMENTS: u32 = 0x2000;

/// An IPv4 header without options, in memory byte order (RFC 791).
pub(super) struct Ipv4(pub(super) [u32; 5]);

impl Ipv4 {
    #[inline(always)]
    const fn first(&self) -> u32 {
        u32::from_be(self.0[0])
    }

    #[inline(always)]
    pub(super) const fn len(&self) -> u32 {
        (self.first() >> 24 & 0xf) * 4
    }

    #[inline(always)]
    pub(super) const fn is_sound(&self) -> bool {
        self.first() >> 28 == 4 && self.len() >= 20
    }

    #[inline(always)]
    pub(super) const fn fragment(&self) -> u32 {
        u32::from_be(self.0[1]) & 0xffff
    }

    #[inline(always)]
    const fn identification(&self) -> u32 {
        u32::from_be(self.0[1]) >> 16
    }

    /// Stores the addresses and the protocol.
    #[inline(always)]
    pub(super) const fn addresses(&self, packet: &mut Packet) {
        packet.protocol = (u32::from_be(self.0[2]) >> 16) as u8;
        packet.source = Addr::v4(self.0[3].to_ne_bytes());
        packet.destination = Addr::v4(self.0[4].to_ne_bytes());
    }
}

/// An IPv6 header, in memory byte order (RFC 8200).
pub(super) struct Ipv6(pub(super) [u32; 10]);

impl Ipv6 {
    #[inline(always)]
    pub(super) const fn version(&self) -> u32 {
        u32::from_be(self.0[0]) >> 28
    }

    #[inline(always)]
    const fn payload_len(&self) -> u32 {
        u32::from_be(self.0[1]) >> 16
    }

    #[inline(always)]
    pub(super) const fn next(&self) -> u8 {
        (u32::from_be(self.0[1]) >> 8) as u8
    }

    #[inline(always)]
    const fn hop_limit(&self) -> u8 {
        u32::from_be(self.0[1]) as u8
    }

    #[inline(always)]
    pub(super) const fn addresses(&self, packet: &mut Packet) {
        let w = &self.0;
        packet.source = Addr::from_words([w[2], w[3], w[4], w[5]]);
        packet.destination = Addr::from_words([w[6], w[7], w[8], w[9]]);
    }
}

/// Returns the length claimed by an IP header. BIG TCP packets are longer than the
/// field can express and have 0 there (Linux 5.19 for IPv6, 6.3 for IPv4).
#[inline(always)]
const fn claimed_len(field: u32, room: u32) -> u32 {
    if field == 0 && room > 0xffff {
        room
    } else {
        field
    }
}

#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F, at: u32, packet: &mut Packet) -> Layout {
    let Some(header) = frame.words(at).map(Ipv4) else {
        return Layout::Fault(Reason::Malformed);
    };
    header.addresses(packet);
    let len = header.len();
    let room = frame.len().saturating_sub(at);
    let claimed = claimed_len(header.first() & 0xffff, room);
    if !header.is_sound() || claimed < len || claimed > room {
        return Layout::Fault(Reason::Malformed);
    }
    if len > 20 && is_source_routed(frame, at + 20, at + len) {
        return Layout::Fault(Reason::ExtensionHeader);
    }
    packet.transport = at + len;
    packet.transport_len = claimed - len;
    packet.identification = header.identification();
    packet.fragment_len = claimed - len;
    let offset = header.fragment() & FRAGMENT_OFFSET;
    if offset != 0 {
        packet.fragment_at = (offset * 8) as u16;
        return Layout::Fault(Reason::Fragment);
    }
    packet.first_fragment = header.fragment() & MORE_FRAGMENTS != 0;
    transport(frame, packet)
}

/// Reports whether the IPv4 options between two offsets contain a source route (RFC 791, 3.1),
/// which takes the packet past the destination that the verdict is based on. Options that can't be
/// walked count as a source route.
#[inline(never)]
fn is_source_routed<F: Frame + ?Sized>(frame: &F, mut at: u32, end: u32) -> bool {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    for _ in 0..40 {
        if at >= end {
            return false;
        }
        let Some([kind]) = frame.load::<1>(at) else {
            return true;
        };
        at += match kind {
            END => return false,
            NOTHING => 1,
            LOOSE | STRICT => return true,
            _ => match frame.load::<1>(at + 1) {
                Some([length]) if length >= 2 => u32::from(length),
                _ => return true,
            },
        };
    }
    at < end
}

#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &F, at: u32, packet: &mut Packet) -> Layout {
    let Some(header) = frame.words(at).map(Ipv6) else {
        return Layout::Fault(Reason::Malformed);
    };
    header.addresses(packet);
    packet.hop_limit = header.hop_limit();
    let room = frame.len().saturating_sub(at + 40);
    let claimed = claimed_len(header.payload_len(), room);
    if header.version() != 6 || claimed > room {
        return Layout::Fault(Reason::Malformed);
    }
    if packet.source.is_v4() || packet.destination.is_v4() {
        // Never legal on the wire (RFC 4291, 2.5.5.2), and it would be treated here as the IPv4
        // address that it maps to.
        return Layout::Fault(Reason::Malformed);
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
) -> Layout {
    for walked in 0..=EXTENSION_HEADERS {
        if !is_extension(next) {
            packet.protocol = next;
            packet.transport = offset;
            packet.transport_len = end.saturating_sub(offset);
            return transport(frame, packet);
        }
        // Hop-by-hop options may only come first (RFC 8200, 4.1).
        if walked == EXTENSION_HEADERS || (next == 0 && walked != 0) {
            break;
        }
        // Every extension header is at least eight bytes long.
        let Some(words) = frame.words::<2>(offset) else {
            return Layout::Fault(Reason::Malformed);
        };
        let word = u32::from_be(words[0]);
        if next == 44 {
            packet.identification = u32::from_be(words[1]);
            packet.fragment_len = end.saturating_sub(offset + 8);
            packet.fragment_at = (word & 0xfff8) as u16;
            if packet.fragment_at != 0 {
                packet.transport = offset + 8;
                packet.transport_len = end.saturating_sub(offset + 8);
                return Layout::Fault(Reason::Fragment);
            }
            packet.first_fragment = word & 1 != 0;
        }
        if next == 43 && word & 0xff != 0 {
            // Segments are left: this isn't the final destination.
            break;
        }
        offset += extension_len(next, word);
        next = (word >> 24) as u8;
        if offset > end {
            return Layout::Fault(Reason::Malformed);
        }
    }
    Layout::Fault(Reason::ExtensionHeader)
}

/// Reports whether a protocol number is that of an IPv6 extension header that the parser walks:
/// hop-by-hop options, routing, fragment, authentication, destination options.
#[inline(always)]
pub(super) const fn is_extension(next: u8) -> bool {
    matches!(next, 0 | 43 | 44 | 51 | 60)
}

/// Returns the length of an extension header in bytes, given its kind and its first word in
/// host order.
#[inline(always)]
pub(super) const fn extension_len(kind: u8, word: u32) -> u32 {
    let units = word >> 16 & 0xff;
    match kind {
        44 => 8,
        51 => (units + 2) * 4,
        _ => (units + 1) * 8,
    }
}

/// Reads the fields for the connection key. A first fragment has to contain the complete transport
/// header: a SYN split at byte 8 has been observed to get a SYN-ACK.
#[inline(always)]
fn transport<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Layout {
    let short = Layout::Fault(if packet.first_fragment {
        Reason::Fragment
    } else {
        Reason::Malformed
    });
    let least = match packet.protocol {
        protocol::TCP => 20,
        protocol::UDP | protocol::ICMP | protocol::ICMPV6 => 8,
        protocol::SCTP => 12,
        protocol::IGMP if packet.ethertype == ethertype::IPV4 => {
            packet.detail = match frame.load::<1>(packet.transport) {
                Some([kind]) if packet.transport_len > 0 => kind,
                _ => 0,
            };
            packet.mark_other();
            return Layout::Ip;
        }
        _ => {
            packet.mark_other();
            return Layout::Ip;
        }
    };
    if packet.transport_len < least {
        return short;
    }
    let Some(words) = frame.words::<2>(packet.transport) else {
        return short;
    };
    match packet.protocol {
        protocol::TCP => {
            let Some(more) = frame.words::<2>(packet.transport + 8) else {
                return short;
            };
            let [sequence, acknowledged, word] = [words[1], more[0], more[1]].map(u32::from_be);
            if !packet.set_tcp(sequence, acknowledged, word) {
                return short;
            }
            set_ports(packet, words[0]);
        }
        protocol::UDP => {
            set_ports(packet, words[0]);
            packet.mark_udp();
        }
        protocol::SCTP => {
            if packet.transport_len >= 16 {
                let Some(chunk) = frame.words::<1>(packet.transport + 12) else {
                    return short;
                };
                packet.detail = (u32::from_be(chunk[0]) >> 24) as u8;
            }
            set_ports(packet, words[0]);
            packet.mark_sctp(words[1]);
        }
        _ => {
            // Each ICMP version belongs to one IP version; the other combination isn't ICMP.
            if (packet.protocol == protocol::ICMP) != (packet.ethertype == ethertype::IPV4) {
                return Layout::Fault(Reason::Malformed);
            }
            packet.detail = (u32::from_be(words[0]) >> 24) as u8;
            packet.mark_icmp(words[1]);
        }
    }
    Layout::Ip
}

#[inline(always)]
pub(super) const fn set_ports(packet: &mut Packet, word: u32) {
    let word = u32::from_be(word);
    packet.source_port = (word >> 16) as u16;
    packet.destination_port = word as u16;
}
