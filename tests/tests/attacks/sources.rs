//! Outsiders that use the addresses of local endpoints.

use std::net::SocketAddr;

use anyhow::Result;
use ringfence_tests::attack::{Outcome, datagram};
use ringfence_tests::packets::Frame;

use crate::attack::Attack;
use crate::lab::{Lab, TCP, UDP};

/// Reasons counted for packets from outside with the address of one of this node's pods.
const REASONS: &[&str] = &["spoofed_from_outside"];

pub(crate) const ATTACKS: &[Attack] = &[
    Attack::new(
        "an outsider's datagram with a friend's address to a pod",
        datagram_to_a_pod,
    )
    .counted_as(REASONS),
    Attack::new("the same with loose reverse-path filtering", loosely)
        .v4()
        .counted_as(REASONS),
    Attack::new(
        "an outsider's SYN with a friend's address to a pod",
        syn_to_a_pod,
    )
    .counted_as(REASONS),
    Attack::new(
        "an outsider's datagram with the victim's own address",
        own_address,
    )
    .counted_as(REASONS),
    Attack::new(
        "an outsider's datagram with a pod's address to the node",
        datagram_to_the_node,
    )
    .counted_as(REASONS),
    Attack::new(
        "an outsider's datagram with the node's address to a pod",
        as_the_node,
    )
    .v6(),
    Attack::futile("the same over IPv4", as_the_node).v4(),
    Attack::honest("a friend's own datagram to a pod", of_the_friend),
];

fn from_outside(lab: &mut Lab, v4: bool, as_whom: &str, to: &str) -> Result<Outcome> {
    let marker = lab.marker();
    let from = SocketAddr::new(lab.ip(as_whom, v4), lab.port());
    let frame = datagram(from, lab.at(to, v4, UDP), &marker);
    lab.lands(to, &marker, || lab.send("outside", &frame))
}

fn datagram_to_a_pod(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    from_outside(lab, v4, "friend", "victim")
}

fn loosely(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let sysctl = "net/ipv4/conf/all/rp_filter";
    lab.ns("node").sysctl(sysctl, "2")?;
    let outcome = from_outside(lab, v4, "friend", "victim");
    lab.ns("node").sysctl(sysctl, "0")?;
    outcome
}

fn syn_to_a_pod(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let marker = lab.marker();
    let (from, to) = (lab.ip("friend", v4), lab.ip("victim", v4));
    let frame = Frame::tcp((from, lab.port()), (to, TCP), 2).with(|f| f.payload.extend(marker));
    lab.lands("victim", &marker, || lab.send("outside", &frame))
}

fn own_address(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    from_outside(lab, v4, "victim", "victim")
}

/// A capture would see the datagram before any hook; only delivery to a socket counts.
fn datagram_to_the_node(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let marker = lab.marker();
    let port = lab.port();
    let heard = lab.ns("node").run(|| {
        let socket = std::net::UdpSocket::bind(if v4 { "0.0.0.0:0" } else { "[::]:0" })?;
        socket
            .set_read_timeout(Some(lab.patience()))
            .map(|()| socket)
    })??;
    let from = SocketAddr::new(lab.ip("friend", v4), port);
    let frame = datagram(
        from,
        lab.at("node", v4, heard.local_addr()?.port()),
        &marker,
    );
    lab.send("outside", &frame)?;
    let mut buffer = [0; 64];
    let got = heard
        .recv(&mut buffer)
        .is_ok_and(|length| buffer[..length] == marker);
    Ok(Outcome::arrives(got))
}

fn as_the_node(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    from_outside(lab, v4, "node", "victim")
}

fn of_the_friend(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let marker = lab.marker();
    let from = SocketAddr::new(lab.ip("friend", v4), lab.port());
    let frame = datagram(from, lab.at("victim", v4, UDP), &marker);
    lab.lands("victim", &marker, || lab.send("friend", &frame))
}
