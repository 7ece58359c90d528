use std::os::unix::fs::MetadataExt as _;

use ringfence_cni::DROP_IN;
use serde_json::Value;
use tempfile::TempDir;

use super::*;

const LIST: &str =
    r#"{"cniVersion":"1.0.0", "name":"pods","x":1.50, "plugins":[ {"type":"ptp"} ]}"#;
const SINGLE: &str = r#"{"cniVersion":"0.3.1","name":"pods","type":"bridge"}"#;

/// A node with the folders that the installer uses.
struct Node {
    dir: TempDir,
    installer: Installer,
    now: Instant,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["net.d", "bin", "state"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("plugin"), "#!/bin/sh\n").unwrap();
        let installer = Installer::new(Self::install(dir.path()));
        Self {
            dir,
            installer,
            now: Instant::now(),
        }
    }

    fn install(dir: &Path) -> Install {
        Install {
            conf_dir: dir.join("net.d"),
            bin_dir: dir.join("bin"),
            plugin: dir.join("plugin"),
            entry: Entry {
                state_dir: dir.join("state"),
                socket: "/run/a.sock".into(),
                timeout_seconds: 5,
                on_timeout: None,
                status_gates_node: false,
            },
        }
    }

    fn restart(&mut self) {
        self.installer = Installer::new(Self::install(self.dir.path()));
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("net.d").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap()
    }

    fn look(&mut self) -> CniStatus {
        self.installer.look(self.now).0
    }

    /// Returns the plugins that a runtime would call, from the first file that it accepts.
    fn chain(&self) -> Vec<String> {
        let (network, _) = choose(read(&self.dir.path().join("net.d")).unwrap());
        let text = match network.unwrap() {
            Network::List(_, text) => text,
            Network::Single(_, text) => list::convert(&text).unwrap(),
        };
        let list: Value = serde_json::from_str(&text).unwrap();
        let plugins = list["plugins"].as_array().unwrap().iter();
        plugins
            .map(|one| one["type"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Returns all files of the configuration folder, with their content.
    fn files(&self) -> Vec<(PathBuf, String)> {
        fn walk(folder: &Path, all: &mut Vec<(PathBuf, String)>) {
            for path in files::list(folder).unwrap() {
                if path.is_dir() {
                    walk(&path, all);
                    all.push((path, String::new()));
                } else {
                    let text = fs::read_to_string(&path).unwrap();
                    all.push((path, text));
                }
            }
        }
        let mut all = Vec::new();
        walk(&self.dir.path().join("net.d"), &mut all);
        all.sort();
        all
    }
}

#[test]
fn nothing_is_written_where_no_network_is_configured() {
    let mut node = Node::new();
    node.write("README", "no network");
    let status = node.look();
    assert_eq!((status.list, status.way, status.error), (None, None, None));
    assert_eq!(node.files().len(), 1);
    node.write("10-pods.conflist", LIST);
    let status = node.look();
    assert_eq!(status.way, Some(Way::Both));
    assert_eq!(node.chain(), ["ptp", "ringfence-cni"]);
    assert!(node.text("pods/ringfence.conf").contains("dropIn"));
}

#[test]
fn once_a_drop_in_was_read_the_list_is_its_owners_alone_until_an_agent_starts() {
    let mut node = Node::new();
    node.write("10-pods.conflist", LIST);
    node.look();
    fs::write(node.dir.path().join("state").join(DROP_IN), "").unwrap();
    let status = node.look();
    assert_eq!((status.way, status.rewrites), (Some(Way::DropIn), 0));
    assert_eq!(node.text("10-pods.conflist"), LIST);
    // A restart may mean another runtime, which reads no drop-ins.
    node.restart();
    assert_eq!(node.look().way, Some(Way::Both));
    assert_eq!(node.chain(), ["ptp", "ringfence-cni"]);
    // A list that tells the runtime to read no drop-ins.
    let only = LIST.replace("\"x\":1.50", "\"loadOnlyInlinedPlugins\":true");
    node.write("10-pods.conflist", &only);
    assert_eq!(node.look().way, Some(Way::List));
    assert!(!node.at("pods").exists());
    assert_eq!(node.chain(), ["ptp", "ringfence-cni"]);
}

#[test]
fn an_entry_that_was_taken_out_is_put_back_and_counted_ever_more_slowly() {
    let mut node = Node::new();
    node.write("10-pods.conflist", LIST);
    assert_eq!(node.look().rewrites, 0);
    node.write("10-pods.conflist", LIST);
    assert_eq!(node.look().rewrites, 1);
    assert_eq!(node.chain(), ["ptp", "ringfence-cni"]);
    node.write("10-pods.conflist", LIST);
    let (status, wait) = node.installer.look(node.now);
    assert!(!status.is_installed() && status.rewrites == 1, "{status:?}");
    node.now += wait.unwrap();
    let status = node.look();
    assert!(status.is_installed() && status.rewrites == 2, "{status:?}");
    // Nothing has changed since.
    let inode = fs::metadata(node.at("10-pods.conflist")).unwrap().ino();
    assert_eq!(node.look(), status);
    assert_eq!(
        fs::metadata(node.at("10-pods.conflist")).unwrap().ino(),
        inode
    );
}

#[test]
fn a_file_with_one_plugin_becomes_a_list_and_comes_back() {
    let mut node = Node::new();
    node.write("10-a.conf", SINGLE);
    node.write("20-b.conflist", LIST);
    let before = node.files();
    let status = node.look();
    assert_eq!(status.list, Some(node.at("10-a.conf-ringfence.conflist")));
    assert_eq!(node.chain(), ["bridge", "ringfence-cni"]);
    assert_eq!(node.look().rewrites, 0);
    // Its owner writes it again: it is the runtime's first file again.
    let newer = SINGLE.replace("bridge", "macvlan");
    node.write("10-a.conf", &newer);
    assert_eq!(node.chain(), ["macvlan"]);
    assert_eq!(node.look().rewrites, 1);
    assert_eq!(node.chain(), ["macvlan", "ringfence-cni"]);
    node.write("10-a.conf.ringfence-saved", SINGLE);
    remove::from(&node.dir.path().join("net.d")).unwrap();
    assert_eq!(node.files(), before);
}

#[test]
fn a_list_that_was_made_of_a_file_stays_where_others_have_added_their_own() {
    let mut node = Node::new();
    node.write("10-a.conf", SINGLE);
    node.look();
    let name = "10-a.conf-ringfence.conflist";
    let text = node.text(name).replacen(
        "{\"type\":\"ringfence-cni\"",
        "{\"type\":\"istio-cni\"},{\"type\":\"ringfence-cni\"",
        1,
    );
    node.write(name, &text);
    remove::from(&node.dir.path().join("net.d")).unwrap();
    assert_eq!(node.chain(), ["bridge", "istio-cni"]);
    assert_eq!(node.files().len(), 1);
}

#[test]
fn without_its_binary_the_plugin_is_not_in_the_chain() {
    let mut node = Node::new();
    node.write("10-pods.conflist", LIST);
    let before = node.files();
    fs::write(node.dir.path().join("plugin"), "#!/bin/sh\nexit 1\n").unwrap();
    let status = node.look();
    assert!(status.error.unwrap().contains("trying"));
    assert_eq!(node.files(), before);
    fs::write(node.dir.path().join("plugin"), "#!/bin/sh\n").unwrap();
    assert!(node.look().is_installed());
    // The binary vanishes and can't be restored: pods start without it.
    fs::remove_file(node.dir.path().join("bin").join(PLUGIN)).unwrap();
    fs::write(node.dir.path().join("plugin"), "#!/bin/sh\nexit 1\n").unwrap();
    assert!(!node.look().is_installed());
    assert_eq!(node.files(), before);
    // An older binary that can't be replaced stays in use.
    fs::write(node.dir.path().join("plugin"), "#!/bin/sh\n").unwrap();
    node.look();
    fs::write(node.dir.path().join("plugin"), "#!/bin/sh\nexit 1\n").unwrap();
    let status = node.look();
    assert_eq!(node.chain(), ["ptp", "ringfence-cni"]);
    assert!(status.way.is_some() && !status.is_installed(), "{status:?}");
}

#[test]
fn files_that_no_runtime_takes_are_left_alone_and_reported() {
    let mut node = Node::new();
    node.write("05-broken.conflist", "{");
    node.write("10-pods.conflist", LIST);
    let status = node.look();
    assert_eq!(node.text("05-broken.conflist"), "{");
    assert!(
        status.faults[0].contains("05-broken.conflist"),
        "{status:?}"
    );
    assert!(status.is_installed());
    // A list with a version that the plugin would refuse, and a drop-in of somebody else's.
    node.write("01-old.conflist", &LIST.replace("1.0.0", "0.2.0"));
    let status = node.look();
    assert!(status.error.unwrap().contains("\"0.2.0\""));
    assert_eq!(node.chain(), ["ptp"]);
    fs::remove_file(node.at("01-old.conflist")).unwrap();
    node.write("pods/ringfence.conf", r#"{"type":"tuning"}"#);
    let status = node.look();
    assert!(status.error.unwrap().contains("pods/ringfence.conf"));
    assert!(node.text("pods/ringfence.conf").contains("tuning"));
}

#[test]
fn after_removal_the_folder_is_as_it_was() {
    let mut node = Node::new();
    node.write("05-broken.conflist", "{");
    node.write("10-pods.conflist", LIST);
    node.write("20-other.conflist", &LIST.replace("pods", "other"));
    fs::create_dir(node.at("other")).unwrap();
    node.write("other/50-own.conf", r#"{"type":"tuning"}"#);
    let before = node.files();
    node.look();
    node.write(".ringfence-new-left", "");
    fs::remove_file(node.at("10-pods.conflist")).unwrap();
    node.look();
    node.write("10-pods.conflist", LIST);
    node.look();
    let done = remove::from(&node.dir.path().join("net.d")).unwrap();
    assert_eq!(done.len(), 3, "{done:?}");
    assert_eq!(node.files(), before);
    assert_eq!(
        remove::from(&node.dir.path().join("net.d")).unwrap(),
        [] as [PathBuf; 0]
    );
    // A file that can't be edited is named, and everything else is done.
    node.write("05-broken.conflist", "{ ringfence-cni");
    node.look();
    let refused = remove::from(&node.dir.path().join("net.d")).unwrap_err();
    assert!(
        refused.to_string().contains("05-broken.conflist"),
        "{refused}"
    );
    assert!(!node.text("10-pods.conflist").contains("ringfence"));
}
