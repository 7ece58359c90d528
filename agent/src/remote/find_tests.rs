use clap::Parser as _;
use serde_json::{Value, json};

use super::*;
use crate::cli::{Cli, Command};

fn args() -> NodeArgs {
    let line = ["ringfence", "connections", "--all-nodes"];
    match Cli::try_parse_from(line).unwrap().command {
        Command::Connections(args) => args.nodes,
        other => panic!("{other:?}"),
    }
}

fn pod(name: &str, node: &str, status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": []},
        "status": status,
    }))
    .unwrap()
}

fn running(name: &str, node: &str) -> Pod {
    pod(name, node, with_state(json!({"running": {}})))
}

fn with_state(state: Value) -> Value {
    json!({"phase": "Running", "containerStatuses": [{
        "name": "agent", "image": "i", "imageID": "i", "ready": false, "restartCount": 1,
        "state": state,
    }]})
}

fn chosen(pods: &[Pod], nodes: &[&str]) -> Vec<Target> {
    let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
    choose(pods, &nodes, &args())
}

/// Returns the reason for a node whose only pod has this status.
fn why(status: Value) -> String {
    let targets = chosen(&[pod("a", "n", status)], &["n"]);
    targets[0].pod.clone().unwrap_err().to_string()
}

#[test]
fn each_node_has_the_pod_that_runs_there() {
    let pods = [running("b", "n2"), running("a", "n1"), running("c", "n3")];
    let targets = chosen(&pods, &["n1", "n2"]);
    let pods: Vec<_> = targets
        .iter()
        .map(|t| (t.node.as_str(), t.pod.as_deref()))
        .collect();
    assert_eq!(pods, [("n1", Ok("a")), ("n2", Ok("b"))]);
}

#[test]
fn a_pod_that_is_replaced_or_was_evicted_gives_way_to_the_one_that_runs() {
    let mut leaving = running("a", "n");
    leaving.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
    assert!(leaving.metadata.deletion_timestamp.is_some());
    let evicted = pod("b", "n", json!({"phase": "Failed", "reason": "Evicted"}));
    let pods = [leaving.clone(), evicted.clone(), running("c", "n")];
    assert_eq!(chosen(&pods, &["n"])[0].pod, Ok("c".into()));
    // A pod that is being deleted still answers.
    assert_eq!(chosen(&[evicted, leaving], &["n"])[0].pod, Ok("a".into()));
}

#[test]
fn a_node_without_an_agent_is_named_with_what_to_look_at() {
    let targets = chosen(&[running("a", "other")], &["n"]);
    let said = targets[0].pod.clone().unwrap_err().to_string();
    let expected = "no pod with labels app.kubernetes.io/name=ringfence in namespace ringfence";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_pod_that_does_not_run_says_why() {
    let cases = [
        (
            json!({"phase": "Failed", "reason": "Evicted"}),
            "(phase Failed, Evicted)",
        ),
        (json!({"phase": "Pending"}), "(phase Pending)"),
        (
            with_state(json!({"waiting": {"reason": "CrashLoopBackOff"}})),
            "(its container agent waits: CrashLoopBackOff)",
        ),
        (
            with_state(json!({"terminated": {"exitCode": 2}})),
            "(its container agent ended with exit code 2)",
        ),
    ];
    for (status, expected) in cases {
        let said = why(status);
        assert!(said.contains(expected), "{said}");
        assert!(
            said.contains("`kubectl -n ringfence describe pod a`"),
            "{said}"
        );
    }
}
