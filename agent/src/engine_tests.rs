use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use ringfence_ebpf::abi::Identity;

use super::*;
use crate::discover::{DiscoverError, Discovery};
use crate::node::Listed;
use crate::runtime::FoundBy;
use crate::testing::{FakeDataplane, nowhere, settings, shared};

fn pod(name: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: ns}}\n\
         spec: {{nodeName: n, containers: []{extra}}}\nstatus: {{phase: Running, podIP: 10.0.0.1}}\n"
    )
}

/// Old enough to count as settled.
fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
    sleep(Duration::from_millis(60));
}

struct Bench {
    dir: TempDir,
    kernel: FakeDataplane,
    shared: Shared,
    engine: Engine,
    /// Whether discovery fails.
    broken: Arc<Mutex<bool>>,
    /// How many interfaces the last discovery was told of.
    known: Arc<Mutex<usize>>,
    /// What a look at the node finds.
    around: Arc<Mutex<Surroundings>>,
}

impl Bench {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.yaml", text);
        let kernel = FakeDataplane::default();
        let broken = Arc::new(Mutex::new(false));
        let known = Arc::new(Mutex::new(0));
        let (is_broken, told) = (Arc::clone(&broken), Arc::clone(&known));
        let finder = Box::new(move |wanted: &[Sought], known: &[Interface]| {
            *told.lock().unwrap() = known.len();
            if *is_broken.lock().unwrap() {
                return Err(DiscoverError::Ended);
            }
            let found = |wanted: &Sought| Interface {
                pod: wanted.pod.clone(),
                ifindex: 7,
                name: "veth7".into(),
                mac: [2; 6],
                by: FoundBy::Claim,
            };
            Ok(Discovery {
                interfaces: wanted.iter().map(found).collect(),
                ..Discovery::default()
            })
        });
        let source = Source::manifests(dir.path()).unwrap();
        let around = Arc::new(Mutex::new(nowhere()));
        let look = Arc::clone(&around);
        let look: LookAround = Box::new(move || look.lock().unwrap().clone());
        let engine = Engine::with_finder(&settings(dir.path()), source, finder, look);
        Self {
            shared: shared(&kernel),
            dir,
            kernel,
            engine,
            broken,
            known,
            around,
        }
    }

    fn pass(&mut self) -> Pass {
        self.engine.pass(&self.shared, None, Look::All)
    }

    fn pods(&self) -> Vec<String> {
        let record = self.kernel.0.lock().unwrap();
        record
            .interfaces
            .iter()
            .map(|interface| interface.pod.to_string())
            .collect()
    }
}

#[test]
fn a_pass_puts_the_manifests_in_force_and_the_next_one_their_change() {
    let mut bench = Bench::new(&pod("a", ""));
    assert_eq!(
        bench.pass(),
        Pass {
            unsettled: false,
            waits: false,
            retry: false
        }
    );
    assert_eq!(bench.pods(), ["ns/a"]);
    write(bench.dir.path(), "b.yaml", &pod("b", ""));
    bench.pass();
    assert_eq!(bench.pods(), ["ns/a", "ns/b"]);
    let status = bench.shared.status();
    assert_eq!(
        (status.passes, status.endpoints, status.error),
        (2, 2, None)
    );
    assert_eq!(bench.shared.unhealthy(), None);
}

#[test]
fn a_failed_pass_is_told_and_tried_again() {
    let mut bench = Bench::new(&pod("a", ""));
    assert!(bench.shared.unhealthy().is_some());
    bench.kernel.0.lock().unwrap().fail = Some("map RULES is full".into());
    assert!(bench.pass().retry);
    let status = bench.shared.status();
    assert_eq!(
        (status.apply_errors, status.error.as_deref()),
        (1, Some("map RULES is full"))
    );
    assert_eq!(
        bench.shared.unhealthy().as_deref(),
        Some("map RULES is full")
    );
    // Attached all the same, and named.
    assert_eq!(
        (bench.pods(), status.closed),
        (vec!["ns/a".into()], vec!["ns/a".into()])
    );
    bench.kernel.0.lock().unwrap().fail = None;
    assert!(!bench.pass().retry);
    assert_eq!(bench.shared.unhealthy(), None);
    assert_eq!(bench.pods(), ["ns/a"]);
    assert!(bench.shared.status().closed.is_empty());
}

#[test]
fn policy_does_not_wait_for_discovery() {
    let mut bench = Bench::new(&pod("a", ""));
    bench.pass();
    *bench.broken.lock().unwrap() = true;
    write(bench.dir.path(), "b.yaml", &pod("b", ""));
    assert!(bench.pass().retry);
    assert_eq!(bench.pods(), ["ns/a"]);
    assert_eq!(bench.kernel.0.lock().unwrap().tables.endpoints.len(), 2);
    assert!(bench.shared.status().error.is_some());
}

#[test]
fn a_manifest_that_stops_parsing_shows_in_the_status_and_changes_nothing() {
    let mut bench = Bench::new(&pod("a", ""));
    bench.pass();
    write(bench.dir.path(), "a.yaml", "kind: [");
    assert!(!bench.pass().retry);
    let status = bench.shared.status();
    assert_eq!(
        (status.invalid.len(), status.error, bench.pods()),
        (1, None, vec!["ns/a".into()])
    );
}

#[test]
fn pods_of_the_nodes_own_network_are_listed_and_no_alarm() {
    let mut bench = Bench::new(&pod("a", ", hostNetwork: true"));
    assert!(!bench.pass().retry);
    let status = bench.shared.status();
    assert_eq!(bench.pods(), [""; 0]);
    assert_eq!(status.unguarded, []);
    assert_eq!(status.host_network[0].pod, "ns/a");
    assert!(status.host_network[0].reason.starts_with("host network"));
}

#[test]
fn a_pod_that_cannot_be_attached_is_listed_once_however_often_it_is_tried() {
    let mut bench = Bench::new(&pod("a", ""));
    bench.kernel.0.lock().unwrap().refuse = Some("device is down".into());
    bench.pass();
    *bench.broken.lock().unwrap() = true;
    for _ in 0..3 {
        assert!(bench.pass().retry);
        assert_eq!(bench.shared.status().unguarded.len(), 1);
    }
    let status = bench.shared.status();
    assert!(status.unguarded[0].reason.ends_with("device is down"));
    *bench.broken.lock().unwrap() = false;
    bench.kernel.0.lock().unwrap().refuse = None;
    assert!(!bench.pass().retry);
    assert_eq!(bench.shared.status().unguarded, []);
}

#[test]
fn a_device_that_cannot_have_its_hooks_is_listed_and_tried_again() {
    let mut bench = Bench::new(&pod("a", ""));
    let failed = ("eth0".to_owned(), "no such program".to_owned());
    bench.kernel.0.lock().unwrap().unhooked = vec![failed.clone()];
    assert!(bench.pass().retry);
    let status = bench.shared.status();
    let listed = status.unhooked.into_iter();
    let listed: Vec<_> = listed.map(|one| (one.device, one.reason)).collect();
    assert_eq!((listed, status.devices), (vec![failed], 1));
    bench.kernel.0.lock().unwrap().unhooked = Vec::new();
    assert!(!bench.pass().retry);
    assert_eq!(bench.shared.status().unhooked, []);
}

#[test]
fn a_pod_with_other_addresses_altogether_is_sought_anew() {
    let mut bench = Bench::new(&pod("a", ""));
    bench.pass();
    assert_eq!(*bench.known.lock().unwrap(), 0);
    bench.pass();
    assert_eq!(*bench.known.lock().unwrap(), 1);
    let second = "podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]";
    for (addresses, known) in [(second, 1), ("podIP: 10.0.0.9", 0)] {
        let text = pod("a", "").replace("podIP: 10.0.0.1", addresses);
        write(bench.dir.path(), "a.yaml", &text);
        bench.pass();
        assert_eq!(*bench.known.lock().unwrap(), known, "{addresses}");
    }
}

/// Names and flags of an address in the tables in force.
fn flags(bench: &Bench, address: &str) -> Option<u32> {
    let ip: IpAddr = address.parse().unwrap();
    let record = bench.kernel.0.lock().unwrap();
    let found = record.tables.identities.get(&ip.into());
    found.map(|(_, flags)| *flags)
}

#[test]
fn addresses_of_the_nodes_interfaces_reach_the_tables_and_go_with_them() {
    let own = Some(Identity::IS_NODE | Identity::IS_THIS_NODE);
    let mut bench = Bench::new(&pod("a", ""));
    bench.pass();
    assert_eq!(flags(&bench, "192.0.2.7"), None);
    let found = ["192.0.2.7", "10.0.0.1"].map(|ip| ip.parse().unwrap());
    bench.around.lock().unwrap().addresses.found = found.into();
    // A pass for the source alone looks at no device.
    bench.engine.pass(&bench.shared, None, Look::Source);
    assert_eq!(flags(&bench, "192.0.2.7"), None);
    bench.pass();
    assert_eq!(flags(&bench, "192.0.2.7"), own);
    assert_eq!(flags(&bench, "10.0.0.1"), Some(0), "a pod's stays its own");
    assert_eq!(bench.shared.status().node_addresses, [found[1], found[0]]);
    // While they can't be listed nothing is known to be gone.
    let fault = "netlink GETROUTE: too bad".to_owned();
    bench.around.lock().unwrap().addresses = Listed {
        found: BTreeSet::new(),
        fault: Some(fault.clone()),
    };
    bench.pass();
    assert_eq!(flags(&bench, "192.0.2.7"), own);
    assert_eq!(bench.shared.status().node_faults, [fault]);
    *bench.around.lock().unwrap() = nowhere();
    bench.pass();
    assert_eq!(flags(&bench, "192.0.2.7"), None);
    assert_eq!(bench.shared.status().node_faults, [""; 0]);
}

#[test]
fn before_the_nodes_addresses_are_listed_nothing_is_put_in_force_but_tunnels_are_closed() {
    let mut bench = Bench::new(&pod("a", ""));
    bench.kernel.0.lock().unwrap().tunnels = [6784].into();
    {
        let mut around = bench.around.lock().unwrap();
        around.addresses.fault = Some("netlink socket: too many files".to_owned());
        around.tunnels = Listed {
            found: [8473].into(),
            fault: Some("netlink GETLINK: interrupted".to_owned()),
        };
    }
    let pass = bench.pass();
    assert!(pass.waits, "{pass:?}");
    assert_eq!(bench.pods(), [""; 0]);
    assert_eq!(bench.shared.status().waits_for.len(), 1);
    // A former agent's port stays, since this one may be missing in the list.
    let tunnels = bench.kernel.0.lock().unwrap().tunnels.clone();
    assert_eq!(tunnels, [6784, 8473].into());
    {
        let mut around = bench.around.lock().unwrap();
        *around = nowhere();
        around.tunnels.found = [8473].into();
    }
    let pass = bench.pass();
    assert!(!pass.waits, "{pass:?}");
    assert_eq!(bench.pods(), ["ns/a"]);
    assert_eq!(bench.shared.status().tunnel_ports, [8473]);
}

#[test]
fn before_anything_was_discovered_no_device_is_taken_for_the_nodes_own() {
    let mut bench = Bench::new(&pod("a", ""));
    *bench.broken.lock().unwrap() = true;
    assert!(bench.pass().retry);
    let judged = bench.kernel.0.lock().unwrap().others.judged.clone();
    assert_eq!(judged, Some(BTreeSet::new()));
}
