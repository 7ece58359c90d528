//! A pod that opens connections that are never answered takes nothing from others: the
//! replies of allowed connections still pass.
//!
//! Each victim's other direction is closed, so that a reply without a connection is
//! denied. The absence of any denial also proves that the attack gets through.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use ringfence_tests::packets::Frame;
use ringfence_tests::packets::fixture::{self, address};
use ringfence_tests::testnet::{Frames, Mode, Net, Ns, Probe, Server, probe_tcp, probe_udp};

use super::packets::{Node, network};

const TCP: u16 = 8080;
const UDP: u16 = 5353;
/// A port without a listener.
const SHUT: u16 = 9;
/// More than the number of connections that one endpoint may have.
const MANY: u16 = 20_000;
/// Less than a second, so no SYN is retransmitted: the first one has to suffice.
const ONCE: Duration = Duration::from_millis(900);

/// Returns frames from one pod to another, from as many ports.
fn frames(net: &Net, from: &str, to: &str, frame: impl Fn(IpAddr, IpAddr, u16) -> Frame) {
    let (sender, receiver) = (net.pod(from).unwrap(), net.pod(to).unwrap());
    let mac = match net.mode() {
        Mode::Routed => sender.host_mac,
        _ => receiver.mac,
    };
    let device = Frames::open(&sender.ns, "eth0").unwrap();
    for v4 in [true, false] {
        let (own, peer) = (address(from, v4), address(to, v4));
        let all: Vec<Vec<u8>> = (1..=MANY)
            .map(|port| {
                let frame = frame(own, peer, port);
                let macs = |f: &mut Frame| (f.source_mac, f.destination_mac) = (sender.mac, mac);
                frame.with(macs).bytes()
            })
            .collect();
        for batch in all.chunks(256) {
            let mut sent = 0;
            while sent < batch.len() {
                sent += device.send_many(&batch[sent..]).unwrap();
            }
        }
    }
}

/// Asserts that every call is answered at once.
fn answered(from: &Ns, to: [IpAddr; 2]) {
    for to in to {
        for _ in 0..20 {
            let tcp = probe_tcp(from, to, TCP, ONCE).unwrap();
            let udp = probe_udp(from, to, UDP, ONCE).unwrap();
            assert_eq!([tcp, udp], [Probe::Open; 2], "a call to {to}");
        }
    }
}

/// Runs an attack, and the checks that must succeed after it, on both layouts.
fn plays(attack: impl Fn(&Net) + Sync, after: impl Fn(&Net) + Sync) {
    for mode in [Mode::Routed, fixture::bridge()] {
        let net = network(mode);
        let servers = ["callee", "caller", "plain"].map(|pod| {
            let ns = &net.pod(pod).unwrap().ns;
            let server = Server::default().tcp(ns, TCP, "here").unwrap();
            server.udp(ns, UDP).unwrap()
        });
        let outside = Server::default().tcp(net.outside(), TCP, "here").unwrap();
        let outside = outside.udp(net.outside(), UDP).unwrap();
        let storm = || {
            let mut node = Node::guard(&net, false);
            attack(&net);
            after(&net);
            assert_eq!(node.risen(), BTreeMap::new(), "{mode:?}");
        };
        net.node().run(storm).unwrap();
        drop((servers, outside));
    }
}

/// Outsiders and a pod call the pod whose egress is closed.
fn caller_answers(net: &Net) {
    let to = [true, false].map(|v4| address("caller", v4));
    answered(net.outside(), to);
    answered(&net.pod("plain").unwrap().ns, to);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_callee_that_gets_thousands_of_resets_answers_everybody() {
    let reset = |own, peer, port| Frame::tcp((own, port), (peer, TCP), 4);
    plays(|net| frames(net, "plain", "caller", reset), caller_answers);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_callee_whose_client_sends_thousands_of_unanswered_datagrams_answers_everybody() {
    let datagram = |own, peer, port| Frame::udp((own, port), (peer, SHUT));
    plays(
        |net| frames(net, "plain", "caller", datagram),
        caller_answers,
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_callee_that_one_peer_floods_with_calls_answers_everybody() {
    let syn = |own, peer, port| Frame::tcp((own, port), (peer, SHUT), 2);
    plays(|net| frames(net, "plain", "caller", syn), caller_answers);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_that_sends_datagrams_one_way_from_ever_new_ports_calls_others_as_before() {
    let sends = |net: &Net| {
        let ns = &net.pod("callee").unwrap().ns;
        for v4 in [true, false] {
            let to = net.outside_address(v4).unwrap();
            let own = address("callee", v4);
            for port in 0..MANY {
                let send = || {
                    let socket = UdpSocket::bind((own, 20_000 + port)).unwrap();
                    socket.send_to(b"gauge:1|g", (to, SHUT)).unwrap();
                };
                ns.run(send).unwrap();
            }
        }
    };
    let calls = |net: &Net| {
        let to = [true, false].map(|v4| net.outside_address(v4).unwrap());
        answered(&net.pod("callee").unwrap().ns, to);
        answered(
            &net.pod("callee").unwrap().ns,
            [true, false].map(|v4| address("plain", v4)),
        );
    };
    plays(sends, calls);
}
