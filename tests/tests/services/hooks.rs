//! Hooks on devices without a pod behind them: where they are attached, and when they
//! are detached.

use crate::PATIENCE;
use crate::cluster::{Cluster, Front, bridge};
use ringfence_tests::agent::Talk;
use ringfence_tests::testnet::{Mode, Probe};
use serde_json::json;

const POD: [&str; 2] = ["from_pod", "to_pod"];
const NETWORK: [&str; 2] = ["from_network", "to_network"];

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_uplink_and_a_bridge_have_two_hooks_a_pods_device_its_own_and_loopback_none() {
    let cluster = Cluster::open(bridge());
    let pods = cluster.net.pods().iter().map(|pod| pod.host_device.clone());
    for device in pods.collect::<Vec<_>>() {
        assert_eq!(cluster.hooks(&device), POD, "{device}");
    }
    assert_eq!(cluster.hooks("eth0"), NETWORK);
    assert_eq!(cluster.hooks("cni0"), ["from_bridge", "to_bridge"]);
    assert_eq!(cluster.hooks("lo"), [""; 0]);
    let status = cluster.agent.json(&["status"]).unwrap();
    assert_eq!(
        (&status["devices"], &status["unhooked"]),
        (&json!(2), &json!([]))
    );
    let page = cluster.agent.metrics().unwrap();
    assert!(
        page.contains("ringfence_devices{state=\"hooked\"} 2\n"),
        "{page}"
    );
    assert!(
        page.contains("ringfence_devices{state=\"unhooked\"} 0\n"),
        "{page}"
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn devices_that_come_get_their_hooks_and_those_that_go_free_them() {
    let cluster = Cluster::open(Mode::Routed);
    let node = cluster.ns("node");
    node.ip("link add x0 type veth peer name x1\n").unwrap();
    let both = ["x0", "x1"].map(|name| cluster.index(name));
    cluster.agent.pass().unwrap();
    for index in both {
        assert_eq!(cluster.hooks_of(index), NETWORK);
    }
    node.ip("link del x0\n").unwrap();
    cluster.agent.pass().unwrap();
    for index in both {
        assert_eq!(cluster.hooks_of(index), [""; 0]);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_device_that_comes_while_no_agent_runs_carries_nothing_to_pods_or_out_of_the_node() {
    let mut cluster = Cluster::open(Mode::Routed);
    cluster.agent.kill(&mut cluster.net).unwrap();
    cluster.add_pod("late", 40);
    let places = ["good", "away-good"].map(|name| [true, false].map(|v4| (name, v4)));
    let places = places.concat();
    for &(name, v4) in &places {
        let to = cluster.backend(name, v4);
        assert_eq!(cluster.fails("late", to), Probe::TimedOut, "{name} {to}");
    }
    cluster
        .agent
        .start(&mut cluster.net, &["shop/caller"])
        .unwrap();
    for &(name, v4) in &places {
        let to = cluster.backend(name, v4);
        assert!(cluster.reaches("late", to), "{name} {to}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_with_another_mark_takes_over_from_one_and_asks_for_its_own() {
    let mut cluster = Cluster::open(Mode::Routed);
    let to = cluster.backend("good", true);
    let mut talk = Talk::open(cluster.ns("free"), to).unwrap();
    for (mark, bit) in [("0x80000", 0x8_0000), ("0x1000", 0x1000)] {
        cluster.agent.stop(&mut cluster.net).unwrap();
        assert!(talk.echo(PATIENCE).unwrap(), "{mark}");
        cluster.agent.flags = vec!["--seen-mark".to_owned(), mark.to_owned()];
        let pods = ["shop/free", "shop/caller"];
        cluster.agent.start(&mut cluster.net, &pods).unwrap();
        assert!(talk.echo(PATIENCE).unwrap(), "{mark}");
        assert!(cluster.reaches("free", to), "{mark}");
        let status = cluster.agent.json(&["status"]).unwrap();
        assert_eq!(status["seen_mark"], json!({"bit": bit, "asked": true}));
    }
    // The mark is asked for again: packets of a pod added without an agent don't carry it.
    cluster.agent.kill(&mut cluster.net).unwrap();
    cluster.add_pod("late", 40);
    assert_eq!(cluster.fails("late", to), Probe::TimedOut);
    assert!(talk.echo(PATIENCE).unwrap());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_device_that_becomes_a_pods_changes_its_hooks_and_keeps_the_pods_when_that_is_gone() {
    let mut cluster = Cluster::open(Mode::Routed);
    let number = 40;
    let late = cluster.add_pod("late", number);
    cluster.agent.pass().unwrap();
    assert_eq!(cluster.hooks(&late), NETWORK);
    cluster.write("late", &[cluster.pod("late", number)]);
    cluster.agent.wait_for("shop/late").unwrap();
    assert_eq!(cluster.hooks(&late), POD);
    // Another pod takes its place in the manifests; the interface stays.
    cluster.write("late", &[cluster.pod("later", number + 1)]);
    cluster.agent.pass().unwrap();
    assert_eq!(cluster.hooks(&late), POD);
    let endpoints = cluster.agent.json(&["endpoints"]).unwrap();
    let mut rows = endpoints.as_array().unwrap().iter();
    let row = rows.find(|row| row["interface"] == late.as_str()).unwrap();
    assert_eq!(row["ingress"], "closed", "{row}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn hooks_stay_while_the_agent_is_away_are_taken_over_and_go_with_uninstall() {
    let mut cluster = Cluster::open(Mode::Routed);
    cluster.forward(&["away-bad"], false);
    let to = cluster.front(Front::Cluster, true);
    cluster.is_denied(to, "away-bad");
    let before = cluster.programs("eth0");
    assert_eq!(before.len(), 2, "{before:?}");
    cluster.agent.kill(&mut cluster.net).unwrap();
    assert_eq!(cluster.programs("eth0"), before);
    cluster.fails("caller", to);
    cluster
        .agent
        .start(&mut cluster.net, &["shop/caller"])
        .unwrap();
    let after = cluster.programs("eth0");
    assert_eq!(after.len(), 2, "{after:?}");
    assert!(after.iter().all(|id| !before.contains(id)), "{after:?}");
    cluster.is_denied(to, "away-bad");
    cluster.agent.stop(&mut cluster.net).unwrap();
    let removed = cluster.agent.run(&["uninstall"]).unwrap();
    assert_eq!(removed.code, 0, "{removed:?}");
    assert_eq!(cluster.programs("eth0"), [0; 0]);
    assert_eq!(cluster.answers("caller", to), "away");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn whoever_gets_ahead_of_a_hook_is_overtaken_however_often() {
    let cluster = Cluster::open(Mode::Routed);
    let pod = cluster.net.pod("caller").unwrap().host_device.clone();
    let mut rivals = Vec::new();
    for round in 0..3 {
        for device in [pod.as_str(), "eth0"] {
            let ours = cluster.first(device);
            rivals.push(cluster.rival(device));
            let theirs = cluster.first(device);
            assert_ne!(theirs, ours, "round {round}: nobody got ahead on {device}");
            cluster.agent.pass().unwrap();
            let now = cluster.first(device);
            assert!((0..2).all(|way| now[way] != theirs[way]), "{device}");
            // One program of ours, and the rivals.
            assert_eq!(cluster.programs(device).len(), 2 * (2 + round), "{device}");
        }
    }
    let status = cluster.agent.json(&["status"]).unwrap();
    assert_eq!(
        (&status["unhooked"], &status["unguarded"]),
        (&json!([]), &json!([]))
    );
}
