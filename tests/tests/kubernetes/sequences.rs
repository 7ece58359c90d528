//! Random clusters that change at random, with faults in between.

use std::time::Duration;

use ringfence_tests::apiserver::{ApiServer, Fault};
use ringfence_tests::oracle::is_invalid;
use ringfence_tests::random::{self, Dice, mutate};
use serde_json::Value;

use crate::mirror::Mirror;

const KINDS: [&str; 7] = [
    "Namespace",
    "Node",
    "Pod",
    "Service",
    "EndpointSlice",
    "NetworkPolicy",
    "ClusterNetworkPolicy",
];

const RESOURCES: [&str; 7] = [
    "namespaces",
    "nodes",
    "pods",
    "services",
    "endpointslices",
    "networkpolicies",
    "clusternetworkpolicies",
];

/// Returns the seeds of the clusters. As for the oracle, `RINGFENCE_CLUSTERS` sets the
/// number; this test runs a hundredth of it.
fn seeds() -> u64 {
    let given = std::env::var("RINGFENCE_CLUSTERS").ok();
    given
        .and_then(|text| text.parse::<u64>().ok())
        .map_or(12, |count| count.div_ceil(100))
}

/// Returns the objects of a cluster that the server holds. Policies that don't parse
/// are left out, because their effect depends on the previous version.
fn valid(objects: &[Value]) -> Vec<Value> {
    let mut objects = objects.to_vec();
    objects.retain(|o| KINDS.iter().any(|kind| o["kind"] == *kind) && !is_invalid(o));
    objects
}

fn key(object: &Value) -> (&str, &str, &str) {
    let text = |value: &'static str| object["metadata"][value].as_str().unwrap_or("");
    (
        object["kind"].as_str().unwrap(),
        text("namespace"),
        text("name"),
    )
}

fn write(dice: &mut Dice, server: &ApiServer, old: &[Value], new: &[Value]) {
    let mut steps: Vec<(bool, &Value)> = Vec::new();
    let gone = |o: &&Value| !new.iter().any(|n| key(n) == key(o));
    steps.extend(old.iter().filter(gone).map(|o| (false, o)));
    steps.extend(new.iter().filter(|n| !old.contains(n)).map(|n| (true, n)));
    dice.shuffle(&mut steps);
    for (there, object) in steps {
        if there {
            server.apply_value(object.clone()).unwrap();
        } else {
            let (kind, namespace, name) = key(object);
            let at = KINDS.iter().position(|one| *one == kind).unwrap();
            server.delete(RESOURCES[at], namespace, name).unwrap();
        }
    }
}

fn fault(dice: &mut Dice, server: &ApiServer) {
    let faults = [
        Fault::GoneEvent,
        Fault::ResetMidEvent,
        Fault::Duplicate,
        Fault::Reorder,
        Fault::Garbage("{".into()),
        Fault::Garbage("}{".into()),
        Fault::status(500),
        Fault::status(410),
        Fault::BrokenList,
        Fault::SlowList(Duration::from_millis(30)),
    ];
    let fault = dice.choose(&faults).clone();
    let resource = if dice.chance(30) {
        "*"
    } else {
        *dice.choose(&RESOURCES)
    };
    server.inject(resource, fault, dice.between(1, 3));
    if dice.chance(25) {
        server.cut_watches();
    }
    if dice.chance(10) {
        server.compact();
    }
    if dice.chance(10) {
        server.set_streaming_lists(dice.chance(50));
    }
}

#[tokio::test]
async fn after_any_changes_and_faults_all_is_as_from_scratch() {
    for seed in 0..seeds() {
        let mut dice = Dice::new(seed);
        let server = ApiServer::start().unwrap();
        server.set_streaming_lists(dice.chance(50));
        let mut held = Vec::new();
        let mut objects = random::cluster(seed + 9_000_000).objects;
        let mut mirror = Mirror::new(server);
        for round in 0..12 {
            for _ in 0..dice.between(0, 3) {
                fault(&mut dice, &mirror.server);
            }
            let new = valid(&objects);
            write(&mut dice, &mirror.server, &held, &new);
            held = new;
            mirror.drain();
            if dice.chance(30) {
                // A swap that waits for its second event would wait forever.
                mirror.server.heal();
                mirror
                    .recovers(&format!("seed {seed}, round {round}"))
                    .await;
            } else {
                tokio::time::sleep(Duration::from_millis(dice.between(0, 20) as u64)).await;
            }
            mutate::change(&mut dice, &mut objects);
        }
        mirror.server.heal();
        mirror.recovers(&format!("seed {seed}, in the end")).await;
    }
}
