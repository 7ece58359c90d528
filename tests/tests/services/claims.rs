//! Services that claim foreign addresses: a tenant can't take anything from another
//! endpoint's egress that way.

use std::net::{IpAddr, SocketAddr};

use ringfence_tests::testnet::{Dnat, Mode, Server};
use serde_json::{Value, json};

use crate::cluster::{Cluster, PORT, TARGET, bridge};

/// The port of an outside host that the caller's policy names.
pub(crate) const OUTSIDE: u16 = 8443;

/// Returns a tenant's Service `thief` with one port, on these addresses besides its own.
pub(crate) fn thief(shown: &[IpAddr], port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "tenant", "name": "thief"},
        "spec": {
            "selector": {"app": "nobody"},
            "clusterIP": "10.96.0.66", "clusterIPs": ["10.96.0.66", "fd00:10:96::66"],
            "externalIPs": shown, "ports": [{"port": port}],
        },
    })
}

pub(crate) fn put(cluster: &Cluster, service: Value) {
    cluster.write("thief", &[service]);
    cluster.agent.wait_for("shop/caller").unwrap();
}

/// Makes the node forward an address and port to a pod, as kube-proxy would.
pub(crate) fn forward(cluster: &Cluster, from: SocketAddr, to: SocketAddr) {
    let rule = Dnat {
        address: from.ip(),
        protocol: "tcp",
        port: from.port(),
        to: vec![to],
        masquerade: false,
    };
    cluster.net.dnat(&[rule]).unwrap();
}

/// Returns an address outside the cluster that belongs to no node.
pub(crate) fn outside(v4: bool, port: u16) -> SocketAddr {
    let ip = if v4 {
        "203.0.113.77"
    } else {
        "2001:db8:99::77"
    };
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Returns both layouts, on which every packet passes the node's DNAT.
pub(crate) fn layouts() -> [Cluster; 2] {
    [Mode::Routed, bridge()].map(|mode| {
        let cluster = Cluster::open(mode);
        if let Mode::Bridge { .. } = mode {
            cluster.bridge_netfilter(true);
        }
        cluster
    })
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_address_outside_that_a_service_shows_is_judged_by_policy_on_all_other_ports() {
    for cluster in layouts() {
        let both = [true, false].map(|v4| outside(v4, 0).ip());
        let _server = Server::default()
            .tcp(cluster.ns("outside"), OUTSIDE, "outside")
            .unwrap();
        let blocks = both.map(|ip| {
            let length = if ip.is_ipv4() { 32 } else { 128 };
            json!({"ipBlock": {"cidr": format!("{ip}/{length}")}})
        });
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "shop", "name": "caller-out"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "caller"}}, "policyTypes": ["Egress"],
                "egress": [{"to": blocks, "ports": [{"port": OUTSIDE}]}],
            },
        });
        cluster.write("caller-out", &[policy]);
        put(&cluster, thief(&both, PORT));
        for v4 in [true, false] {
            let at = |port| outside(v4, port);
            assert_eq!(cluster.answers("caller", at(OUTSIDE)), "outside");
            // On the Service's own port the address is the Service's: the backend decides.
            forward(&cluster, at(PORT), cluster.backend("good", v4));
            assert_eq!(cluster.answers("caller", at(PORT)), "good");
            forward(&cluster, at(PORT), cluster.backend("bad", v4));
            cluster.is_denied(at(PORT), "bad");
            assert_eq!(cluster.answers("caller", at(OUTSIDE)), "outside");
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pods_address_that_a_service_shows_stays_the_pods_on_the_services_port_too() {
    for cluster in layouts() {
        for v4 in [true, false] {
            let [good, bad] = ["good", "bad"].map(|name| cluster.backend(name, v4));
            put(&cluster, thief(&[good.ip(), bad.ip()], TARGET));
            cluster.net.dnat(&[]).unwrap();
            assert_eq!(cluster.answers("caller", good), "good");
            cluster.is_denied(bad, "bad");
            // Even if nodes forward it to a pod that may be called.
            forward(&cluster, bad, good);
            cluster.is_denied(bad, "bad");
            // If nodes forward a call from an allowed pod to a denied one, the verdict
            // is based on the pod that would receive it.
            forward(&cluster, good, bad);
            cluster.is_denied(good, "bad");
            assert_eq!(cluster.answers("free", good), "bad");
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_service_that_is_left_to_another_proxy_is_none() {
    let cluster = Cluster::open(Mode::Routed);
    for v4 in [true, false] {
        let at = outside(v4, PORT);
        put(&cluster, thief(&[at.ip()], PORT));
        cluster.fails("caller", at);
        let denied = |reason: &str, name: &str| {
            let key = format!("shop/caller {name} egress {reason} tcp");
            cluster.drops().get(&key).copied().unwrap_or_default()
        };
        let (unresolved, plain) = (
            ("unresolved_service", "tenant/thief"),
            ("policy", "outside"),
        );
        let before = [unresolved, plain].map(|(reason, name)| denied(reason, name));
        assert!(before[0] > 0, "{:?}", cluster.drops());
        let mut other = thief(&[at.ip()], PORT);
        other["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
        put(&cluster, other);
        cluster.fails("caller", at);
        let after = [unresolved, plain].map(|(reason, name)| denied(reason, name));
        assert_eq!(after, [before[0], before[1] + 1], "{at}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn explain_and_matrix_say_of_shown_addresses_what_the_wire_shows() {
    let cluster = Cluster::open(Mode::Routed);
    let good = cluster.backend("good", true);
    let manifests = cluster.agent.manifests.display().to_string();
    let matrix = || {
        let args = [
            "matrix",
            "--port",
            "TCP/8080",
            "--manifests",
            &manifests,
            "-o",
            "json",
        ];
        cluster.agent.run(&args).unwrap().stdout
    };
    let before = matrix();
    put(&cluster, thief(&[good.ip(), outside(true, 0).ip()], TARGET));
    assert_eq!(matrix(), before);
    let explain = |to: IpAddr, port: &str| {
        let to = to.to_string();
        let args = [
            "explain",
            "shop/caller",
            &to,
            port,
            "--manifests",
            &manifests,
            "-o",
            "json",
        ];
        let said = cluster.agent.run(&args).unwrap();
        let json: Value = serde_json::from_str(&said.stdout).unwrap();
        (said.code, json["to"]["name"].as_str().unwrap().to_owned())
    };
    assert_eq!(cluster.answers("caller", good), "good");
    assert_eq!(explain(good.ip(), "TCP/8080"), (0, "shop/good".into()));
    let other = outside(true, OUTSIDE);
    cluster.fails("caller", other);
    assert_eq!(
        cluster.drops().get("shop/caller outside egress policy tcp"),
        Some(&1)
    );
    assert_eq!(explain(other.ip(), "TCP/8443"), (1, other.ip().to_string()));
}
