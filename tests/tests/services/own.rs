//! The node's own network: addresses that no object lists, and tunnels on ports of its
//! own choice.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use ringfence_tests::testnet::{Dnat, Frames, Mode, Probe, Server, call_tcp};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Front, NODE_PORT, bridge};
use crate::{PATIENCE, SILENCE};

/// The addresses of a second interface.
const SECOND: [&str; 2] = ["172.16.7.1", "fd07::1"];
/// A tunnel port that isn't compiled in.
const TUNNEL: u16 = 8473;
/// Without an event, the agent polls only every five seconds.
const AT_ONCE: Duration = Duration::from_secs(3);

impl Cluster {
    fn second_interface(&self) {
        let mut lines = "link add second type veth peer name other\nlink set second up\n\
             link set other up\n"
            .to_owned();
        for ip in SECOND {
            lines.push_str(&format!("addr add {ip} dev second\n"));
        }
        self.ns("node").ip(&lines).unwrap();
    }

    fn status(&self, field: &str) -> Value {
        self.agent.json(&["status"]).unwrap()[field].clone()
    }

    /// Waits until the status contains an item, or doesn't contain it any more.
    #[track_caller]
    fn shows(&self, field: &str, item: &Value, there: bool) {
        let since = Instant::now();
        loop {
            let all = self.status(field);
            if all.as_array().unwrap().contains(item) == there {
                return;
            }
            assert!(since.elapsed() < AT_ONCE, "{item} in {all}: not {there}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Allows the caller's egress to all addresses that aren't pods': the possible bypasses.
    fn allow_node_addresses(&self) {
        let blocks = ["172.16.0.0/12", "169.254.0.0/16", "fd07::/64", "fe80::/10"];
        let to = blocks.map(|block| json!({"ipBlock": {"cidr": block}}));
        self.write(
            "around",
            &[json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": "shop", "name": "around"},
                "spec": {
                    "podSelector": {"matchLabels": {"app": "caller"}},
                    "policyTypes": ["Egress"], "egress": [{"to": to}],
                },
            })],
        );
        self.agent.wait_for("shop/caller").unwrap();
    }

    /// Forwards a NodePort at any address of the node.
    fn node_port(&self, at: SocketAddr, backend: &str) {
        let rule = Dnat {
            address: at.ip(),
            protocol: "tcp",
            port: NODE_PORT,
            to: vec![self.backend(backend, at.is_ipv4())],
            masquerade: true,
        };
        self.net.dnat(&[rule]).unwrap();
    }

    fn decides_node_port(&self, ip: IpAddr) {
        let source = self.net.pod("caller").unwrap().address(ip.is_ipv4());
        let at = SocketAddr::new(ip, NODE_PORT);
        let call = |patience| call_tcp(self.ns("caller"), source, at, patience).unwrap();
        self.node_port(at, "good");
        assert_eq!(call(PATIENCE), Ok("good".to_owned()), "{at}");
        self.node_port(at, "bad");
        let before = self.drops();
        assert!(
            call(SILENCE).is_err(),
            "{at} leads to a backend that egress denies"
        );
        let key = "shop/caller shop/bad egress policy tcp";
        let of = |drops: &std::collections::BTreeMap<String, u64>| drops.get(key).copied();
        assert!(of(&self.drops()) > of(&before), "{at}: {:?}", self.drops());
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_node_port_at_an_address_that_no_object_shows_is_decided_by_backend() {
    for mode in [Mode::Routed, bridge()] {
        let cluster = Cluster::open(mode);
        cluster.bridge_netfilter(false);
        cluster.second_interface();
        cluster.allow_node_addresses();
        for ip in SECOND {
            cluster.shows("node_addresses", &json!(ip), true);
            cluster.decides_node_port(ip.parse().unwrap());
        }
        if mode == Mode::Routed {
            cluster.decides_node_port("169.254.1.1".parse().unwrap());
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_nodes_addresses_follow_its_interfaces_and_its_own_services_are_reached_at_each() {
    let cluster = Cluster::open(Mode::Routed);
    let _servers = Server::default()
        .tcp(cluster.ns("node"), 7070, "node")
        .unwrap();
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 7070);
    for ip in SECOND {
        cluster.fails("caller", at(ip));
    }
    cluster.second_interface();
    for ip in SECOND {
        cluster.shows("node_addresses", &json!(ip), true);
        assert_eq!(cluster.answers("caller", at(ip)), "node");
    }
    // A route to the node itself counts as a node address; a pod's own doesn't.
    cluster
        .ns("node")
        .ip("route add local 198.18.0.7/32 dev lo\n")
        .unwrap();
    cluster.shows("node_addresses", &json!("198.18.0.7"), true);
    assert_eq!(cluster.answers("caller", at("198.18.0.7")), "node");
    let all = cluster.status("node_addresses");
    for pod in cluster.net.pods() {
        for ip in pod.addresses() {
            assert!(!all.as_array().unwrap().contains(&json!(ip)), "{ip}");
        }
    }
    assert!(
        !all.as_array().unwrap().contains(&json!("127.0.0.1")),
        "{all}"
    );
    cluster
        .ns("node")
        .ip("link del second\nroute del local 198.18.0.7/32 dev lo\n")
        .unwrap();
    for ip in SECOND {
        cluster.shows("node_addresses", &json!(ip), false);
    }
    cluster.shows("node_addresses", &json!("198.18.0.7"), false);
    assert_eq!(cluster.status("node_faults"), json!([]));
}

/// Returns a VXLAN packet with VNI 9: an empty broadcast Ethernet frame.
fn vxlan() -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0, 0, 0, 9, 0];
    packet.extend([0xff; 6]);
    packet.extend([2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    packet.extend([0; 46]);
    packet
}

impl Cluster {
    fn tunnel(&self, v4: bool) {
        let local = self.net.node_address(v4).unwrap();
        let line = format!(
            "link add vx9 type vxlan id 9 dstport {TUNNEL} local {local} dev eth0\n\
             link set vx9 up\n"
        );
        self.ns("node").ip(&line).unwrap();
    }

    /// Reports whether a pod's packet comes out of the node's tunnel.
    fn injects(&self, pod: &str, v4: bool) -> bool {
        let frames = Frames::open(self.ns("node"), "vx9").unwrap();
        let to = SocketAddr::new(self.net.node_address(v4).unwrap(), TUNNEL);
        let any: IpAddr = if v4 {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let send = || UdpSocket::bind((any, 0))?.send_to(&vxlan(), to);
        self.ns(pod).run(send).unwrap().unwrap();
        let is_it = |frame: &[u8]| frame[12..14] == [0x88, 0xb5];
        frames.receive(SILENCE, is_it).unwrap().is_some()
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_pod_gets_into_a_tunnel_of_the_node_whatever_port_it_has() {
    for (mode, v4) in [(Mode::Routed, true), (bridge(), false)] {
        let mut cluster = Cluster::open(mode);
        cluster.agent.kill(&mut cluster.net).unwrap();
        cluster.tunnel(v4);
        // The agent hasn't seen the device yet: the packet arrives.
        assert!(cluster.injects("free", v4), "the control arrives nowhere");
        cluster
            .agent
            .start(&mut cluster.net, &["shop/free"])
            .unwrap();
        assert_eq!(cluster.status("tunnel_ports"), json!([TUNNEL]));
        for pod in ["free", "caller"] {
            assert!(!cluster.injects(pod, v4), "{pod}");
            let key = format!("shop/{pod} node egress tunnel udp");
            assert_eq!(cluster.drops().get(&key), Some(&1), "{:?}", cluster.drops());
        }
        cluster.ns("node").ip("link del vx9\n").unwrap();
        cluster.shows("tunnel_ports", &json!(TUNNEL), false);
        cluster.tunnel(v4);
        cluster.shows("tunnel_ports", &json!(TUNNEL), true);
        assert!(!cluster.injects("free", v4));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ports_that_the_agent_is_told_of_are_tunnels_too_and_bad_ones_are_refused() {
    let mut cluster = Cluster::open(Mode::Routed);
    cluster.agent.stop(&mut cluster.net).unwrap();
    cluster.agent.flags = vec!["--tunnel-port".to_owned(), "TCP/1".to_owned()];
    assert_eq!(cluster.agent.refused().unwrap().code, 2);
    cluster.agent.flags = vec!["--tunnel-port".to_owned(), format!("UDP/{TUNNEL}")];
    cluster
        .agent
        .start(&mut cluster.net, &["shop/free"])
        .unwrap();
    for v4 in [true, false] {
        let to = SocketAddr::new(cluster.net.outside_address(v4).unwrap(), TUNNEL);
        let any: IpAddr = if v4 {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let send = || UdpSocket::bind((any, 0))?.send_to(&vxlan(), to);
        cluster.ns("free").run(send).unwrap().unwrap();
    }
    let drops = cluster.drops();
    let tunnels: u64 = drops
        .iter()
        .filter(|(key, _)| key.starts_with("shop/free ") && key.contains(" egress tunnel udp"))
        .map(|(_, packets)| packets)
        .sum();
    assert_eq!(tunnels, 2, "{drops:?}");
}

/// Returns a ClusterNetworkPolicy of tier Admin for all pods.
fn admin(name: &str, rules: &Value) -> Value {
    let mut policy = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}},
    });
    for (key, value) in rules.as_object().unwrap() {
        policy["spec"][key] = value.clone();
    }
    policy
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_cluster_policy_that_denies_nodes_denies_the_pods_own_at_every_address_of_it() {
    for mode in [Mode::Routed, bridge()] {
        let cluster = Cluster::open(mode);
        cluster.second_interface();
        let _servers = Server::default()
            .tcp(cluster.ns("node"), 7070, "node")
            .unwrap()
            .tcp(cluster.ns("node"), 7071, "dns")
            .unwrap();
        let mut at: Vec<IpAddr> = SECOND.iter().map(|ip| ip.parse().unwrap()).collect();
        at.extend([true, false].map(|v4| cluster.net.node_address(v4).unwrap()));
        for ip in &at {
            cluster.shows("node_addresses", &json!(ip), true);
            assert_eq!(cluster.answers("free", SocketAddr::new(*ip, 7070)), "node");
        }
        let accept = json!({
            "action": "Accept", "to": [{"nodes": {}}],
            "protocols": [{"tcp": {"destinationPort": {"number": 7071}}}],
        });
        let deny = json!({"action": "Deny", "to": [{"nodes": {}}]});
        cluster.write(
            "admin",
            &[admin("nodes", &json!({"egress": [accept, deny]}))],
        );
        cluster.agent.wait_for("shop/free").unwrap();
        for pod in ["free", "caller"] {
            for ip in &at {
                let denied = cluster.fails(pod, SocketAddr::new(*ip, 7070));
                assert_eq!(denied, Probe::TimedOut, "{pod} to {ip}");
                assert_eq!(cluster.answers(pod, SocketAddr::new(*ip, 7071)), "dns");
            }
            assert!(
                cluster
                    .drops()
                    .contains_key(&format!("shop/{pod} node egress policy tcp"))
            );
        }
        // The node reaches its pods, as for probes.
        for v4 in [true, false] {
            assert_eq!(cluster.answers("node", cluster.backend("free", v4)), "free");
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_behind_its_own_service_is_under_cluster_policies_and_reaches_its_own_address() {
    for mode in [Mode::Routed, bridge()] {
        let cluster = Cluster::open(mode);
        if mode != Mode::Routed {
            // Make the node route the forwarded packet back to the pod instead of
            // bridging it.
            cluster.bridge_netfilter(false);
        }
        cluster.forward(&["free"], false);
        for v4 in [true, false] {
            assert_eq!(
                cluster.answers("free", cluster.front(Front::Cluster, v4)),
                "free"
            );
        }
        let deny = json!({"action": "Deny", "from": [{"namespaces": {}}]});
        cluster.write("admin", &[admin("pods", &json!({"ingress": [deny]}))]);
        cluster.agent.wait_for("shop/free").unwrap();
        for v4 in [true, false] {
            let denied = cluster.fails("free", cluster.front(Front::Cluster, v4));
            assert_eq!(denied, Probe::TimedOut);
            assert_eq!(cluster.answers("free", cluster.backend("free", v4)), "free");
        }
        assert!(
            cluster
                .drops()
                .contains_key("shop/free shop/free ingress policy tcp")
        );
    }
}
