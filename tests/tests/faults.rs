//! The agent on a misconfigured machine, or with faulty manifests.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use ringfence_ebpf::abi::ABI_VERSION;
use ringfence_tests::agent::{Ended, Exchange, Shop, TCP, Talk, UDP, end_of};
use ringfence_tests::testnet::{Ns, Probe, probe_tcp};

/// The longest an agent may take to give up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Without an answer for this long, the packet is lost.
const LOST: Duration = Duration::from_secs(2);
/// The uid and gid of `nobody`.
const NOBODY: &str = "65534";

/// Asserts that the agent gave up with this code and one line that contains all of `words`.
fn gave_up(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, code, "{ended:?}");
    assert_eq!(ended.stderr.trim().lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.starts_with("ringfence: "), "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{word} isn't in {ended:?}");
    }
}

/// Asserts that nothing was attached or pinned, and that no socket is left.
fn nothing_happened(shop: &Shop) {
    assert!(shop.calls("rogue", "server", true).unwrap(), "closed");
    assert!(!shop.agent.pin_dir.exists(), "pins");
    assert!(!shop.agent.socket.exists(), "a socket");
}

/// Returns a copy of the binary that every user may run, in a folder of its own.
fn public_binary(shop: &Shop) -> PathBuf {
    let copy = shop.net.dir().join("ringfence");
    fs::copy(&shop.agent.binary, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_privilege_one_line_names_the_missing_capabilities() {
    let shop = Shop::open().unwrap();
    let binary = public_binary(&shop);
    let who: [&[&str]; 2] = [
        &["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"],
        // Root without capabilities, as in a container.
        &["--bounding-set=-all"],
    ];
    for flags in who {
        let mut command = shop.net.node().command("setpriv");
        command.args(flags).arg("--").arg(&binary);
        shop.agent.arguments(&mut command);
        let ended = end_of(&mut command, PATIENCE).unwrap();
        let words = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "run as root"];
        gave_up(&ended, 3, &words);
        nothing_happened(&shop);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pin_dir_off_a_bpf_filesystem_is_named_with_the_remedy() {
    let mut shop = Shop::open().unwrap();
    shop.agent.pin_dir = shop.net.dir().join("pins");
    let pins = shop.agent.pin_dir.to_string_lossy().into_owned();
    gave_up(
        &shop.agent.refused().unwrap(),
        3,
        &[&pins, "mount -t bpf", "--pin-dir"],
    );
    nothing_happened(&shop);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_metrics_address_that_is_taken_is_named() {
    let mut shop = Shop::open().unwrap();
    shop.agent.metrics_port = 9999;
    let taken = || TcpListener::bind("127.0.0.1:9999");
    let _listener = shop.net.node().run(taken).unwrap().unwrap();
    gave_up(&shop.agent.refused().unwrap(), 3, &["127.0.0.1:9999"]);
    nothing_happened(&shop);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn bad_yaml_at_start_is_refused_before_anything_is_attached() {
    let shop = Shop::open().unwrap();
    let policy = |cidr: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: fine }}\n---\n\
             apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{ name: narrow, namespace: shop }}\n\
             spec:\n  podSelector: {{}}\n  ingress:\n    - from:\n        \
             - ipBlock: {{ cidr: {cidr} }}\n"
        )
    };
    shop.write("policy", &policy("10.0.0.0/33")).unwrap();
    let words = [
        "policy.yaml: document 2: NetworkPolicy shop/narrow: ",
        "spec.ingress[0].from[0].ipBlock.cidr",
    ];
    gave_up(&shop.agent.refused().unwrap(), 2, &words);
    nothing_happened(&shop);

    shop.write("policy", "kind: [NetworkPolicy\n").unwrap();
    gave_up(
        &shop.agent.refused().unwrap(),
        2,
        &["policy.yaml: document 1: "],
    );
    nothing_happened(&shop);

    fs::remove_dir_all(&shop.manifests).unwrap();
    let folder = shop.manifests.to_string_lossy().into_owned();
    gave_up(&shop.agent.refused().unwrap(), 2, &[&folder]);
    nothing_happened(&shop);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_interface_that_vanishes_disturbs_no_other_and_is_guarded_when_it_comes_back() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    let addresses: Vec<_> = shop.net.pod("server").unwrap().addresses().collect();
    let pins = |shop: &Shop| -> Vec<PathBuf> {
        let links = shop.agent.pin_dir.join(format!("v{ABI_VERSION}/links"));
        let entries = fs::read_dir(links).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let of_a_pod = |path: &PathBuf| path.to_string_lossy().ends_with("_pod");
        paths.filter(of_a_pod).collect()
    };
    assert_eq!(pins(&shop).len(), 6);

    shop.end_servers();
    shop.net.remove_pod("server").unwrap();
    shop.agent.pass().unwrap();
    let status = shop.agent.json(&["status"]).unwrap();
    assert!(status["error"].is_null(), "{status:#}");
    assert_eq!(status["endpoints"], 2, "{status:#}");
    assert_eq!(status["unguarded"][0]["pod"], "shop/server", "{status:#}");
    assert_eq!(pins(&shop).len(), 4, "a link of a vanished interface stays");

    shop.net.add_pod("server", &addresses).unwrap();
    for pod in ["server", "client", "rogue"] {
        shop.agent.wait_for(&format!("shop/{pod}")).unwrap();
    }
    shop.serve("server").unwrap();
    shop.is_guarded("with a new interface").unwrap();

    // An interface that is replaced while no agent runs.
    shop.agent.kill(&mut shop.net).unwrap();
    shop.end_servers();
    shop.net.remove_pod("server").unwrap();
    shop.net.add_pod("server", &addresses).unwrap();
    shop.start().unwrap();
    assert_eq!(pins(&shop).len(), 6);
    shop.serve("server").unwrap();
    shop.is_guarded("with yet another interface").unwrap();
}

/// A mount over a path; it is removed when the value is dropped.
struct Covered(PathBuf);

impl Covered {
    fn new(path: &Path) -> Self {
        let flags = MsFlags::MS_BIND;
        mount(Some("/dev/null"), path, None::<&str>, flags, None::<&str>).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for Covered {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_namespace_that_cannot_be_entered_for_a_moment_closes_and_opens_nobody() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    let covered = Covered::new(shop.ns("server").unwrap().path());
    // No event reports a mount: only the agent's next pass finds it.
    shop.agent.pass().unwrap();
    let status = shop.agent.json(&["status"]).unwrap();
    assert!(status["skipped"][0].as_str().unwrap().contains("server"));
    assert_eq!(status["endpoints"], 3, "{status:#}");
    shop.is_guarded("covered").unwrap();

    // The same holds for an agent that has never seen the namespace.
    shop.agent.kill(&mut shop.net).unwrap();
    shop.agent.start(&mut shop.net, &["shop/client"]).unwrap();
    shop.agent.pass().unwrap();
    shop.is_guarded("covered, with a new agent").unwrap();

    // Policy that changes meanwhile also applies to the covered pod.
    shop.write("client", &Shop::stranger().yaml()).unwrap();
    shop.agent.wait_for("shop/client").unwrap();
    assert!(!shop.calls("client", "server", false).unwrap());
    shop.write("client", &Shop::client().yaml()).unwrap();
    drop(covered);
    shop.agent.wait_for("shop/server").unwrap();
    let status = shop.agent.json(&["status"]).unwrap();
    assert_eq!(status["skipped"].as_array().map(Vec::len), Some(0));
    shop.is_guarded("uncovered").unwrap();
}

/// Checks new calls while the pods' namespaces are temporarily in another folder.
fn new_calls_stay(netns: &Path, to: SocketAddr, when: &str) {
    let call = |from, time| {
        let ns = Ns::open(netns.join(from));
        probe_tcp(&ns, to.ip(), to.port(), time).unwrap()
    };
    assert_eq!(call("client", LOST), Probe::Open, "{when}: the client");
    assert_eq!(
        call("rogue", LOST / 8),
        Probe::TimedOut,
        "{when}: the rogue"
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_netns_dir_that_cannot_be_read_for_a_moment_closes_and_opens_nobody() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    let client = shop.ns("client").unwrap().clone();
    let [tcp, udp] = [TCP, UDP].map(|port| shop.address("server", true, port).unwrap());
    let mut talk = Talk::open(&client, tcp).unwrap();
    let mut exchange = Exchange::open(&client, udp).unwrap();
    let dir = shop.agent.netns_dir.clone();
    let away = dir.with_file_name("netns-away");
    let mut stays = |when: &str| {
        assert!(talk.echo(LOST).unwrap(), "{when}: an open stream");
        assert!(exchange.echo(LOST).unwrap(), "{when}: an open exchange");
        new_calls_stay(&away, tcp, when);
    };

    fs::rename(&dir, &away).unwrap();
    shop.agent.pass().unwrap();
    stays("gone");
    fs::write(&dir, "").unwrap();
    shop.agent.pass().unwrap();
    let status = shop.agent.json(&["status"]).unwrap();
    let error = status["error"].as_str().unwrap();
    assert!(error.contains(&*dir.to_string_lossy()), "{error}");
    stays("a file");

    fs::remove_file(&dir).unwrap();
    fs::rename(&away, &dir).unwrap();
    shop.agent.wait_for("shop/server").unwrap();
    let status = shop.agent.json(&["status"]).unwrap();
    assert!(status["error"].is_null(), "{status:#}");
    shop.is_guarded("back").unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_object_that_vanishes_closes_an_interface_that_stays() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    // Not isolated as long as it is known.
    assert!(shop.calls("client", "rogue", true).unwrap());
    shop.remove("rogue").unwrap();
    shop.agent.wait_for("shop/server").unwrap();
    let closed = |shop: &Shop, when: &str| {
        for (from, to) in [("node", "rogue"), ("client", "rogue"), ("rogue", "client")] {
            let expected = from == "node";
            let seen = shop.calls(from, to, expected).unwrap();
            assert_eq!(seen, expected, "{when}: {from} to {to}");
        }
        shop.is_guarded(when).unwrap();
    };
    closed(&shop, "its object gone");
    let rows = shop.agent.json(&["endpoints"]).unwrap();
    let mut rows = rows.as_array().unwrap().iter();
    assert!(rows.any(|row| row["ingress"] == "closed" && row["egress"] == "closed"));

    shop.agent.kill(&mut shop.net).unwrap();
    shop.agent
        .start(&mut shop.net, &["shop/server", "shop/client"])
        .unwrap();
    closed(&shop, "its object gone, with a new agent");

    shop.write("rogue", &Shop::rogue().yaml()).unwrap();
    shop.agent.wait_for("shop/rogue").unwrap();
    for (from, to) in [("client", "rogue"), ("rogue", "client")] {
        assert!(shop.calls(from, to, true).unwrap(), "{from} to {to}");
    }
    shop.is_guarded("its object back").unwrap();
}
