//! A server that is away for a while: a change is known soon after it is back.

use std::time::{Duration, Instant};

use ringfence::kubernetes::pace::Pace;
use ringfence_tests::apiserver::ApiServer;

use crate::mirror::{Mirror, SHOP, pod, policy};
use crate::proxies::{Proxy, Way};

/// Long enough for waits that double to be longer than what is allowed afterwards.
const AWAY: Duration = Duration::from_secs(13);
/// From the server's first answer on.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn soon_after_an_outage_what_has_changed_is_known() {
    let server = ApiServer::start().unwrap();
    let objects = [SHOP, &pod("a", 1), &pod("b", 2), &policy("p", "a", "b")];
    objects.iter().for_each(|o| server.apply(o).unwrap());
    let mut proxy = Proxy::start(Way::Http, server.address()).await;
    let mut mirror = Mirror::at(Pace::default(), server, |config| proxy.enter(config));
    mirror.recovers("at first").await;
    proxy.fail().await;
    let cut_off = |mirror: &mut Mirror| !mirror.board.is_connected();
    mirror.until("cut off", cut_off).await;
    tokio::time::sleep(AWAY).await;
    mirror.server.apply(&pod("c", 3)).unwrap();
    mirror
        .server
        .delete("networkpolicies", "shop", "p")
        .unwrap();
    // Its history is gone too.
    mirror.server.compact();
    proxy.come_back().await;
    let start = Instant::now();
    mirror.recovers("after the outage").await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}
