//! What no managed endpoint may send or receive, whether isolated or not.

use crate::abi::{Addr, Endpoint, Identity, Mac, Reason};
use crate::packet::{Frame, Layout, Packet, ethertype, icmpv6, protocol};
use crate::verdict::{Tables, endpoint_owns};

/// Checks a frame that a pod sends. Returns the reason to deny it if it impersonates another
/// sender.
///
/// A pod owns its addresses, the link-local address derived from its MAC, and link-local
/// addresses that it has claimed by duplicate-address detection.
#[inline(always)]
pub fn check<T: Tables, F: Frame + ?Sized>(
    tables: &T,
    endpoint: &Endpoint,
    slot: u32,
    frame: &F,
    packet: &Packet,
) -> Option<Reason> {
    if !packet.source_mac.same(&endpoint.mac) {
        return Some(Reason::SpoofedMac);
    }
    match packet.layout {
        Layout::Ip if packet.protocol != protocol::ICMPV6 => {
            if !owns(tables, endpoint, &packet.source) {
                Some(Reason::SpoofedAddress)
            } else if is_routers(packet) {
                Some(Reason::RouterMessage)
            } else {
                None
            }
        }
        Layout::Ip => icmpv6(tables, endpoint, slot, frame, packet),
        Layout::Arp => arp(endpoint, frame.len(), packet),
        Layout::Fault(reason) => unaccounted(tables, endpoint, packet, reason),
    }
}

/// Reports whether an IPv4 packet is one that only routers send: an ICMP redirect or
/// advertisement (RFC 792, RFC 1256), or an IGMP query (RFC 3376, 4.1).
#[inline(always)]
const fn is_routers(packet: &Packet) -> bool {
    match packet.protocol {
        protocol::ICMP => matches!(packet.detail, 5 | 9),
        protocol::IGMP => packet.detail == 0x11,
        _ => false,
    }
}

/// Checks a frame that can't be accounted for but could still deceive a neighbour.
#[inline(never)]
fn unaccounted<T: Tables>(
    tables: &T,
    endpoint: &Endpoint,
    packet: &Packet,
    reason: Reason,
) -> Option<Reason> {
    match (packet.ethertype, reason) {
        (ethertype::ARP, _) => Some(Reason::SpoofedArp),
        // Linux strips the outer tag before tc, and a second one of VLAN 0 after it: the payload
        // was never checked (__netif_receive_skb_core).
        (ethertype::VLAN | ethertype::QINQ, _) => Some(Reason::Vlan),
        // Linux walks any number of headers to reach an advertisement.
        (_, Reason::ExtensionHeader) => Some(reason),
        (ethertype::IPV6, _) if packet.source.is_v4() => Some(Reason::SpoofedAddress),
        // Linux accepts a payload length of 0 after hop-by-hop options, and reassembles first
        // fragments whose headers continue in the next fragment: the payload was never checked.
        (ethertype::IPV6, Reason::Malformed | Reason::Fragment) if packet.fragment_at == 0 => {
            if owns(tables, endpoint, &packet.source) {
                Some(reason)
            } else {
                Some(Reason::SpoofedAddress)
            }
        }
        // The source address couldn't be read.
        _ if packet.source.same(&Addr::UNSPECIFIED) => None,
        _ => (!owns(tables, endpoint, &packet.source)).then_some(Reason::SpoofedAddress),
    }
}

/// Reports whether a frame to the pod carries its MAC or a group address.
#[inline(always)]
pub fn addressed_to(endpoint: &Endpoint, packet: &Packet) -> bool {
    packet.destination_mac.is_group() || packet.destination_mac.same(&endpoint.mac)
}

/// The longest frame that ARP needs: 42 bytes, padded to Ethernet's minimum. Longer frames carry
/// something else past policy.
const ARP_FRAME: u32 = 60;

#[inline(always)]
fn arp(endpoint: &Endpoint, len: u32, packet: &Packet) -> Option<Reason> {
    if len > ARP_FRAME {
        return Some(Reason::Malformed);
    }
    // A probe (RFC 5227) asks with sender address 0.0.0.0 before it claims an address.
    let probe = packet.source.same(&Addr::v4([0; 4]));
    let honest =
        packet.sender_mac.same(&endpoint.mac) && (probe || endpoint.v4.same(&packet.source));
    (!honest).then_some(Reason::SpoofedArp)
}

#[inline(never)]
fn icmpv6<T: Tables, F: Frame + ?Sized>(
    tables: &T,
    endpoint: &Endpoint,
    slot: u32,
    frame: &F,
    packet: &Packet,
) -> Option<Reason> {
    if !owns(tables, endpoint, &packet.source) {
        // A starting pod sends duplicate-address detection and listener reports from `::` (RFC
        // 4862 5.4.2, RFC 3590).
        if !packet.source.same(&Addr::UNSPECIFIED) {
            return Some(Reason::SpoofedAddress);
        }
        return match packet.detail {
            icmpv6::NEIGHBOUR_SOLICIT => {
                let own = |addr: &Addr| {
                    owns(tables, endpoint, addr)
                        || claimable(tables, addr) && tables.claim(addr, endpoint, slot)
                };
                match target(frame, packet) {
                    Some(target) if own(&target) => own_link_options(endpoint, frame, packet, 24),
                    _ => Some(Reason::SpoofedNeighbour),
                }
            }
            icmpv6::MLD_REPORT | icmpv6::MLD2_REPORT => None,
            icmpv6::MLD_QUERY => Some(Reason::RouterMessage),
            _ => Some(Reason::SpoofedAddress),
        };
    }
    match packet.detail {
        // Only the multicast router sends queries.
        icmpv6::ROUTER_ADVERT | icmpv6::REDIRECT | icmpv6::MLD_QUERY => Some(Reason::RouterMessage),
        icmpv6::NEIGHBOUR_SOLICIT => own_link_options(endpoint, frame, packet, 24),
        icmpv6::ROUTER_SOLICIT => own_link_options(endpoint, frame, packet, 8),
        icmpv6::NEIGHBOUR_ADVERT => match target(frame, packet) {
            Some(target) if owns(tables, endpoint, &target) => {
                own_link_options(endpoint, frame, packet, 24)
            }
            _ => Some(Reason::SpoofedNeighbour),
        },
        _ => None,
    }
}

/// Returns the target of a neighbour solicitation or advertisement (RFC 4861, 4.3 and 4.4).
#[inline(always)]
fn target<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> Option<Addr> {
    if packet.transport_len < 24 {
        return None;
    }
    Some(Addr::from_words(frame.words(packet.transport + 8)?))
}

/// Reports whether an endpoint may claim an address at all: a link-local one that isn't derived
/// from a MAC, since those belong to the MAC's owner, and isn't a node's.
#[inline(always)]
fn claimable<T: Tables>(tables: &T, addr: &Addr) -> bool {
    addr.is_link_local()
        && !addr.is_made_from_mac()
        && tables.identity(addr).without_service().workload == Identity::OUTSIDE
}

/// Checks the options of a neighbour or router message. Allowed are at most two, each either a
/// link-layer address that is the pod's own or the nonce of enhanced duplicate-address detection
/// (RFC 7527); Linux sends no others. Anything else can't be accounted for.
#[inline(always)]
fn own_link_options<F: Frame + ?Sized>(
    endpoint: &Endpoint,
    frame: &F,
    packet: &Packet,
    options: u32,
) -> Option<Reason> {
    let mut at = options;
    for _ in 0..2 {
        if at == packet.transport_len {
            return None;
        }
        let option = match frame.words::<2>(packet.transport + at) {
            Some(option) if at + 8 <= packet.transport_len => option,
            _ => return Some(Reason::SpoofedNeighbour),
        };
        let (a, b) = (option[0].to_ne_bytes(), option[1].to_ne_bytes());
        let own = match (a[0], a[1]) {
            (1 | 2, 1) => Mac::new([a[2], a[3], b[0], b[1], b[2], b[3]]).same(&endpoint.mac),
            (14, 1) => true,
            _ => false,
        };
        if !own {
            return Some(Reason::SpoofedNeighbour);
        }
        at += 8;
    }
    (at != packet.transport_len).then_some(Reason::SpoofedNeighbour)
}

/// Reports whether an endpoint owns an address: one of its own, or a link-local one that it has
/// claimed.
#[inline(always)]
pub fn owns<T: Tables>(tables: &T, endpoint: &Endpoint, addr: &Addr) -> bool {
    endpoint_owns(endpoint, addr)
        || addr.is_link_local() && tables.claimed(addr).endpoint == endpoint.id
}
