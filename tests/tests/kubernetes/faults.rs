//! Each fault by itself.

use std::time::{Duration, Instant};

use ringfence::kubernetes::Kind;
use ringfence_api::WatchState;
use ringfence_tests::apiserver::Fault;

use crate::mirror::{Mirror, pod, policy, shop};

/// Changes something while a fault strikes: in the end the change is applied, and until
/// then the tables stay as they were.
async fn strikes(mirror: &mut Mirror, fault: Fault) {
    let before = mirror.server.struck();
    mirror.server.inject("pods", fault, 1);
    change(mirror);
    let struck = |mirror: &mut Mirror| mirror.server.struck() > before;
    mirror.until("the fault strikes", struck).await;
    mirror.recovers("after the fault").await;
}

/// Makes two events of pods and one of policies.
fn change(mirror: &Mirror) {
    mirror.server.apply(&pod("c", 3)).unwrap();
    mirror.server.apply(&pod("b", 4)).unwrap();
    mirror.server.apply(&policy("q", "b", "c")).unwrap();
}

#[tokio::test]
async fn gone_as_an_error_event_ends_in_a_new_list_that_removes_only_what_is_gone() {
    let mut mirror = shop().await;
    strikes(&mut mirror, Fault::GoneEvent).await;
    let row = mirror.row(Kind::Pod);
    assert_eq!((row.errors, row.lists), (1, 2), "{row:?}");
    assert!(row.error.unwrap().contains("410"));
    assert_eq!(mirror.row(Kind::NetworkPolicy).lists, 1);
}

#[tokio::test]
async fn gone_as_an_answer_ends_in_a_new_list() {
    let mut mirror = shop().await;
    mirror.server.inject("pods", Fault::status(410), 1);
    mirror.server.cut_watches();
    change(&mirror);
    mirror.server.delete("pods", "shop", "a").unwrap();
    mirror.recovers("after 410").await;
    assert_eq!(mirror.row(Kind::Pod).lists, 2);
}

#[tokio::test]
async fn a_history_that_is_compacted_away_ends_in_a_new_list() {
    let mut mirror = shop().await;
    // Nothing gets through while the history is compacted.
    mirror.server.inject("*", Fault::status(500), usize::MAX);
    mirror.server.cut_watches();
    let down = |mirror: &mut Mirror| mirror.row(Kind::Pod).state == WatchState::Disconnected;
    mirror.until("down", down).await;
    change(&mirror);
    mirror.server.delete("pods", "shop", "a").unwrap();
    mirror
        .server
        .delete("networkpolicies", "shop", "p")
        .unwrap();
    mirror.server.compact();
    let before = mirror.tables();
    mirror.stays(&before).await;
    mirror.server.heal();
    mirror.recovers("after the compaction").await;
    assert_eq!(mirror.row(Kind::Pod).lists, 2);
}

#[tokio::test]
async fn a_list_that_breaks_off_removes_nothing() {
    let mut mirror = shop().await;
    let before = mirror.tables();
    mirror.server.inject("pods", Fault::BrokenList, usize::MAX);
    mirror.server.inject("pods", Fault::GoneEvent, 1);
    let broken = |mirror: &mut Mirror| mirror.row(Kind::Pod).lists > 3;
    mirror.until("three lists broke", broken).await;
    assert_eq!(mirror.tables(), before);
    mirror.server.delete("pods", "shop", "b").unwrap();
    mirror.stays(&before).await;
    mirror.server.heal();
    mirror.recovers("after whole lists").await;
    assert!(mirror.row(Kind::Pod).errors > 3);
}

#[tokio::test]
async fn a_reset_in_the_middle_of_an_event_loses_nothing() {
    let mut mirror = shop().await;
    strikes(&mut mirror, Fault::ResetMidEvent).await;
    let row = mirror.row(Kind::Pod);
    assert_eq!((row.errors, row.lists), (1, 1), "resumed: {row:?}");
}

#[tokio::test]
async fn an_event_told_twice_counts_once() {
    let mut mirror = shop().await;
    strikes(&mut mirror, Fault::Duplicate).await;
    let row = mirror.row(Kind::Pod);
    assert_eq!((row.errors, row.lists), (0, 1), "{row:?}");
}

#[tokio::test]
async fn events_in_the_wrong_order_are_seen_and_listed_anew() {
    let mut mirror = shop().await;
    mirror.server.inject("pods", Fault::Reorder, 1);
    // An older version of a pod after its newer one, and a pod after its deletion.
    mirror.server.apply(&pod("b", 5)).unwrap();
    mirror.server.apply(&pod("b", 6)).unwrap();
    mirror.recovers("after a swap").await;
    assert_eq!(mirror.row(Kind::Pod).errors, 1);
    mirror.server.inject("pods", Fault::Reorder, 1);
    mirror.server.apply(&pod("b", 7)).unwrap();
    mirror.server.delete("pods", "shop", "b").unwrap();
    mirror.recovers("after another").await;
    let row = mirror.row(Kind::Pod);
    assert_eq!((row.errors, row.lists), (2, 3), "{row:?}");
    assert!(row.error.unwrap().contains("out of order"));
}

#[tokio::test]
async fn garbage_in_the_place_of_an_event_loses_nothing() {
    for garbage in [
        "}{ \u{7} not JSON",
        "",
        "null",
        r#"{"type":"ADDED","object":{"metadata":{"name":"x","#,
        r#"{"type":"ADDED","object":{"metadata":7}}"#,
        r#"{"type":"BOOKMARK","object":{}}"#,
        r#"{"type":"NOVELTY","object":{"metadata":{"name":"x","resourceVersion":"1"}}}"#,
    ] {
        let mut mirror = shop().await;
        strikes(&mut mirror, Fault::Garbage(garbage.into())).await;
        assert!(mirror.row(Kind::Pod).errors > 0, "{garbage}");
    }
}

#[tokio::test]
async fn garbage_in_the_place_of_a_list_removes_nothing() {
    let mut mirror = shop().await;
    let before = mirror.tables();
    for body in [
        "<html>502</html>",
        "{}",
        "null",
        r#"{"items":[]}"#,
        r#"{"kind":"PodList"}"#,
    ] {
        let garbage = Fault::Answer {
            code: 200,
            retry_after: None,
            body: body.into(),
        };
        let lists = mirror.row(Kind::Pod).errors;
        mirror.server.inject("pods", garbage, usize::MAX);
        mirror.server.inject("pods", Fault::GoneEvent, 1);
        mirror.server.cut_watches();
        let tried = |mirror: &mut Mirror| mirror.row(Kind::Pod).errors > lists + 2;
        mirror.until(&format!("{body} was tried"), tried).await;
        assert_eq!(mirror.tables(), before, "{body}");
        mirror.server.heal();
        mirror.recovers("after the garbage").await;
    }
}

#[tokio::test]
async fn a_slow_list_holds_up_no_other_kind_and_removes_nothing() {
    let mut mirror = shop().await;
    let pause = Duration::from_millis(1500);
    mirror.server.inject("pods", Fault::SlowList(pause), 1);
    mirror.server.inject("pods", Fault::GoneEvent, 1);
    mirror
        .server
        .delete("networkpolicies", "shop", "p")
        .unwrap();
    let start = Instant::now();
    mirror.agrees("of policies").await;
    assert!(start.elapsed() < pause, "policies waited for pods");
    mirror.server.delete("pods", "shop", "b").unwrap();
    mirror.recovers("after the list").await;
    assert_eq!(mirror.row(Kind::Pod).lists, 2);
}

#[tokio::test]
async fn a_list_that_stops_begins_anew() {
    let mut mirror = shop().await;
    let forever = Fault::SlowList(Duration::from_secs(3600));
    mirror.server.inject("pods", forever, 1);
    mirror.server.inject("pods", Fault::GoneEvent, 1);
    mirror.server.apply(&pod("d", 9)).unwrap();
    mirror.recovers("after the list that stopped").await;
    let row = mirror.row(Kind::Pod);
    assert!(row.error.unwrap().contains("the list stalled"));
}

#[tokio::test]
async fn a_server_that_fails_is_asked_again_and_nothing_changes_meanwhile() {
    let mut mirror = shop().await;
    let before = mirror.tables();
    mirror.server.inject("*", Fault::status(500), usize::MAX);
    mirror.server.cut_watches();
    change(&mirror);
    let failed = |mirror: &mut Mirror| mirror.row(Kind::NetworkPolicy).errors > 3;
    mirror.until("500s were counted", failed).await;
    mirror.stays(&before).await;
    assert!(!mirror.board.is_connected());
    mirror.server.heal();
    mirror.recovers("after the 500s").await;
    assert_eq!(mirror.row(Kind::Pod).lists, 1, "watches resume");
}

#[tokio::test]
async fn a_server_that_is_too_busy_is_left_alone_for_as_long_as_it_asks() {
    let mut mirror = shop().await;
    mirror.server.inject("pods", Fault::too_many_requests(2), 1);
    let asked = mirror.server.count("watch", "pods");
    mirror.server.cut_watches();
    change(&mirror);
    let refused = |mirror: &mut Mirror| mirror.server.count("watch", "pods") == asked + 1;
    mirror.until("429", refused).await;
    let start = Instant::now();
    mirror.recovers("after 429").await;
    assert!(start.elapsed() > Duration::from_millis(1800), "too soon");
    assert!(mirror.row(Kind::Pod).error.unwrap().contains("429"));
}

#[tokio::test]
async fn an_expired_token_is_read_anew() {
    let mut mirror = shop().await;
    let before = mirror.tables();
    mirror.server.new_token();
    mirror.server.cut_watches();
    change(&mirror);
    let refused = |mirror: &mut Mirror| mirror.row(Kind::Pod).errors > 3;
    mirror.until("401s were counted", refused).await;
    assert!(mirror.row(Kind::Pod).error.unwrap().contains("401"));
    mirror.stays(&before).await;
    mirror.hand_out_token();
    mirror.recovers("with the new token").await;
}

#[tokio::test]
async fn a_server_that_goes_away_is_found_again() {
    let mut mirror = shop().await;
    let before = mirror.tables();
    mirror.server.stop();
    let down = |mirror: &mut Mirror| !mirror.board.is_connected();
    mirror.until("it is noticed", down).await;
    mirror.stays(&before).await;
}
