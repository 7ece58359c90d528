//! ICMP errors that third parties send about a victim's open connections.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Result, ensure};
use ringfence_tests::attack::{Outcome, datagram, error_about};
use ringfence_tests::packets::Frame;
use ringfence_tests::packets::frame::Extension;

use crate::attack::Attack;
use crate::lab::{Lab, UDP};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack::new(
        "a denied pod's word on a smaller MTU of a live connection",
        smaller_mtu,
    ),
    Attack::new(
        "the same without going through the victim's own call",
        smaller_mtu_of_a_caller,
    ),
    Attack::new(
        "a denied pod's port unreachable about a live connection",
        unreachable,
    ),
    Attack::new(
        "a quarantined pod's port unreachable about a live connection",
        of_the_cut,
    ),
    Attack::new("an error about a connection that nobody has", about_nothing),
    Attack::honest(
        "the far end's port unreachable about a live connection",
        of_the_far_end,
    ),
    Attack::honest(
        "the far end's word on a smaller MTU of a live connection",
        mtu_of_the_far_end,
    ),
    Attack::new(
        "a denied pod's word on a smaller MTU for the fragments of a live connection",
        smaller_mtu_of_fragments,
    )
    .v6(),
    Attack::honest(
        "the far end's word on a smaller MTU for the fragments of a live connection",
        mtu_of_fragments,
    )
    .v6(),
    Attack::honest(
        "a friend's port unreachable about its own call",
        of_the_friend,
    ),
];

/// Returns the type and code of the error: destination unreachable with code 4 and an
/// MTU, or packet too big.
fn too_big(v4: bool) -> [u8; 2] {
    if v4 { [3, 4] } else { [2, 0] }
}

/// Returns the type and code of port unreachable.
fn no_port(v4: bool) -> [u8; 2] {
    if v4 { [3, 3] } else { [1, 4] }
}

/// Opens a connected socket in the victim and waits for an answer from the far end.
/// Returns the socket and the packet it sent last.
fn live(lab: &mut Lab, v4: bool, to: &str) -> Result<(UdpSocket, Frame)> {
    let to = lab.at(to, v4, UDP);
    let socket = lab.ns("victim").run(|| {
        let socket = UdpSocket::bind(if v4 { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(3)))?;
        std::io::Result::Ok(socket)
    })??;
    socket.send(b"there")?;
    socket.recv(&mut [0; 16])?;
    let own = SocketAddr::new(lab.ip("victim", v4), socket.local_addr()?.port());
    let marker = lab.marker();
    Ok((socket, datagram(own, to, &marker)))
}

/// Sends an error from `who` about a packet of the victim. Returns whether it arrives.
/// The marker in the quoted packet identifies the error.
fn tells(lab: &Lab, who: &str, about: &Frame, head: [u8; 2], mtu: u32) -> Result<Outcome> {
    let v4 = about.source.is_ipv4();
    let frame = error_about(lab.ip(who, v4), about, head, mtu);
    let marker = about.payload[8..16].to_vec();
    lab.lands("victim", &marker, || lab.send(who, &frame))
}

fn smaller_mtu(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (_socket, about) = live(lab, v4, "outside")?;
    let landed = tells(lab, "rogue", &about, too_big(v4), 1280)?;
    let lowered = path_mtu(lab, v4, "outside")? == Some(1280);
    forget(lab)?;
    Ok(Outcome::arrives(landed == Outcome::Arrives || lowered))
}

/// Returns the path MTU that the victim has learned for a destination.
fn path_mtu(lab: &Lab, v4: bool, to: &str) -> Result<Option<u32>> {
    let to = lab.ip(to, v4).to_string();
    let route = lab.ns("victim").output("ip", &["route", "get", &to])?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu");
    Ok(words.nth(1).and_then(|mtu| mtu.parse().ok()))
}

fn forget(lab: &Lab) -> Result<()> {
    for family in ["-4", "-6"] {
        lab.ns("victim")
            .output("ip", &[family, "route", "flush", "cache"])?;
    }
    Ok(())
}

/// An error about a connection that the friend opened.
fn smaller_mtu_of_a_caller(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let to = lab.at("victim", v4, UDP);
    let socket = lab.ns("friend").run(|| {
        let socket = UdpSocket::bind(if v4 { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(3)))?;
        std::io::Result::Ok(socket)
    })??;
    socket.send(b"there")?;
    socket.recv(&mut [0; 16])?;
    let caller = SocketAddr::new(lab.ip("friend", v4), socket.local_addr()?.port());
    let about = datagram(to, caller, &lab.marker());
    let outcome = tells(lab, "rogue", &about, too_big(v4), 1280);
    forget(lab)?;
    outcome
}

fn unreachable(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (socket, about) = live(lab, v4, "outside")?;
    let outcome = tells(lab, "rogue", &about, no_port(v4), 0)?;
    let reset = socket.take_error()?.is_some();
    Ok(Outcome::arrives(outcome == Outcome::Arrives || reset))
}

fn of_the_cut(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (_socket, about) = live(lab, v4, "outside")?;
    tells(lab, "cut", &about, no_port(v4), 0)
}

fn about_nothing(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let ports = [lab.port(), lab.port()];
    let [own, far] =
        [("victim", ports[0]), ("elsewhere", ports[1])].map(|(who, port)| lab.at(who, v4, port));
    let about = datagram(own, far, &lab.marker());
    tells(lab, "rogue", &about, no_port(v4), 0)
}

fn of_the_far_end(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (_socket, about) = live(lab, v4, "outside")?;
    tells(lab, "outside", &about, no_port(v4), 0)
}

fn mtu_of_the_far_end(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (_socket, about) = live(lab, v4, "outside")?;
    learned(lab, v4, &about)
}

/// Checks that the far end's report of a smaller MTU arrives and takes effect.
fn learned(lab: &mut Lab, v4: bool, about: &Frame) -> Result<Outcome> {
    let outcome = tells(lab, "outside", about, too_big(v4), 1300)?;
    let learned = path_mtu(lab, v4, "outside")?;
    forget(lab)?;
    ensure!(
        learned == Some(1300),
        "the victim has learned of {learned:?}"
    );
    Ok(outcome)
}

/// Returns the victim's last packet as the first fragment of a longer one, behind options.
fn in_fragments(about: &Frame) -> Frame {
    about.with(|f| {
        f.extensions = vec![Extension::options(60, 0), Extension::fragment(0, true, 7)];
    })
}

fn smaller_mtu_of_fragments(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (_socket, about) = live(lab, v4, "outside")?;
    let about = in_fragments(&about);
    let landed = tells(lab, "rogue", &about, too_big(v4), 1280)?;
    let lowered = path_mtu(lab, v4, "outside")? == Some(1280);
    forget(lab)?;
    Ok(Outcome::arrives(landed == Outcome::Arrives || lowered))
}

fn mtu_of_fragments(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (_socket, about) = live(lab, v4, "outside")?;
    learned(lab, v4, &in_fragments(&about))
}

/// The friend closed its socket before the victim's answer arrived.
fn of_the_friend(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let marker = lab.marker();
    // A port in the client range: in the pick-up window other ports open no connection.
    let call = SocketAddr::new(lab.ip("friend", v4), lab.port() | 0x8000);
    let at = lab.at("victim", v4, UDP);
    lab.send("friend", &datagram(call, at, b"here"))?;
    let about = datagram(at, call, &marker);
    tells(lab, "friend", &about, no_port(v4), 0)
}
