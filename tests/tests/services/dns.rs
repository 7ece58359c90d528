//! Unusual kinds of cluster DNS, on the wire and in `explain`.

use std::net::{IpAddr, SocketAddr};

use ringfence_tests::testnet::{Dnat, Mode, Probe, Server};
use serde_json::{Value, json};

use super::bridge;
use super::cluster::{Cluster, TARGET};

const CLUSTER_IPS: [&str; 2] = ["10.96.0.53", "fd00:10:96::53"];

/// Returns a Service whose only pod uses the host network of the other node; TCP only,
/// because the server there is TCP.
fn dns(cluster: &Cluster) -> Vec<Value> {
    let ips = [true, false].map(|v4| cluster.net.outside_address(v4).unwrap());
    let ports = json!([{"name": "dns-tcp", "containerPort": TARGET}]);
    vec![
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "kube-system", "name": "kube-dns"},
            "spec": {
                "selector": {"k8s-app": "kube-dns"},
                "clusterIP": CLUSTER_IPS[0], "clusterIPs": CLUSTER_IPS,
                "ports": [
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": "dns-tcp"},
                    {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153},
                ],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": "kube-system", "name": "dns-0", "uid": "dns-0",
                "labels": {"k8s-app": "kube-dns"},
            },
            "spec": {"nodeName": "node-2", "hostNetwork": true, "containers": [{"ports": ports}]},
            "status": {"phase": "Running", "podIP": ips[0], "podIPs": ips.map(|ip| json!({"ip": ip}))},
        }),
    ]
}

fn forward(cluster: &Cluster) {
    let rule = |v4: bool, port: u16, target: u16| Dnat {
        address: CLUSTER_IPS[usize::from(!v4)].parse().unwrap(),
        protocol: "tcp",
        port,
        to: vec![SocketAddr::new(
            cluster.net.outside_address(v4).unwrap(),
            target,
        )],
        masquerade: true,
    };
    let rules = [true, false].map(|v4| [rule(v4, 53, TARGET), rule(v4, 9153, 9153)]);
    cluster.net.dnat(&rules.concat()).unwrap();
}

#[track_caller]
fn explained(cluster: &Cluster, to: SocketAddr, allowed: bool) {
    let manifests = cluster.agent.manifests.display().to_string();
    let (ip, port) = (to.ip().to_string(), format!("TCP/{}", to.port()));
    let args = [
        "explain",
        "shop/asker",
        &ip,
        &port,
        "--manifests",
        &manifests,
    ];
    let said = cluster.agent.run(&args).unwrap();
    assert_eq!(said.code, i32::from(!allowed), "{to}: {said:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_closed_caller_reaches_dns_in_another_nodes_network_and_the_cache_on_its_own() {
    for mode in [Mode::Routed, bridge()] {
        let mut cluster = Cluster::open(mode);
        // The cache normally has a dummy device of its own, which not every kernel supports.
        let cache = "addr add 169.254.20.10/32 dev eth0\n";
        cluster.net.node().ip(cache).unwrap();
        let _cache = Server::default()
            .tcp(cluster.net.node(), 53, "cache")
            .unwrap();
        cluster.add_pod("asker", 15);
        let mut asker = cluster.pod("asker", 15);
        asker["metadata"]["labels"]["ringfence.dev/egress"] = json!("enforce");
        cluster.write("asker", &[asker]);
        cluster.write("dns", &dns(&cluster));
        forward(&cluster);
        cluster.agent.wait_for("shop/asker").unwrap();
        for v4 in [true, false] {
            let service: IpAddr = CLUSTER_IPS[usize::from(!v4)].parse().unwrap();
            let host = cluster.net.outside_address(v4).unwrap();
            for (to, allowed) in [
                (SocketAddr::new(service, 53), true),
                (SocketAddr::new(service, 9153), false),
                (SocketAddr::new(host, TARGET), true),
                (SocketAddr::new(host, 9153), false),
            ] {
                match allowed {
                    true => assert_eq!(cluster.answers("asker", to), "away", "{mode:?} {to}"),
                    false => assert_eq!(cluster.fails("asker", to), Probe::TimedOut, "{to}"),
                }
                explained(&cluster, to, allowed);
            }
        }
        let cache = SocketAddr::new("169.254.20.10".parse().unwrap(), 53);
        assert_eq!(cluster.answers("asker", cache), "cache", "{mode:?}");
        explained(&cluster, cache, true);
        let other = SocketAddr::new("203.0.113.77".parse().unwrap(), TARGET);
        assert_eq!(cluster.fails("asker", other), Probe::TimedOut);
    }
}
