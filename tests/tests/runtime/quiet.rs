//! The agent's log about pods that only start and end: it must not contain anything to
//! look into.

use std::thread::sleep;
use std::time::Duration;

use ringfence_tests::agent::Shop;
use serde_json::json;

use crate::node::{Node, until_open};

/// Returns the lines of the log above level info.
fn warnings(shop: &Shop) -> Vec<String> {
    let log = shop.agent.log().unwrap();
    let lines = log
        .lines()
        .filter(|line| line.contains(" WARN ") || line.contains("ERROR"));
    lines.map(str::to_owned).collect()
}

/// Asserts that `status` reports a healthy agent, whatever is under way.
#[track_caller]
fn is_well(shop: &Shop, when: &str) {
    let said = shop.agent.run(&["status"]).unwrap();
    assert_eq!(said.code, 0, "{when}: {said:?}");
    assert!(said.stdout.starts_with("healthy\n"), "{when}: {said:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn pods_that_start_and_end_are_nothing_to_look_into() {
    let mut node = Node::start(|_| Vec::new());
    node.shop.start().unwrap();
    is_well(&node.shop, "at first");
    for (n, ending) in ["deleted", "finished", "forced"].into_iter().enumerate() {
        let name = format!("pod-{n}");
        node.schedule(&name, true);
        sleep(Duration::from_millis(300));
        is_well(&node.shop, "scheduled");
        let waits = node.row(&format!("shop/{name}"));
        assert_eq!(waits["attached"], false, "{waits}");
        let sandbox = node.containerd.run("shop", &name, &format!("uid-{name}"));
        let sandbox = sandbox.unwrap();
        until_open(&sandbox.ns, &node.shop);
        is_well(&node.shop, "started");
        // As its kubelet reports it.
        let mut pod = node.server.get("pods", "shop", &name).unwrap();
        let address = node.row(&format!("shop/{name}"))["addresses"][0].clone();
        pod["status"] = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
        if ending == "deleted" {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        node.server.apply_value(pod.clone()).unwrap();
        sleep(Duration::from_millis(300));
        if ending == "forced" {
            node.server.delete("pods", "shop", &name).unwrap();
            sleep(Duration::from_millis(300));
        }
        node.containerd.remove(&sandbox).unwrap();
        sleep(Duration::from_millis(300));
        is_well(&node.shop, &format!("{ending}, without its sandbox"));
        if ending == "finished" {
            pod["status"]["phase"] = json!("Succeeded");
            node.server.apply_value(pod).unwrap();
            sleep(Duration::from_millis(300));
            is_well(&node.shop, ending);
        }
        if ending != "forced" {
            node.server.delete("pods", "shop", &name).unwrap();
        }
    }
    node.shop.agent.stop(&mut node.shop.net).unwrap();
    node.shop.start().unwrap();
    is_well(&node.shop, "with another agent");
    let said = warnings(&node.shop);
    assert_eq!(said, [""; 0]);
}
