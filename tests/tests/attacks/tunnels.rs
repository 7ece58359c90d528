//! Packets that the node decapsulates: the inner packet may claim any address.

use std::net::SocketAddr;

use anyhow::Result;
use ringfence_tests::attack::{Outcome, datagram, vxlan};

use crate::attack::Attack;
use crate::lab::{Lab, UDP};

/// VXLAN's port, Linux's old default, and the ports of two CNIs.
const PORTS: [u16; 4] = [4789, 8472, 6784, 8473];
const NETWORK: u32 = 7;
/// Reasons counted for packets into a node's tunnel.
const REASONS: &[&str] = &["tunnel"];

pub(crate) const ATTACKS: &[Attack] = &[
    Attack::new("a quarantined pod's VXLAN at 4789", |lab, v4| {
        inject(lab, "cut", v4, PORTS[0])
    })
    .counted_as(REASONS),
    Attack::new("a quarantined pod's VXLAN at 8472", |lab, v4| {
        inject(lab, "cut", v4, PORTS[1])
    })
    .counted_as(REASONS),
    Attack::new("a quarantined pod's VXLAN at 6784", |lab, v4| {
        inject(lab, "cut", v4, PORTS[2])
    })
    .counted_as(REASONS),
    Attack::new("a quarantined pod's VXLAN at 8473", |lab, v4| {
        inject(lab, "cut", v4, PORTS[3])
    })
    .counted_as(REASONS),
    Attack::new("an unisolated pod's VXLAN at 8473", |lab, v4| {
        inject(lab, "rogue", v4, PORTS[3])
    })
    .counted_as(REASONS),
    Attack::new(
        "the same to the node's address on the pods' link",
        by_the_gateway,
    )
    .on_a_bridge()
    .counted_as(&["quarantine", "tunnel"]),
    Attack::new("VXLAN into a tunnel that came after the agent", new_tunnel).counted_as(REASONS),
    Attack::honest("another pod's datagram to port 8473 of a pod", to_a_pod),
];

/// Creates the node's own tunnels, one per port.
pub(crate) fn prepare(lab: &mut Lab) -> Result<()> {
    PORTS.iter().try_for_each(|&port| tunnel(lab, port))
}

/// Creates a tunnel device: it accepts packets of both families by port and VNI.
fn tunnel(lab: &Lab, port: u16) -> Result<()> {
    let local = lab.ip("node", false);
    let outer4 = format!(
        "link add vx{port} type vxlan id {NETWORK} dstport {port} remote 203.0.113.9 dev eth0\n\
         link set vx{port} up\n\
         link add vy{port} type vxlan id {NETWORK} dstport {port} local {local} remote 2001:db8::9 dev eth0\n\
         link set vy{port} up\n"
    );
    lab.ns("node").ip(&outer4)
}

/// Sends a datagram from a friend to the victim inside the attacker's own datagram.
fn inject(lab: &mut Lab, who: &str, v4: bool, port: u16) -> Result<Outcome> {
    let to = lab.at("node", v4, port);
    inject_at(lab, who, to)
}

fn inject_at(lab: &mut Lab, who: &str, to: SocketAddr) -> Result<Outcome> {
    let (v4, port, marker) = (to.is_ipv4(), to.port(), lab.marker());
    let friend = SocketAddr::new(lab.ip("friend", v4), lab.port());
    let device = format!("{}{port}", if v4 { "vx" } else { "vy" });
    let device = lab.mac("node", &device)?;
    let inner = datagram(friend, lab.at("victim", v4, UDP), &marker);
    let inner = inner.with(|f| (f.source_mac, f.destination_mac) = ([2, 0, 0, 0, 9, 9], device));
    let from = SocketAddr::new(lab.ip(who, v4), lab.port());
    let outer = datagram(from, to, &vxlan(NETWORK, &inner.bytes()));
    lab.lands("victim", &marker, || lab.send(who, &outer))
}

fn by_the_gateway(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let to = SocketAddr::new(lab.net.mode().gateway(v4), PORTS[3]);
    inject_at(lab, "cut", to)
}

fn new_tunnel(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let port = if v4 { 7001 } else { 7002 };
    // The devices of the previous attempt may still exist.
    let gone = |device: &str| lab.ns("node").ip(&format!("link del {device}{port}\n"));
    let _ = gone("vx").and_then(|()| gone("vy"));
    tunnel(lab, port)?;
    if lab.is_guarded() {
        lab.agent.pass()?;
    }
    inject(lab, "rogue", v4, port)
}

/// The node doesn't decapsulate it: whatever the receiving pod does with it stays in
/// that pod.
fn to_a_pod(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let marker = lab.marker();
    let from = SocketAddr::new(lab.ip("rogue", v4), lab.port());
    let frame = datagram(
        from,
        lab.at("friend", v4, PORTS[3]),
        &vxlan(NETWORK, &marker),
    );
    lab.lands("friend", &marker, || lab.send("rogue", &frame))
}
