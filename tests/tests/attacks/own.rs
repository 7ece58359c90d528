//! Senders that try to pass as the node itself: packets that the kernel reassembles or
//! fragments lose their ingress device.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};

use anyhow::{Result, bail, ensure};
use ringfence_tests::attack::{Outcome, datagram, pieces_v4, pieces_v6};
use ringfence_tests::packets::Frame;
use ringfence_tests::packets::frame::Extension;
use ringfence_tests::testnet::{Frames, Probe, call_tcp, ping, probe_tcp, probe_udp};

use crate::attack::Attack;
use crate::lab::{Lab, Layout, TCP, UDP};

/// IPv6 options for every router on the path, and those for the destination.
const HOP_BY_HOP: u8 = 0;
pub(crate) const DESTINATION: u8 = 60;
/// The offset at which datagrams are fragmented: the second fragment has 1,232 bytes,
/// which fits into 1,280 without options and doesn't fit with them.
pub(crate) const FIRST: usize = 512;
const SECOND: usize = 1232;
/// A port of the outside that the node rejects on the outside's behalf.
const REFUSED: u16 = 777;
/// A port without a listener.
const NOBODY: u16 = 9;

pub(crate) const ATTACKS: &[Attack] = &[
    Attack::new("an outsider's datagram, whole", whole),
    Attack::new(
        "an outsider's datagram in two pieces, hop-by-hop options",
        hop_by_hop,
    )
    .v6(),
    Attack::new(
        "an outsider's datagram in two pieces, destination options",
        options,
    )
    .v6(),
    Attack::new(
        "an outsider's SYN in two pieces, destination options",
        segment,
    )
    .v6(),
    Attack::new("an outsider's datagram in two plain pieces", plain),
    Attack::new(
        "the same while somebody captures packets on the uplink",
        captured,
    ),
    Attack::new(
        "an outsider's datagram in pieces, the last one first",
        backwards,
    ),
    Attack::new(
        "an outsider's datagram after one in pieces, of the same connection",
        follow_up,
    ),
    Attack::new(
        "a neighbour's datagram in pieces over a bridge with netfilter",
        over_the_bridge,
    )
    .on_a_bridge(),
    Attack::new("another pod's datagram in pieces", of_a_pod),
    Attack::honest(
        "the node's TCP, UDP and ICMP probes of an isolated pod",
        probes,
    ),
    Attack::honest(
        "the node's datagram that is too long for one packet",
        long_probe,
    ),
    Attack::honest(
        "the node's datagram to a pod that the bridge has lost sight of",
        flooded,
    )
    .on_a_bridge(),
    Attack::honest(
        "an isolated pod's calls of the node, and its refusals",
        calls_of_the_node,
    ),
    Attack::honest(
        "resets and errors that the node makes on behalf of others",
        refusals,
    ),
    Attack::honest("the node's word on a smaller MTU ahead", smaller_mtu),
];

/// Sets up connection tracking, rejections on behalf of others, a small MTU on the
/// path, and on a bridge one more port for an outsider.
pub(crate) fn prepare(lab: &mut Lab) -> Result<()> {
    let refuse = [true, false].map(|v4| {
        let (family, to) = (if v4 { "ip" } else { "ip6" }, lab.ip("outside", v4));
        format!(
            "{family} daddr {to} tcp dport {REFUSED} reject with tcp reset\n\
             {family} daddr {to} udp dport {REFUSED} reject\n"
        )
    });
    nft(
        lab,
        &format!(
            "table inet lab {{\n\
             chain pre {{ type filter hook prerouting priority -150; ct state new counter; }}\n\
             chain forward {{ type filter hook forward priority 0;\n{}}}\n}}\n",
            refuse.concat()
        ),
    )?;
    for v4 in [true, false] {
        let (to, length) = (lab.ip("elsewhere", v4), if v4 { 32 } else { 128 });
        let route = format!("route replace {to}/{length} dev eth0 mtu lock 1300\n");
        lab.ns("node").ip(&route)?;
    }
    if lab.layout == Layout::Bridge {
        let outside = lab.ns("outside").path().display();
        lab.ns("node").ip(&format!(
            "link add lan0 type veth peer name lan0 netns {outside}\n\
             link set lan0 master cni0 up\n"
        ))?;
        lab.ns("outside").ip("link set lan0 up\n")?;
    }
    Ok(())
}

fn nft(lab: &Lab, rules: &str) -> Result<()> {
    use std::io::Write as _;
    let mut command: Command = lab.ns("node").command("nft");
    let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().unwrap().write_all(rules.as_bytes())?;
    ensure!(child.wait()?.success(), "nft takes no\n{rules}");
    Ok(())
}

/// Builds a datagram to the victim that is to be fragmented at [`FIRST`].
pub(crate) fn long_one(lab: &mut Lab, from: &str, v4: bool) -> (Frame, [u8; 8]) {
    let marker = lab.marker();
    let from = SocketAddr::new(lab.ip(from, v4), lab.port());
    let filler = vec![0; FIRST + SECOND - 8 - 2 * marker.len()];
    let payload = [&marker[..], &filler, &marker].concat();
    (datagram(from, lab.at("victim", v4, UDP), &payload), marker)
}

fn in_pieces(lab: &Lab, from: &str, whole: &Frame, headers: &[Extension]) -> Result<()> {
    let pieces = match whole.source.is_ipv4() {
        true => pieces_v4(whole, FIRST, 0x77),
        false => pieces_v6(whole, headers, FIRST, 0x77),
    };
    pieces.iter().try_for_each(|piece| lab.send(from, piece))
}

fn whole(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let marker = lab.marker();
    let from = lab.at("outside", v4, 4000);
    let frame = datagram(from, lab.at("victim", v4, UDP), &marker);
    lab.lands("victim", &marker, || lab.send("outside", &frame))
}

fn with_options(lab: &mut Lab, kind: u8) -> Result<Outcome> {
    let (frame, marker) = long_one(lab, "outside", false);
    let headers = [Extension::options(kind, 0)];
    lab.lands("victim", &marker, || {
        in_pieces(lab, "outside", &frame, &headers)
    })
}

fn hop_by_hop(lab: &mut Lab, _: bool) -> Result<Outcome> {
    with_options(lab, HOP_BY_HOP)
}

fn options(lab: &mut Lab, _: bool) -> Result<Outcome> {
    with_options(lab, DESTINATION)
}

fn segment(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let marker = lab.marker();
    let (from, to) = (lab.ip("outside", v4), lab.ip("victim", v4));
    let payload = [&marker[..], &vec![0; FIRST + SECOND - 20 - marker.len()]].concat();
    let frame = Frame::tcp((from, lab.port()), (to, TCP), 2).with(|f| f.payload.extend(payload));
    let headers = [Extension::options(DESTINATION, 0)];
    lab.lands("victim", &marker, || {
        in_pieces(lab, "outside", &frame, &headers)
    })
}

fn plain(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (frame, marker) = long_one(lab, "outside", v4);
    lab.lands("victim", &marker, || in_pieces(lab, "outside", &frame, &[]))
}

/// A capture shares every incoming packet, which makes the kernel copy it later.
fn captured(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let _capture = Frames::open(lab.ns("node"), "eth0")?;
    plain(lab, v4)
}

/// Both captured and reassembled from its last fragment.
fn backwards(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let _capture = Frames::open(lab.ns("node"), "eth0")?;
    let (frame, marker) = long_one(lab, "outside", v4);
    let [first, second] = match v4 {
        true => pieces_v4(&frame, FIRST, 0x79),
        false => pieces_v6(&frame, &[], FIRST, 0x79),
    };
    lab.lands("victim", &marker, || {
        lab.send("outside", &second)?;
        lab.send("outside", &first)
    })
}

fn follow_up(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (frame, _) = long_one(lab, "outside", v4);
    let headers = [Extension::options(DESTINATION, 0)];
    in_pieces(lab, "outside", &frame, if v4 { &[] } else { &headers })?;
    let marker = lab.marker();
    let port = u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
    let from = SocketAddr::new(frame.source, port);
    let next = datagram(from, lab.at("victim", v4, UDP), &marker);
    lab.lands("victim", &marker, || lab.send("outside", &next))
}

/// Sends from a bridge port that isn't a pod's.
fn over_the_bridge(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let family = if v4 { "iptables" } else { "ip6tables" };
    let sysctl = format!("net/bridge/bridge-nf-call-{family}");
    lab.ns("node").sysctl(&sysctl, "1")?;
    let (frame, marker) = long_one(lab, "outside", v4);
    let lan = Frames::open(lab.ns("outside"), "lan0")?;
    let (source, to) = (lan.mac().unwrap_or_default(), lab.mac("victim", "eth0")?);
    let frame = frame.with(|f| (f.source_mac, f.destination_mac) = (source, to));
    let pieces = match v4 {
        true => pieces_v4(&frame, FIRST, 0x78),
        false => pieces_v6(&frame, &[Extension::options(DESTINATION, 0)], FIRST, 0x78),
    };
    let outcome = lab.lands("victim", &marker, || {
        pieces.iter().try_for_each(|piece| lan.send(&piece.bytes()))
    });
    lab.ns("node").sysctl(&sysctl, "0")?;
    outcome
}

fn of_a_pod(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (frame, marker) = long_one(lab, "rogue", v4);
    let headers = [Extension::options(DESTINATION, 0)];
    let headers: &[Extension] = if v4 { &[] } else { &headers };
    lab.lands("victim", &marker, || {
        in_pieces(lab, "rogue", &frame, headers)
    })
}

fn probes(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (node, to, patience) = (lab.ns("node"), lab.ip("victim", v4), lab.patience());
    let seen = [
        ("TCP", probe_tcp(node, to, TCP, patience)?),
        ("UDP", probe_udp(node, to, UDP, patience)?),
        ("ICMP", ping(node, to, patience)?),
    ];
    for (what, probe) in seen {
        ensure!(probe == Probe::Open, "{what}: {probe}");
    }
    // There is no listener: the pod's own resets get back, and the node's SYN arrived.
    let closed = probe_tcp(node, to, NOBODY, patience)?;
    ensure!(closed == Probe::Refused, "TCP to a closed port: {closed}");
    Ok(Outcome::Arrives)
}

/// The node's own fragments: it fragments the request itself and reassembles the answer.
fn long_probe(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let to = lab.at("victim", v4, UDP);
    let socket = lab.ns("node").run(|| {
        let socket = UdpSocket::bind(if v4 { "0.0.0.0:0" } else { "[::]:0" })?;
        socket
            .set_read_timeout(Some(lab.patience()))
            .map(|()| socket)
    })??;
    socket.send_to(&[7; 4000], to)?;
    Ok(Outcome::arrives(socket.recv(&mut [0; 5000]).is_ok()))
}

/// For an unknown MAC the bridge floods copies to all its ports. The original packet of
/// the node's socket goes to the first port, the victim's. Only the node itself reaches `cut`.
fn flooded(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let to = lab.at("cut", v4, UDP);
    let socket = lab
        .ns("node")
        .run(|| UdpSocket::bind(if v4 { "0.0.0.0:0" } else { "[::]:0" }))??;
    let markers = [lab.marker(), lab.marker()];
    let send = |marker: &[u8]| Ok(socket.send_to(marker, to).map(drop)?);
    // From here on the node knows the pod's MAC; the bridge is made to forget it.
    let known = lab.lands("cut", &markers[0], || send(&markers[0]))?;
    ensure!(known == Outcome::Arrives, "it didn't get there before");
    let ports = lab.net.pods().iter().map(|pod| &pod.host_device);
    let flush: String = ports
        .map(|device| format!("link set dev {device} type bridge_slave fdb_flush\n"))
        .collect();
    lab.ns("node").ip(&flush)?;
    lab.lands("cut", &markers[1], || send(&markers[1]))
}

fn calls_of_the_node(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (pod, to, patience) = (lab.ns("victim"), lab.ip("node", v4), lab.patience());
    let banner = call_tcp(pod, None, SocketAddr::new(to, TCP), patience)?;
    ensure!(banner.as_deref() == Ok("node"), "TCP: {banner:?}");
    ensure!(answers_datagrams(lab, to)?, "UDP: no answer");
    let echo = ping(pod, to, patience)?;
    ensure!(echo == Probe::Open, "ICMP: {echo}");
    let refused = [
        ("TCP", probe_tcp(pod, to, NOBODY, patience)?),
        ("UDP", probe_udp(pod, to, NOBODY, patience)?),
    ];
    for (what, probe) in refused {
        ensure!(probe == Probe::Refused, "{what} to a closed port: {probe}");
    }
    Ok(Outcome::Arrives)
}

/// Reports whether a pod's datagram reaches the node and is answered. The node's socket
/// is bound to this very address; the shared servers would answer from another one.
fn answers_datagrams(lab: &Lab, address: IpAddr) -> Result<bool> {
    let bind = |place: &str, at: SocketAddr| {
        anyhow::Ok(lab.ns(place).run(|| {
            let socket = UdpSocket::bind(at)?;
            socket
                .set_read_timeout(Some(lab.patience()))
                .map(|()| socket)
        })??)
    };
    let node = bind("node", SocketAddr::new(address, 0))?;
    let pod = bind(
        "victim",
        SocketAddr::new(lab.ip("victim", address.is_ipv4()), 0),
    )?;
    pod.send_to(b"there?", node.local_addr()?)?;
    let mut buffer = [0; 16];
    let Ok((length, from)) = node.recv_from(&mut buffer) else {
        return Ok(false);
    };
    node.send_to(&buffer[..length], from)?;
    Ok(pod.recv(&mut buffer).is_ok())
}

/// Packets that the node sends under the outside's address, or about its packets.
fn refusals(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (pod, to, patience) = (lab.ns("victim"), lab.ip("outside", v4), lab.patience());
    let seen = [
        ("TCP", probe_tcp(pod, to, REFUSED, patience)?),
        ("UDP", probe_udp(pod, to, REFUSED, patience)?),
    ];
    for (what, probe) in seen {
        ensure!(probe == Probe::Refused, "{what}: {probe}");
    }
    Ok(Outcome::Arrives)
}

fn smaller_mtu(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (marker, to) = (lab.marker(), lab.at("elsewhere", v4, UDP));
    let payload = [&marker[..], &[0; 1392]].concat();
    // The victim forgets what it learned earlier.
    lab.ns("victim").output(
        "ip",
        &[if v4 { "-4" } else { "-6" }, "route", "flush", "cache"],
    )?;
    let socket = lab
        .ns("victim")
        .run(|| UdpSocket::bind(if v4 { "0.0.0.0:0" } else { "[::]:0" }))??;
    lab.lands("victim", &marker, || match socket.send_to(&payload, to) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::InvalidInput => bail!("sent too much"),
        Err(error) => Err(error.into()),
    })
}
