//! Packets that no honest sender would build.

use std::net::{IpAddr, SocketAddr};

use crate::packets::Frame;
use crate::packets::frame::Extension;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// Bytes of an IP header without options or extension headers.
pub const fn ip_header(v4: bool) -> usize {
    if v4 { 20 } else { 40 }
}

/// A UDP datagram with a payload; MACs are still to be set.
pub fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Frame {
    let frame = Frame::udp((from.ip(), from.port()), (to.ip(), to.port()));
    frame.with(|f| {
        f.payload.truncate(8);
        f.payload.extend(payload);
        let length = (f.payload.len() as u16).to_be_bytes();
        f.payload[4..6].copy_from_slice(&length);
    })
}

/// The pieces of an IPv6 packet, cut at `at` bytes of its payload, a multiple of 8.
/// The first one alone carries the extension headers.
pub fn pieces_v6(whole: &Frame, headers: &[Extension], at: usize, id: u16) -> [Frame; 2] {
    let payload = &whole.bytes()[ETHERNET + ip_header(false)..];
    let piece = |before: &[Extension], offset: usize, more, part: &[u8]| {
        let piece = Frame::ip(
            whole.source,
            whole.destination,
            whole.protocol,
            part.to_vec(),
        );
        piece.with(|f| {
            (f.source_mac, f.destination_mac) = (whole.source_mac, whole.destination_mac);
            f.extensions = before.to_vec();
            let fragment = Extension::fragment((offset / 8) as u16, more, id);
            f.extensions.push(fragment);
        })
    };
    [
        piece(headers, 0, true, &payload[..at]),
        piece(&[], at, false, &payload[at..]),
    ]
}

/// The same of an IPv4 packet.
pub fn pieces_v4(whole: &Frame, at: usize, id: u16) -> [Frame; 2] {
    const MORE: u16 = 0x2000;
    let payload = &whole.bytes()[ETHERNET + ip_header(true)..];
    let piece = |fragment, part: &[u8]| {
        let piece = Frame::ip(
            whole.source,
            whole.destination,
            whole.protocol,
            part.to_vec(),
        );
        piece.with(|f| {
            (f.source_mac, f.destination_mac) = (whole.source_mac, whole.destination_mac);
            (f.fragment, f.identification) = (fragment, id);
        })
    };
    [
        piece(MORE, &payload[..at]),
        piece((at / 8) as u16, &payload[at..]),
    ]
}

/// What a node unpacks from a UDP datagram to a VXLAN port (RFC 7348): eight bytes,
/// then a frame.
pub fn vxlan(network: u32, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = network.to_be_bytes();
    let mut payload = vec![8, 0, 0, 0, a, b, c, 0];
    payload.extend(inner);
    payload
}

/// An ICMP or ICMPv6 error about a packet, with the four bytes behind its checksum
/// (a path MTU, or nothing).
pub fn error_about(from: IpAddr, about: &Frame, head: [u8; 2], rest: u32) -> Frame {
    let mut body = rest.to_be_bytes().to_vec();
    let quoted = about.bytes();
    body.extend(&quoted[ETHERNET..quoted.len().min(ETHERNET + 512)]);
    Frame::icmp(from, about.source, head, &body)
}
