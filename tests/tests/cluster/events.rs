//! Kubernetes Events about drops.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{Cluster, PATIENCE};

/// Returns the agent's requests that write anything.
fn writes(cluster: &Cluster) -> Vec<(String, String)> {
    let all = cluster.server.requests().into_iter();
    let reads = |verb: &str| matches!(verb, "get" | "list" | "watch");
    all.filter(|(verb, _)| !reads(verb)).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn drops_are_told_in_events_on_the_callers_pod_if_asked_for() {
    let mut cluster = Cluster::open();
    cluster.shop.agent.flags.push("--emit-events".into());
    cluster.shop.start().unwrap();
    cluster.shop.is_guarded("with events").unwrap();
    let start = Instant::now();
    while cluster.server.all("events").is_empty() {
        let log = cluster.shop.agent.log().unwrap();
        assert!(
            start.elapsed() < PATIENCE,
            "no Event; the agent says:\n{log}"
        );
        sleep(Duration::from_millis(100));
    }
    for event in cluster.server.all("events") {
        assert_eq!(event["regarding"]["name"], "rogue", "{event:#}");
        assert_eq!(event["reason"], "CallDropped");
        let note = event["note"].as_str().unwrap();
        assert!(note.contains(" packets to shop/server "), "{note}");
    }
    assert_eq!(
        writes(&cluster),
        [("create".to_owned(), "events.events.k8s.io".to_owned())]
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn nothing_is_written_unless_asked_for() {
    let cluster = Cluster::start();
    sleep(Duration::from_secs(8));
    assert_eq!(writes(&cluster), []);
}
