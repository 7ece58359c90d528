//! Agents that start and stop while the server does.

use ringfence_tests::agent::{Credentials, TCP, Talk};
use ringfence_tests::apiserver::Fault;
use std::fs;
use std::time::{Duration, Instant};

use crate::{Cluster, PATIENCE};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_last_buffer_stays_until_every_list_is_complete() {
    let mut cluster = Cluster::start();
    let address = cluster.shop.address("server", true, TCP).unwrap();
    let mut talk = Talk::open(cluster.shop.ns("client").unwrap(), address).unwrap();
    cluster.shop.agent.kill(&mut cluster.shop.net).unwrap();
    cluster.allow_client(false);
    cluster
        .server
        .inject("networkpolicies", Fault::status(500), usize::MAX);
    cluster
        .shop
        .agent
        .start(&mut cluster.shop.net, &[])
        .unwrap();
    cluster.until("policies are waited for", |s| {
        s["waits_for"] == serde_json::json!(["NetworkPolicy"])
    });
    cluster
        .shop
        .is_guarded("by the last agent's buffer")
        .unwrap();
    assert!(talk.echo(Duration::from_secs(3)).unwrap());
    let shown = cluster.shop.agent.run(&["status"]).unwrap().stdout;
    assert!(shown.starts_with("waiting for the first lists"), "{shown}");
    cluster.server.heal();
    cluster.client_is(false, "with all lists");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn two_agents_of_one_machine_follow_one_server() {
    let mut cluster = Cluster::start();
    let mut other = cluster.shop.agent.beside("node-2");
    // The pods of the other node are unknown to this agent.
    other.flags.push("--unknown-pods=allow".into());
    other.start(&mut cluster.shop.net, &[]).unwrap();
    cluster.server.inject("*", Fault::GoneEvent, 14);
    cluster.shop.is_guarded("beside another agent").unwrap();
    cluster.allow_client(false);
    cluster.client_is(false, "beside another agent");
    let status = other.json(&["status"]).unwrap();
    assert_eq!(status["endpoints"], 0, "{status:#}");
    assert_eq!(status["waits_for"], serde_json::json!([]), "{status:#}");
    other.stop(&mut cluster.shop.net).unwrap();
    assert!(!cluster.shop.calls("rogue", "server", false).unwrap());
    cluster.allow_client(true);
    cluster.client_is(true, "without the other agent");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_in_a_pod_finds_its_service_account() {
    let mut cluster = Cluster::open();
    let folder = cluster.shop.net.dir().join("account");
    cluster.server.write_service_account(&folder).unwrap();
    let env = cluster
        .server
        .env()
        .map(|(name, value)| (name.to_owned(), value));
    cluster.shop.agent.cluster = Some(Credentials::ServiceAccount {
        folder: folder.clone(),
        env: env.into(),
    });
    cluster.shop.start().unwrap();
    cluster.shop.is_guarded("with a service account").unwrap();
    // The kubelet replaces the token before it expires; here it is replaced afterwards.
    cluster.server.new_token();
    cluster.server.cut_watches();
    cluster.allow_client(false);
    cluster.server.write_service_account(&folder).unwrap();
    cluster.client_is(false, "with the next token");
}

/// Allows the client to call the rogue on a port and all above it, and no other pod;
/// invalid if there are no such ports.
fn to_rogue(first: u32) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ name: rogue, namespace: shop }}
spec:
  podSelector: {{ matchLabels: {{ app: rogue }} }}
  ingress:
    - from: [ {{ podSelector: {{ matchLabels: {{ app: client }} }} }} ]
      ports:
        - {{ protocol: TCP, port: {first}, endPort: 65535 }}
        - {{ protocol: UDP, port: {first}, endPort: 65535 }}
"
    )
}

/// Checks the client's calls to the rogue; the server's calls must fail in either case.
fn client_calls_the_rogue(cluster: &Cluster, allowed: bool, when: &str) {
    let start = Instant::now();
    let calls = |from, allowed| cluster.shop.calls(from, "rogue", allowed).ok() == Some(allowed);
    while !(calls("client", allowed) && calls("server", false)) {
        assert!(start.elapsed() < PATIENCE, "{when}: {:#}", cluster.status());
    }
    cluster.shop.is_guarded(when).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_last_valid_form_of_a_policy_is_in_force_after_the_agent_was_killed() {
    let mut cluster = Cluster::start();
    let folder = cluster.shop.agent.socket.with_extension("forms");
    let file = folder.join("policies.json");
    cluster.server.apply(&to_rogue(1000)).unwrap();
    client_calls_the_rogue(&cluster, true, "with a valid policy");
    assert!(!folder.exists(), "there is nothing to keep");
    cluster.server.apply(&to_rogue(70_000)).unwrap();
    cluster.until("the policy is invalid", |s| {
        s["invalid"].as_array().is_some_and(|all| !all.is_empty())
    });
    client_calls_the_rogue(&cluster, true, "by the last valid form");
    for (keeps, when) in [(true, "after a restart"), (false, "without the file")] {
        cluster.until("the form is kept", |_| file.exists());
        cluster.shop.agent.kill(&mut cluster.shop.net).unwrap();
        if !keeps {
            fs::remove_file(&file).unwrap();
        }
        cluster.shop.start().unwrap();
        client_calls_the_rogue(&cluster, keeps, when);
    }
    assert!(!file.exists(), "there is nothing to keep");
    cluster.server.apply(&to_rogue(1000)).unwrap();
    client_calls_the_rogue(&cluster, true, "with a valid policy again");
}
