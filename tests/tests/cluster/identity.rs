//! The pod runtime's records determine which device belongs to which pod, from the
//! first packet on, whatever the pod does to its own network namespace.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ringfence_tests::agent::{Manifest, Shop, TCP, UDP};
use ringfence_tests::testnet::{Ns, Probe, probe_tcp, probe_udp};
use serde_json::{Value, json};

use crate::{Cluster, PATIENCE};

/// Returns the late pod, which may call the server.
fn late() -> Manifest {
    Manifest::pod("late", Shop::NODE, 13).label("egress.ringfence.dev/server", "8080_udp-5353")
}

impl Cluster {
    /// Creates the late pod's network namespace and interface, as a network plugin does.
    fn attach_late(&mut self) {
        let addresses = [late().v4().into(), late().v6().into()];
        self.shop.net.add_pod("late", &addresses).unwrap();
        self.shop.serve("late").unwrap();
    }

    /// Waits until the status lists these devices of unknown pods, each closed or not.
    fn until_unknown(&self, expected: &[(Option<&str>, bool)]) {
        let expected: Value = expected
            .iter()
            .map(|(pod, closed)| json!([pod, closed]))
            .collect();
        self.until("devices of unknown pods", |status| {
            let all = status["unknown"].as_array().unwrap().iter();
            let all: Value = all.map(|one| json!([one["pod"], one["closed"]])).collect();
            all == expected
        });
    }

    /// Waits until all calls get through: a neighbour that didn't answer at first may
    /// be regarded as unreachable for a while.
    fn until_open(&self, from: &str, to: &str) {
        let start = Instant::now();
        while !self.shop.calls(from, to, true).unwrap_or(false) {
            let status = self.status();
            assert!(start.elapsed() < PATIENCE, "{from} to {to}: {status:#}");
        }
    }

    /// Reports whether any call to the server gets through.
    fn reaches_server(&self, ns: &Ns) -> bool {
        [true, false].into_iter().any(|v4| {
            let server = self.shop.address("server", v4, TCP).unwrap();
            let patience = Duration::from_millis(250);
            probe_tcp(ns, server.ip(), TCP, patience).unwrap() == Probe::Open
                || probe_udp(ns, server.ip(), UDP, patience).unwrap() == Probe::Open
        })
    }

    /// Fails if any call between the late pod and another one gets through.
    fn late_is_closed(&self, when: &str) {
        for (from, to) in [("late", "server"), ("late", "rogue"), ("rogue", "late")] {
            let seen = self.shop.calls(from, to, false).unwrap();
            assert!(!seen, "{when}: {from} reaches {to}");
        }
    }

    fn endpoint(&self, pod: &str) -> Value {
        let all = self.shop.agent.json(&["endpoints"]).unwrap();
        let mut all = all.as_array().unwrap().iter();
        let found = all.find(|one| one["pod"] == pod);
        found.unwrap_or_else(|| panic!("no {pod}")).clone()
    }

    fn restart(&mut self) {
        self.shop.agent.kill(&mut self.shop.net).unwrap();
        let pods = ["shop/server", "shop/client", "shop/rogue"];
        self.shop.agent.start(&mut self.shop.net, &pods).unwrap();
    }
}

/// Returns the pod as the API server shows it before its kubelet has reported an address.
fn pending(pod: &Manifest) -> Value {
    let mut object: Value = serde_yaml_ng::from_str(&pod.yaml()).unwrap();
    object["status"] = json!({"phase": "Pending"});
    object
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_new_device_is_closed_until_its_pod_is_known_and_open_before_its_address_is_shown() {
    let mut cluster = Cluster::start();
    cluster.attach_late();
    cluster.until_unknown(&[(None, true)]);
    cluster.late_is_closed("without a record");
    let drops = cluster.shop.agent.drops().unwrap();
    let reasons: Vec<&String> = drops.keys().map(|key| &key[3]).collect();
    assert!(
        reasons.contains(&&"unknown_endpoint".to_owned()),
        "{drops:?}"
    );
    // The pod is on record, and unknown to the API server.
    cluster.shop.record(&late()).unwrap();
    cluster.until_unknown(&[(Some("shop/late"), true)]);
    cluster.late_is_closed("without a Pod object");
    cluster.server.apply_value(pending(&late())).unwrap();
    cluster.shop.agent.wait_for("shop/late").unwrap();
    cluster.until_open("late", "server");
    cluster.until_open("rogue", "late");
    cluster.until_unknown(&[]);
    assert_eq!(cluster.endpoint("shop/late")["found_by"], "cni_cache");
    // Its status shows the same address, so nothing changes.
    cluster.server.apply(&late().yaml()).unwrap();
    cluster.shop.agent.pass().unwrap();
    assert!(cluster.shop.calls("late", "server", true).unwrap());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn devices_of_unknown_pods_pass_only_where_that_is_asked_for() {
    let mut cluster = Cluster::open();
    cluster
        .shop
        .agent
        .flags
        .push("--unknown-exempt=shop,other".into());
    cluster.shop.start().unwrap();
    cluster.attach_late();
    cluster.until_unknown(&[(None, true)]);
    cluster.late_is_closed("without a record of its namespace");
    cluster.shop.record(&late()).unwrap();
    cluster.until_unknown(&[(Some("shop/late"), false)]);
    cluster.until_open("late", "rogue");
    // The other pods' policy still applies to it.
    assert!(!cluster.shop.calls("late", "server", false).unwrap());
    let shown = cluster.shop.agent.run(&["status"]).unwrap().stdout;
    assert!(
        shown.contains("open: shop/late, which the API server"),
        "{shown}"
    );
    cluster.server.apply(&late().yaml()).unwrap();
    cluster.shop.agent.wait_for("shop/late").unwrap();
    cluster.until_open("late", "server");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn in_audit_an_unknown_pods_packets_pass_and_what_would_be_dropped_is_counted() {
    let mut cluster = Cluster::open();
    cluster.shop.agent.flags.push("--mode=audit".into());
    cluster.shop.start().unwrap();
    cluster.attach_late();
    cluster.until_unknown(&[(None, true)]);
    cluster.until_open("late", "rogue");
    let rows = cluster.shop.agent.json(&["drops"]).unwrap();
    let of_late = |row: &&Value| row["reason"] == "unknown_endpoint";
    let rows: Vec<&Value> = rows.as_array().unwrap().iter().filter(of_late).collect();
    assert!(!rows.is_empty(), "nothing is counted");
    assert!(rows.iter().all(|row| row["audited"] == true), "{rows:?}");
}

/// Makes changes that the pod can make to its own interface, as root of its network namespace.
fn trick(cluster: &Cluster, name: &str) {
    let rogue = cluster.shop.ns("rogue").unwrap();
    let client = cluster.shop.net.pod("client").unwrap();
    let addresses: Vec<String> = client.addresses().map(|ip| ip.to_string()).collect();
    let lengths = [32, 128];
    let each = || addresses.iter().zip(lengths);
    let take = |device: &str| {
        each()
            .map(|(ip, length)| format!("addr add {ip}/{length} dev {device}\n"))
            .collect::<String>()
    };
    match name {
        "the client's addresses beside its own" => rogue.ip(&take("eth0")).unwrap(),
        "the client's addresses alone" => {
            rogue.ip("addr flush dev eth0\n").unwrap();
            rogue.ip(&take("eth0")).unwrap();
        }
        "all addresses on lo" => {
            rogue.ip("addr flush dev eth0\nlink set lo up\n").unwrap();
            rogue.ip(&take("lo")).unwrap();
        }
        "a thousand addresses" => {
            let many = (0..1000_u32)
                .map(|n| format!("addr add 10.9.{}.{}/32 dev eth0\n", n / 250, n % 250 + 1));
            rogue.ip(&many.collect::<String>()).unwrap();
        }
        "the client's MAC" => {
            let [a, b, c, d, e, f] = client.mac;
            let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
            rogue.ip("link set eth0 down\n").unwrap();
            rogue
                .ip(&format!("link set eth0 address {mac}\nlink set eth0 up\n"))
                .unwrap();
        }
        "a name that isn't UTF-8" => {
            rogue.ip("link set eth0 down\n").unwrap();
            let name = OsStr::from_bytes(b"\xff\xfe");
            for args in [["eth0", "name"].map(OsStr::new), [name, OsStr::new("up")]] {
                let mut ip = rogue.command("ip");
                ip.args(["link", "set"]).args(args);
                let ip = if args[1] == "name" {
                    ip.arg(name)
                } else {
                    &mut ip
                };
                assert!(ip.status().unwrap().success());
            }
        }
        "nothing new" => {}
        other => panic!("{other}"),
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_pod_takes_anothers_place_or_hides_by_what_it_does_inside_its_namespace() {
    let mut cluster = Cluster::start();
    let devices: Vec<Value> = ["client", "rogue"]
        .map(|pod| cluster.endpoint(&format!("shop/{pod}"))["interface"].take())
        .into();
    // Each on top of the last; then the accumulated result.
    let tricks = [
        "the client's addresses beside its own",
        "a thousand addresses",
        "the client's addresses alone",
        "the client's MAC",
        "all addresses on lo",
        "a name that isn't UTF-8",
    ];
    for name in tricks.into_iter().chain(["nothing new"; 4]) {
        trick(&cluster, name);
        cluster.restart();
        for (pod, device) in ["client", "rogue"].iter().zip(&devices) {
            let now = cluster.endpoint(&format!("shop/{pod}"));
            assert_eq!(now["interface"], *device, "{name}: {now}");
            assert_eq!(now["found_by"], "cni_cache", "{name}");
            assert_eq!(now["attached"], true, "{name}");
        }
        let rogue = cluster.shop.ns("rogue").unwrap();
        assert!(!cluster.reaches_server(rogue), "{name}");
        assert!(
            cluster.shop.calls("client", "server", true).unwrap(),
            "{name}"
        );
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_that_moves_its_interface_away_stays_itself() {
    let mut cluster = Cluster::start();
    let before = cluster.endpoint("shop/rogue");
    let rogue = cluster.shop.ns("rogue").unwrap().clone();
    // Into a namespace that only this process keeps alive, with the client's address.
    let mut keeper = rogue.command("unshare");
    let keeper = keeper.args(["--net", "sleep", "60"]);
    let pid = cluster.shop.net.spawn(keeper).unwrap();
    let client = cluster.shop.net.pod("client").unwrap();
    let (v4, v6) = (client.v4.unwrap(), client.v6.unwrap());
    sleep(Duration::from_millis(300));
    rogue.ip(&format!("link set eth0 netns {pid}\n")).unwrap();
    let inner = Ns::open(format!("/proc/{pid}/ns/net"));
    inner
        .ip(&format!(
            "link set eth0 up\naddr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\n\
             route add default via 169.254.1.1 dev eth0 onlink\n\
             route add default via fe80::1 dev eth0 onlink\n"
        ))
        .unwrap();
    for _ in 0..2 {
        cluster.restart();
        let now = cluster.endpoint("shop/rogue");
        assert_eq!(
            (&now["interface"], &now["attached"]),
            (&before["interface"], &json!(true))
        );
        assert!(!cluster.reaches_server(&inner));
    }
    assert!(cluster.shop.calls("client", "server", true).unwrap());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn of_two_pods_with_one_address_the_one_that_runs_here_is_judged_as_itself() {
    let mut cluster = Cluster::open();
    // A pod left behind by a lost node: older, first by its UID, and still running.
    let mut lost: Value = serde_yaml_ng::from_str(&Shop::rogue().yaml()).unwrap();
    lost["metadata"]["name"] = json!("lost");
    lost["metadata"]["uid"] = json!("a-uid");
    lost["metadata"]["labels"] = json!({"app": "lost", "ringfence.dev/ingress": "enforce"});
    for node in ["node-9", Shop::NODE] {
        lost["spec"]["nodeName"] = json!(node);
        cluster.server.apply_value(lost.clone()).unwrap();
        match cluster.shop.agent.json(&["status"]) {
            Err(_) => cluster.shop.start().unwrap(),
            Ok(_) => cluster.shop.agent.pass().unwrap(),
        }
        let rogue = cluster.endpoint("shop/rogue");
        assert_eq!(
            (&rogue["attached"], &rogue["ingress"]),
            (&json!(true), &json!("open"))
        );
        assert_eq!(rogue["workload"], "shop/rogue");
        assert!(
            cluster.shop.calls("client", "rogue", true).unwrap(),
            "{node}"
        );
        assert!(
            !cluster.shop.calls("rogue", "server", false).unwrap(),
            "{node}"
        );
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn while_the_runtime_is_silent_bindings_stay_also_over_a_restart() {
    let mut cluster = Cluster::start();
    let folder = cluster.shop.net.cni_cache();
    let away = folder.with_extension("away");
    fs::rename(&folder, &away).unwrap();
    cluster.until("the folder is missed", |status| {
        let skipped = status["skipped"].as_array().unwrap();
        skipped
            .iter()
            .any(|one| one.as_str().is_some_and(|one| one.contains("--cni-cache")))
    });
    cluster.shop.is_guarded("without records").unwrap();
    cluster.restart();
    cluster
        .shop
        .is_guarded("after a restart without records")
        .unwrap();
    assert_eq!(cluster.endpoint("shop/rogue")["found_by"], "pin");
    cluster.attach_late();
    cluster.server.apply(&late().yaml()).unwrap();
    cluster.until_unknown(&[(None, true)]);
    cluster.late_is_closed("without records");
    fs::rename(&away, &folder).unwrap();
    cluster.shop.record(&late()).unwrap();
    cluster.until_open("late", "server");
    assert_eq!(cluster.endpoint("shop/rogue")["found_by"], "cni_cache");
}
