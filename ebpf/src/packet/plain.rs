//! The shortcut for frames in which every header lies where it mostly does: TCP,
//! UDP or ICMP right behind an IP header without options or extensions, no
//! fragment, all of it in one piece. Whatever else there is, `parse_any` reads.

use super::parse::{set_ports, tcp_header_fits};
use super::{ETHERNET, Frame, Head, Packet, Shape, ethertype, protocol};
use crate::abi::{Addr, Mac};

/// EtherType IPv4, version 4, five words of header.
const PLAIN_V4: u32 = 0x0008_0045;
/// EtherType IPv6, version 6.
const PLAIN_V6: u32 = 0x0008_6dd6;

/// Parses a plain frame; `None` if it isn't plain.
#[inline(always)]
pub(super) fn parse<F: Frame + ?Sized>(frame: &F) -> Option<Packet> {
    // The shortest: Ethernet, IPv4, eight bytes of UDP or ICMP.
    let head = frame.head::<42>()?;
    let kind = u32::from_be(head.word::<12>());
    if kind >> 8 == PLAIN_V4 {
        v4(frame, &head)
    } else if kind >> 12 == PLAIN_V6 {
        v6(frame)
    } else {
        None
    }
}

/// A packet with its link header; the rest is still to be said.
#[inline(always)]
fn link(head: &impl Head, ethertype: u16, transport: u32) -> Packet {
    Packet {
        shape: Shape::Ip,
        ethertype,
        destination_mac: Mac::from_parts(head.word::<0>(), head.half::<4>()),
        source_mac: Mac::from_parts(head.word::<6>(), head.half::<10>()),
        transport,
        ..Packet::EMPTY
    }
}

#[inline(always)]
fn v4<F: Frame + ?Sized>(frame: &F, head: &impl Head) -> Option<Packet> {
    const TRANSPORT: u32 = ETHERNET + 20;
    let claimed = u32::from(u16::from_be(head.half::<16>()));
    let fragment = u16::from_be(head.half::<20>()) & 0x3fff;
    if fragment != 0 || claimed < 20 || claimed > frame.len() - ETHERNET {
        return None;
    }
    let mut found = link(head, ethertype::IPV4, TRANSPORT);
    found.identification = u32::from(u16::from_be(head.half::<18>()));
    found.protocol = u16::from_be(head.half::<22>()) as u8;
    found.transport_len = claimed - 20;
    found.fragment_len = found.transport_len;
    found.source = Addr::from_words([0, 0, 0xffff_u32.to_be(), head.word::<26>()]);
    found.destination = Addr::from_words([0, 0, 0xffff_u32.to_be(), head.word::<30>()]);
    if found.transport_len < 8 {
        return None;
    }
    match found.protocol {
        protocol::TCP => {
            let head = frame.head::<54>()?;
            let word = u32::from_be(head.word::<46>());
            if !tcp_header_fits(word, found.transport_len) {
                return None;
            }
            found.detail = (word >> 16) as u8;
            set_ports(&mut found, head.word::<34>());
            found.mark_tcp();
        }
        protocol::UDP => {
            set_ports(&mut found, head.word::<34>());
            found.mark_udp();
        }
        protocol::ICMP => {
            found.detail = (u32::from_be(head.word::<34>()) >> 24) as u8;
            found.mark_icmp(head.word::<38>());
        }
        _ => return None,
    }
    Some(found)
}

#[inline(always)]
fn v6<F: Frame + ?Sized>(frame: &F) -> Option<Packet> {
    const TRANSPORT: u32 = ETHERNET + 40;
    let head = frame.head::<62>()?;
    let word = u32::from_be(head.word::<18>());
    let claimed = word >> 16;
    if claimed < 8 || claimed > frame.len() - TRANSPORT {
        return None;
    }
    let mut found = link(&head, ethertype::IPV6, TRANSPORT);
    found.protocol = (word >> 8) as u8;
    found.hop_limit = word as u8;
    found.transport_len = claimed;
    found.source = Addr::from_words([
        head.word::<22>(),
        head.word::<26>(),
        head.word::<30>(),
        head.word::<34>(),
    ]);
    found.destination = Addr::from_words([
        head.word::<38>(),
        head.word::<42>(),
        head.word::<46>(),
        head.word::<50>(),
    ]);
    if found.source.is_v4() || found.destination.is_v4() {
        return None;
    }
    match found.protocol {
        protocol::TCP => {
            let head = frame.head::<74>()?;
            let word = u32::from_be(head.word::<66>());
            if !tcp_header_fits(word, claimed) {
                return None;
            }
            found.detail = (word >> 16) as u8;
            set_ports(&mut found, head.word::<54>());
            found.mark_tcp();
        }
        protocol::UDP => {
            set_ports(&mut found, head.word::<54>());
            found.mark_udp();
        }
        protocol::ICMPV6 => {
            found.detail = (u32::from_be(head.word::<54>()) >> 24) as u8;
            found.mark_icmp(head.word::<58>());
        }
        _ => return None,
    }
    Some(found)
}
