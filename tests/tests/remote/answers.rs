//! One query to several agents, and how agents that don't answer are reported.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringfence::remote::{Fleet, NodeError};
use ringfence_tests::apiserver::{Exec, Fault};
use serde_json::{Value, json};

use crate::{Cluster, NAMESPACE, agent_pod, node_object};

const CONNECTIONS: [&str; 3] = ["connections", "-o", "json"];

/// Returns every node's answer to `connections`, or its error.
async fn answers(fleet: &Fleet) -> Vec<(String, Result<Vec<Value>, String>)> {
    let answers = fleet.ask_all(&CONNECTIONS, Duration::ZERO).await;
    let plain =
        |(node, answer): (_, Result<_, NodeError>)| (node, answer.map_err(|e| e.to_string()));
    answers.into_iter().map(plain).collect()
}

/// Returns the error for a single node whose agent is this script.
async fn said(script: &'static str) -> String {
    let cluster = Cluster::of(&["a"]);
    cluster.run_in_pods(|_| script.to_owned());
    let fleet = cluster.find("--node a --node-timeout 1").await.unwrap();
    answers(&fleet).await.remove(0).1.unwrap_err()
}

#[tokio::test]
async fn every_agent_is_asked_in_its_container_in_words_that_every_version_knows() {
    let cluster = Cluster::of(&["b", "a"]);
    // Another pod of the namespace, which isn't an agent.
    let mut other = agent_pod("a");
    other["metadata"]["name"] = "other".into();
    other["metadata"]["labels"] = json!({"app.kubernetes.io/name": "other"});
    cluster.server.apply_value(other).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    cluster.run_in_pods(move |exec| {
        seen.lock().unwrap().push(exec.clone());
        format!("echo '[{{\"pod\": \"{}\"}}]'", exec.pod)
    });
    let fleet = cluster.find("--all-nodes --socket /s").await.unwrap();
    assert_eq!(fleet.nodes().collect::<Vec<_>>(), ["a", "b"]);
    let expected = ["a", "b"].map(|node| {
        let row = json!({"pod": format!("agent-{node}")});
        (node.to_owned(), Ok(vec![row]))
    });
    assert_eq!(answers(&fleet).await, expected);
    let mut asked = asked.lock().unwrap().clone();
    asked.sort_by(|one, other| one.pod.cmp(&other.pod));
    let words = [
        "/bin/ringfence",
        "--socket",
        "/s",
        "connections",
        "-o",
        "json",
    ];
    let expected = ["agent-a", "agent-b"].map(|pod| Exec {
        namespace: NAMESPACE.to_owned(),
        pod: pod.to_owned(),
        container: "agent".to_owned(),
        command: words.map(str::to_owned).to_vec(),
    });
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn nodes_without_a_running_agent_are_named_and_the_others_answer() {
    let cluster = Cluster::of(&["a", "b"]);
    cluster.server.apply_value(node_object("c")).unwrap();
    let mut pending = agent_pod("b");
    pending["status"] = json!({"phase": "Pending"});
    cluster.server.apply_value(pending).unwrap();
    cluster.run_in_pods(|_| "echo []".to_owned());
    let fleet = cluster.find("--all-nodes").await.unwrap();
    let answers = answers(&fleet).await;
    assert_eq!(answers[0], ("a".to_owned(), Ok(vec![])));
    let said = |n: usize| answers[n].1.clone().unwrap_err();
    assert_eq!((answers[1].0.as_str(), answers[2].0.as_str()), ("b", "c"));
    assert!(
        said(1).starts_with("its agent isn't running (phase Pending)"),
        "{}",
        said(1)
    );
    assert!(
        said(2).starts_with("no agent runs there: no pod with labels"),
        "{}",
        said(2)
    );
}

#[tokio::test]
async fn a_fault_of_an_agent_says_what_to_do() {
    let cases = [
        ("echo no json", "can't parse its answer"),
        (
            "echo '{\"connections\": []}'",
            "is its agent of another version?",
        ),
        ("true", "can't parse its answer"),
        (
            "echo 'ringfence: no agent answers on /s' >&2; exit 3",
            "its agent says: no agent answers on /s (exit code 3)",
        ),
        ("exit 2", "is it of an older version?"),
        (
            "sleep 60",
            "no answer within 1 s; raise --node-timeout to wait longer",
        ),
        ("echo '['; sleep 60", "no answer within 1 s"),
    ];
    for (script, expected) in cases {
        let said = said(script).await;
        assert!(said.contains(expected), "{script}: {said}");
    }
}

#[tokio::test]
async fn a_container_without_the_binary_is_told_from_an_agent_that_fails() {
    let cluster = Cluster::of(&["a"]);
    cluster
        .server
        .on_exec(|_| Err("no such file or directory".to_owned()));
    let fleet = cluster.find("--node a").await.unwrap();
    let said = answers(&fleet).await.remove(0).1.unwrap_err();
    let expected = "/bin/ringfence couldn't be started in its pod ringfence/agent-a";
    assert!(said.starts_with(expected), "{said}");
    assert!(said.contains("no such file or directory"), "{said}");
}

#[tokio::test]
async fn a_pod_that_has_gone_meanwhile_is_its_nodes_fault_alone() {
    let cluster = Cluster::of(&["a", "b"]);
    cluster.run_in_pods(|_| "echo []".to_owned());
    let fleet = cluster.find("--all-nodes").await.unwrap();
    cluster.server.delete("pods", NAMESPACE, "agent-a").unwrap();
    let answers = answers(&fleet).await;
    let said = answers[0].1.clone().unwrap_err();
    assert!(
        said.starts_with("exec in its pod ringfence/agent-a failed"),
        "{said}"
    );
    assert_eq!(answers[1].1, Ok(vec![]));
}

#[tokio::test]
async fn a_large_answer_and_much_noise_arrive_whole() {
    let cluster = Cluster::of(&["a"]);
    // 4 MB on stdout, and 4 MB on stderr that aren't needed.
    let script = "yes | head -c 4000000 >&2; \
                  printf '[\"'; yes | head -c 8000000 | tr -d '\\n'; printf '\"]'";
    cluster.run_in_pods(|_| script.to_owned());
    let fleet = cluster.find("--node a").await.unwrap();
    let rows = answers(&fleet).await.remove(0).1.unwrap();
    assert_eq!(rows[0].as_str().unwrap().len(), 4_000_000);
}

#[tokio::test]
async fn many_agents_are_asked_some_at_a_time() {
    let names: Vec<String> = (0..40).map(|n| format!("n{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let cluster = Cluster::of(&names);
    cluster.run_in_pods(|_| "sleep 0.3; echo []".to_owned());
    let fleet = cluster.find("--all-nodes --node-timeout 60").await.unwrap();
    let start = Instant::now();
    let answers = answers(&fleet).await;
    assert!(
        start.elapsed() >= Duration::from_millis(900),
        "three rounds of 16"
    );
    let expected = names.iter().map(|name| ((*name).to_owned(), Ok(vec![])));
    assert_eq!(answers, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn an_api_server_that_fails_is_one_error_and_not_one_a_node() {
    let cluster = Cluster::of(&["a"]);
    cluster.server.inject("pods", Fault::status(500), 1);
    let said = cluster.find("--node a").await.unwrap_err().to_string();
    assert!(
        said.starts_with("listing pods in namespace ringfence: "),
        "{said}"
    );
    cluster
        .server
        .inject("nodes", Fault::SlowList(Duration::from_secs(60)), 1);
    let late = cluster.find("--all-nodes --node-timeout 1").await;
    let said = late.unwrap_err().to_string();
    assert!(
        said.starts_with("listing nodes: no answer within 1 s"),
        "{said}"
    );
    let odd = cluster.find("--node a --agent-selector a=b,").await;
    let said = odd.unwrap_err().to_string();
    assert!(
        said.starts_with("--agent-selector \"a=b,\": unable to parse"),
        "{said}"
    );
}
