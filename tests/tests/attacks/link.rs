//! Traffic that a quarantined pod can send to a neighbour on the link, and changes that
//! a pod with CAP_NET_ADMIN can make to its own interface.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::Result;
use ringfence_tests::attack::{Outcome, datagram};
use ringfence_tests::packets::Frame;
use ringfence_tests::packets::frame::Extension;
use ringfence_tests::testnet::Frames;
use socket2::{Domain, Socket, Type};

use crate::attack::Attack;
use crate::lab::{Lab, UDP, holds};

/// ICMPv6 types: the listener query and both kinds of reports.
const QUERY: u8 = 130;
const REPORT: u8 = 131;
const REPORT_V2: u8 = 143;

pub(crate) const ATTACKS: &[Attack] = &[
    Attack::new(
        "a quarantined pod's listener report with 1 kB behind it",
        |lab, _| report(lab, "cut", REPORT_V2, 1000),
    )
    .on_a_bridge()
    .v6(),
    Attack::new("the same of the older kind", |lab, _| {
        report(lab, "cut", REPORT, 1000)
    })
    .on_a_bridge()
    .v6(),
    Attack::new(
        "a quarantined pod's ARP request with 1 kB behind it",
        |lab, _| arp(lab, "cut", 1000),
    )
    .on_a_bridge()
    .v4(),
    Attack::new("a caged pod's ARP request with 1 kB behind it", |lab, _| {
        arp(lab, "caged", 1000)
    })
    .on_a_bridge()
    .v4(),
    Attack::new("a pod's listener query", |lab, _| {
        report(lab, "rogue", QUERY, 0)
    })
    .on_a_bridge()
    .v6(),
    Attack::honest("a pod's ARP request", |lab, _| arp(lab, "friend", 0))
        .on_a_bridge()
        .v4(),
    Attack::new("a frame of a macvlan device inside of a pod", macvlan),
    Attack::futile("a packet's mark that a pod has set", mark).v4(),
    Attack::new(
        "a SYN of the far end upon a connection that the victim has opened",
        crossing_syn,
    ),
    Attack::new(
        "a datagram with an address that the pod has given itself",
        own_choice,
    ),
];

/// Sends an ICMPv6 message as hosts send it to the routers of the link: from the pod's
/// link-local address, behind a router alert, with extra bytes at the end.
fn report(lab: &mut Lab, from: &str, kind: u8, more: usize) -> Result<Outcome> {
    let marker = lab.marker();
    let group = match kind {
        REPORT_V2 => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16),
        _ => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    };
    let rest = match kind {
        // No records: the bytes after this belong to none.
        REPORT_V2 => [&[0; 4][..], &marker, &vec![0; more]].concat(),
        _ => [&[0; 4][..], &group.octets(), &marker, &vec![0; more]].concat(),
    };
    let source = lab.net.pod(from)?.mac;
    let frame = Frame::icmp(link_local(source).into(), group.into(), [kind, 0], &rest).with(|f| {
        let [.., a, b, c, d] = group.octets();
        (f.source_mac, f.destination_mac) = (source, [0x33, 0x33, a, b, c, d]);
        f.hops = 1;
        // Router alert (RFC 2711), padded with one PadN.
        f.extensions = vec![Extension(0, vec![0, 5, 2, 0, 0, 1, 0])];
    });
    let socket = Frames::open(lab.ns(from), "eth0")?;
    lab.lands("neighbour", &marker, || socket.send(&frame.bytes()))
}

fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let own = [word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f)];
    Ipv6Addr::new(0xfe80, 0, 0, 0, own[0], own[1], own[2], own[3])
}

fn arp(lab: &mut Lab, from: &str, more: usize) -> Result<Outcome> {
    let marker = lab.marker();
    let (own, asked) = (lab.ip(from, true), lab.ip("neighbour", true));
    let mac = lab.net.pod(from)?.mac;
    let frame = Frame::arp(1, mac, own, asked).with(|f| f.payload.extend(vec![0; more]));
    let socket = Frames::open(lab.ns(from), "eth0")?;
    let mut bytes = frame.bytes();
    if more > 0 {
        let at = bytes.len() - marker.len();
        bytes[at..].copy_from_slice(&marker);
        return lab.lands("neighbour", &marker, || socket.send(&bytes));
    }
    let question = frame.payload.clone();
    lab.shows(
        "neighbour",
        |seen| holds(seen, &question),
        || socket.send(&bytes),
    )
}

/// The macvlan device has its own MAC and the pod's address.
fn macvlan(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let ns = lab.ns("rogue");
    let made = ns.ip("link add mv0 link eth0 type macvlan mode bridge\nlink set mv0 up\n");
    // The device still exists from the previous attempt.
    if made.is_err() {
        ns.output("ip", &["link", "show", "mv0"])?;
    }
    let own = lab.mac("rogue", "mv0")?;
    let marker = lab.marker();
    let from = SocketAddr::new(lab.ip("rogue", v4), lab.port());
    let frame = datagram(from, lab.at("friend", v4, UDP), &marker);
    let frame = lab.addressed("rogue", &frame)?.with(|f| f.source_mac = own);
    let socket = Frames::open(lab.ns("rogue"), "mv0")?;
    lab.lands("friend", &marker, || socket.send(&frame.bytes()))
}

/// Reports whether the node sees a mark by which a CNI might route or masquerade.
fn mark(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let rules = "table inet marks\ndelete table inet marks\ntable inet marks {\n\
                 chain pre { type filter hook prerouting priority -300; meta mark 0x4000 counter; }\n}\n";
    let file = lab.net.dir().join("marks.nft");
    std::fs::write(&file, rules)?;
    lab.ns("node")
        .output("nft", &["-f", &file.display().to_string()])?;
    let socket: UdpSocket = lab.ns("rogue").run(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.set_mark(0x4000)?;
        std::io::Result::Ok(socket.into())
    })??;
    let (marker, to) = (lab.marker(), lab.at("friend", v4, UDP));
    lab.lands("friend", &marker, || {
        Ok(socket.send_to(&marker, to).map(drop)?)
    })?;
    let table = lab
        .ns("node")
        .output("nft", &["list", "table", "inet", "marks"])?;
    Ok(Outcome::arrives(!table.contains("packets 0 ")))
}

/// Both ends send as in a simultaneous open (RFC 9293, 3.5).
fn crossing_syn(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (own, far) = (lab.ip("victim", v4), lab.ip("outside", v4));
    let (here, there) = (lab.port(), lab.port());
    let out = Frame::tcp((own, here), (far, there), 2);
    lab.send("victim", &out)?;
    let marker = lab.marker();
    let back = Frame::tcp((far, there), (own, here), 2).with(|f| f.payload.extend(marker));
    lab.lands("victim", &marker, || lab.send("outside", &back))
}

fn own_choice(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let chosen: IpAddr = match v4 {
        true => [10, 244, 0, 99].into(),
        false => "fd00:10:244::99".parse()?,
    };
    let marker = lab.marker();
    let frame = datagram(
        SocketAddr::new(chosen, 4000),
        lab.at("friend", v4, UDP),
        &marker,
    );
    lab.lands("friend", &marker, || lab.send("rogue", &frame))
}
