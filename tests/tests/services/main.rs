//! Calls through Services, on the wire: the caller's egress is decided by the real
//! backend, wherever it runs.
#![allow(clippy::unwrap_used)]

mod claims;
mod cluster;
mod dns;
mod hidden;
mod hooks;
mod look;
mod old;
mod own;
mod shaped;

use std::net::SocketAddr;
use std::time::Duration;

use ringfence_tests::agent::Talk;
use ringfence_tests::testnet::{Frames, Mode, Probe};
use serde_json::{Value, json};

use cluster::{Cluster, Front, bridge, service};

/// TCP retransmits within that time.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait for packets that must not arrive.
const SILENCE: Duration = Duration::from_millis(250);

/// Calls a Service with an allowed and a denied backend, over both families.
fn decides_by_backend(cluster: &Cluster, masquerade: bool) {
    for v4 in [true, false] {
        for front in Front::ALL {
            let to = cluster.front(front, v4);
            cluster.forward(&["good", "bad"], masquerade);
            assert_eq!(cluster.answers("caller", to), "good", "{front:?} {to}");
            cluster.is_denied(to, "bad");
            assert_eq!(cluster.answers("caller", to), "good", "{front:?} {to}");
            cluster.forward(&["bad", "good"], masquerade);
            let both = [(); 2].map(|()| cluster.answers("free", to));
            assert_eq!(both, ["bad", "good"], "{front:?} {to}");
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn on_a_routed_net_the_allowed_backend_answers_and_the_denied_one_is_counted_by_name() {
    let cluster = Cluster::open(Mode::Routed);
    decides_by_backend(&cluster, false);
    decides_by_backend(&cluster, true);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn so_it_is_on_a_bridge_that_hands_its_frames_to_netfilter() {
    let cluster = Cluster::open(bridge());
    cluster.bridge_netfilter(true);
    decides_by_backend(&cluster, false);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn so_it_is_on_a_bridge_that_does_not() {
    let cluster = Cluster::open(bridge());
    cluster.bridge_netfilter(false);
    // Replies would bypass DNAT otherwise.
    decides_by_backend(&cluster, true);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_headless_service_is_its_pods() {
    let cluster = Cluster::open(Mode::Routed);
    let headless = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "bare"},
        "spec": {"selector": {"set": "web"}, "clusterIP": "None", "ports": [{"port": 80}]},
    });
    cluster.write("bare", &[headless]);
    cluster.agent.wait_for("shop/caller").unwrap();
    for v4 in [true, false] {
        let [good, bad] = ["good", "bad"].map(|name| cluster.backend(name, v4));
        assert_eq!(cluster.answers("caller", good), "good");
        cluster.is_denied(bad, "bad");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_service_without_backends_is_rejected_by_the_node_and_not_dropped() {
    let cluster = Cluster::open(Mode::Routed);
    cluster.forward(&[], false);
    for v4 in [true, false] {
        let to = cluster.front(Front::Cluster, v4);
        let seen = (cluster.call("caller", to), cluster.drops());
        assert_eq!(seen, (Err(Probe::Refused), [].into()), "{to}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_nobody_forwards_stays_denied_on_its_way_out() {
    let cluster = Cluster::open(Mode::Routed);
    for v4 in [true, false] {
        // The packet still has the Service's address at the uplink: no backend was
        // decided on.
        let to = cluster.front(Front::Cluster, v4);
        cluster.is_denied_for("unresolved_service", to, "web");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_open_call_goes_on_when_its_backend_is_taken_out_and_new_calls_go_elsewhere() {
    let cluster = Cluster::open(Mode::Routed);
    for v4 in [true, false] {
        cluster.forward(&["good"], false);
        let to = cluster.front(Front::Cluster, v4);
        let mut talk = Talk::open(cluster.ns("caller"), to).unwrap();
        assert!(talk.echo(PATIENCE).unwrap());
        cluster.forward(&["bad"], false);
        assert!(talk.echo(PATIENCE).unwrap(), "{to}");
        cluster.is_denied(to, "bad");
        assert!(talk.echo(PATIENCE).unwrap(), "{to}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_closed_pod_reaches_itself_through_its_own_service() {
    // A bridge that passes its frames to netfilter bridges them back after DNAT.
    for (mode, hairpin) in [(Mode::Routed, false), (bridge(), false), (bridge(), true)] {
        let cluster = Cluster::open(mode);
        if mode != Mode::Routed {
            cluster.bridge_netfilter(hairpin);
        }
        if hairpin {
            let device = &cluster.net.pod("good").unwrap().host_device;
            let line = format!("link set {device} type bridge_slave hairpin on\n");
            cluster.ns("node").ip(&line).unwrap();
        }
        cluster.forward(&["good"], false);
        let closed = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "shop", "name": "closed"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "good"}},
                "policyTypes": ["Ingress", "Egress"],
            },
        });
        cluster.write("closed", &[closed]);
        cluster.agent.wait_for("shop/good").unwrap();
        for v4 in [true, false] {
            for front in [Front::Cluster, Front::NodePort] {
                let to = cluster.front(front, v4);
                let seen = (cluster.call("good", to), cluster.drops());
                assert_eq!(seen, (Ok("good".into()), [].into()), "{mode:?} {to}");
            }
        }
        let to = cluster.front(Front::Cluster, true);
        assert_eq!(cluster.fails("free", to), Probe::TimedOut, "{mode:?}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_backend_on_another_node_is_decided_where_packets_leave() {
    for mode in [Mode::Routed, bridge()] {
        let cluster = Cluster::open(mode);
        for (v4, masquerade) in [(true, false), (false, false), (true, true), (false, true)] {
            cluster.forward(&["away-good", "away-bad"], masquerade);
            let to = cluster.front(Front::Cluster, v4);
            assert_eq!(cluster.answers("caller", to), "away", "{mode:?} {to}");
            cluster.is_denied(to, "away-bad");
            let both = [(); 2].map(|()| cluster.answers("free", to));
            assert_eq!(both, ["away", "away"], "{mode:?} {to}");
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn behind_a_vxlan_device_the_inner_packet_is_decided_and_a_denied_one_never_leaves() {
    let cluster = Cluster::open(Mode::Routed);
    cluster.overlay();
    cluster.agent.pass().unwrap();
    // The SYN of a call on the other node's eth0: outer headers of 50 bytes.
    let wire = Frames::open(cluster.ns("outside"), "eth0").unwrap();
    let is_call = |frame: &[u8]| {
        frame.len() > 74
            && frame[12..14] == [8, 0]
            && frame[36..38] == 8472_u16.to_be_bytes()
            && frame[62..64] == [8, 0]
            && frame[73] == 6
    };
    for v4 in [true, false] {
        let to = cluster.front(Front::Cluster, v4);
        cluster.forward(&["away-good", "away-bad"], false);
        assert_eq!(cluster.answers("caller", to), "away", "{to}");
        while wire.receive(SILENCE, is_call).unwrap().is_some() {}
        cluster.is_denied(to, "away-bad");
        assert_eq!(wire.receive(SILENCE, is_call).unwrap(), None, "{to}");
    }
    cluster.forward(&["away-good"], false);
    cluster.answers("caller", cluster.front(Front::Cluster, true));
    // The same filter sees a call that is allowed.
    assert!(wire.receive(PATIENCE, is_call).unwrap().is_some());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn on_a_device_without_link_headers_the_packet_is_read_from_its_ip_header() {
    let cluster = Cluster::open(Mode::Routed);
    // No program reads from the tun device: packets that pass the hook are lost behind it.
    let mut lines = "tuntap add dev tun0 mode tun\nlink set tun0 up\n".to_owned();
    for (name, v4) in [
        ("away-good", true),
        ("away-bad", true),
        ("away-good", false),
        ("away-bad", false),
    ] {
        let to = cluster.backend(name, v4).ip();
        let length = if v4 { 32 } else { 128 };
        lines.push_str(&format!("route replace {to}/{length} dev tun0\n"));
    }
    cluster.ns("node").ip(&lines).unwrap();
    cluster.agent.pass().unwrap();
    assert_eq!(cluster.hooks("tun0"), ["from_network", "to_network_l3"]);
    for v4 in [true, false] {
        let to = cluster.front(Front::Cluster, v4);
        cluster.forward(&["away-bad"], false);
        cluster.is_denied(to, "away-bad");
        let denied = cluster.drops();
        cluster.forward(&["away-good"], false);
        assert_eq!(cluster.fails("caller", to), Probe::TimedOut, "{to}");
        assert_eq!(cluster.drops(), denied, "{to}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn tags_of_another_node_are_cleared_where_packets_come_in() {
    let mut cluster = Cluster::open(Mode::Routed);
    // With a seen mark, packets that come in without a hook would be dropped.
    cluster.agent.stop(&mut cluster.net).unwrap();
    cluster.agent.flags = vec!["--seen-mark".to_owned(), "0".to_owned()];
    let pods = ["shop/bad", "shop/free"];
    cluster.agent.start(&mut cluster.net, &pods).unwrap();
    assert_eq!(
        cluster.agent.json(&["status"]).unwrap()["seen_mark"],
        Value::Null
    );
    let only_free = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "bad"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "bad"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "free"}}}]}],
        },
    });
    cluster.write("bad", &[only_free]);
    cluster.agent.wait_for("shop/bad").unwrap();
    let endpoints = cluster.agent.json(&["endpoints"]).unwrap();
    let mut rows = endpoints.as_array().unwrap().iter();
    let free = rows.find(|row| row["pod"] == "shop/free").unwrap();
    // A clsact filter of one instruction (BPF_RET | BPF_K) returns the class, whose
    // minor number the kernel writes to tc_index.
    let class = format!("1,6 0 0 {}", free["slot"]);
    let outside = cluster.ns("outside");
    let qdisc = ["qdisc", "add", "dev", "eth0", "clsact"];
    outside.output("tc", &qdisc).unwrap();
    let filter = [
        "filter", "add", "dev", "eth0", "egress", "bpf", "bytecode", &class,
    ];
    outside.output("tc", &filter).unwrap();
    let to = cluster.backend("bad", true);
    assert_eq!(cluster.fails("outside", to), Probe::TimedOut);
    let denied = "node shop/bad ingress policy tcp".to_owned();
    assert_eq!(cluster.drops(), [(denied, 1)].into());

    // Without the hook the packet would be taken for the pod's.
    cluster.agent.kill(&mut cluster.net).unwrap();
    let uplink = cluster.index("eth0");
    cluster.unpin(uplink, "from_network");
    let mut tries = (0..20).map(|_| cluster.reaches("outside", to));
    assert!(tries.any(|reached| reached), "the tag doesn't arrive");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_open_call_is_cut_when_its_address_is_no_longer_a_services() {
    let cluster = Cluster::open(Mode::Routed);
    cluster.forward(&["good"], false);
    let web = service("web", "10.96.0.7", "fd00:10:96::7");
    // A file without objects would keep its last valid ones.
    let another = service("web", "10.96.0.8", "fd00:10:96::8");
    for v4 in [true, false] {
        let to = cluster.front(Front::Cluster, v4);
        let mut talk = Talk::open(cluster.ns("caller"), to).unwrap();
        assert!(talk.echo(PATIENCE).unwrap());
        put(&cluster, &another);
        assert!(!talk.echo(SILENCE).unwrap(), "{to}");
        let drops = cluster.drops();
        let denied = drops.get("shop/caller outside egress policy tcp");
        assert!(denied.is_some_and(|packets| *packets > 0), "{drops:?}");
        put(&cluster, &web);
        assert!(talk.hears(PATIENCE).unwrap(), "{to}");
    }
}

fn put(cluster: &Cluster, service: &Value) {
    cluster.write("services", std::slice::from_ref(service));
    cluster.agent.wait_for("shop/caller").unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn explain_says_of_a_services_address_what_the_wire_shows() {
    let cluster = Cluster::open(Mode::Routed);
    cluster.forward(&["good", "bad"], false);
    let to: SocketAddr = cluster.front(Front::Cluster, true);
    assert_eq!(cluster.answers("caller", to), "good");
    cluster.is_denied(to, "bad");
    let manifests = cluster.agent.manifests.display().to_string();
    let said = cluster.agent.run(&[
        "explain",
        "shop/caller",
        &to.ip().to_string(),
        "TCP/90",
        "--manifests",
        &manifests,
        "-o",
        "json",
    ]);
    let said = said.unwrap();
    assert_eq!(said.code, 1, "{said:?}");
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    let backends = said["via"]["backends"].as_array().unwrap();
    let of = |name: &str| backends.iter().find(|b| b["name"] == name).unwrap();
    assert_eq!(of("shop/good")["verdict"], "allowed");
    assert_eq!(of("shop/bad")["verdict"], "denied");
    assert_eq!(of("shop/bad")["port"], "TCP/8080");
}
