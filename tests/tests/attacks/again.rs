//! Packets that the node's own programs take out of the kernel and put back: a queue
//! keeps the packet's metadata, a tun device creates a new packet.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nfq::{Queue, Verdict};
use ringfence_tests::attack::{ETHERNET, Machine, Outcome, datagram};

use crate::attack::Attack;
use crate::lab::{Lab, Layout, UDP, holds};

/// The longest a packet that isn't lost may take to reach its program.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(1);
/// The netfilter queue, and the routing table that leads to the tun device.
const QUEUE: u16 = 9;
const TABLE: &str = "77";

pub(crate) const ATTACKS: &[Attack] = &[
    Attack::new("NFQUEUE: a call that policy denies", |lab, v4| {
        queued(lab, v4, "rogue", "rogue")
    })
    .counted_as(&["policy"]),
    Attack::new(
        "NFQUEUE: the same, come back with a friend's address",
        |lab, v4| queued(lab, v4, "rogue", "friend"),
    )
    .counted_as(&["policy"]),
    Attack::new("a tun device of the node: a friend's call", |lab, v4| {
        tunnelled(lab, v4, "friend")
    })
    .routed()
    .counted_as(&["spoofed_from_outside"]),
    Attack::new("a tun device of the node: a stranger's call", |lab, v4| {
        tunnelled(lab, v4, "rogue")
    })
    .routed()
    .counted_as(&["spoofed_from_outside"]),
    Attack::honest("NFQUEUE: a friend's call", |lab, v4| {
        queued(lab, v4, "friend", "friend")
    }),
    Attack::honest("a call that waits for the MAC of its pod", unresolved).routed(),
];

/// Sends forwarded datagrams, bridged ones included, through a netfilter queue if a
/// program listens on it.
pub(crate) fn prepare(lab: &mut Lab) -> Result<()> {
    let node = lab.ns("node");
    for program in ["iptables", "ip6tables"] {
        if lab.layout == Layout::Bridge {
            node.sysctl(&format!("net/bridge/bridge-nf-call-{program}"), "1")?;
        }
        let rule =
            "-t mangle -A FORWARD -p udp --dport 5353 -j NFQUEUE --queue-num 9 --queue-bypass";
        node.output(program, &rule.split(' ').collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Sends a call to the victim through the queue, which reinjects it under the address
/// of `shown`.
fn queued(lab: &mut Lab, v4: bool, from: &str, shown: &str) -> Result<Outcome> {
    let (marker, port, to) = (lab.marker(), lab.port(), lab.at("victim", v4, UDP));
    let [sent, back] =
        [from, shown].map(|name| datagram(SocketAddr::new(lab.ip(name, v4), port), to, &marker));
    let mut queue = lab.ns("node").run(|| {
        let mut queue = Queue::open()?;
        queue.bind(QUEUE)?;
        queue.set_nonblocking(true);
        std::io::Result::Ok(queue)
    })??;
    let back = &back.bytes()[ETHERNET..];
    let outcome = lab.lands("victim", &marker, || {
        lab.send(from, &sent)?;
        give_back(&mut queue, &marker, back)
    });
    // The queue's socket may live on in a process that was started meanwhile.
    queue.unbind(QUEUE)?;
    outcome
}

/// Waits for the packet that holds the marker, and reinjects another one in its place.
fn give_back(queue: &mut Queue, marker: &[u8], back: &[u8]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let mut message = match queue.recv() {
            Ok(message) => message,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(LOOK);
                continue;
            }
            Err(error) => return Err(error).context("recv from the queue"),
        };
        let found = holds(message.get_payload(), marker);
        if found {
            // Keep the hop count: routers have already decremented it.
            let hops = if back[0] >> 4 == 4 { 8 } else { 7 };
            let left = message.get_payload()[hops];
            message.set_payload(with_hops(back, hops, left));
        }
        message.set_verdict(Verdict::Accept);
        queue.verdict(message)?;
        if found {
            return Ok(());
        }
    }
    bail!("nothing came to the queue")
}

/// Sets the hop count. The IPv4 header checksum stays correct because the difference
/// goes to the high byte of the identification field, which has the same position in
/// its 16-bit word.
fn with_hops(packet: &[u8], hops: usize, left: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if hops == 8 {
        packet[4] = packet[4].wrapping_add(packet[hops] - left);
    }
    packet[hops] = left;
    packet
}

/// Sends a call to the victim that the node routes to a tun device, whose program sends
/// back every packet it receives.
fn tunnelled(lab: &mut Lab, v4: bool, from: &str) -> Result<Outcome> {
    let (marker, port) = (lab.marker(), lab.port());
    let from_at = SocketAddr::new(lab.ip(from, v4), port);
    // Not the port that is redirected to the queue.
    let frame = datagram(from_at, lab.at("victim", v4, UDP + 1), &marker);
    let node = lab.ns("node");
    let machine = Machine::with_packets(node, "tun9")?;
    let family = if v4 { "-4" } else { "-6" };
    let device = lab.net.pod(from)?.host_device.clone();
    node.ip("link set tun9 up\n")?;
    let rule = ["iif", &device, "lookup", TABLE];
    node.output(
        "ip",
        &[
            family, "route", "add", "default", "dev", "tun9", "table", TABLE,
        ],
    )?;
    node.output("ip", &[&[family, "rule", "add"][..], &rule].concat())?;
    if lab.is_guarded() {
        lab.agent.pass()?;
    }
    let outcome = lab.lands("victim", &marker, || {
        lab.send(from, &frame)?;
        let packet = machine.receive(PATIENCE, |packet| holds(packet, &marker))?;
        machine.send(&packet.context("nothing came to the tun device")?)
    });
    node.output("ip", &[&[family, "rule", "del"][..], &rule].concat())?;
    outcome
}

/// The node holds the packet back until the pod has answered neighbour discovery.
fn unresolved(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let marker = lab.marker();
    let from = SocketAddr::new(lab.ip("friend", v4), lab.port());
    let frame = datagram(from, lab.at("victim", v4, UDP), &marker);
    let device = lab.net.pod("victim")?.host_device.clone();
    lab.ns("node")
        .output("ip", &["neigh", "flush", "dev", &device])?;
    lab.lands("victim", &marker, || lab.send("friend", &frame))
}
