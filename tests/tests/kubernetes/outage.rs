//! A server that is away for a while: changes are known soon after it is back.

use std::time::{Duration, Instant};

use ringfence::kubernetes::Kind;
use ringfence::kubernetes::pace::Pace;
use ringfence_tests::apiserver::{ApiServer, Fault};

use crate::mirror::{Mirror, SHOP, pod, policy};
use crate::proxies::{Proxy, Way};

/// Long enough for the doubling backoff to exceed what is allowed afterwards.
const AWAY: Duration = Duration::from_secs(13);
/// Measured from the server's first answer.
const SOON: Duration = Duration::from_secs(5);

fn server() -> ApiServer {
    let server = ApiServer::start().unwrap();
    let objects = [SHOP, &pod("a", 1), &pod("b", 2), &policy("p", "a", "b")];
    objects.iter().for_each(|o| server.apply(o).unwrap());
    server
}

/// Returns a server that has been away for a while, and still is.
async fn away() -> (Mirror, Proxy) {
    let server = server();
    let mut proxy = Proxy::start(Way::Http, server.address()).await;
    let mut mirror = Mirror::at(Pace::default(), server, |config| proxy.enter(config));
    mirror.recovers("at first").await;
    proxy.fail().await;
    let cut_off = |mirror: &mut Mirror| !mirror.board.is_connected();
    mirror.until("cut off", cut_off).await;
    tokio::time::sleep(AWAY).await;
    (mirror, proxy)
}

#[tokio::test]
async fn soon_after_an_outage_what_has_changed_is_known() {
    let (mut mirror, mut proxy) = away().await;
    mirror.server.apply(&pod("c", 3)).unwrap();
    mirror
        .server
        .delete("networkpolicies", "shop", "p")
        .unwrap();
    // The server's history is lost too.
    mirror.server.compact();
    proxy.come_back().await;
    let start = Instant::now();
    mirror.recovers("after the outage").await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

/// A server that has just started forbids all requests until it has read the roles.
#[tokio::test]
async fn a_server_that_refuses_at_first_after_an_outage_is_asked_again_soon() {
    let (mut mirror, mut proxy) = away().await;
    mirror.server.inject("*", Fault::status(403), usize::MAX);
    mirror.server.apply(&pod("c", 3)).unwrap();
    let before = mirror.server.struck();
    proxy.come_back().await;
    let refused = |mirror: &mut Mirror| mirror.server.struck() > before;
    mirror.until("refused", refused).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    mirror.server.heal();
    let start = Instant::now();
    mirror.recovers("once it has read the roles").await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

/// Like a server that starts before its storage is available.
#[tokio::test]
async fn what_a_busy_server_left_waiting_goes_on_once_any_watch_has_an_answer() {
    let mut mirror = Mirror::at(Pace::default(), server(), |_| {});
    mirror.recovers("at first").await;
    mirror.server.inject("pods", Fault::status(503), usize::MAX);
    mirror.server.cut_watches();
    let waits_long = |mirror: &mut Mirror| mirror.row(Kind::Pod).errors > 5;
    mirror.until("it waits long", waits_long).await;
    mirror.server.apply(&pod("c", 3)).unwrap();
    mirror.server.heal();
    let start = Instant::now();
    // The other watches come back at once.
    mirror.server.cut_watches();
    mirror.recovers("with the others").await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}
