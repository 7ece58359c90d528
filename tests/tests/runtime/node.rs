//! A node with a container runtime, an API server and an agent.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence_tests::agent::{Shop, TCP};
use ringfence_tests::apiserver::ApiServer;
use ringfence_tests::testnet::{Ns, Probe, probe_tcp};
use serde_json::{Value, json};

use crate::containerd::Containerd;

/// The longest until a pod's policy is in force.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The file to which a pod's process first writes its kernel's counters.
pub(crate) const FIRST: &str = "/dev/first";

/// The shop, its API server and a container runtime, all on one node.
pub(crate) struct Node {
    // Dropped before the network that it runs on.
    pub(crate) containerd: Containerd,
    pub(crate) server: Arc<ApiServer>,
    pub(crate) shop: Shop,
}

impl Node {
    /// Starts a node with an agent, whose flags tell it how to reach the runtime.
    pub(crate) fn start(flags: impl Fn(&Containerd) -> Vec<String>) -> Self {
        let mut shop = Shop::open().unwrap();
        let loopback = (Ipv4Addr::LOCALHOST, 0).into();
        let server = shop.on_cluster(loopback).unwrap();
        let target = shop.address("server", true, TCP).unwrap().ip();
        // Runs from the pod's first moment until its end.
        let script = format!(
            "/bin/busybox cat /proc/net/snmp >{FIRST}; while :; do /bin/busybox ping -q -A -w 1 {target} >/dev/null; \
             /bin/busybox nc -w 1 {target} {TCP} </dev/null; done"
        );
        let containerd = Containerd::start(&mut shop.net, &script).unwrap();
        // The shop's own pods have their namespaces elsewhere, and their records in the
        // same place.
        shop.agent.netns_dir = containerd.netns_dir();
        shop.agent.flags = flags(&containerd);
        Self {
            containerd,
            server: Arc::new(server),
            shop,
        }
    }

    /// Creates a pod's object as it is before its kubelet has reported an address.
    pub(crate) fn schedule(&self, name: &str, may_call: bool) {
        let mut labels = json!({"app": name, "ringfence.dev/ingress": "enforce"});
        if may_call {
            labels["egress.ringfence.dev/server"] = json!(TCP.to_string());
        }
        self.schedule_with(name, labels);
    }

    /// Does the same with the given labels.
    pub(crate) fn schedule_with(&self, name: &str, labels: Value) {
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

    pub(crate) fn row(&self, pod: &str) -> Value {
        let all = self.shop.agent.json(&["endpoints"]).unwrap();
        let mut all = all.as_array().unwrap().iter();
        all.find(|row| row["pod"] == pod)
            .cloned()
            .unwrap_or_default()
    }
}

/// Waits until a call gets through. Returns how long that took.
pub(crate) fn until_open(from: &Ns, shop: &Shop) -> Duration {
    let server = shop.address("server", true, TCP).unwrap();
    let start = Instant::now();
    while probe_tcp(from, server.ip(), TCP, Duration::from_millis(50)).unwrap() != Probe::Open {
        if start.elapsed() > PATIENCE {
            let said = shop.agent.run(&["status"]).unwrap().stdout;
            panic!("never open: {said}\n{}", shop.agent.log().unwrap());
        }
    }
    start.elapsed()
}
