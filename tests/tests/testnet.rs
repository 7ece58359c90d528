//! The test networks themselves: packets pass if no firewall guards them.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ringfence_tests::testnet::{
    Builder, Dnat, Frames, Mode, Net, Probe, Server, call_tcp, probe_tcp, probe_tcp_from,
    probe_udp, send_udp,
};

const TIMEOUT: Duration = Duration::from_secs(2);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn two_pods() -> Builder {
    Net::builder()
        .pod("a", [ip("10.244.0.10"), ip("fd00:10:244::10")])
        .pod("b", [ip("10.244.0.11"), ip("fd00:10:244::11")])
}

fn bridge() -> Mode {
    Mode::Bridge {
        v4: "10.244.0.1".parse().unwrap(),
        v4_len: 24,
        v6: "fd00:10:244::1".parse().unwrap(),
        v6_len: 64,
    }
}

fn everybody_reaches_everybody(net: &Net) {
    let (a, b) = (net.pod("a").unwrap(), net.pod("b").unwrap());
    let _server = Server::default()
        .tcp(&b.ns, 8080, "b")
        .unwrap()
        .udp(&b.ns, 5353)
        .unwrap();
    for address in b.addresses() {
        for from in [&a.ns, net.node(), net.outside()] {
            assert_eq!(
                probe_tcp(from, address, 8080, TIMEOUT).unwrap(),
                Probe::Open
            );
            assert_eq!(
                probe_tcp(from, address, 81, TIMEOUT).unwrap(),
                Probe::Refused
            );
            assert_eq!(
                probe_udp(from, address, 5353, TIMEOUT).unwrap(),
                Probe::Open
            );
            assert_eq!(
                probe_udp(from, address, 53, TIMEOUT).unwrap(),
                Probe::Refused
            );
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn routed_pods_the_node_and_the_outside_reach_each_other_over_both_families() {
    everybody_reaches_everybody(&two_pods().build().unwrap());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn bridged_pods_the_node_and_the_outside_reach_each_other_over_both_families() {
    everybody_reaches_everybody(&two_pods().mode(bridge()).build().unwrap());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_node_port_leads_to_its_pod_with_and_without_masquerade() {
    let net = two_pods().build().unwrap();
    let b = net.pod("b").unwrap();
    let _server = Server::default().tcp(&b.ns, 8080, "b").unwrap();
    for masquerade in [false, true] {
        let rule = |v4: bool| Dnat {
            address: net.node_address(v4).unwrap(),
            protocol: "tcp",
            port: 30080,
            to: vec![SocketAddr::new(b.address(v4).unwrap(), 8080)],
            masquerade,
        };
        net.dnat(&[rule(true), rule(false)]).unwrap();
        for v4 in [true, false] {
            let to = SocketAddr::new(net.node_address(v4).unwrap(), 30080);
            for from in [net.outside(), &net.pod("a").unwrap().ns, net.node()] {
                assert_eq!(
                    call_tcp(from, None, to, TIMEOUT).unwrap(),
                    Ok("b".to_owned())
                );
            }
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_outside_has_several_addresses_to_call_from() {
    let net = two_pods()
        .outside([ip("203.0.113.1"), ip("198.51.100.7"), ip("2001:db8::1")])
        .build()
        .unwrap();
    let b = net.pod("b").unwrap();
    let _server = Server::default().tcp(&b.ns, 8080, "b").unwrap();
    let to = b.address(true).unwrap();
    let probe = probe_tcp_from(net.outside(), ip("198.51.100.7"), to, 8080, TIMEOUT);
    assert_eq!(probe.unwrap(), Probe::Open);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn frames_go_out_as_they_are_and_arrive_as_they_were() {
    let net = two_pods().build().unwrap();
    let (a, b) = (net.pod("a").unwrap(), net.pod("b").unwrap());
    let receiver = Frames::open(&b.ns, "eth0").unwrap();
    assert_eq!(receiver.mac(), Some(b.mac));
    send_udp(&a.ns, b.address(true).unwrap(), 9, 1, 32).unwrap();
    let udp = |frame: &[u8]| frame.len() == 14 + 20 + 8 + 32 && frame[12..14] == [8, 0];
    assert!(receiver.receive(TIMEOUT, udp).unwrap().is_some());

    let host = Frames::open(net.node(), &a.host_device).unwrap();
    let mut frame = [0xff; 60];
    frame[6..12].copy_from_slice(&a.mac);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    let sender = Frames::open(&a.ns, "eth0").unwrap();
    sender.send(&frame).unwrap();
    assert_eq!(
        host.receive(TIMEOUT, |f| f[12..14] == [0x88, 0xb5])
            .unwrap()
            .unwrap(),
        frame
    );
    assert!(
        sender
            .receive(TIMEOUT, |f| f[12..14] == [0x88, 0xb5])
            .unwrap()
            .is_none()
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn pods_come_and_go() {
    let mut net = two_pods().build().unwrap();
    let c = net.add_pod("c", &[ip("10.244.0.12")]).unwrap();
    let _server = Server::default().tcp(&c.ns, 80, "c").unwrap();
    let a = net.pod("a").unwrap().ns.clone();
    assert_eq!(
        probe_tcp(&a, ip("10.244.0.12"), 80, TIMEOUT).unwrap(),
        Probe::Open
    );
    net.remove_pod("c").unwrap();
    assert_ne!(
        probe_tcp(&a, ip("10.244.0.12"), 80, TIMEOUT).unwrap(),
        Probe::Open
    );
    assert!(net.pod("c").is_err());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_dropped_network_leaves_nothing_behind_and_takes_its_processes_along() {
    let mut net = two_pods().build().unwrap();
    let dir = net.dir().to_owned();
    let mut command = net.node().command("sleep");
    let pid = net.spawn(command.arg("1000")).unwrap();
    drop(net);
    assert!(!dir.exists());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&*dir.to_string_lossy()));
}
