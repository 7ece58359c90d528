//! Trains that the kernel, or a card, is to cut into packets (GSO), with headers that
//! misdescribe them.

use std::net::SocketAddr;

use anyhow::Result;
use ringfence_tests::attack::{ETHERNET, Injector, Outcome, VnetHeader, datagram, ip_header};
use ringfence_tests::packets::Frame;

use crate::attack::Attack;
use crate::checksums::{DENIED_PORT, TCP_CHECKSUM, UDP_CHECKSUM, goes_out};
use crate::lab::{Lab, OPEN_PORT, holds};

/// The number of payload bytes in each segment.
const PIECE: u16 = 64;
/// The offset of the destination port in both protocols' headers.
const PORT: usize = 2;

pub(crate) const ATTACKS: &[Attack] = &[
    // Linux 6.12 and later don't segment a train whose checksum starts elsewhere than
    // at its header (`tcp_gso_segment`, `__udp_gso_segment`), not even the pod's own.
    Attack::futile("a train of segments, its sum over the port", |lab, v4| {
        moved(lab, v4, Kind::Tcp)
    }),
    Attack::futile("a train of datagrams, its sum over the port", |lab, v4| {
        moved(lab, v4, Kind::Udp)
    }),
    // The kernel segments it in the pod, and still writes the checksum (`udp4_ufo_fragment`).
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

/// Reasons counted for a port that `caged` may not call.
const POLICY: &[&str] = &["policy"];

/// The kind of train, and of the packets it is cut into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Fragments,
}

impl Kind {
    /// Returns the `VIRTIO_NET_HDR_GSO_*` constant of linux/virtio_net.h.
    fn gso(self, v4: bool) -> u8 {
        match self {
            Self::Tcp if v4 => 1,
            Self::Tcp => 4,
            Self::Fragments => 3,
            Self::Udp => 5,
        }
    }

    /// Returns the offset of the checksum in the header, and the header's length.
    fn header(self) -> (usize, usize) {
        match self {
            Self::Tcp => (TCP_CHECKSUM, 20),
            Self::Udp | Self::Fragments => (UDP_CHECKSUM, 8),
        }
    }
}

/// Builds a train from `caged` to the outside, of which one port is allowed. Returns
/// its bytes, its offload header and its marker.
fn coach(lab: &mut Lab, v4: bool, kind: Kind, port: u16) -> Result<(Vec<u8>, VnetHeader, [u8; 8])> {
    let marker = lab.marker();
    let (from, to) = (lab.ip("caged", v4), lab.at("outside", v4, port));
    let (from, payload) = (SocketAddr::new(from, lab.port()), marker.repeat(40));
    let frame = match kind {
        Kind::Tcp => Frame::tcp((from.ip(), from.port()), (to.ip(), port), 2)
            .with(|f| f.payload.extend(payload)),
        _ => datagram(from, to, &payload),
    };
    // Later fragments are matched to a first one by its identification.
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

/// Sends a train to the allowed port with a checksum to be written over the port.
/// Returns whether any packet comes out modified.
fn moved(lab: &mut Lab, v4: bool, kind: Kind) -> Result<Outcome> {
    let (bytes, header, marker) = coach(lab, v4, kind, OPEN_PORT)?;
    let header = VnetHeader {
        // The kernel is told where in the header the checksum is, not where the header is.
        csum_start: header.csum_start + PORT as u16 - header.csum_offset,
        ..header
    };
    let injector = Injector::open(lab.ns("caged"), "eth0")?;
    let (start, at) = (ETHERNET + ip_header(v4), ETHERNET + ip_header(v4) + PORT);
    let same = |frame: &[u8], at: usize| frame[at..at + 2] == bytes[at..at + 2];
    // The source port distinguishes a header from the payload of a later fragment.
    let changed = |frame: &[u8]| holds(frame, &marker) && same(frame, start) && !same(frame, at);
    lab.shows("outside", changed, || {
        injector.send(&header, &bytes).map(drop)
    })
}

/// Sends a train as it is, or with its headers declared too short. Returns whether it
/// comes out in segments.
fn train(lab: &mut Lab, v4: bool, kind: Kind, port: u16, whole: bool) -> Result<Outcome> {
    let (bytes, header, marker) = coach(lab, v4, kind, port)?;
    let header = match whole {
        true => header,
        // With a checksum to write, the kernel assumes that headers reach that far.
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
