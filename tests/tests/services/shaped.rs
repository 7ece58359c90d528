//! Pods behind a bandwidth limit: a filter on their host-side device redirects their
//! packets through an `ifb` device.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use ringfence_tests::testnet::Mode;
use serde_json::{Value, json};

use crate::cluster::{Cluster, bridge};
use crate::decides_by_backend;

/// Where distributions and the projects' own packages install plugins.
const PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

impl Cluster {
    fn tc(&self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        self.ns("node").output("tc", &words).unwrap();
    }

    fn device_of(&self, pod: &str) -> String {
        self.net.pod(pod).unwrap().host_device.clone()
    }

    /// Redirects a pod's packets through the device `ifb0`, as CNI's `bandwidth` plugin does.
    fn detour(&self, pod: &str) {
        let device = self.device_of(pod);
        let lines = "link add ifb0 type ifb\nlink set ifb0 up\n";
        self.ns("node").ip(lines).unwrap();
        self.tc(&format!("qdisc add dev {device} ingress"));
        self.tc(&format!(
            "filter add dev {device} parent ffff: protocol all u32 match u32 0 0 \
             action mirred egress redirect dev ifb0"
        ));
        self.agent.pass().unwrap();
    }

    /// Runs the real plugin for a pod, chained behind the plugin that created its interface.
    fn limit(&self, pod: &str) {
        let (pod, node) = (self.net.pod(pod).unwrap(), self.ns("node"));
        let sandbox = pod.ns.path().display().to_string();
        let ips = pod.addresses().map(|ip| {
            let length = if ip.is_ipv4() { 32 } else { 128 };
            json!({"address": format!("{ip}/{length}"), "interface": 1})
        });
        let config = json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "bandwidth",
            "ingressRate": 1_000_000_000, "ingressBurst": 100_000_000,
            "egressRate": 1_000_000_000, "egressBurst": 100_000_000,
            "prevResult": {
                "cniVersion": "1.0.0",
                "interfaces": [
                    {"name": pod.host_device}, {"name": "eth0", "sandbox": sandbox},
                ],
                "ips": ips.collect::<Vec<_>>(),
            },
        });
        let mut folders = PLUGINS.iter().map(Path::new);
        let plugin = folders.find(|folder| folder.join("bandwidth").exists());
        let plugin = plugin
            .expect("CNI's plugins: cargo xtask setup")
            .join("bandwidth");
        let mut command = node.command(&plugin);
        command
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", "0123456789abcdef")
            .env("CNI_NETNS", &sandbox)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", plugin.parent().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(config.to_string().as_bytes()).unwrap();
        drop(stdin);
        let ended = child.wait_with_output().unwrap();
        assert!(
            ended.status.success(),
            "{}",
            String::from_utf8_lossy(&ended.stdout)
        );
        self.agent.pass().unwrap();
    }

    /// Returns the name of the node's only `ifb`, and how many packets it has sent back.
    fn shaper(&self) -> (String, u64) {
        let shown = ["-j", "-s", "link", "show", "type", "ifb"];
        let shown = self.ns("node").output("ip", &shown).unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let [one] = &shown.as_array().unwrap()[..] else {
            panic!("{shown}")
        };
        let name = one["ifname"].as_str().unwrap().to_owned();
        (name, one["stats64"]["rx"]["packets"].as_u64().unwrap())
    }

    fn foreign_filters(&self, pod: &str) -> Vec<Value> {
        let endpoints = self.agent.json(&["endpoints"]).unwrap();
        let mut rows = endpoints.as_array().unwrap().iter();
        let row = rows
            .find(|row| row["pod"] == format!("shop/{pod}"))
            .unwrap();
        row["foreign_filters"].as_array().unwrap().clone()
    }

    /// Checks that the caller's calls to the Service are decided by backend and take
    /// the detour.
    fn decides_on_a_detour(&self, masquerade: bool) {
        let (name, before) = self.shaper();
        assert_eq!(self.hooks(&name), [""; 0]);
        decides_by_backend(self, masquerade);
        let (_, after) = self.shaper();
        assert!(after > before, "{name} saw nothing");
        let filters = self.foreign_filters("caller");
        let [one] = &filters[..] else {
            panic!("each filter is listed once: {filters:?}")
        };
        assert!(one.as_str().unwrap().starts_with("ingress u32 "), "{one}");
        let status = self.agent.json(&["status"]).unwrap();
        assert_eq!(status["unguarded"], json!([]));
        assert_eq!(status["unhooked"], json!([]));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_redirect_by_an_ifb_keeps_who_sent_it_and_services_work_on_a_routed_net() {
    let cluster = Cluster::open(Mode::Routed);
    cluster.detour("caller");
    cluster.decides_on_a_detour(false);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_redirect_by_an_ifb_keeps_who_sent_it_and_services_work_on_a_bridge() {
    let cluster = Cluster::open(bridge());
    cluster.bridge_netfilter(true);
    cluster.detour("caller");
    cluster.decides_on_a_detour(false);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_behind_the_real_bandwidth_plugin_calls_services_on_a_routed_net() {
    let cluster = Cluster::open(Mode::Routed);
    cluster.limit("caller");
    cluster.decides_on_a_detour(false);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_behind_the_real_bandwidth_plugin_calls_services_on_a_bridge() {
    let cluster = Cluster::open(bridge());
    // Replies would bypass DNAT otherwise.
    cluster.bridge_netfilter(false);
    cluster.limit("caller");
    cluster.decides_on_a_detour(true);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn with_filters_on_clsact_a_pod_behind_the_plugin_counts_as_not_guarded_and_why_is_said() {
    let mut cluster = Cluster::open(Mode::Routed);
    cluster.agent.stop(&mut cluster.net).unwrap();
    cluster.agent.run(&["uninstall"]).unwrap();
    // The plugin comes first: it runs before the pod starts.
    let device = cluster.device_of("caller");
    cluster.tc(&format!("qdisc add dev {device} ingress"));
    cluster.agent.flags = vec!["--attach".to_owned(), "clsact".to_owned()];
    cluster
        .agent
        .start(&mut cluster.net, &["shop/free"])
        .unwrap();
    let status = cluster.agent.json(&["status"]).unwrap();
    let rows = status["unguarded"].as_array().unwrap();
    let [row] = &rows[..] else { panic!("{status}") };
    assert_eq!(row["pod"], "shop/caller");
    let reason = row["reason"].as_str().unwrap();
    assert!(
        reason.contains("ingress") && reason.contains(&device),
        "{reason}"
    );
}
