//! Trains that the kernel, or a card, is to cut into packets (GSO), whose header says of
//! them what isn't so.

use std::net::SocketAddr;

use anyhow::Result;
use ringfence_tests::attack::{ETHERNET, Injector, Outcome, VnetHeader, datagram, ip_header};
use ringfence_tests::packets::Frame;

use crate::attack::Attack;
use crate::checksums::{DENIED_PORT, TCP_CHECKSUM, UDP_CHECKSUM, goes_out};
use crate::lab::{Lab, OPEN_PORT, holds};

/// Payload bytes of each piece.
const PIECE: u16 = 64;
/// Where the destination port lies in both protocols' headers.
const PORT: usize = 2;

pub(crate) const ATTACKS: &[Attack] = &[
    // Linux 6.12 and later cut nothing whose sum starts elsewhere than its header
    // (`tcp_gso_segment`, `__udp_gso_segment`), not even the pod's own.
    Attack::futile("a train of segments, its sum over the port", |lab, v4| {
        moved(lab, v4, Kind::Tcp)
    }),
    Attack::futile("a train of datagrams, its sum over the port", |lab, v4| {
        moved(lab, v4, Kind::Udp)
    }),
    // The kernel cuts it in the pod, and sums it all the same (`udp4_ufo_fragment`).
    Attack::futile(
        "a datagram to be cut in fragments, its sum over the port",
        |lab, v4| moved(lab, v4, Kind::Fragments),
    ),
    Attack::new("a train of segments to a denied port", |lab, v4| {
        train(lab, v4, Kind::Tcp, DENIED_PORT, true)
    })
    .counted_as(POLICY),
    Attack::new("the same, its headers said to be short", |lab, v4| {
        train(lab, v4, Kind::Tcp, DENIED_PORT, false)
    })
    .counted_as(POLICY),
    Attack::new("a train of datagrams to a denied port", |lab, v4| {
        train(lab, v4, Kind::Udp, DENIED_PORT, true)
    })
    .counted_as(POLICY),
    Attack::new(
        "a datagram to it that is to be cut in fragments",
        |lab, v4| train(lab, v4, Kind::Fragments, DENIED_PORT, true),
    )
    .counted_as(POLICY),
    Attack::honest("a train of segments of a raw sender", |lab, v4| {
        train(lab, v4, Kind::Tcp, OPEN_PORT, true)
    }),
    Attack::honest(
        "a train of segments, its headers said to be short",
        |lab, v4| train(lab, v4, Kind::Tcp, OPEN_PORT, false),
    ),
    Attack::honest(
        "a datagram of a raw sender, to be cut in fragments",
        |lab, v4| train(lab, v4, Kind::Fragments, OPEN_PORT, true),
    ),
];

/// Counted of a port that `caged` may not use.
const POLICY: &[&str] = &["policy"];

/// What is to be cut, and into what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Fragments,
}

impl Kind {
    /// `VIRTIO_NET_HDR_GSO_*` of linux/virtio_net.h.
    fn gso(self, v4: bool) -> u8 {
        match self {
            Self::Tcp if v4 => 1,
            Self::Tcp => 4,
            Self::Fragments => 3,
            Self::Udp => 5,
        }
    }

    /// Where the checksum lies in the header, and where that ends.
    fn header(self) -> (usize, usize) {
        match self {
            Self::Tcp => (TCP_CHECKSUM, 20),
            Self::Udp | Self::Fragments => (UDP_CHECKSUM, 8),
        }
    }
}

/// One of `caged` to the outside, which may be called on one port: its bytes, what is
/// to be done to them, and its marker.
fn coach(lab: &mut Lab, v4: bool, kind: Kind, port: u16) -> Result<(Vec<u8>, VnetHeader, [u8; 8])> {
    let marker = lab.marker();
    let (from, to) = (lab.ip("caged", v4), lab.at("outside", v4, port));
    let (from, payload) = (SocketAddr::new(from, lab.port()), marker.repeat(40));
    let frame = match kind {
        Kind::Tcp => Frame::tcp((from.ip(), from.port()), (to.ip(), port), 2)
            .with(|f| f.payload.extend(payload)),
        _ => datagram(from, to, &payload),
    };
    // Later fragments follow a first one by its number.
    let frame = frame.with(|f| f.identification = from.port());
    let start = ETHERNET + ip_header(v4);
    let (sum, length) = kind.header();
    let header = VnetHeader {
        csum_start: start as u16,
        csum_offset: sum as u16,
        gso_type: kind.gso(v4),
        hdr_len: (start + length) as u16,
        gso_size: PIECE,
    };
    Ok((lab.addressed("caged", &frame)?.bytes(), header, marker))
}

/// A train to the open port whose sum is to be written over that;
/// whether anything comes out otherwise than it was sent.
fn moved(lab: &mut Lab, v4: bool, kind: Kind) -> Result<Outcome> {
    let (bytes, header, marker) = coach(lab, v4, kind, OPEN_PORT)?;
    let header = VnetHeader {
        // The kernel knows where in the header a sum is, not where the header is.
        csum_start: header.csum_start + PORT as u16 - header.csum_offset,
        ..header
    };
    let injector = Injector::open(lab.ns("caged"), "eth0")?;
    let (start, at) = (ETHERNET + ip_header(v4), ETHERNET + ip_header(v4) + PORT);
    let same = |frame: &[u8], at: usize| frame[at..at + 2] == bytes[at..at + 2];
    // The source port tells a header from a later fragment's payload.
    let changed = |frame: &[u8]| holds(frame, &marker) && same(frame, start) && !same(frame, at);
    lab.shows("outside", changed, || {
        injector.send(&header, &bytes).map(drop)
    })
}

/// A train as it is, or its headers said to be short; whether it comes out in pieces.
fn train(lab: &mut Lab, v4: bool, kind: Kind, port: u16, whole: bool) -> Result<Outcome> {
    let (bytes, header, marker) = coach(lab, v4, kind, port)?;
    let header = match whole {
        true => header,
        // With a sum to write the kernel takes headers to reach that far.
        false => VnetHeader {
            csum_start: 0,
            csum_offset: 0,
            hdr_len: ETHERNET as u16,
            ..header
        },
    };
    let cut = |frame: &[u8]| holds(frame, &marker) && frame.len() < bytes.len();
    goes_out(lab, &header, &bytes, cut)
}
