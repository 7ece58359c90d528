use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use std::fs;

use super::*;

/// Returns a result as containerd 1.7 has libcni write it after the plugins `ptp` and `portmap`.
fn ptp() -> Value {
    json!({
        "kind": "cniCacheV1",
        "containerId": "c1",
        "config": "eyJjbmlWZXJzaW9uIjoiMS4wLjAifQ==",
        "ifName": "eth0",
        "networkName": "pods",
        "cniArgs": [
            ["IgnoreUnknown", "1"],
            ["K8S_POD_NAMESPACE", "shop"],
            ["K8S_POD_NAME", "web-0"],
            ["K8S_POD_INFRA_CONTAINER_ID", "c1"],
            ["K8S_POD_UID", "u1"]
        ],
        "capabilityArgs": {"portMappings": []},
        "result": {
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "veth1a2b3c4d", "mac": "02:00:00:00:00:01"},
                {"name": "eth0", "mac": "0e:00:00:00:00:02", "sandbox": "/var/run/netns/cni-1"}
            ],
            "ips": [
                {"interface": 1, "address": "10.22.0.5/24", "gateway": "10.22.0.1"},
                {"interface": 1, "address": "fd00::5/64"}
            ],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dns": {}
        }
    })
}

struct Folder {
    dir: TempDir,
    cache: Cache,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned());
        Self { dir, cache }
    }

    fn write(&self, name: &str, value: &Value) {
        fs::write(self.dir.path().join(name), value.to_string()).unwrap();
    }

    fn sandboxes(&mut self) -> Vec<Sandbox> {
        let results = self.cache.look().unwrap();
        assert_eq!(results.faults, Vec::<String>::new());
        results.sandboxes
    }
}

#[test]
fn a_result_tells_whose_device_and_addresses_it_was_made_for() {
    let mut folder = Folder::new();
    folder.write("pods-c1-eth0", &ptp());
    let [sandbox] = folder.sandboxes().try_into().unwrap();
    assert_eq!(
        (&*sandbox.namespace, &*sandbox.name, sandbox.uid.as_deref()),
        ("shop", "web-0", Some("u1"))
    );
    assert_eq!(sandbox.netns, Some("/var/run/netns/cni-1".into()));
    assert_eq!(sandbox.devices, ["veth1a2b3c4d"]);
    assert_eq!(sandbox.mac, Some([0x0e, 0, 0, 0, 0, 2]));
    let addresses: Vec<String> = sandbox.addresses.iter().map(IpAddr::to_string).collect();
    assert_eq!(addresses, ["10.22.0.5", "fd00::5"]);
}

#[test]
fn loopback_devices_and_containers_that_are_no_pods_say_nothing() {
    let mut folder = Folder::new();
    let mut loopback = ptp();
    loopback["ifName"] = json!("lo");
    let mut other = ptp();
    other["cniArgs"] = Value::Null;
    folder.write("cni-loopback-c1-lo", &loopback);
    folder.write("podman-c2-eth0", &other);
    assert_eq!(folder.sandboxes(), []);
}

#[test]
fn further_interfaces_of_a_pod_are_told_apart_from_its_first() {
    let mut folder = Folder::new();
    let mut second = ptp();
    second["ifName"] = json!("net1");
    second["result"]["interfaces"] = json!([{"name": "veth-net1"}]);
    folder.write("a-c1-net1", &second);
    folder.write("pods-c1-eth0", &ptp());
    let [sandbox] = folder.sandboxes().try_into().unwrap();
    assert_eq!(sandbox.devices, ["veth1a2b3c4d"]);
    assert_eq!(sandbox.others, ["veth-net1"]);
}

#[test]
fn a_file_that_cant_be_used_is_named_and_hides_no_other() {
    let mut folder = Folder::new();
    folder.write("pods-c1-eth0", &ptp());
    fs::write(folder.dir.path().join("broken"), "{").unwrap();
    let mut old = ptp();
    old["kind"] = json!("cniCacheV9");
    folder.write("odd", &old);
    let results = folder.cache.look().unwrap();
    assert_eq!(results.sandboxes.len(), 1);
    assert!(results.faults[0].starts_with("broken: "), "{results:?}");
    assert!(results.faults[1].contains("cniCacheV9"), "{results:?}");
    // Half of the file existed before; now it is complete.
    let mut other = ptp();
    other["containerId"] = json!("c2");
    folder.write("broken", &other);
    fs::remove_file(folder.dir.path().join("odd")).unwrap();
    assert_eq!(folder.sandboxes().len(), 2);
}

#[test]
fn what_goes_is_forgotten_and_what_is_written_over_is_read_again() {
    let mut folder = Folder::new();
    folder.write("pods-c1-eth0", &ptp());
    assert_eq!(folder.sandboxes().len(), 1);
    let mut moved = ptp();
    moved["result"]["ips"] = json!([{"address": "10.22.0.77/24"}]);
    std::thread::sleep(Duration::from_millis(20));
    folder.write("pods-c1-eth0", &moved);
    let [sandbox] = folder.sandboxes().try_into().unwrap();
    assert_eq!(sandbox.addresses.len(), 1);
    fs::remove_file(folder.dir.path().join("pods-c1-eth0")).unwrap();
    assert_eq!(folder.sandboxes(), []);
    fs::remove_dir(folder.dir.path()).unwrap();
    assert_eq!(folder.sandboxes(), []);
}

#[test]
fn results_without_devices_still_have_names_and_addresses() {
    let mut folder = Folder::new();
    let mut bare = ptp();
    bare["netns"] = json!("/run/netns/cni-2");
    bare["result"]["interfaces"] = Value::Null;
    folder.write("pods-c1-eth0", &bare);
    let [sandbox] = folder.sandboxes().try_into().unwrap();
    assert_eq!(sandbox.netns, Some("/run/netns/cni-2".into()));
    assert_eq!((sandbox.devices.len(), sandbox.mac), (0, None));
    assert_eq!(sandbox.addresses.len(), 2);
}
