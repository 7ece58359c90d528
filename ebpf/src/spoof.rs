//! What no managed endpoint may send or receive, isolated or not.

use crate::abi::{Addr, Endpoint, Reason};
use crate::packet::{Frame, Mac, Packet, Shape, ethertype, icmpv6, protocol};

/// Checks a frame that a pod sends; the reason if it pretends to be another's.
///
/// Owned are the pod's addresses and the link-local address made from its MAC.
#[inline(always)]
pub fn check<F: Frame + ?Sized>(endpoint: &Endpoint, frame: &F, packet: &Packet) -> Option<Reason> {
    if !packet.source_mac.same(&Mac::new(endpoint.mac)) {
        return Some(Reason::SpoofedMac);
    }
    match packet.shape {
        Shape::Arp => arp(endpoint, packet),
        Shape::Ip => ip(endpoint, frame, packet),
        Shape::Fault(reason) => unaccounted(endpoint, packet, reason),
    }
}

/// What can't be accounted for and could still deceive a neighbour.
#[inline(always)]
fn unaccounted(endpoint: &Endpoint, packet: &Packet, reason: Reason) -> Option<Reason> {
    match (packet.ethertype, reason) {
        (ethertype::ARP, _) => Some(Reason::SpoofedArp),
        // Linux takes the outer tag off before tc, and a second one of VLAN 0
        // after it: what is inside was never checked (__netif_receive_skb_core).
        (ethertype::VLAN | ethertype::QINQ, _) => Some(Reason::Vlan),
        // Linux walks as many headers as it takes to get to an advertisement.
        (_, Reason::ExtensionHeader) => Some(reason),
        (ethertype::IPV6, _) if packet.source.is_v4() => Some(Reason::SpoofedAddress),
        // Whose it is couldn't be read.
        _ if packet.source.same(&Addr::UNSPECIFIED) => None,
        _ => (!owns(endpoint, &packet.source)).then_some(Reason::SpoofedAddress),
    }
}

/// Whether a frame on its way to the pod is addressed to it: its MAC, or a
/// group address.
#[inline(always)]
pub fn addressed_to(endpoint: &Endpoint, packet: &Packet) -> bool {
    packet.destination_mac.is_group() || packet.destination_mac.same(&Mac::new(endpoint.mac))
}

#[inline(always)]
fn arp(endpoint: &Endpoint, packet: &Packet) -> Option<Reason> {
    // A probe (RFC 5227) asks with 0.0.0.0 before it claims.
    let probe = packet.source.same(&Addr::v4([0; 4]));
    let honest = packet.sender_mac.same(&Mac::new(endpoint.mac))
        && (probe || endpoint.v4.same(&packet.source));
    (!honest).then_some(Reason::SpoofedArp)
}

#[inline(always)]
fn ip<F: Frame + ?Sized>(endpoint: &Endpoint, frame: &F, packet: &Packet) -> Option<Reason> {
    let icmpv6 = packet.protocol == protocol::ICMPV6;
    if !owns(endpoint, &packet.source) {
        // Duplicate-address detection and listener reports of a pod that
        // starts come from `::` (RFC 4862 5.4.2, RFC 3590).
        let start_up = icmpv6
            && packet.source.same(&Addr::UNSPECIFIED)
            && matches!(
                packet.detail,
                icmpv6::NEIGHBOUR_SOLICIT | icmpv6::MLD_REPORT | icmpv6::MLD2_REPORT
            );
        if !start_up {
            return Some(Reason::SpoofedAddress);
        }
    }
    if !icmpv6 {
        return None;
    }
    match packet.detail {
        icmpv6::ROUTER_ADVERT | icmpv6::REDIRECT => Some(Reason::RouterMessage),
        icmpv6::NEIGHBOUR_SOLICIT | icmpv6::ROUTER_SOLICIT => {
            let options = if packet.detail == icmpv6::ROUTER_SOLICIT {
                8
            } else {
                24
            };
            own_link_options(endpoint, frame, packet, options)
        }
        icmpv6::NEIGHBOUR_ADVERT => match frame.words(packet.transport + 8) {
            Some(target)
                if packet.transport_len >= 24 && owns(endpoint, &Addr::from_words(target)) =>
            {
                own_link_options(endpoint, frame, packet, 24)
            }
            _ => Some(Reason::SpoofedNeighbour),
        },
        _ => None,
    }
}

/// At most two options, each either a link-layer address that is the pod's own
/// or the nonce of enhanced duplicate-address detection (RFC 7527): all that
/// Linux sends. Anything else can't be accounted for.
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
            (1 | 2, 1) => {
                Mac::new([a[2], a[3], b[0], b[1], b[2], b[3]]).same(&Mac::new(endpoint.mac))
            }
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

#[inline(always)]
fn owns(endpoint: &Endpoint, addr: &Addr) -> bool {
    crate::verdict::endpoint_owns(endpoint, addr)
}
