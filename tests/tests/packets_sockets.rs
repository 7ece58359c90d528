//! Real connections, datagrams and pings between the packet table's pods.
#![allow(clippy::unwrap_used)]

mod packets;

use std::io::{self, Read};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use ringfence_tests::packets::fixture::{self, PODS, address};
use ringfence_tests::packets::{Frame, Series};
use ringfence_tests::testnet::{Frames, Mode, Net, Ns, Probe, Server, probe_tcp, probe_udp};

use packets::{Counters, Node, network};
use socket2::SockRef;

/// Less than a second, so a denied call is one packet: no SYN is retransmitted.
const TIMEOUT: Duration = Duration::from_millis(300);
const TCP: u16 = 8080;
const UDP: u16 = 5353;

/// A guarded network with servers in all pods, used with one family at a time.
struct Stage<'a> {
    net: &'a Net,
    node: Node,
    v4: bool,
    _servers: Vec<Server>,
}

fn on_both(work: fn(&mut Stage<'_>)) {
    for mode in [Mode::Routed, fixture::bridge()] {
        let net = network(mode);
        let guarded = || {
            let places = net.pods().iter().map(|pod| &pod.ns);
            let serve = |ns| {
                Server::default()
                    .tcp(ns, TCP, "here")
                    .unwrap()
                    .udp(ns, UDP)
                    .unwrap()
            };
            let mut stage = Stage {
                net: &net,
                node: Node::guard(&net, false),
                v4: true,
                _servers: places.chain([net.outside()]).map(serve).collect(),
            };
            for v4 in [true, false] {
                stage.v4 = v4;
                work(&mut stage);
            }
        };
        net.node().run(guarded).unwrap();
    }
}

/// A counted packet: source, destination, direction, reason, protocol, and whether it passed.
type Count = Option<(&'static str, &'static str, &'static str, &'static str, bool)>;

impl Stage<'_> {
    fn ns(&self, name: &str) -> &Ns {
        match name {
            "node" => self.net.node(),
            "outside" => self.net.outside(),
            pod => &self.net.pod(pod).unwrap().ns,
        }
    }

    fn address(&self, name: &str) -> IpAddr {
        match name {
            "outside" => self.net.outside_address(self.v4).unwrap(),
            name => address(name, self.v4),
        }
    }

    #[track_caller]
    fn tcp(&mut self, from: &str, to: &str, port: u16, expected: Probe, count: Count) {
        let address = self.address(to);
        let probe = probe_tcp(self.ns(from), address, port, TIMEOUT).unwrap();
        assert_eq!(probe, expected, "TCP from {from} to {address} port {port}");
        self.counted("tcp", count);
    }

    /// Calls a quarantined pod from the node, and closes the connection with a reset
    /// from the caller's own socket. An orderly close leaves answers to the kernel that
    /// have no socket (over IPv6 a reset of packets after the socket's end, below Linux
    /// 6.13 the last ACK). They aren't proven to be the node's, so quarantine drops and
    /// counts them.
    #[track_caller]
    fn call_from_node(&mut self, to: &str) {
        let address = self.address(to);
        let call = || {
            let mut stream = TcpStream::connect_timeout(&(address, TCP).into(), TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            let mut banner = [0; 5];
            stream.read_exact(&mut banner)?;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            io::Result::Ok(banner)
        };
        let banner = self.net.node().run(call).unwrap().unwrap();
        assert_eq!(&banner, b"here\n", "the node calls {address}");
        self.counted("tcp", None);
    }

    #[track_caller]
    fn udp(&mut self, from: &str, to: &str, port: u16, expected: Probe, count: Count) {
        let address = self.address(to);
        let probe = probe_udp(self.ns(from), address, port, TIMEOUT).unwrap();
        assert_eq!(probe, expected, "UDP from {from} to {address} port {port}");
        self.counted("udp", count);
    }

    #[track_caller]
    fn counted(&mut self, protocol: &'static str, count: Count) {
        let series = count.map(|(source, destination, direction, reason, audited)| {
            let series = Series {
                source: source.to_owned(),
                destination: destination.to_owned(),
                direction,
                reason,
                protocol,
                audited,
            };
            (series, 1)
        });
        assert_eq!(self.node.risen(), series.into_iter().collect::<Counters>());
    }
}

const fn denied(from: &'static str, to: &'static str, direction: &'static str) -> Count {
    Some((from, to, direction, "policy", false))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_caller_connects_where_its_label_lets_it_and_nowhere_else() {
    on_both(|stage| {
        let held = |to| denied("bank/caller", to, "egress");
        stage.tcp("caller", "callee", TCP, Probe::Open, None);
        stage.tcp(
            "caller",
            "callee",
            8081,
            Probe::TimedOut,
            held("bank/callee"),
        );
        stage.udp(
            "caller",
            "callee",
            UDP,
            Probe::TimedOut,
            held("bank/callee"),
        );
        stage.tcp("caller", "plain", TCP, Probe::TimedOut, held("bank/plain"));
        stage.udp("caller", "outside", UDP, Probe::TimedOut, held("outside"));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_closed_pod_is_closed_to_all_but_its_callers_and_its_node() {
    on_both(|stage| {
        for (from, name) in [("plain", "bank/plain"), ("outside", "outside")] {
            let count = denied(name, "bank/callee", "ingress");
            stage.tcp(from, "callee", TCP, Probe::TimedOut, count);
            stage.udp(from, "callee", UDP, Probe::TimedOut, count);
        }
        stage.tcp("node", "callee", TCP, Probe::Open, None);
        stage.udp("node", "callee", UDP, Probe::Open, None);
        stage.tcp("node", "callee", 8081, Probe::Refused, None);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn answers_and_refusals_need_no_rule() {
    on_both(|stage| {
        for to in ["plain", "outside"] {
            stage.tcp("callee", to, TCP, Probe::Open, None);
            stage.udp("callee", to, UDP, Probe::Open, None);
            stage.tcp("callee", to, 8081, Probe::Refused, None);
            // Reported by ICMP.
            stage.udp("callee", to, 5354, Probe::Refused, None);
        }
        stage.tcp("outside", "caller", TCP, Probe::Open, None);
        stage.udp("outside", "caller", UDP, Probe::Open, None);
        stage.tcp("outside", "caller", 8081, Probe::Refused, None);
        stage.udp("outside", "caller", 5354, Probe::Refused, None);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_without_policy_is_as_if_nobody_guarded_it() {
    on_both(|stage| {
        for (from, to) in [
            ("plain", "outside"),
            ("outside", "plain"),
            ("plain", "caller"),
            ("node", "plain"),
        ] {
            stage.tcp(from, to, TCP, Probe::Open, None);
            stage.udp(from, to, UDP, Probe::Open, None);
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_staged_pod_is_reached_and_tells_who_will_not_reach_it() {
    on_both(|stage| {
        for (from, name) in [("plain", "bank/plain"), ("outside", "outside")] {
            let count = Some((name, "bank/staged", "ingress", "policy", true));
            stage.tcp(from, "staged", TCP, Probe::Open, count);
            stage.udp(from, "staged", UDP, Probe::Open, count);
        }
        stage.tcp("node", "staged", TCP, Probe::Open, None);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn quarantine_leaves_a_pod_its_node_alone() {
    on_both(|stage| {
        let count = |from, to, direction| Some((from, to, direction, "quarantine", false));
        stage.tcp(
            "plain",
            "cut",
            TCP,
            Probe::TimedOut,
            count("bank/plain", "bank/cut", "ingress"),
        );
        stage.udp(
            "outside",
            "cut",
            UDP,
            Probe::TimedOut,
            count("outside", "bank/cut", "ingress"),
        );
        stage.tcp(
            "cut",
            "plain",
            TCP,
            Probe::TimedOut,
            count("bank/cut", "bank/plain", "egress"),
        );
        stage.udp(
            "cut",
            "outside",
            UDP,
            Probe::TimedOut,
            count("bank/cut", "outside", "egress"),
        );
        stage.call_from_node("cut");
        stage.udp("node", "cut", UDP, Probe::Open, None);
    });
}

/// Pings with raw frames. Returns whether the pinged pod's answer comes back.
fn ping(stage: &Stage<'_>, from: &str, to: &str, id: u16) -> bool {
    let pod = stage.net.pod(from).unwrap();
    let socket = Frames::open(&pod.ns, "eth0").unwrap();
    let request = Frame::echo(stage.address(from), stage.address(to), true, id);
    let next = match stage.net.mode() {
        Mode::Routed => pod.host_mac,
        Mode::Bridge { .. } => request.destination_mac,
    };
    socket
        .send(&request.with(|f| f.destination_mac = next).bytes())
        .unwrap();
    let answer = Frame::echo(stage.address(to), stage.address(from), false, id).bytes();
    let icmp = if stage.v4 { 34 } else { 54 };
    let is_answer = |frame: &[u8]| frame.len() > icmp && frame[icmp..] == answer[icmp..];
    socket.receive(TIMEOUT, is_answer).unwrap().is_some()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_closed_pod_pings_and_is_not_pinged() {
    on_both(|stage| {
        assert!(ping(stage, "callee", "plain", 7));
        stage.counted("icmp", None);
        assert!(!ping(stage, "plain", "callee", 8));
        stage.counted("icmp", denied("bank/plain", "bank/callee", "ingress"));
        assert!(!ping(stage, "caller", "callee", 9));
        stage.counted("icmp", denied("bank/caller", "bank/callee", "egress"));
        assert!(!ping(stage, "cut", "plain", 10));
        stage.counted(
            "icmp",
            Some(("bank/cut", "bank/plain", "egress", "quarantine", false)),
        );
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn pods_are_born_with_the_macs_that_the_table_gives_them() {
    let net = network(Mode::Routed);
    let given: Vec<[u8; 6]> = net.pods().iter().map(|pod| pod.mac).collect();
    assert_eq!(given, PODS.map(|pod| pod.mac));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_nodes_reports_of_its_groups_reach_pods_and_count_as_no_drop() {
    let net = network(fixture::bridge());
    let guarded = || {
        let mut node = Node::guard(&net, false);
        let frames = Frames::open(&net.pod("callee").unwrap().ns, "eth0").unwrap();
        node.risen();
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let bridge = nix::net::if_::if_nametoindex("cni0").unwrap();
        let group = std::net::Ipv4Addr::new(224, 0, 0, 77);
        SockRef::from(&socket)
            .join_multicast_v4_n(&group, &socket2::InterfaceIndexOrAddress::Index(bridge))
            .unwrap();
        // IGMP, for that group.
        let is_report = |frame: &[u8]| {
            let is_igmp = frame.len() > 34 && frame[12..14] == [8, 0] && frame[23] == 2;
            is_igmp && frame.windows(4).any(|part| part == group.octets())
        };
        let seen = frames.receive(TIMEOUT * 20, is_report).unwrap();
        assert!(seen.is_some(), "no report");
        assert_eq!(node.risen(), Counters::new());
    };
    net.node().run(guarded).unwrap();
}
