//! Devices, bridges and virtual machines that a pod with CAP_NET_ADMIN creates behind
//! its interface: whatever they are, their packets leave through that interface.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::Result;
use ringfence_tests::attack::{ETHERNET, Machine, Outcome, datagram};
use ringfence_tests::packets::Frame;
use ringfence_tests::testnet::{Frames, Ns};

use crate::attack::Attack;
use crate::lab::{Lab, UDP};

/// Reasons counted for an address that isn't the pod's.
const ADDRESS: &[&str] = &["spoofed_address"];
/// Reasons counted for a MAC that isn't the pod's.
const MAC: &[&str] = &["spoofed_mac"];
/// The MAC of a virtual machine inside the pod.
const INNER: [u8; 6] = [2, 0, 0, 0, 0x77, 7];

pub(crate) const ATTACKS: &[Attack] = &[
    Attack::new(
        "an ipvlan device in a pod, mode L2, a friend's address",
        |lab, v4| ipvlan(lab, v4, "l2"),
    )
    .with_kind("ipvlan")
    .counted_as(ADDRESS),
    Attack::new("the same in mode L3", |lab, v4| ipvlan(lab, v4, "l3"))
        .with_kind("ipvlan")
        .counted_as(ADDRESS),
    Attack::new("the same in mode L3S", |lab, v4| ipvlan(lab, v4, "l3s"))
        .with_kind("ipvlan")
        .counted_as(ADDRESS),
    Attack::new("a friend's address on the pod's loopback device", loopback).counted_as(ADDRESS),
    Attack::new(
        "a macvlan device in a pod, with a friend's MAC and address",
        macvlan,
    )
    .counted_as(MAC),
    Attack::new(
        "a machine on a bridge in a pod, with a MAC of its own",
        |lab, v4| bridged(lab, v4, INNER, "rogue"),
    )
    .counted_as(MAC),
    Attack::new("the same with a friend's MAC and address", |lab, v4| {
        let mac = lab.net.pod("friend")?.mac;
        bridged(lab, v4, mac, "friend")
    })
    .counted_as(MAC),
    Attack::new(
        "the same with the pod's MAC and a friend's address",
        |lab, v4| {
            let mac = lab.net.pod("rogue")?.mac;
            bridged(lab, v4, mac, "friend")
        },
    )
    .counted_as(ADDRESS),
    Attack::new(
        "a machine that a pod routes, with a friend's address",
        |lab, v4| {
            let friend = lab.ip("friend", v4);
            routed(lab, v4, friend)
        },
    )
    .counted_as(ADDRESS),
    Attack::honest(
        "a machine on a bridge in a pod, with the pod's MAC and address",
        |lab, v4| {
            let mac = lab.net.pod("neighbour")?.mac;
            bridged_in(lab, v4, "neighbour", mac, "neighbour")
        },
    ),
    Attack::honest("a machine that a pod routes and masquerades", masqueraded),
];

/// Makes the pods with virtual machines forward their packets.
pub(crate) fn prepare(lab: &mut Lab) -> Result<()> {
    for pod in ["rogue", "neighbour"] {
        lab.ns(pod).sysctl("net/ipv4/ip_forward", "1")?;
        lab.ns(pod).sysctl("net/ipv6/conf/all/forwarding", "1")?;
    }
    for line in [
        "add table inet machine",
        "add chain inet machine out { type nat hook postrouting priority 100; }",
        "add rule inet machine out iifname tun9 masquerade",
    ] {
        lab.ns("neighbour").output("nft", &[line])?;
    }
    Ok(())
}

/// Returns the address of a virtual machine inside a pod.
fn inner(v4: bool) -> IpAddr {
    match v4 {
        true => [172, 17, 0, 2].into(),
        false => [0xfd17, 0, 0, 0, 0, 0, 0, 2].into(),
    }
}

/// Builds a datagram to the victim with the given source address.
fn to_victim(lab: &mut Lab, v4: bool, shown: IpAddr) -> (Frame, [u8; 8]) {
    let (marker, from) = (lab.marker(), SocketAddr::new(shown, lab.port()));
    (datagram(from, lab.at("victim", v4, UDP), &marker), marker)
}

/// An `ipvlan` device in a namespace inside the pod: it has the pod's MAC and any address.
fn ipvlan(lab: &mut Lab, v4: bool, mode: &str) -> Result<Outcome> {
    let friend = lab.ip("friend", v4);
    let (own, length) = (lab.ns("rogue").clone(), if v4 { 32 } else { 128 });
    own.ip(&format!(
        "link add ipv9 link eth0 type ipvlan mode {mode}\n"
    ))?;
    let nodad = if v4 { "" } else { " nodad" };
    let to = lab.at("victim", v4, UDP);
    let set_up = own.ip(&format!(
        "addr add {friend}/{length} dev ipv9{nodad}\nlink set ipv9 up\n\
         route add {}/{length} dev ipv9 src {friend}\n",
        to.ip()
    ));
    let marker = lab.marker();
    let sent = set_up
        .and_then(|()| lab.lands("victim", &marker, || sends_from(&own, friend, to, &marker)));
    own.ip("link del ipv9\n")?;
    sent
}

/// Sends from a plain socket of the pod's own stack, with an address the pod assigned
/// to itself.
fn sends_from(ns: &Ns, from: IpAddr, to: SocketAddr, payload: &[u8]) -> Result<()> {
    let socket = ns.run(|| UdpSocket::bind(SocketAddr::new(from, 0)))??;
    Ok(socket.send_to(payload, to).map(drop)?)
}

fn loopback(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (friend, to, marker) = (
        lab.ip("friend", v4),
        lab.at("victim", v4, UDP),
        lab.marker(),
    );
    let (length, nodad) = if v4 { (32, "") } else { (128, " nodad") };
    let own = lab.ns("rogue");
    own.ip(&format!("addr add {friend}/{length} dev lo{nodad}\n"))?;
    let sent = lab.lands("victim", &marker, || sends_from(own, friend, to, &marker));
    own.ip(&format!("addr del {friend}/{length} dev lo\n"))?;
    sent
}

fn macvlan(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let (mac, friend) = (lab.net.pod("friend")?.mac, lab.ip("friend", v4));
    let [a, b, c, d, e, f] = mac;
    let own = lab.ns("rogue").clone();
    own.ip(&format!(
        "link add mac9 link eth0 address {a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x} type macvlan mode private\n\
         link set mac9 up\n"
    ))?;
    let (frame, marker) = to_victim(lab, v4, friend);
    let frame = lab.addressed("rogue", &frame)?.with(|f| f.source_mac = mac);
    let sent = Frames::open(&own, "mac9")
        .and_then(|device| lab.lands("victim", &marker, || device.send(&frame.bytes())));
    own.ip("link del mac9\n")?;
    sent
}

fn bridged(lab: &mut Lab, v4: bool, mac: [u8; 6], shown: &str) -> Result<Outcome> {
    bridged_in(lab, v4, "rogue", mac, shown)
}

/// A bridge inside the pod whose ports are the pod's interface and a virtual machine's.
fn bridged_in(lab: &mut Lab, v4: bool, pod: &str, mac: [u8; 6], shown: &str) -> Result<Outcome> {
    let own = lab.ns(pod).clone();
    let machine = Machine::with_frames(&own, "tap9")?;
    let shown = lab.ip(shown, v4);
    let (frame, marker) = to_victim(lab, v4, shown);
    let frame = lab.addressed(pod, &frame)?.with(|f| f.source_mac = mac);
    own.ip(
        "link add br9 type bridge\nlink set br9 up\nlink set eth0 master br9\n\
         link set tap9 master br9 up\n",
    )?;
    let sent = lab.lands("victim", &marker, || machine.send(&frame.bytes()));
    own.ip("link set eth0 nomaster\nlink del br9\n")?;
    sent
}

fn routed(lab: &mut Lab, v4: bool, shown: IpAddr) -> Result<Outcome> {
    routed_in(lab, v4, "rogue", shown)
}

fn masqueraded(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    routed_in(lab, v4, "neighbour", inner(v4))
}

/// The pod routes for its virtual machine: packets leave with the pod's MAC.
fn routed_in(lab: &mut Lab, v4: bool, pod: &str, shown: IpAddr) -> Result<Outcome> {
    let own = lab.ns(pod).clone();
    let machine = Machine::with_packets(&own, "tun9")?;
    own.ip("link set tun9 up\n")?;
    let (frame, marker) = to_victim(lab, v4, shown);
    lab.lands("victim", &marker, || {
        machine.send(&frame.bytes()[ETHERNET..])
    })
}
