//! Frames, byte by byte: also such as no library would build.
//!
//! Checksums and lengths are right unless a row spoils them; a test network's
//! kernel forwards and answers these frames.

use std::net::IpAddr;

use super::fixture::{self, GATEWAY_MAC};

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// An IPv6 extension header: its number, and its bytes after "next header".
#[derive(Clone, Debug)]
pub struct Extension(pub u8, pub Vec<u8>);

impl Extension {
    /// Hop-by-hop (0), routing (43) or destination options (60): 8 bytes and
    /// `units` times 8 more.
    pub fn options(kind: u8, units: u8) -> Self {
        let mut body = vec![units];
        if kind == 43 {
            // Type 2, no segments left: to be skipped (RFC 8200, 4.4).
            body.extend([2, 0, 0, 0, 0, 0]);
            body.resize(7 + usize::from(units) * 8, 0);
        } else {
            // An option of nobody's, to be skipped: Linux takes no more padding
            // than seven bytes.
            body.extend([0x1e, 4 + units * 8]);
            body.resize(7 + usize::from(units) * 8, 0);
        }
        Self(kind, body)
    }

    /// A fragment header; the offset in units of 8 bytes.
    pub fn fragment(offset: u16, more: bool, identification: u16) -> Self {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        let [a, b] = identification.to_be_bytes();
        Self(44, vec![0, high, low, 0, 7, a, b])
    }

    /// An authentication header with a 12-byte check value.
    pub fn authentication() -> Self {
        let mut body = vec![4];
        body.resize(23, 0);
        Self(51, body)
    }
}

/// A packet to be: change any field, then take its [`Frame::bytes`].
#[derive(Clone, Debug)]
pub struct Frame {
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// EtherType.
    pub ethertype: u16,
    /// Source address, of either family; for ARP the sender's.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// IANA number of what follows IP and its extension headers.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hops: u8,
    /// IPv4's flags and fragment offset.
    pub fragment: u16,
    /// IPv4's identification.
    pub identification: u16,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers, in order.
    pub extensions: Vec<Extension>,
    /// What follows IP; of other EtherTypes everything after the Ethernet header.
    pub payload: Vec<u8>,
    /// Where the payload's checksum lies, if it has one over a pseudo header.
    checksum_at: Option<usize>,
}

impl Frame {
    /// An IP packet between two addresses, from the MAC of the one's holder to
    /// that of the other's.
    pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: Vec<u8>) -> Self {
        let mac = |ip| fixture::holder(ip).map_or(GATEWAY_MAC, |pod| pod.mac);
        Self {
            source_mac: mac(source),
            destination_mac: mac(destination),
            ethertype: if source.is_ipv4() { IPV4 } else { IPV6 },
            source,
            destination,
            protocol,
            hops: 64,
            fragment: 0,
            identification: 7,
            options: Vec::new(),
            extensions: Vec::new(),
            payload,
            checksum_at: None,
        }
    }

    /// A TCP segment without payload.
    pub fn tcp(source: (IpAddr, u16), destination: (IpAddr, u16), flags: u8) -> Self {
        let mut header = ports(source.1, destination.1);
        header.extend([
            0,
            0,
            0,
            1,
            0,
            0,
            0,
            1,
            5 << 4,
            flags,
            0xff,
            0xff,
            0,
            0,
            0,
            0,
        ]);
        Self {
            checksum_at: Some(16),
            ..Self::ip(source.0, destination.0, 6, header)
        }
    }

    /// A UDP datagram of eight bytes.
    pub fn udp(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        let mut datagram = ports(source.1, destination.1);
        datagram.extend([0, 16, 0, 0]);
        datagram.extend(*b"ringfenc");
        Self {
            checksum_at: Some(6),
            ..Self::ip(source.0, destination.0, 17, datagram)
        }
    }

    /// An SCTP packet with an INIT chunk's start.
    pub fn sctp(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        let mut packet = ports(source.1, destination.1);
        packet.extend([0; 8]);
        packet.extend([1, 0, 0, 4]);
        Self::ip(source.0, destination.0, 132, packet)
    }

    /// ICMP or ICMPv6, whichever the addresses ask for: type, code, then the rest.
    pub fn icmp(source: IpAddr, destination: IpAddr, head: [u8; 2], rest: &[u8]) -> Self {
        let mut message = vec![head[0], head[1], 0, 0];
        message.extend(rest);
        let protocol = if source.is_ipv4() { 1 } else { 58 };
        Self {
            checksum_at: Some(2),
            ..Self::ip(source, destination, protocol, message)
        }
    }

    /// An echo request or reply.
    pub fn echo(source: IpAddr, destination: IpAddr, request: bool, identifier: u16) -> Self {
        let kind = match (source.is_ipv4(), request) {
            (true, true) => 8,
            (true, false) => 0,
            (false, true) => 128,
            (false, false) => 129,
        };
        let [high, low] = identifier.to_be_bytes();
        Self::icmp(
            source,
            destination,
            [kind, 0],
            &[high, low, 0, 1, 1, 2, 3, 4],
        )
    }

    /// An ICMP error of a family's type and code about a frame.
    pub fn error(source: IpAddr, destination: IpAddr, head: [u8; 2], about: &Self) -> Self {
        let mut rest = vec![0, 0, 5, 0];
        let quoted = about.bytes();
        rest.extend(&quoted[14..quoted.len().min(14 + 512)]);
        Self::icmp(source, destination, head, &rest)
    }

    /// ARP from a pod: operation, sender's MAC and address, target's address.
    pub fn arp(operation: u8, mac: [u8; 6], sender: IpAddr, target: IpAddr) -> Self {
        let mut body = vec![0, 1, 8, 0, 6, 4, 0, operation];
        body.extend(mac);
        body.extend(octets(sender));
        body.extend([0; 6]);
        body.extend(octets(target));
        Self {
            source_mac: mac,
            destination_mac: [0xff; 6],
            ethertype: ARP,
            ..Self::ip(sender, target, 0, body)
        }
    }

    /// The same with something changed.
    pub fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut frame = self.clone();
        change(&mut frame);
        frame
    }

    /// The way back: addresses and ports swapped.
    pub fn reply(&self) -> Self {
        self.with(|f| {
            std::mem::swap(&mut f.source, &mut f.destination);
            std::mem::swap(&mut f.source_mac, &mut f.destination_mac);
            if matches!(f.protocol, 6 | 17 | 132) {
                f.payload[..4].rotate_left(2);
            }
        })
    }

    /// The same TCP segment with other flags.
    pub fn flags(&self, flags: u8) -> Self {
        self.with(|f| f.payload[13] = flags)
    }

    /// The same TCP segment with another sequence number, which acknowledges another one.
    pub fn numbers(&self, sequence: u32, acknowledged: u32) -> Self {
        self.with(|f| {
            f.payload[4..8].copy_from_slice(&sequence.to_be_bytes());
            f.payload[8..12].copy_from_slice(&acknowledged.to_be_bytes());
        })
    }

    /// The same TCP segment with so many bytes of data.
    pub fn data(&self, len: usize) -> Self {
        self.with(|f| f.payload.resize(20 + len, 0x55))
    }

    /// As it lies on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::from(self.destination_mac);
        bytes.extend(self.source_mac);
        bytes.extend(self.ethertype.to_be_bytes());
        match self.ethertype {
            IPV4 => bytes.extend(self.v4()),
            IPV6 => bytes.extend(self.v6()),
            _ => bytes.extend(&self.payload),
        }
        bytes
    }

    fn v4(&self) -> Vec<u8> {
        let payload = self.checked_payload();
        let header_len = 20 + self.options.len();
        let mut header = vec![0x40 | (header_len / 4) as u8, 0];
        header.extend(((header_len + payload.len()) as u16).to_be_bytes());
        header.extend(self.identification.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.hops, self.protocol, 0, 0]);
        header.extend(octets(self.source));
        header.extend(octets(self.destination));
        header.extend(&self.options);
        let sum = checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        header.extend(payload);
        header
    }

    fn v6(&self) -> Vec<u8> {
        let kinds: Vec<u8> = self.extensions.iter().map(|e| e.0).collect();
        let after = |i: usize| kinds.get(i).copied().unwrap_or(self.protocol);
        let mut body = Vec::new();
        for (i, extension) in self.extensions.iter().enumerate() {
            body.push(after(i + 1));
            body.extend(&extension.1);
        }
        body.extend(self.checked_payload());
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((body.len() as u16).to_be_bytes());
        packet.extend([after(0), self.hops]);
        packet.extend(octets(self.source));
        packet.extend(octets(self.destination));
        packet.extend(body);
        packet
    }

    fn checked_payload(&self) -> Vec<u8> {
        let mut payload = self.payload.clone();
        let Some(at) = self.checksum_at.filter(|at| at + 2 <= payload.len()) else {
            return payload;
        };
        payload[at..at + 2].fill(0);
        let mut summed = Vec::new();
        // ICMP alone has no pseudo header (RFC 792).
        if self.protocol != 1 {
            summed.extend(octets(self.source));
            summed.extend(octets(self.destination));
            summed.extend((payload.len() as u32).to_be_bytes());
            summed.extend([0, 0, 0, self.protocol]);
        }
        summed.extend(&payload);
        let sum = checksum(&summed).to_be_bytes();
        payload[at..at + 2].copy_from_slice(&sum);
        payload
    }
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
