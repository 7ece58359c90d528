//! Several agents followed at once, until they end or their reader does.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Cluster;

const DROPS: [&str; 4] = ["drops", "--follow", "-o", "json"];
/// How long immediate effects may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Follows all nodes to their ends. Returns the lines, and the outcome for each node.
async fn followed(cluster: &Cluster) -> (Vec<(String, Value)>, Vec<(String, String)>) {
    let (lines, ends) = (Mutex::default(), Mutex::default());
    let line = |node: &str, value| {
        let mut lines: std::sync::MutexGuard<'_, Vec<_>> = lines.lock().unwrap();
        lines.push((node.to_owned(), value));
        Ok(())
    };
    let ended = |node: &str, why: &_| {
        let mut ends: std::sync::MutexGuard<'_, Vec<_>> = ends.lock().unwrap();
        ends.push((node.to_owned(), format!("{why}")));
    };
    let fleet = cluster.find("--all-nodes").await.unwrap();
    fleet.follow_all(&DROPS, line, ended).await.unwrap();
    let (mut lines, mut ends) = (lines.into_inner().unwrap(), ends.into_inner().unwrap());
    lines.sort_by_key(|(node, value): &(String, Value)| (node.clone(), value["n"].as_u64()));
    ends.sort();
    (lines, ends)
}

#[tokio::test]
async fn lines_of_all_agents_come_with_their_nodes_and_one_that_ends_leaves_the_others() {
    let cluster = Cluster::of(&["a", "b", "c"]);
    cluster.run_in_pods(|exec| match exec.pod.as_str() {
        "agent-a" => "echo '{\"n\": 1}'; sleep 1; echo '{\"n\": 2}'; exit 3".to_owned(),
        "agent-b" => "echo '{\"n\": 3}'; echo garbage; sleep 60".to_owned(),
        _ => "echo 'ringfence: the agent stopped' >&2; exit 3".to_owned(),
    });
    let (lines, ends) = followed(&cluster).await;
    let lines: Vec<_> = lines
        .iter()
        .map(|(node, value)| (node.as_str(), value["n"].as_u64()))
        .collect();
    assert_eq!(lines, [("a", Some(1)), ("a", Some(2)), ("b", Some(3))]);
    let said = |n: usize| (ends[n].0.as_str(), ends[n].1.as_str());
    assert_eq!(ends.len(), 3, "{ends:?}");
    assert_eq!(said(0).0, "a");
    assert!(said(1).1.starts_with("can't parse its answer"), "{ends:?}");
    assert_eq!(
        said(2),
        ("c", "its agent says: the agent stopped (exit code 3)")
    );
}

#[tokio::test]
async fn an_older_agent_is_followed_without_the_flag_that_it_does_not_know() {
    let cluster = Cluster::of(&["a"]);
    cluster.run_in_pods(|exec| match exec.command.last().map(String::as_str) {
        Some("--until-stdin-closes") => "echo 'error: unexpected argument' >&2; exit 2".to_owned(),
        _ => "echo '{\"n\": 1}'; exit 3".to_owned(),
    });
    let (lines, ends) = followed(&cluster).await;
    assert_eq!((lines.len(), ends.len()), (1, 1), "{lines:?}, {ends:?}");
    assert!(ends[0].1.contains("(exit code 3)"), "{ends:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_ends_what_came_over_it() {
    let cluster = Cluster::of(&["a"]);
    cluster.run_in_pods(|_| "echo '{\"n\": 1}'; sleep 60".to_owned());
    let fleet = cluster.find("--node a").await.unwrap();
    let ends = Mutex::new(Vec::new());
    let line = |_: &str, _: Value| {
        cluster.server.stop();
        Ok(())
    };
    let ended = |_: &str, why: &_| ends.lock().unwrap().push(format!("{why}"));
    let follow = fleet.follow_all(&DROPS, line, ended);
    tokio::time::timeout(PATIENCE, follow)
        .await
        .unwrap()
        .unwrap();
    let ends = ends.into_inner().unwrap();
    assert_eq!(ends.len(), 1, "{ends:?}");
    assert!(
        ends[0].starts_with("the connection to its pod ringfence/agent-a broke"),
        "{ends:?}"
    );
}

#[tokio::test]
async fn a_reader_that_fails_ends_all_and_nothing_of_it_stays_in_the_pods() {
    let cluster = Cluster::of(&["a", "b"]);
    let mark = cluster.folder.path().to_owned();
    let marked = mark.clone();
    cluster.run_in_pods(move |exec| {
        // It ends when stdin ends, as with --until-stdin-closes.
        let mark = marked.join(&exec.pod);
        format!("echo '{{}}'; cat >/dev/null; : >{}", mark.display())
    });
    let fleet = cluster.find("--all-nodes").await.unwrap();
    let line = |_: &str, _: Value| Err(io::ErrorKind::BrokenPipe.into());
    let follow = fleet.follow_all(&DROPS, line, |_, _| {});
    let error = tokio::time::timeout(PATIENCE, follow)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    drop(fleet);
    let start = Instant::now();
    // The other command may not have been started yet.
    let is_over = || mark.join("agent-a").exists() || mark.join("agent-b").exists();
    while !is_over() {
        assert!(
            start.elapsed() < PATIENCE,
            "a command goes on without its reader"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
