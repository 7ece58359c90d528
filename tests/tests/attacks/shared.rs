//! Bypasses of egress policy on a shared bridge: addresses that name a link instead of
//! a pod.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use anyhow::Result;
use nix::net::if_::if_nametoindex;
use ringfence_tests::attack::Outcome;
use ringfence_tests::testnet::call_tcp;

use crate::attack::Attack;
use crate::lab::{Lab, TCP, UDP};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack::new("a datagram to a neighbour that egress denies", by_name).on_a_bridge(),
    Attack::new(
        "a call of the neighbour's link-local address",
        link_local_call,
    )
    .on_a_bridge()
    .v6(),
    Attack::new(
        "a datagram to the neighbour's link-local address",
        link_local,
    )
    .on_a_bridge()
    .v6(),
    Attack::new("a datagram to 255.255.255.255", broadcast)
        .on_a_bridge()
        .v4(),
    Attack::new("a datagram to the subnet's broadcast address", subnet)
        .on_a_bridge()
        .v4(),
    Attack::new("a datagram to all systems of the link", all_systems).on_a_bridge(),
    Attack::new("a datagram after an answer to a broadcast", after_broadcast)
        .on_a_bridge()
        .v4(),
    Attack::new(
        "a datagram after an answer from all systems",
        after_all_systems,
    )
    .on_a_bridge(),
    Attack::honest("an unisolated pod's datagram to all systems", of_a_friend).on_a_bridge(),
    Attack::honest(
        "the neighbour's call of the pod whose egress denies it",
        the_other_way,
    ),
];

/// Returns the address of all systems on the link: 224.0.0.1 or ff02::1.
fn everybody(lab: &Lab, from: &str, v4: bool) -> Result<SocketAddr> {
    match v4 {
        true => Ok(SocketAddr::from(([224, 0, 0, 1], UDP))),
        false => on_link(lab, from, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), UDP),
    }
}

/// Returns an address on the link, scoped to a pod's `eth0`.
fn on_link(lab: &Lab, from: &str, ip: Ipv6Addr, port: u16) -> Result<SocketAddr> {
    let scope = lab.ns(from).run(|| if_nametoindex("eth0"))??;
    Ok(SocketAddrV6::new(ip, port, 0, scope).into())
}

/// Returns the address that a pod's interface derives from its MAC (RFC 4291, appendix A).
fn link_local_of(lab: &Lab, pod: &str) -> Result<Ipv6Addr> {
    let [a, b, c, d, e, f] = lab.net.pod(pod)?.mac;
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let parts = [word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f)];
    Ok(Ipv6Addr::new(
        0xfe80, 0, 0, 0, parts[0], parts[1], parts[2], parts[3],
    ))
}

fn socket(lab: &Lab, from: &str, v4: bool) -> Result<UdpSocket> {
    let socket = lab.ns(from).run(|| {
        let socket = UdpSocket::bind(if v4 { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.set_broadcast(true)?;
        socket
            .set_read_timeout(Some(lab.patience()))
            .map(|()| socket)
    })??;
    Ok(socket)
}

/// Sends one datagram. Returns whether it reaches the neighbour.
fn reaches(lab: &mut Lab, from: &str, to: SocketAddr) -> Result<Outcome> {
    let (marker, socket) = (lab.marker(), socket(lab, from, to.is_ipv4())?);
    lab.lands("neighbour", &marker, || {
        Ok(socket.send_to(&marker, to).map(drop)?)
    })
}

/// Sends to a group, waits for the neighbour's answer, then sends to the neighbour alone.
/// Returns whether that datagram arrives.
fn follows(lab: &mut Lab, group: SocketAddr) -> Result<Outcome> {
    let v4 = group.is_ipv4();
    let (marker, socket) = (lab.marker(), socket(lab, "caged", v4)?);
    socket.send_to(b"who is there?", group)?;
    let neighbour = lab.at("neighbour", v4, UDP);
    let mut buffer = [0; 64];
    // Any host on the link may answer; none does if the call goes nowhere.
    while let Ok((_, who)) = socket.recv_from(&mut buffer) {
        if who.ip() == neighbour.ip() {
            break;
        }
    }
    lab.lands("neighbour", &marker, || {
        Ok(socket.send_to(&marker, neighbour).map(drop)?)
    })
}

fn by_name(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let to = lab.at("neighbour", v4, UDP);
    reaches(lab, "caged", to)
}

fn link_local_call(lab: &mut Lab, _: bool) -> Result<Outcome> {
    let to = on_link(lab, "caged", link_local_of(lab, "neighbour")?, TCP)?;
    let banner = call_tcp(lab.ns("caged"), None, to, lab.patience())?;
    Ok(Outcome::arrives(banner.as_deref() == Ok("neighbour")))
}

fn link_local(lab: &mut Lab, _: bool) -> Result<Outcome> {
    let to = on_link(lab, "caged", link_local_of(lab, "neighbour")?, UDP)?;
    reaches(lab, "caged", to)
}

fn broadcast(lab: &mut Lab, _: bool) -> Result<Outcome> {
    reaches(lab, "caged", SocketAddr::from(([255; 4], UDP)))
}

fn subnet(lab: &mut Lab, _: bool) -> Result<Outcome> {
    let all: IpAddr = [10, 244, 0, 255].into();
    reaches(lab, "caged", SocketAddr::new(all, UDP))
}

fn all_systems(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let group = everybody(lab, "caged", v4)?;
    reaches(lab, "caged", group)
}

fn after_broadcast(lab: &mut Lab, _: bool) -> Result<Outcome> {
    follows(lab, SocketAddr::from(([255; 4], UDP)))
}

fn after_all_systems(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let group = everybody(lab, "caged", v4)?;
    follows(lab, group)
}

fn of_a_friend(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let group = everybody(lab, "friend", v4)?;
    reaches(lab, "friend", group)
}

/// Replies to callers that ingress policy allows pass, whatever egress policy says.
fn the_other_way(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let to = lab.at("caged", v4, TCP);
    let banner = call_tcp(lab.ns("neighbour"), None, to, lab.patience())?;
    Ok(Outcome::arrives(banner.as_deref() == Ok("caged")))
}
