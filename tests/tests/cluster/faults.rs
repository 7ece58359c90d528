//! Each fault under traffic: an open connection continues, the rogue stays out, the
//! fault is counted, and a revocation made meanwhile comes into force at last.

use std::thread::sleep;
use std::time::{Duration, Instant};

use ringfence_tests::agent::{Shop, TCP, Talk};
use ringfence_tests::apiserver::Fault;
use serde_json::json;

use crate::{Cluster, PATIENCE};

/// How long an echo may take at most.
const WORD: Duration = Duration::from_secs(3);

/// Lets a fault strike the watch of pods while the client's permission is revoked. At
/// least `errors` errors are counted.
fn strikes(fault: Fault, times: usize, errors: u64) {
    let cluster = Cluster::start();
    let mut talk = talk(&cluster);
    let before = cluster.server.struck();
    cluster.server.inject("pods", fault.clone(), times);
    // Only new requests meet these faults; the others affect the next event.
    let anew = matches!(
        fault,
        Fault::Answer { .. } | Fault::SlowList(_) | Fault::BrokenList
    );
    if anew {
        cluster.server.inject("pods", Fault::GoneEvent, 1);
    }
    cluster.allow_client(false);
    // The second of two events.
    cluster.server.apply(&Shop::rogue().yaml()).unwrap();
    let start = Instant::now();
    while cluster.server.struck() <= before + u64::from(anew) {
        assert!(start.elapsed() < PATIENCE, "{fault:?} never struck");
        sleep(Duration::from_millis(10));
    }
    stays(&cluster, &mut talk, &fault, times > 1);
    cluster.server.heal();
    cluster.client_is(false, &format!("{fault:?}"));
    assert!(!cluster.shop.calls("rogue", "server", false).unwrap());
    let counted = cluster.watch_metric("errors_total", "Pod");
    assert!(counted >= errors, "{fault:?}: {counted} errors");
    cluster.until("connected again", |s| s["source_connected"] == true);
    assert_eq!(cluster.watch_metric("connected", "Pod"), 1);
    cluster.allow_client(true);
    cluster.client_is(true, &format!("after {fault:?}"));
}

fn talk(cluster: &Cluster) -> Talk {
    let server = cluster.shop.address("server", true, TCP).unwrap();
    Talk::open(cluster.shop.ns("client").unwrap(), server).unwrap()
}

/// Asserts that while a fault lasts everything stays as it was before it.
fn stays(cluster: &Cluster, talk: &mut Talk, fault: &Fault, lasts: bool) {
    for _ in 0..3 {
        assert!(!cluster.shop.calls("rogue", "server", false).unwrap());
        assert!(cluster.shop.calls("node", "server", true).unwrap());
        if lasts {
            assert!(
                talk.echo(WORD).unwrap(),
                "{fault:?}: the conversation broke"
            );
            cluster.shop.is_guarded(&format!("{fault:?}")).unwrap();
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn gone() {
    strikes(Fault::GoneEvent, 1, 1);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn gone_as_an_answer() {
    strikes(Fault::status(410), 1, 1);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_reset_in_the_middle_of_an_event() {
    strikes(Fault::ResetMidEvent, 1, 1);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_event_told_twice() {
    strikes(Fault::Duplicate, 1, 0);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn events_in_the_wrong_order() {
    strikes(Fault::Reorder, 1, 1);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn garbage() {
    strikes(Fault::Garbage("}{".into()), 1, 1);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_list_that_breaks_off_again_and_again() {
    strikes(Fault::BrokenList, usize::MAX, 2);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_slow_list() {
    strikes(Fault::SlowList(Duration::from_secs(5)), 1, 1);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_server_that_fails() {
    strikes(Fault::status(500), usize::MAX, 2);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_server_that_is_too_busy() {
    strikes(Fault::too_many_requests(1), usize::MAX, 2);
}

/// The clock of a process can't be moved: `tests/tests/kubernetes/silence.rs` checks
/// that a silent watch is dropped and resumed.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_server_that_says_nothing() {
    let cluster = Cluster::start();
    let mut talk = talk(&cluster);
    cluster.server.inject("*", Fault::Silence, usize::MAX);
    cluster.allow_client(false);
    sleep(Duration::from_secs(8));
    stays(&cluster, &mut talk, &Fault::Silence, true);
    assert!(cluster.watch_metric("silent_seconds", "Pod") >= 5);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_expired_token() {
    let cluster = Cluster::start();
    let mut talk = talk(&cluster);
    cluster.server.new_token();
    cluster.server.cut_watches();
    cluster.allow_client(false);
    cluster.until("disconnected", |s| s["source_connected"] == false);
    stays(&cluster, &mut talk, &Fault::status(401), true);
    let kubeconfig = cluster.shop.net.dir().join("kubeconfig");
    cluster.server.write_kubeconfig(&kubeconfig).unwrap();
    cluster.client_is(false, "with the new token");
    assert!(cluster.watch_metric("errors_total", "Pod") > 0);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn objects_that_dont_parse() {
    let cluster = Cluster::start();
    let mut talk = talk(&cluster);
    for name in ["server", "client", "rogue"] {
        let mut pod = cluster.server.get("pods", "shop", name).unwrap();
        pod["metadata"]["labels"] = json!(7);
        cluster.server.apply_value(pod).unwrap();
    }
    cluster.until("three are told", |s| {
        s["invalid"].as_array().is_some_and(|all| all.len() == 3)
    });
    stays(&cluster, &mut talk, &Fault::Duplicate, true);
    assert_eq!(
        cluster
            .shop
            .agent
            .metric("ringfence_policy_invalid")
            .unwrap(),
        3.0
    );
    for pod in [Shop::server(), Shop::stranger(), Shop::rogue()] {
        cluster.server.apply(&pod.yaml()).unwrap();
    }
    cluster.client_is(false, "once they parse");
    cluster.until("none is told", |s| s["invalid"] == json!([]));
}
