//! A quarantined pod and its node, however little the Node object shows: if probes were
//! cut off, the kubelet would kill the pod that is to be investigated.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ringfence_tests::agent::{Agent, Manifest, Shop, TCP};
use ringfence_tests::testnet::{Mode, Net, Probe, Server, probe_tcp, probe_tcp_from};

/// The timeout of a denied call.
const SILENCE: Duration = Duration::from_millis(250);
/// An allowed call may be late on a busy machine.
const ALLOWED: Duration = Duration::from_secs(3);
/// The longest until probes from a new address of the node are answered: an event
/// reports it.
const AT_ONCE: Duration = Duration::from_secs(3);
/// An address that the node gets later, by family.
const LATER: [&str; 2] = ["172.16.9.1", "fd09::1"];

/// The Node object in the API: neither a pod range nor an address.
const BARE: &str = "apiVersion: v1\nkind: Node\nmetadata: { name: node-1 }\nspec: {}\nstatus: {}\n\
                    ---\napiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n";

fn bridge() -> Mode {
    Mode::Bridge {
        v4: Ipv4Addr::new(10, 244, 0, 1),
        v4_len: 24,
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1),
        v6_len: 64,
    }
}

/// Sets up two pods, one of them quarantined, on a node whose network the API doesn't describe.
fn laid(mode: Mode) -> (Net, Vec<Server>, Agent) {
    let cut = Manifest::pod("cut", Shop::NODE, 10).label("ringfence.dev/quarantine", "true");
    let pods = [cut, Manifest::pod("plain", Shop::NODE, 11)];
    let mut builder = Net::builder().mode(mode);
    for pod in &pods {
        builder = builder.pod(pod.name(), [IpAddr::from(pod.v4()), pod.v6().into()]);
    }
    let mut net = builder.build().unwrap();
    let manifests = net.dir().join("manifests");
    fs::create_dir(&manifests).unwrap();
    fs::write(manifests.join("cluster.yaml"), BARE).unwrap();
    let mut servers = Vec::new();
    for pod in &pods {
        fs::write(manifests.join(format!("{}.yaml", pod.name())), pod.yaml()).unwrap();
        let ns = net.pod(pod.name()).unwrap().ns.clone();
        servers.push(Server::default().tcp(&ns, TCP, pod.name()).unwrap());
    }
    let mut agent = Agent::new(&net, Shop::NODE, &manifests);
    agent.start(&mut net, &["shop/cut", "shop/plain"]).unwrap();
    (net, servers, agent)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_nodes_probes_reach_a_pod_under_quarantine_though_no_object_shows_the_nodes_addresses() {
    for mode in [Mode::Routed, bridge()] {
        let (net, _servers, _agent) = laid(mode);
        for v4 in [true, false] {
            let to = net.pod("cut").unwrap().address(v4).unwrap();
            let from = |ns, patience| probe_tcp(ns, to, TCP, patience).unwrap();
            let told = format!("{mode:?}, IPv4: {v4}");
            assert_eq!(from(net.node(), ALLOWED), Probe::Open, "{told}");
            // From each of the node's addresses, not only from the one in the pods' network.
            let own = net.node_address(v4).unwrap();
            let probed = probe_tcp_from(net.node(), own, to, TCP, ALLOWED);
            assert_eq!(probed.unwrap(), Probe::Open, "{told}, from {own}");
            for stranger in ["plain", "outside"] {
                let ns = match stranger {
                    "outside" => net.outside(),
                    pod => &net.pod(pod).unwrap().ns,
                };
                assert_ne!(from(ns, SILENCE), Probe::Open, "{told}, from {stranger}");
            }
            let other = net.pod("plain").unwrap().address(v4).unwrap();
            let called = probe_tcp(&net.pod("cut").unwrap().ns, other, TCP, SILENCE);
            assert_ne!(called.unwrap(), Probe::Open, "{told}, to another pod");
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_address_that_the_node_gets_later_is_the_nodes_for_a_pod_under_quarantine() {
    let (net, _servers, _agent) = laid(Mode::Routed);
    let lines = LATER.map(|ip| format!("addr add {ip} dev eth0 nodad\n"));
    // Duplicate address detection applies to IPv6 only.
    net.node()
        .ip(&lines.concat().replacen(" nodad", "", 1))
        .unwrap();
    for ip in LATER {
        let own: IpAddr = ip.parse().unwrap();
        let to = net.pod("cut").unwrap().address(own.is_ipv4()).unwrap();
        let start = Instant::now();
        while probe_tcp_from(net.node(), own, to, TCP, SILENCE).unwrap() != Probe::Open {
            assert!(start.elapsed() < AT_ONCE, "no probe from {ip}");
            sleep(Duration::from_millis(20));
        }
    }
}
