//! Pods that a real container runtime starts, with a real network plugin. Their process
//! sends from its first moment on.
#![allow(clippy::unwrap_used)]

mod containerd;
mod crowd;
mod flood;
mod install;
mod node;
mod plugin;
mod quiet;

use std::time::Duration;

use ringfence_tests::testnet::Frames;
use serde_json::json;

use containerd::SUBNET;
use node::{Node, PATIENCE, until_open};

/// The number of pods started, unless RINGFENCE_STARTS is set.
const STARTS: usize = 20;

fn starts() -> usize {
    let said = std::env::var("RINGFENCE_STARTS").ok();
    said.map_or(STARTS, |text| {
        text.parse().expect("RINGFENCE_STARTS is a number")
    })
}

/// Reports whether a frame belongs to one of the runtime's pods.
fn is_of_a_pod(frame: &[u8]) -> bool {
    frame.len() >= 34 && frame[12..14] == [8, 0] && frame[26..29] == SUBNET
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_pod_that_starts_gets_a_packet_anywhere_before_its_policy_is_in_force() {
    let mut node = Node::start(|_| Vec::new());
    let server = node.shop.ns("server").unwrap().clone();
    let frames = Frames::open(&server, "eth0").unwrap();
    // Without the firewall the pod's packets arrive.
    let control = node.containerd.run("shop", "control", "uid-control");
    let control = control.unwrap();
    let seen = frames.receive(PATIENCE, is_of_a_pod).unwrap();
    assert!(seen.is_some(), "nothing arrives even without the firewall");
    node.containerd.remove(&control).unwrap();
    node.shop.start().unwrap();
    let frames = Frames::open(&server, "eth0").unwrap();
    let mut opened = Vec::new();
    for n in 0..starts() {
        let (name, may_call) = (format!("pod-{n}"), n % 2 == 1);
        node.schedule(&name, may_call);
        let sandbox = node
            .containerd
            .run("shop", &name, &format!("uid-{name}"))
            .unwrap();
        let took = may_call.then(|| until_open(&sandbox.ns, &node.shop));
        node.shop.agent.wait_for(&format!("shop/{name}")).unwrap();
        let row = node.row(&format!("shop/{name}"));
        assert_eq!(
            (&row["found_by"], &row["attached"]),
            (&json!("cni_cache"), &json!(true)),
            "{row}"
        );
        if let Some(took) = took {
            opened.push((sandbox.took, took));
            // Policy allows its TCP calls, but not its pings.
            let ping = |frame: &[u8]| is_of_a_pod(frame) && frame[23] == 1;
            let seen = frames.receive(Duration::from_millis(50), ping).unwrap();
            assert_eq!(seen, None, "{name}");
        } else {
            let seen = frames
                .receive(Duration::from_millis(200), is_of_a_pod)
                .unwrap();
            assert_eq!(seen, None, "{name}");
        }
        node.containerd.remove(&sandbox).unwrap();
        node.server.delete("pods", "shop", &name).unwrap();
        let rest = |frame: &[u8]| is_of_a_pod(frame) && frame[23] == 1;
        assert_eq!(
            frames.receive(Duration::from_millis(20), rest).unwrap(),
            None
        );
    }
    println!("RunPodSandbox, and from its end to the first call: {opened:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_records_of_plugins_a_runtimes_socket_tells_whose_device_it_is() {
    let mut node =
        Node::start(|containerd| vec![format!("--cri-socket={}", containerd.socket().display())]);
    node.shop.agent.cni_cache = node.shop.net.dir().join("no-such-folder");
    node.shop.agent.start(&mut node.shop.net, &[]).unwrap();
    for name in ["one", "two"] {
        node.schedule(name, true);
        let uid = format!("uid-{name}");
        let sandbox = node.containerd.run("shop", name, &uid).unwrap();
        node.shop.agent.wait_for(&format!("shop/{name}")).unwrap();
        let row = node.row(&format!("shop/{name}"));
        assert_eq!(row["found_by"], "cri", "{row}");
        until_open(&sandbox.ns, &node.shop);
    }
}
