//! The fast path for frames with every header in its usual place: TCP, UDP or
//! ICMP directly behind an IP header without options or extensions, not a
//! fragment, all in one piece. Every other frame is read by `parse_any`.

use super::parse::set_ports;
use super::{ETHERNET, Frame, Head, Layout, Packet, ethertype, protocol};
use crate::abi::{Addr, Mac};

/// EtherType IPv4, version 4, five words of header.
const PLAIN_V4: u32 = 0x0008_0045;
/// EtherType IPv6, version 6.
const PLAIN_V6: u32 = 0x0008_6dd6;

/// Parses a plain frame into `packet`, storing each field as it is read; returns whether the
/// frame is plain. If it isn't, the contents of `packet` are undefined.
#[inline(always)]
pub(super) fn parse<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> bool {
    // The shortest plain frame: Ethernet, IPv4, eight bytes of UDP or ICMP.
    let Some(head) = frame.head::<42>() else {
        return false;
    };
    let kind = u32::from_be(head.word::<12>());
    if kind >> 8 == PLAIN_V4 {
        v4(frame, &head, packet)
    } else if kind >> 12 == PLAIN_V6 {
        v6(frame, packet)
    } else {
        false
    }
}

/// Reads the link header. Fields used only for fragments and ARP are left unchanged, to save
/// the stores: no code reads them for other packets.
#[inline(always)]
fn link(head: &impl Head, ethertype: u16, transport: u32, packet: &mut Packet) {
    packet.layout = Layout::Ip;
    packet.ethertype = ethertype;
    packet.destination_mac = Mac::from_parts(head.word::<0>(), head.half::<4>());
    packet.source_mac = Mac::from_parts(head.word::<6>(), head.half::<10>());
    packet.transport = transport;
    packet.first_fragment = false;
}

#[inline(always)]
fn v4<F: Frame + ?Sized>(frame: &F, head: &impl Head, packet: &mut Packet) -> bool {
    const TRANSPORT: u32 = ETHERNET + 20;
    let claimed = u32::from(u16::from_be(head.half::<16>()));
    let fragment = u16::from_be(head.half::<20>()) & 0x3fff;
    if fragment != 0 || claimed < 28 || claimed > frame.len() - ETHERNET {
        return false;
    }
    link(head, ethertype::IPV4, TRANSPORT, packet);
    packet.protocol = u16::from_be(head.half::<22>()) as u8;
    packet.transport_len = claimed - 20;
    packet.source = Addr::from_words([0, 0, 0xffff_u32.to_be(), head.word::<26>()]);
    packet.destination = Addr::from_words([0, 0, 0xffff_u32.to_be(), head.word::<30>()]);
    match packet.protocol {
        protocol::TCP => {
            let Some(head) = frame.head::<54>() else {
                return false;
            };
            let (sequence, acknowledged) = (head.word::<38>(), head.word::<42>());
            if !tcp(packet, sequence, acknowledged, head.word::<46>()) {
                return false;
            }
            set_ports(packet, head.word::<34>());
        }
        protocol::UDP => {
            packet.detail = 0;
            set_ports(packet, head.word::<34>());
            packet.mark_udp();
        }
        protocol::ICMP => icmp(packet, head.word::<34>(), head.word::<38>()),
        _ => return false,
    }
    true
}

#[inline(always)]
fn v6<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> bool {
    const TRANSPORT: u32 = ETHERNET + 40;
    let Some(head) = frame.head::<62>() else {
        return false;
    };
    let word = u32::from_be(head.word::<18>());
    let claimed = word >> 16;
    if claimed < 8 || claimed > frame.len() - TRANSPORT {
        return false;
    }
    link(&head, ethertype::IPV6, TRANSPORT, packet);
    packet.protocol = (word >> 8) as u8;
    packet.hop_limit = word as u8;
    packet.transport_len = claimed;
    packet.source = Addr::from_words([
        head.word::<22>(),
        head.word::<26>(),
        head.word::<30>(),
        head.word::<34>(),
    ]);
    packet.destination = Addr::from_words([
        head.word::<38>(),
        head.word::<42>(),
        head.word::<46>(),
        head.word::<50>(),
    ]);
    if packet.source.is_v4() || packet.destination.is_v4() {
        return false;
    }
    match packet.protocol {
        protocol::TCP => {
            let Some(head) = frame.head::<74>() else {
                return false;
            };
            let (sequence, acknowledged) = (head.word::<58>(), head.word::<62>());
            if !tcp(packet, sequence, acknowledged, head.word::<66>()) {
                return false;
            }
            set_ports(packet, head.word::<54>());
        }
        protocol::UDP => {
            packet.detail = 0;
            set_ports(packet, head.word::<54>());
            packet.mark_udp();
        }
        protocol::ICMPV6 => icmp(packet, head.word::<54>(), head.word::<58>()),
        _ => return false,
    }
    true
}

#[inline(always)]
fn tcp(packet: &mut Packet, sequence: u32, acknowledged: u32, word: u32) -> bool {
    let [sequence, acknowledged, word] = [sequence, acknowledged, word].map(u32::from_be);
    packet.set_tcp(sequence, acknowledged, word)
}

/// Reads ICMP. Queries and replies have a port only on one side.
#[inline(always)]
fn icmp(packet: &mut Packet, first: u32, second: u32) {
    packet.detail = (u32::from_be(first) >> 24) as u8;
    packet.source_port = 0;
    packet.destination_port = 0;
    packet.marks = 0;
    packet.mark_icmp(second);
}
