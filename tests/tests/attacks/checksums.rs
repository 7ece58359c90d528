//! Frames with an unfinished checksum: the kernel, or a card, writes it behind the
//! hooks, at whatever offset the sender chose.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use ringfence_tests::attack::{
    ETHERNET, Injector, Outcome, VnetHeader, datagram, ip_header, steer,
};
use ringfence_tests::packets::Frame;
use ringfence_tests::testnet::{call_tcp, probe_udp};

use crate::attack::Attack;
use crate::lab::{Lab, OPEN_PORT, TCP, UDP, holds};

/// Reasons counted if a checksum would overwrite a field that the verdict was based on.
const REASONS: &[&str] = &["checksum_offload"];
/// A port of the outside that `caged` may not call.
pub(crate) const DENIED_PORT: u16 = 9999;
/// The offsets of the checksums in the UDP and TCP headers.
pub(crate) const UDP_CHECKSUM: usize = 6;
pub(crate) const TCP_CHECKSUM: usize = 16;

pub(crate) const ATTACKS: &[Attack] = &[
    Attack::new("a pending checksum over a UDP datagram's port", udp_port).counted_as(REASONS),
    Attack::new("a pending checksum over a TCP segment's port", tcp_port).counted_as(REASONS),
    Attack::new(
        "a pending checksum from far ahead over the port",
        port_from_afar,
    )
    .counted_as(REASONS),
    Attack::new("a pending checksum over the source address", source).counted_as(REASONS),
    Attack::new(
        "a pending checksum over the destination address",
        destination,
    )
    .counted_as(REASONS),
    Attack::new("a pending checksum over the protocol", protocol).counted_as(REASONS),
    Attack::new(
        "a pending checksum over the port towards a pod",
        port_of_a_pod,
    )
    .counted_as(REASONS),
    Attack::futile(
        "a pending checksum over the port of a train of datagrams",
        port_of_a_train,
    ),
    Attack::honest("calls with the stack's own pending checksums", calls),
    Attack::honest("a pending checksum of a raw UDP sender", raw_sender),
    Attack::honest("a train of datagrams of a raw sender", raw_train),
    Attack::honest(
        "a call in a pod's own VXLAN, with an inner pending checksum",
        own_tunnel,
    ),
];

/// Has checksums finished when packets leave the node, because there is no offload, and
/// sets up a tunnel between two pods.
pub(crate) fn prepare(lab: &mut Lab) -> Result<()> {
    let devices = lab.net.pods().iter().map(|pod| pod.host_device.clone());
    for device in devices.chain(["eth0".to_owned()]) {
        lab.net
            .node()
            .output("ethtool", &["-K", &device, "tx", "off"])?;
    }
    for v4 in [true, false] {
        for (here, there, number) in [("friend", "rogue", 1), ("rogue", "friend", 2)] {
            let (local, remote) = (lab.ip(here, v4), lab.ip(there, v4));
            let device = inner_device(v4);
            let id = if v4 { 4 } else { 6 };
            lab.ns(here).ip(&format!(
                "link add {device} type vxlan id {id} dstport {} local {local} remote {remote} dev eth0\n\
                 addr add {}/24 dev {device}\n\
                 link set {device} up\n",
                4789 + id,
                inner_address(v4, number)
            ))?;
        }
    }
    Ok(())
}

fn inner_device(v4: bool) -> &'static str {
    if v4 { "inner4" } else { "inner6" }
}

/// Returns an IPv4 address inside the tunnel, or an IPv6 one.
fn inner_address(v4: bool, number: u8) -> IpAddr {
    [172, 16, if v4 { 4 } else { 6 }, number].into()
}

/// Returns a datagram of `caged` that egress policy allows, with spare payload bytes to
/// steer its checksum.
fn allowed(lab: &mut Lab, v4: bool, to: SocketAddr) -> (Frame, [u8; 8]) {
    let (marker, from) = (lab.marker(), lab.at("caged", v4, 0).ip());
    let from = SocketAddr::new(from, lab.port());
    (datagram(from, to, &[&marker[..], &[0; 2]].concat()), marker)
}

/// The position of a field in the frame.
#[derive(Clone, Copy)]
struct Field {
    /// The offset of its last two bytes.
    at: usize,
    /// The value to be written there.
    value: u16,
    /// The offset at which summing starts.
    from: usize,
}

impl Field {
    fn new(at: usize, value: u16) -> Self {
        Self {
            at,
            value,
            from: at,
        }
    }

    /// Returns the field of the destination port.
    fn port(v4: bool) -> Self {
        Self::new(ETHERNET + ip_header(v4) + 2, DENIED_PORT)
    }
}

/// Sends a frame of `caged` whose checksum is to be written over a field. Returns
/// whether the frame arrives somewhere with the desired value.
fn overwrite(
    lab: &Lab,
    to: &str,
    (frame, marker): (&Frame, [u8; 8]),
    field: Field,
    kind: VnetHeader,
) -> Result<Outcome> {
    let mut bytes = lab.addressed("caged", frame)?.bytes();
    // A router on the path takes one hop off; the IPv4 header checksum stays correct.
    let hops = ETHERNET + 7;
    let routed = to != "neighbour" && frame.source.is_ipv6();
    bytes[hops] -= u8::from(routed);
    steer(&mut bytes, field.from, field.value);
    bytes[hops] += u8::from(routed);
    let header = VnetHeader {
        csum_start: field.from as u16,
        csum_offset: (field.at - field.from) as u16,
        ..kind
    };
    let injector = Injector::open(lab.ns("caged"), "eth0")?;
    let overwritten = |frame: &[u8]| {
        holds(frame, &marker) && frame[field.at..field.at + 2] == field.value.to_be_bytes()
    };
    lab.shows(to, overwritten, || injector.send(&header, &bytes).map(drop))
}

fn udp_port(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let to = lab.at("outside", v4, OPEN_PORT);
    let (frame, marker) = allowed(lab, v4, to);
    overwrite(
        lab,
        "outside",
        (&frame, marker),
        Field::port(v4),
        VnetHeader::default(),
    )
}

fn tcp_port(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    const SYN: u8 = 2;
    let marker = lab.marker();
    let (from, to) = (lab.ip("caged", v4), lab.ip("outside", v4));
    let frame = Frame::tcp((from, lab.port()), (to, OPEN_PORT), SYN)
        .with(|f| f.payload.extend([&marker[..], &[0; 2]].concat()));
    overwrite(
        lab,
        "outside",
        (&frame, marker),
        Field::port(v4),
        VnetHeader::default(),
    )
}

fn port_from_afar(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let to = lab.at("outside", v4, OPEN_PORT);
    let (frame, marker) = allowed(lab, v4, to);
    let field = Field {
        // Inside the IP header: the kernel rejects lower offsets.
        from: ETHERNET + 6,
        ..Field::port(v4)
    };
    overwrite(
        lab,
        "outside",
        (&frame, marker),
        field,
        VnetHeader::default(),
    )
}

/// Returns the last two bytes of an address.
fn low_half(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(v4) => u16::from_be_bytes([v4.octets()[2], v4.octets()[3]]),
        IpAddr::V6(v6) => v6.segments()[7],
    }
}

/// Returns the offsets of the last two bytes of the source and destination addresses.
fn halves(v4: bool) -> [usize; 2] {
    let behind = ETHERNET + ip_header(v4);
    [behind - if v4 { 6 } else { 18 }, behind - 2]
}

fn source(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let to = lab.at("elsewhere", v4, UDP);
    let (frame, marker) = allowed(lab, v4, to);
    let field = Field::new(halves(v4)[0], low_half(lab.ip("friend", v4)));
    overwrite(
        lab,
        "outside",
        (&frame, marker),
        field,
        VnetHeader::default(),
    )
}

fn destination(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let to = lab.at("elsewhere", v4, UDP);
    let (frame, marker) = allowed(lab, v4, to);
    let field = Field::new(halves(v4)[1], low_half(lab.ip("outside", v4)));
    overwrite(
        lab,
        "outside",
        (&frame, marker),
        field,
        VnetHeader::default(),
    )
}

fn protocol(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    const SCTP: u16 = 132;
    const HOPS: u16 = 9;
    let to = lab.at("outside", v4, OPEN_PORT);
    let (frame, marker) = allowed(lab, v4, to);
    // The hop limit and protocol of IPv4, the next header and hop limit of IPv6.
    let field = match v4 {
        true => Field::new(ETHERNET + 8, HOPS << 8 | SCTP),
        false => Field::new(ETHERNET + 6, SCTP << 8 | HOPS),
    };
    overwrite(
        lab,
        "outside",
        (&frame, marker),
        field,
        VnetHeader::default(),
    )
}

/// `victim` accepts calls from `friend` on one port.
fn port_of_a_pod(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let marker = lab.marker();
    let from = SocketAddr::new(lab.ip("friend", v4), lab.port());
    let payload = [&marker[..], &[0; 2]].concat();
    let frame = datagram(from, lab.at("victim", v4, UDP), &payload);
    let mut bytes = lab.addressed("friend", &frame)?.bytes();
    let Field { at, value, .. } = Field::port(v4);
    steer(&mut bytes, at, value);
    let injector = Injector::open(lab.ns("friend"), "eth0")?;
    let overwritten =
        |frame: &[u8]| holds(frame, &marker) && frame[at..at + 2] == value.to_be_bytes();
    lab.shows("victim", overwritten, || {
        injector
            .send(&VnetHeader::checksum(at, at), &bytes)
            .map(drop)
    })
}

/// Returns the header of a datagram that is to be cut into segments of this many bytes.
fn train(v4: bool) -> VnetHeader {
    const UDP_DATAGRAMS: u8 = 5;
    VnetHeader {
        gso_type: UDP_DATAGRAMS,
        hdr_len: (ETHERNET + ip_header(v4) + 8) as u16,
        gso_size: 64,
        ..VnetHeader::default()
    }
}

fn port_of_a_train(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let to = lab.at("outside", v4, OPEN_PORT);
    let marker = lab.marker();
    let from = SocketAddr::new(lab.ip("caged", v4), lab.port());
    let frame = datagram(from, to, &marker.repeat(40));
    overwrite(lab, "outside", (&frame, marker), Field::port(v4), train(v4))
}

fn calls(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let patience = lab.patience();
    let caller = lab.ns("friend");
    let tcp = call_tcp(caller, None, lab.at("victim", v4, TCP), patience)?;
    ensure!(tcp.as_deref() == Ok("victim"), "TCP: {tcp:?}");
    let tcp = call_tcp(caller, None, lab.at("outside", v4, TCP), patience)?;
    ensure!(
        tcp.as_deref() == Ok("outside"),
        "TCP to the outside: {tcp:?}"
    );
    for to in ["victim", "outside"] {
        let probe = probe_udp(caller, lab.ip(to, v4), UDP, patience)?;
        ensure!(
            probe == ringfence_tests::testnet::Probe::Open,
            "UDP to {to}: {probe}"
        );
    }
    Ok(Outcome::Arrives)
}

/// A raw sender that leaves the checksum of its own datagram to the kernel, as a DHCP
/// client or a virtual machine does.
fn raw_sender(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let to = lab.at("outside", v4, OPEN_PORT);
    let (frame, marker) = allowed(lab, v4, to);
    let bytes = lab.addressed("caged", &frame)?.bytes();
    let start = ETHERNET + ip_header(v4);
    let header = VnetHeader::checksum(start, start + UDP_CHECKSUM);
    let injector = Injector::open(lab.ns("caged"), "eth0")?;
    let udp = lab.lands("outside", &marker, || {
        injector.send(&header, &bytes).map(drop)
    })?;
    let marker = lab.marker();
    let (from, to) = (lab.ip("caged", v4), lab.ip("outside", v4));
    let frame =
        Frame::tcp((from, lab.port()), (to, OPEN_PORT), 2).with(|f| f.payload.extend(marker));
    let bytes = lab.addressed("caged", &frame)?.bytes();
    let header = VnetHeader::checksum(start, start + TCP_CHECKSUM);
    let tcp = lab.lands("outside", &marker, || {
        injector.send(&header, &bytes).map(drop)
    })?;
    Ok(Outcome::arrives([udp, tcp] == [Outcome::Arrives; 2]))
}

fn raw_train(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let marker = lab.marker();
    let from = SocketAddr::new(lab.ip("caged", v4), lab.port());
    let frame = datagram(from, lab.at("outside", v4, OPEN_PORT), &marker.repeat(40));
    let bytes = lab.addressed("caged", &frame)?.bytes();
    let start = ETHERNET + ip_header(v4);
    let header = VnetHeader {
        csum_start: start as u16,
        csum_offset: UDP_CHECKSUM as u16,
        ..train(v4)
    };
    let cut = |frame: &[u8]| holds(frame, &marker) && frame.len() == start + 8 + 64;
    goes_out(lab, &header, &bytes, cut)
}

fn own_tunnel(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let to = SocketAddr::new(inner_address(v4, 2), TCP);
    let banner = call_tcp(lab.ns("friend"), None, to, lab.patience())?;
    let banner = banner.ok().context("nobody answers inside the tunnel")?;
    Ok(Outcome::arrives(banner == "rogue"))
}

/// Sends a train through a packet socket of the caged pod. Returns whether a frame cut
/// from it leaves the node.
pub(crate) fn goes_out(
    lab: &mut Lab,
    header: &VnetHeader,
    bytes: &[u8],
    is_cut: impl Fn(&[u8]) -> bool,
) -> Result<Outcome> {
    let injector = Injector::open(lab.ns("caged"), "eth0")?;
    let taken = Cell::new(false);
    let outcome = lab.shows("outside", is_cut, || {
        taken.set(injector.send(header, bytes)?);
        Ok(())
    })?;
    ensure!(taken.get(), "the kernel doesn't take it");
    Ok(outcome)
}
