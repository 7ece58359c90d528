//! The chained network plugin, called by a real runtime: a pod's device is closed
//! before the pod has a process, with and without an agent and an API server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ringfence_tests::agent::TCP;
use ringfence_tests::testnet::{Frames, Probe, probe_tcp};
use serde_json::{Value, json};

use super::crowd::Crowd;
use super::flood::{Flood, datagrams};
use super::{is_of_a_pod, starts};
use crate::containerd::Sandbox;
use crate::node::{Node, PATIENCE, until_open};

/// How long to watch a pod that must stay closed.
const WATCHED: Duration = Duration::from_millis(200);

/// The folder in which plugin and agent leave state for each other.
pub(super) fn state(node: &Node) -> PathBuf {
    node.shop.net.dir().join("cni-state")
}

fn binary(node: &Node) -> PathBuf {
    node.shop.agent.binary.with_file_name("ringfence-cni")
}

/// Returns the plugin's entry in the network's list.
fn entry(node: &Node, more: Value) -> Value {
    let mut entry = json!({
        "type": "ringfence-cni",
        "stateDir": state(node),
        "socket": node.shop.agent.socket,
        "timeoutSeconds": 5,
    });
    for (key, value) in more.as_object().unwrap() {
        entry[key] = value.clone();
    }
    entry
}

/// Returns a node with the plugin in the chain; its agent has these additional flags
/// and hasn't started.
fn chained(flags: &[&str], more: Value) -> Node {
    let mut node = Node::start(|_| Vec::new());
    let mut all: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    all.push(format!("--cni-state={}", state(&node).display()));
    node.shop.agent.flags = all;
    let entry = entry(&node, more);
    node.containerd.chain(&binary(&node), entry).unwrap();
    node
}

impl Node {
    pub(super) fn run(&mut self, name: &str) -> anyhow::Result<Sandbox> {
        self.containerd.run("shop", name, &format!("uid-{name}"))
    }

    /// Waits until the status reports these devices of unknown pods.
    fn until_unknown(&self, expected: Value) {
        let start = Instant::now();
        loop {
            let status = self.shop.agent.json(&["status"]).unwrap();
            let all = status["unknown"].as_array().unwrap().iter();
            let seen: Value = all.map(|one| json!([one["pod"], one["closed"]])).collect();
            if seen == expected {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{seen} is not {expected}");
            sleep(Duration::from_millis(50));
        }
    }
}

/// Asserts that no packet leaves or reaches the pod.
fn is_closed(frames: &Frames, sandbox: &Sandbox, when: &str) {
    let seen = frames.receive(WATCHED, is_of_a_pod).unwrap();
    assert_eq!(seen, None, "{when}: something leaves");
    assert_eq!(datagrams(&sandbox.ns), 0, "{when}: something enters");
}

/// Starts pods one after the other while datagrams are being sent to them.
fn start_all(flags: &[&str], in_a_crowd: bool) {
    let mut node = chained(flags, json!({}));
    let server = node.shop.ns("server").unwrap().clone();
    let flood = Flood::start(node.shop.ns("rogue").unwrap());
    let frames = Frames::open(&server, "eth0").unwrap();
    // Without an agent the plugin does nothing, and all packets arrive.
    let control = node.run("control").unwrap();
    let seen = frames.receive(PATIENCE, is_of_a_pod).unwrap();
    assert!(seen.is_some(), "nothing leaves even without the firewall");
    let start = Instant::now();
    while datagrams(&control.ns) == 0 {
        assert!(start.elapsed() < PATIENCE, "nor enters");
    }
    node.containerd.remove(&control).unwrap();
    let crowd = in_a_crowd.then(|| Crowd::gather(&node.server));
    node.shop.start().unwrap();
    let frames = Frames::open(&server, "eth0").unwrap();
    let mut opened = Vec::new();
    for n in 0..starts() {
        let (name, may_call) = (format!("pod-{n}"), n % 2 == 1);
        node.schedule(&name, may_call);
        let sandbox = node.run(&name).unwrap();
        if may_call {
            // The plugin waited for the agent: the first call gets through.
            opened.push((sandbox.took, until_open(&sandbox.ns, &node.shop)));
            let ping = |frame: &[u8]| is_of_a_pod(frame) && frame[23] == 1;
            let seen = frames.receive(Duration::from_millis(50), ping).unwrap();
            assert_eq!(seen, None, "{name}");
            assert_eq!(datagrams(&sandbox.ns), 0, "{name}");
        } else {
            is_closed(&frames, &sandbox, &name);
        }
        let row = node.row(&format!("shop/{name}"));
        let said = (&row["found_by"], &row["attached"]);
        assert_eq!(said, (&json!("cni_plugin"), &json!(true)), "{row}");
        node.containerd.remove(&sandbox).unwrap();
        node.server.delete("pods", "shop", &name).unwrap();
        let ping = |frame: &[u8]| is_of_a_pod(frame) && frame[23] == 1;
        let rest = frames.receive(Duration::from_millis(20), ping).unwrap();
        assert_eq!(rest, None, "{name}");
    }
    drop((flood, crowd));
    let left = fs::read_dir(state(&node).join("endpoints")).unwrap();
    assert_eq!(left.count(), 0, "records of pods that are gone");
    println!("RunPodSandbox, and from its end to the first call: {opened:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_packet_leaves_or_enters_a_pod_before_its_policy_is_in_force() {
    start_all(&[], true);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_packet_leaves_or_enters_a_pod_that_is_guarded_by_filters() {
    start_all(&["--attach=clsact"], false);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_starts_closed_while_no_agent_runs_and_opens_with_the_next_one() {
    let mut node = chained(&[], json!({"timeoutSeconds": 1}));
    node.shop.start().unwrap();
    node.shop.agent.kill(&mut node.shop.net).unwrap();
    let server = node.shop.ns("server").unwrap().clone();
    let frames = Frames::open(&server, "eth0").unwrap();
    let _flood = Flood::start(node.shop.ns("rogue").unwrap());
    node.schedule("early", true);
    let sandbox = node.run("early").unwrap();
    is_closed(&frames, &sandbox, "without an agent");
    node.shop.start().unwrap();
    until_open(&sandbox.ns, &node.shop);
    let row = node.row("shop/early");
    assert_eq!(row["found_by"], "cni_plugin", "{row}");
    // None passed the pod's policy, which allows no ingress.
    assert_eq!(datagrams(&sandbox.ns), 0);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_that_the_api_server_does_not_show_starts_late_and_closed() {
    let mut node = chained(&[], json!({"timeoutSeconds": 1}));
    node.shop.start().unwrap();
    let server = node.shop.ns("server").unwrap().clone();
    let frames = Frames::open(&server, "eth0").unwrap();
    let sandbox = node.run("unknown").unwrap();
    assert!(sandbox.took >= Duration::from_secs(1), "{sandbox:?}");
    is_closed(&frames, &sandbox, "unknown");
    node.until_unknown(json!([["shop/unknown", true]]));
    node.schedule("unknown", true);
    until_open(&sandbox.ns, &node.shop);
    node.until_unknown(json!([]));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn in_audit_a_pod_starts_open_before_any_policy_is_known() {
    let mut node = chained(&["--mode=audit"], json!({"timeoutSeconds": 1}));
    // The API server doesn't answer the agent, so the pod's own policy can't come into force.
    node.server.stop();
    node.shop.agent.start(&mut node.shop.net, &[]).unwrap();
    let server = node.shop.ns("server").unwrap().clone();
    let frames = Frames::open(&server, "eth0").unwrap();
    let sandbox = node.run("unknown").unwrap();
    let made = json!({"prevResult": {"cniVersion": "1.1.0", "interfaces": [], "ips": []}});
    let checked = call(&node, Some(&sandbox), "CHECK", made);
    assert!(checked.status.success(), "{checked:?}");
    let seen = frames.receive(PATIENCE, is_of_a_pod).unwrap();
    assert!(seen.is_some(), "closed in mode audit");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn where_it_is_told_to_a_pod_starts_open_if_its_policy_is_late() {
    let more = json!({"timeoutSeconds": 1, "onTimeout": "allow"});
    let mut node = chained(&[], more);
    node.shop.start().unwrap();
    let sandbox = node.run("unknown").unwrap();
    node.until_unknown(json!([["shop/unknown", false]]));
    let rogue = node.shop.address("rogue", true, TCP).unwrap().ip();
    let calls = |sandbox: &Sandbox| {
        let patience = Duration::from_millis(250);
        probe_tcp(&sandbox.ns, rogue, TCP, patience).unwrap() == Probe::Open
    };
    let start = Instant::now();
    while !calls(&sandbox) {
        assert!(start.elapsed() < PATIENCE, "closed all the same");
    }
    let nothing = json!({"ringfence.dev/egress": "enforce"});
    node.schedule_with("unknown", nothing);
    node.shop.agent.wait_for("shop/unknown").unwrap();
    assert!(!calls(&sandbox), "policy comes into force all the same");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn after_a_reboot_a_node_that_enforced_starts_no_pod_before_its_agent_has_loaded() {
    let flags = ["--unknown-exempt=kube-system"];
    let mut node = chained(&flags, json!({"timeoutSeconds": 1}));
    node.shop.start().unwrap();
    node.shop.agent.kill(&mut node.shop.net).unwrap();
    // The node's memory is lost, its disk isn't.
    for version in fs::read_dir(&node.shop.agent.pin_dir).unwrap() {
        let version = version.unwrap().path();
        for folder in ["links", "programs", ""] {
            for pin in fs::read_dir(version.join(folder)).unwrap() {
                let pin = pin.unwrap().path();
                if pin.is_file() {
                    fs::remove_file(pin).unwrap();
                }
            }
        }
    }
    node.schedule("early", true);
    let refused = node.run("early").unwrap_err();
    let said = format!("{refused:#}");
    assert!(said.contains("its agent hasn't loaded yet"), "{said}");
    let exempt = node.containerd.run("kube-system", "dns", "uid-dns");
    node.containerd.remove(&exempt.unwrap()).unwrap();
    node.shop.start().unwrap();
    let sandbox = node.run("early").unwrap();
    until_open(&sandbox.ns, &node.shop);
}

/// Calls the plugin as a runtime does.
fn call(node: &Node, sandbox: Option<&Sandbox>, command: &str, more: Value) -> Output {
    let mut config = entry(node, more);
    config["cniVersion"] = json!("1.1.0");
    config["name"] = json!("pods");
    let mut process = node.shop.net.node().command(binary(node));
    process.env("CNI_COMMAND", command);
    process.env("CNI_IFNAME", "eth0");
    process.env("CNI_CONTAINERID", sandbox.map_or("gone", |one| &one.id));
    let netns = sandbox.map_or(Path::new("/run/netns/gone"), |one| one.ns.path());
    process.env("CNI_NETNS", netns);
    process.env("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=one");
    let input = node.shop.net.dir().join("stdin");
    fs::write(&input, config.to_string()).unwrap();
    process.stdin(Stdio::from(fs::File::open(input).unwrap()));
    process.output().unwrap()
}

fn code(output: &Output) -> Value {
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!output.status.success(), "{said}");
    said["code"].clone()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn check_looks_at_the_hooks_and_what_is_gone_is_collected() {
    let mut node = chained(&[], json!({}));
    let gates = json!({"statusGatesNode": true});
    assert_eq!(code(&call(&node, None, "STATUS", gates.clone())), 50);
    assert!(call(&node, None, "STATUS", json!({})).status.success());
    node.shop.start().unwrap();
    assert!(call(&node, None, "STATUS", gates).status.success());
    node.schedule("one", true);
    let sandbox = node.run("one").unwrap();
    let made = json!({"prevResult": {"cniVersion": "1.1.0", "interfaces": [], "ips": []}});
    let checked = call(&node, Some(&sandbox), "CHECK", made.clone());
    assert!(checked.status.success(), "{checked:?}");
    // A repeated call finds the work done and passes the result on.
    let again = call(&node, Some(&sandbox), "ADD", made.clone());
    assert_eq!(
        serde_json::from_slice::<Value>(&again.stdout).unwrap(),
        made["prevResult"]
    );
    let device = node.row("shop/one")["interface"].clone();
    node.shop.agent.kill(&mut node.shop.net).unwrap();
    let links = fs::read_dir(&node.shop.agent.pin_dir).unwrap();
    let links = links.map(|version| version.unwrap().path().join("links"));
    let links: Vec<PathBuf> = links.collect();
    let ifindex = node
        .shop
        .net
        .node()
        .run(|| nix::net::if_::if_nametoindex(device.as_str().unwrap()));
    let ifindex = ifindex.unwrap().unwrap();
    for links in &links {
        fs::remove_file(links.join(format!("{ifindex}-from_pod"))).unwrap();
    }
    let start = Instant::now();
    // The kernel releases a link in the background.
    while call(&node, Some(&sandbox), "CHECK", made.clone())
        .status
        .success()
    {
        assert!(start.elapsed() < PATIENCE, "CHECK sees no difference");
    }
    let checked = call(&node, Some(&sandbox), "CHECK", made);
    assert_eq!(code(&checked), 100);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("from_pod isn't attached to"), "{said}");
    let records = state(&node).join("endpoints");
    assert_eq!(fs::read_dir(&records).unwrap().count(), 1);
    let valid =
        |id: &str| json!({"cni.dev/valid-attachments": [{"containerID": id, "ifname": "eth0"}]});
    assert!(call(&node, None, "GC", valid(&sandbox.id)).status.success());
    assert_eq!(fs::read_dir(&records).unwrap().count(), 1);
    assert!(call(&node, None, "GC", valid("another")).status.success());
    assert_eq!(fs::read_dir(&records).unwrap().count(), 0);
    assert_eq!(code(&call(&node, None, "GC", json!({}))), 7);
    for _ in 0..2 {
        assert!(
            call(&node, Some(&sandbox), "DEL", json!({}))
                .status
                .success()
        );
        assert!(call(&node, None, "DEL", json!({})).status.success());
    }
    // Pins of deleted devices are removed by the next collection.
    node.containerd.remove(&sandbox).unwrap();
    let left = |links: &Path| links.join(format!("{ifindex}-to_pod")).exists();
    assert!(links.iter().any(|links| left(links)));
    assert!(call(&node, None, "GC", valid("another")).status.success());
    assert!(!links.iter().any(|links| left(links)));
}
