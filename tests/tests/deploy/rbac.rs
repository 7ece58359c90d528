//! The manifests grant exactly the permissions that the agent uses.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use ringfence_tests::agent::Shop;
use ringfence_tests::apiserver::ApiServer;
use ringfence_tests::deployed::{deploy, documents, only, strings};

use crate::cluster;

/// Denials are collected for some seconds before an Event is created from them.
const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the (verb, resource) pairs of a file's ClusterRole; resources are written
/// with their group, as in `kubectl api-resources`.
fn granted(file: &str) -> BTreeSet<(String, String)> {
    let text = fs::read_to_string(deploy(file)).unwrap();
    let documents = documents(&text).unwrap();
    let rules = &only(&documents, "ClusterRole").unwrap()["rules"];
    let mut granted = BTreeSet::new();
    for rule in rules.as_array().unwrap() {
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                let name = format!("{resource}.{group}");
                let name = name.trim_end_matches('.');
                let pair = |verb| (verb, name.to_owned());
                granted.extend(strings(&rule["verbs"]).into_iter().map(pair));
            }
        }
    }
    granted
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_manifests_grant_each_verb_that_the_agent_uses_and_none_to_spare() {
    let mut shop = Shop::open().unwrap();
    let server = cluster(&mut shop);
    // With streaming lists, a list is a watch.
    server.set_streaming_lists(false);

    shop.start().unwrap();
    shop.is_guarded("by the cluster's policy").unwrap();
    until_asked(&server, &granted("base/rbac.yaml"));
    shop.agent.stop(&mut shop.net).unwrap();

    shop.agent.flags = vec!["--emit-events".to_owned()];
    shop.start().unwrap();
    let events = granted("components/events/rbac.yaml");
    shop.is_guarded("by the cluster's policy").unwrap();
    until_asked(&server, &(&granted("base/rbac.yaml") | &events));
}

/// Returns once all permissions were used; no other may be.
fn until_asked(server: &ApiServer, granted: &BTreeSet<(String, String)>) {
    let start = Instant::now();
    while !server.requests().is_superset(granted) && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(&server.requests(), granted);
}
