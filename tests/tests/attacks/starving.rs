//! Small floods: a pod that fills the connection table must not cut off others.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use ringfence_tests::attack::{ETHERNET, Outcome, datagram, ip_header};
use ringfence_tests::packets::Frame;
use ringfence_tests::testnet::{Frames, Probe, call_tcp, probe_udp};

use crate::attack::Attack;
use crate::lab::{Lab, TCP, UDP};

/// More than the number of unanswered connections an endpoint may have.
const MANY: u16 = 10_000;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const FIN: u8 = 0x11;

// The packets are all honest; the packets that must arrive are those others send meanwhile.
pub(crate) const ATTACKS: &[Attack] = &[
    Attack::honest(
        "calls of a pod to which a client has sent 10,000 RSTs",
        resets,
    ),
    Attack::honest(
        "calls of a pod to which a client has sent 10,000 FINs",
        ends,
    ),
    Attack::honest(
        "calls of a pod to which a client has sent 10,000 SYNs",
        openings,
    ),
    Attack::honest(
        "calls of a pod to which a client has sent 10,000 datagrams that nobody answers",
        silent_datagrams,
    ),
    Attack::honest(
        "a pod's own calls while it sends one-way datagrams",
        one_way,
    ),
];

/// Sends a frame from many ports, with `change` applied to its bytes.
fn storm(lab: &Lab, from: &str, model: &Frame, change: fn(&mut [u8])) -> Result<()> {
    let frame = lab.addressed(from, model)?;
    let from_port = |number: u16| {
        let port = (30_000 + number).to_be_bytes();
        let mut bytes = frame
            .with(|f| f.payload[..2].copy_from_slice(&port))
            .bytes();
        change(&mut bytes);
        bytes
    };
    let frames: Vec<Vec<u8>> = (0..MANY).map(from_port).collect();
    let socket = Frames::open(lab.ns(from), "eth0")?;
    for burst in frames.chunks(500) {
        let mut sent = 0;
        while sent < burst.len() {
            sent += socket.send_many(&burst[sent..])?;
        }
    }
    Ok(())
}

/// Corrupts a UDP checksum: the receiver discards the datagram and never answers.
fn spoil(frame: &mut [u8]) {
    let v4 = frame[ETHERNET] >> 4 == 4;
    frame[ETHERNET + ip_header(v4) + 7] ^= 0x55;
}

/// Reports whether the neighbour's calls to the victim are answered, each a new connection.
fn victim_answers(lab: &Lab, v4: bool) -> Result<Outcome> {
    for _ in 0..5 {
        let to = lab.at("victim", v4, TCP);
        let banner = call_tcp(lab.ns("neighbour"), None, to, lab.patience())?;
        if banner.as_deref() != Ok("victim") {
            return Ok(Outcome::Stopped);
        }
        let udp = probe_udp(lab.ns("neighbour"), to.ip(), UDP, lab.patience())?;
        if udp != Probe::Open {
            return Ok(Outcome::Stopped);
        }
    }
    Ok(Outcome::Arrives)
}

fn segments(lab: &mut Lab, v4: bool, flags: u8) -> Result<Outcome> {
    let (from, to) = (lab.ip("friend", v4), lab.ip("victim", v4));
    storm(
        lab,
        "friend",
        &Frame::tcp((from, 1), (to, TCP), flags),
        |_| {},
    )?;
    victim_answers(lab, v4)
}

fn resets(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    segments(lab, v4, RST)
}

fn ends(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    segments(lab, v4, FIN)
}

fn openings(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    segments(lab, v4, SYN)
}

fn silent_datagrams(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let from = lab.at("friend", v4, 1);
    let frame = datagram(from, lab.at("victim", v4, UDP), b"hush");
    storm(lab, "friend", &frame, spoil)?;
    victim_answers(lab, v4)
}

/// As to a statsd server, which never answers.
fn one_way(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let from = SocketAddr::new(lab.ip("victim", v4), 1);
    let frame = datagram(from, lab.at("elsewhere", v4, 8125), b"calls:1|c");
    storm(lab, "victim", &frame, spoil)?;
    for _ in 0..5 {
        let to = lab.at("outside", v4, TCP);
        let banner = call_tcp(lab.ns("victim"), None, to, lab.patience())?;
        if banner.as_deref() != Ok("outside") {
            return Ok(Outcome::Stopped);
        }
    }
    let udp = probe_udp(lab.ns("victim"), lab.ip("outside", v4), UDP, lab.patience())?;
    ensure!(udp == Probe::Open, "UDP: {udp}");
    Ok(Outcome::Arrives)
}
