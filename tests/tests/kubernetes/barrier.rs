//! Everything the server has accepted when a question is asked is known when it is answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence::kubernetes::Kind;
use ringfence::kubernetes::barrier::Told;
use ringfence_tests::apiserver::Fault;
use tokio::task::JoinSet;

use crate::mirror::{Mirror, SHOP, pod, policy, shop};

/// Generous, for a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn what_was_written_before_the_question_is_known_after_the_answer() {
    let mut mirror = shop().await;
    for round in 0..40_u8 {
        match round % 4 {
            0 => mirror.server.apply(&pod("c", round + 3)).unwrap(),
            1 => mirror.server.apply(&policy("q", "b", "c")).unwrap(),
            2 => mirror
                .server
                .delete("networkpolicies", "shop", "q")
                .unwrap(),
            _ => mirror.server.delete("pods", "shop", "c").unwrap(),
        }
        mirror.barrier.reached(LIMIT).await.unwrap();
        mirror.drain();
        assert_eq!(mirror.tables(), mirror.scratch(), "round {round}");
    }
}

#[tokio::test]
async fn it_holds_after_new_lists_and_where_the_server_streams_none() {
    let mut mirror = shop().await;
    mirror.server.set_streaming_lists(false);
    for round in 0..8_u8 {
        mirror.server.apply(&pod("c", round + 3)).unwrap();
        mirror.server.compact();
        mirror.server.cut_watches();
        mirror.server.apply(&policy("q", "b", "c")).unwrap();
        mirror.barrier.reached(LIMIT).await.unwrap();
        mirror.drain();
        assert_eq!(mirror.tables(), mirror.scratch(), "round {round}");
    }
}

#[tokio::test]
async fn a_watch_that_is_late_is_named_and_caught_up_with() {
    let mut mirror = shop().await;
    mirror.server.inject("pods", Fault::Silence, usize::MAX);
    mirror.server.apply(&pod("c", 3)).unwrap();
    let late = mirror.barrier.reached(Duration::from_millis(1500)).await;
    let late = late.unwrap_err();
    assert!(late.contains("Pod: its watch hasn't shown"), "{late}");
    assert!(!late.contains("Node"), "{late}");
    mirror.server.heal();
    mirror.server.cut_watches();
    mirror.barrier.reached(LIMIT).await.unwrap();
    mirror.drain();
    assert_eq!(mirror.tables(), mirror.scratch());
}

#[tokio::test]
async fn more_than_a_page_is_read_on_where_nothing_changes() {
    let pods: String = (0..600)
        .map(|n| pod(&format!("p{n}"), (n % 250) as u8))
        .collect();
    let mut mirror = Mirror::with(&[SHOP, &pods]).await;
    mirror.barrier.reached(LIMIT).await.unwrap();
    mirror.server.apply(&pod("last", 251)).unwrap();
    let start = Instant::now();
    mirror.barrier.reached(LIMIT).await.unwrap();
    mirror.drain();
    assert_eq!(mirror.tables(), mirror.scratch());
    // One second, in which an event later than the list might have arrived, plus the rest.
    assert!(start.elapsed() < LIMIT / 2, "{:?}", start.elapsed());
    mirror.server.delete("pods", "shop", "last").unwrap();
    mirror.barrier.reached(LIMIT).await.unwrap();
    mirror.drain();
    assert_eq!(mirror.tables(), mirror.scratch());
}

#[tokio::test]
async fn questions_that_come_together_share_a_list() {
    let mirror = shop().await;
    let before = mirror.server.count("list", "pods");
    let mut questions = JoinSet::new();
    for _ in 0..30 {
        let barrier = Arc::clone(&mirror.barrier);
        questions.spawn(async move { barrier.reached(LIMIT).await });
    }
    while let Some(answer) = questions.join_next().await {
        answer.unwrap().unwrap();
    }
    let lists = mirror.server.count("list", "pods") - before;
    assert!((1..=3).contains(&lists), "{lists}");
}

#[tokio::test]
async fn who_gives_up_holds_up_nobody() {
    let mirror = shop().await;
    mirror.server.inject("pods", Fault::Silence, usize::MAX);
    mirror.server.apply(&pod("c", 3)).unwrap();
    let barrier = Arc::clone(&mirror.barrier);
    let first = tokio::spawn(async move { barrier.reached(LIMIT).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    first.abort();
    mirror.server.heal();
    mirror.server.cut_watches();
    mirror.barrier.reached(LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_said() {
    let mirror = shop().await;
    mirror
        .server
        .inject("nodes", Fault::status(500), usize::MAX);
    let error = mirror.barrier.reached(LIMIT).await.unwrap_err();
    assert!(error.contains("listing Nodes"), "{error}");
    mirror.server.heal();
    mirror.server.stop();
    let error = mirror.barrier.reached(LIMIT).await.unwrap_err();
    assert!(error.contains("listing"), "{error}");
}

#[tokio::test]
async fn a_kind_that_the_cluster_does_not_have_is_not_waited_for() {
    let mirror = shop().await;
    mirror.server.set_cluster_policies(false);
    mirror.barrier.reached(LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_kind_whose_objects_are_still_in_force_after_its_api_went_is_waited_for() {
    let mirror = shop().await;
    let policy = "kind: ClusterNetworkPolicy\napiVersion: policy.networking.k8s.io/v1alpha2\n\
                  metadata: { name: c }\nspec: { tier: Admin, priority: 1, subject: { namespaces: {} } }";
    mirror.server.apply(policy).unwrap();
    mirror.barrier.reached(LIMIT).await.unwrap();
    mirror.server.set_cluster_policies(false);
    mirror.server.cut_watches();
    let late = mirror.barrier.reached(Duration::from_secs(1)).await;
    let late = late.unwrap_err();
    assert!(late.contains("ClusterNetworkPolicy: its watch"), "{late}");
    // Once the faults are lifted.
    mirror.barrier.reached(LIMIT).await.unwrap();
}

#[tokio::test]
async fn one_kind_or_one_object_can_be_asked_about_alone() {
    let mut mirror = shop().await;
    // No question asks about pods.
    mirror.server.inject("pods", Fault::Silence, usize::MAX);
    mirror.server.apply(&pod("c", 3)).unwrap();
    mirror.server.apply(&policy("q", "b", "c")).unwrap();
    let object = mirror.server.get("networkpolicies", "shop", "q").unwrap();
    let version = object["metadata"]["resourceVersion"].as_str().unwrap();
    let version: u64 = version.parse().unwrap();
    let told = |version| Told::Object("shop".into(), "q".into(), version);
    let kind = Kind::NetworkPolicy;
    mirror
        .barrier
        .has(kind, told(version), LIMIT)
        .await
        .unwrap();
    let later = mirror
        .barrier
        .has(kind, told(version + 1), Duration::from_millis(300));
    let error = later.await.unwrap_err();
    assert!(error.contains("NetworkPolicy"), "{error}");
    mirror.barrier.reached_kind(kind, LIMIT).await.unwrap();
    let short = Duration::from_millis(300);
    assert!(mirror.barrier.reached_kind(Kind::Pod, short).await.is_err());
    mirror.drain();
}
