//! The agent keeps the network plugin in the chain of a real runtime while another
//! process rewrites the list all the time, and `ringfence uninstall` leaves only the binary.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::maps::{MapInfo, loaded_maps};
use serde_json::Value;

use crate::node::{Node, PATIENCE, until_open};
use crate::plugin::state;

/// How often the list is rewritten.
const REWRITES: u32 = 100;
/// The agent restores the entry at least every ten seconds.
const PUT_BACK: Duration = Duration::from_secs(15);

/// Returns a node whose agent keeps the plugin installed; the agent hasn't started.
fn node() -> Node {
    let mut node = Node::start(|containerd| {
        let folder = containerd.folder();
        vec![
            format!("--cni-conf-dir={}", folder.join("net.d").display()),
            format!("--cni-bin-dir={}", folder.join("bin").display()),
        ]
    });
    let state = format!("--cni-state={}", state(&node).display());
    node.shop.agent.flags.push(state);
    node
}

fn list(node: &Node) -> PathBuf {
    node.containerd.folder().join("net.d/10-pods.conflist")
}

fn installed(node: &Node) -> Value {
    node.shop.agent.json(&["status"]).unwrap()["plugin"].clone()
}

fn until_installed(node: &Node) -> Value {
    let start = Instant::now();
    loop {
        let status = installed(node);
        let text = fs::read_to_string(list(node)).unwrap();
        if !status["way"].is_null() && text.contains("ringfence-cni") {
            assert_eq!(status["error"], Value::Null, "{status}");
            return status;
        }
        assert!(start.elapsed() < PUT_BACK, "{status}: {text}");
        sleep(Duration::from_millis(20));
    }
}

/// Starts a pod, waits until it is found and removes it.
fn comes_and_goes(node: &mut Node, name: &str) -> Value {
    node.schedule(name, true);
    let sandbox = node.run(name).unwrap();
    node.shop.agent.wait_for(&format!("shop/{name}")).unwrap();
    let row = node.row(&format!("shop/{name}"));
    node.containerd.remove(&sandbox).unwrap();
    node.server.delete("pods", "shop", name).unwrap();
    row["found_by"].clone()
}

/// Starts a process that rewrites the list without other entries, as its owner would.
fn rewriter(list: &Path) -> Child {
    let owned = list.with_file_name("owned");
    fs::copy(list, &owned).unwrap();
    let script = format!(
        "for n in $(seq {REWRITES}); do cp {owned} {new} && mv {new} {list}; sleep 0.1; done; rm {owned}",
        owned = owned.display(),
        new = list.with_file_name("new").display(),
        list = list.display(),
    );
    let mut shell = Command::new("sh");
    shell.args(["-ec", &script]).stdin(Stdio::null());
    shell.spawn().unwrap()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn pods_start_while_somebody_rewrites_the_list_and_the_plugin_is_in_it_at_the_end() {
    let mut node = node();
    let network = list(&node);
    // A copy of the list as its owner wrote it.
    let before = fs::read_to_string(&network).unwrap();
    let mut rewriter = rewriter(&network);
    node.shop.start().unwrap();
    let (mut pods, mut told) = (0, BTreeMap::<String, u32>::new());
    let ended = loop {
        let by = comes_and_goes(&mut node, &format!("pod-{pods}"));
        *told.entry(by.to_string()).or_default() += 1;
        pods += 1;
        if let Some(ended) = rewriter.try_wait().unwrap() {
            break ended;
        }
    };
    assert!(ended.success());
    assert!(pods > 3, "only {pods} pods meanwhile");
    let status = until_installed(&node);
    let rewrites = status["rewrites"].as_u64().unwrap();
    assert!((1..=u64::from(REWRITES)).contains(&rewrites), "{status}");
    // This runtime's libcni doesn't read drop-ins.
    assert_eq!(status["way"], "both", "{status}");
    let text = fs::read_to_string(&network).unwrap();
    let (head, tail) = text.split_once(",{\"type\":\"ringfence-cni\"").unwrap();
    let tail = tail.split_once('}').unwrap().1;
    assert_eq!(format!("{head}{tail}"), before, "what its owner wrote");
    let page = node.shop.agent.metrics().unwrap();
    let line = format!("ringfence_cni_config_rewrites_total {rewrites}");
    assert!(page.lines().any(|one| one == line), "{page}");
    // The runtime has read the list by now.
    let start = Instant::now();
    let mut n = 0;
    while comes_and_goes(&mut node, &format!("late-{n}")) != "cni_plugin" {
        assert!(start.elapsed() < PATIENCE, "the plugin isn't called");
        n += 1;
    }
    println!("{pods} pods, found by {told:?}; put back {rewrites} times");
}

/// Returns every file below the folders in which Ringfence may leave files.
fn files(node: &Node) -> BTreeMap<PathBuf, String> {
    fn walk(path: &Path, all: &mut BTreeMap<PathBuf, String>) {
        let Ok(meta) = fs::symlink_metadata(path) else {
            return;
        };
        if meta.is_dir() {
            all.insert(path.to_owned(), "folder".to_owned());
            for entry in fs::read_dir(path).unwrap() {
                walk(&entry.unwrap().path(), all);
            }
        } else {
            let kind = meta.file_type();
            let text = if kind.is_socket() {
                None
            } else {
                fs::read(path).ok()
            };
            let text = text.map(|text| String::from_utf8_lossy(&text).into_owned());
            all.insert(path.to_owned(), text.unwrap_or_default());
        }
    }
    let folder = node.containerd.folder();
    let agent = &node.shop.agent;
    let mut all = BTreeMap::new();
    for path in [
        folder.join("net.d"),
        folder.join("bin"),
        state(node),
        agent.pin_dir.clone(),
        agent.socket.clone(),
        agent.socket.with_extension("forms"),
    ] {
        walk(&path, &mut all);
    }
    all
}

/// Returns the ids of the maps that are pinned in the agent's folders.
fn maps(pin_dir: &Path) -> Vec<u32> {
    let mut ids = Vec::new();
    for version in fs::read_dir(pin_dir).unwrap() {
        for map in fs::read_dir(version.unwrap().path()).unwrap() {
            let map = map.unwrap();
            if !map.file_type().unwrap().is_dir() {
                ids.push(MapInfo::from_pin(map.path()).unwrap().id());
            }
        }
    }
    ids
}

/// Waits until the kernel has freed all of these maps, and so every program that uses one.
fn until_gone(maps: &[u32]) {
    let start = Instant::now();
    loop {
        let there = loaded_maps().filter_map(Result::ok);
        let left = there.filter(|map| maps.contains(&map.id())).count();
        if left == 0 {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{left} maps are left");
        sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn uninstalling_leaves_the_plugins_binary_alone_and_pods_stop_and_start_afterwards() {
    let mut node = node();
    let mut before = files(&node);
    node.shop.start().unwrap();
    until_installed(&node);
    node.schedule("kept", false);
    let kept = node.run("kept").unwrap();
    node.shop.agent.wait_for("shop/kept").unwrap();
    let pinned = maps(&node.shop.agent.pin_dir);
    assert!(pinned.len() > 5, "{pinned:?}");
    // As after a crash: the socket stays.
    node.shop.agent.kill(&mut node.shop.net).unwrap();
    assert!(node.shop.agent.socket.exists());

    let folder = node.containerd.folder().join("net.d");
    let state = state(&node);
    let flags = [
        format!("--cni-conf-dir={}", folder.display()),
        format!("--cni-state={}", state.display()),
    ];
    let [conf, state] = flags.each_ref().map(String::as_str);
    for _ in 0..2 {
        let removed = node.shop.agent.run_on_node(&["uninstall", conf, state]);
        let removed = removed.unwrap();
        assert_eq!(removed.code, 0, "{removed:?}");
    }
    let mut after = files(&node);
    let binary = node.containerd.folder().join("bin/ringfence-cni");
    assert!(after.remove(&binary).is_some(), "its binary is gone too");
    before.remove(&binary);
    assert_eq!(after, before);
    until_gone(&pinned);

    // A pod started while the plugin was installed, which the runtime still runs for
    // it, ends. Another pod starts, and nothing is closed.
    node.containerd.remove(&kept).unwrap();
    let after = node.run("after").unwrap();
    until_open(&after.ns, &node.shop);
    node.containerd.remove(&after).unwrap();
}
