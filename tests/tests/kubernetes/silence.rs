//! A server that sends nothing, on a clock that the test advances.

use std::time::Duration;

use ringfence::kubernetes::Kind;
use ringfence_tests::apiserver::Fault;

use crate::mirror::{Mirror, pod, shop};

#[tokio::test]
async fn a_watch_that_is_silent_for_an_hour_is_let_go_and_nothing_is_lost() {
    let mut mirror = shop().await;
    mirror.server.inject("*", Fault::Silence, usize::MAX);
    let muted = |mirror: &mut Mirror| mirror.server.struck() >= Kind::ALL.len() as u64;
    mirror.until("every watch is silent", muted).await;
    let before = mirror.tables();
    mirror.server.apply(&pod("c", 3)).unwrap();
    mirror
        .server
        .delete("networkpolicies", "shop", "p")
        .unwrap();
    mirror.stays(&before).await;
    assert!(mirror.board.is_connected(), "nobody knows yet");

    // While the server doesn't answer new watches either, nothing changes.
    pass(Duration::from_secs(1800)).await;
    mirror.stays(&before).await;
    let noticed = |mirror: &mut Mirror| mirror.row(Kind::Pod).errors > 0;
    mirror.until("the silence is counted", noticed).await;

    mirror.server.heal();
    pass(Duration::from_secs(1800)).await;
    mirror.recovers("after the silence").await;
    let error = mirror.row(Kind::Pod).error.unwrap();
    assert!(error.contains("no data for"), "{error}");
}

/// Advances the clock and runs everything that this triggers.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
    tokio::time::sleep(Duration::from_millis(50)).await;
}
