//! Pods that a real container runtime starts, with a real network plugin, whose process
//! sends from its first moment on.
#![allow(clippy::unwrap_used)]

mod containerd;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use ringfence_tests::agent::{Credentials, Shop, TCP};
use ringfence_tests::apiserver::ApiServer;
use ringfence_tests::testnet::{Frames, Ns, Probe, probe_tcp};
use serde_json::{Value, json};

use containerd::{Containerd, SUBNET};

/// How many pods are started.
const STARTS: usize = 20;
/// How long a pod may take until its policy is in force.
const PATIENCE: Duration = Duration::from_secs(20);

/// The shop, its API server and a container runtime, all on one node.
struct Node {
    // Ends before the network that it runs on.
    containerd: Containerd,
    server: ApiServer,
    shop: Shop,
}

impl Node {
    /// With an agent that knows the runtime by these flags.
    fn start(flags: impl Fn(&Containerd) -> Vec<String>) -> Self {
        let mut shop = Shop::open().unwrap();
        let listen = || TcpListener::bind("127.0.0.1:0");
        let listener = shop.net.node().run(listen).unwrap().unwrap();
        let server = ApiServer::on(listener).unwrap();
        server.apply_dir(&shop.manifests).unwrap();
        let kubeconfig = shop.net.dir().join("kubeconfig");
        server.write_kubeconfig(&kubeconfig).unwrap();
        shop.agent.cluster = Some(Credentials::Kubeconfig(kubeconfig));
        let target = shop.address("server", true, TCP).unwrap().ip();
        // From its first moment on, and ever after.
        let script = format!(
            "while :; do /bin/busybox ping -q -A -w 1 {target} >/dev/null; \
             /bin/busybox nc -w 1 {target} {TCP} </dev/null; done"
        );
        let containerd = Containerd::start(&mut shop.net, &script).unwrap();
        // The shop's pods have their namespaces elsewhere, and records in the same place.
        shop.agent.netns_dir = containerd.netns_dir();
        shop.agent.flags = flags(&containerd);
        Self {
            containerd,
            server,
            shop,
        }
    }

    /// Makes the object of a pod as it is before its kubelet has told of an address.
    fn schedule(&self, name: &str, may_call: bool) {
        let mut labels = json!({"app": name});
        if may_call {
            labels["egress.ringfence.dev/server"] = json!(TCP.to_string());
        }
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": "shop", "name": name, "uid": format!("uid-{name}"), "labels": labels,
            },
            "spec": {"nodeName": Shop::NODE, "containers": []},
            "status": {"phase": "Pending"},
        });
        self.server.apply_value(object).unwrap();
    }

    fn row(&self, pod: &str) -> Value {
        let all = self.shop.agent.json(&["endpoints"]).unwrap();
        let mut all = all.as_array().unwrap().iter();
        all.find(|row| row["pod"] == pod)
            .cloned()
            .unwrap_or_default()
    }
}

/// Waits until a call gets through; how long it took.
fn until_open(from: &Ns, shop: &Shop) -> Duration {
    let server = shop.address("server", true, TCP).unwrap();
    let start = Instant::now();
    while probe_tcp(from, server.ip(), TCP, Duration::from_millis(50)).unwrap() != Probe::Open {
        let said = shop.agent.run(&["status"]).unwrap().stdout;
        assert!(
            start.elapsed() < PATIENCE,
            "never open: {said}\n{}",
            shop.agent.log().unwrap()
        );
    }
    start.elapsed()
}

/// Whether a frame is of one of the runtime's pods.
fn is_of_a_pod(frame: &[u8]) -> bool {
    frame.len() >= 34 && frame[12..14] == [8, 0] && frame[26..29] == SUBNET
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_pod_that_starts_gets_a_packet_anywhere_before_its_policy_is_in_force() {
    let mut node = Node::start(|_| Vec::new());
    let server = node.shop.ns("server").unwrap().clone();
    let frames = Frames::open(&server, "eth0").unwrap();
    // Without the firewall what a pod sends arrives.
    let control = node.containerd.run("shop", "control", "uid-control");
    let control = control.unwrap();
    let seen = frames.receive(PATIENCE, is_of_a_pod).unwrap();
    assert!(seen.is_some(), "nothing arrives even without the firewall");
    node.containerd.remove(&control).unwrap();
    node.shop.start().unwrap();
    let frames = Frames::open(&server, "eth0").unwrap();
    let mut opened = Vec::new();
    for n in 0..STARTS {
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
            // What it may send is TCP; its pings aren't.
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
