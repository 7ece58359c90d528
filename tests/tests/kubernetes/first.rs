//! The first tables, and servers that lack kinds that others have.

use std::time::{Duration, Instant};

use ringfence::kubernetes::Kind;
use ringfence_api::WatchState;
use ringfence_tests::apiserver::{ApiServer, Fault};

use crate::mirror::{Mirror, PACE, SHOP, pod, policy};

const CLUSTER_POLICY: &str = "
kind: ClusterNetworkPolicy
apiVersion: policy.networking.k8s.io/v1alpha2
metadata: { name: none }
spec:
  tier: Admin
  priority: 1
  subject: { namespaces: {} }
  ingress: [{ action: Deny, from: [{ namespaces: {} }] }]
";

fn server() -> ApiServer {
    let server = ApiServer::start().unwrap();
    let objects = [SHOP, &pod("a", 1), &pod("b", 2), &policy("p", "a", "b")];
    objects.iter().for_each(|o| server.apply(o).unwrap());
    server
}

#[tokio::test]
async fn every_kind_is_waited_for() {
    let server = server();
    server.inject("networkpolicies", Fault::status(500), usize::MAX);
    let mut mirror = Mirror::new(server);
    let rest = |mirror: &mut Mirror| mirror.inbox.waits_for() == [Kind::NetworkPolicy];
    mirror.until("all but policies", rest).await;
    let failed = |mirror: &mut Mirror| mirror.row(Kind::NetworkPolicy).errors > 2;
    mirror.until("policies fail", failed).await;
    assert_eq!(mirror.inbox.waits_for(), [Kind::NetworkPolicy]);
    mirror.server.heal();
    mirror.recovers("with all kinds").await;
}

#[tokio::test]
async fn the_first_list_is_streamed_and_costs_no_other() {
    let mut mirror = Mirror::new(server());
    mirror.agrees("streamed").await;
    assert_eq!(mirror.server.count("list", "pods"), 0);
    assert_eq!(mirror.server.count("watch", "pods"), 1);
}

#[tokio::test]
async fn a_server_that_cant_stream_lists_is_read_in_pages() {
    let server = server();
    server.set_streaming_lists(false);
    for n in 0..1200 {
        server.apply(&pod(&format!("many-{n}"), 200)).unwrap();
    }
    let mut mirror = Mirror::new(server);
    mirror.recovers("in pages").await;
    assert_eq!(mirror.server.count("list", "pods"), 3);
    let row = mirror.row(Kind::Pod);
    assert_eq!((row.errors, row.lists), (0, 1), "{row:?}");
}

#[tokio::test]
async fn a_page_that_is_gone_begins_the_list_anew() {
    let server = server();
    server.set_streaming_lists(false);
    for n in 0..600 {
        server.apply(&pod(&format!("many-{n}"), 200)).unwrap();
    }
    server.inject("pods", Fault::SlowList(Duration::from_millis(500)), 1);
    let mut mirror = Mirror::new(server);
    let asked = |mirror: &mut Mirror| mirror.server.count("list", "pods") == 1;
    mirror.until("the first page", asked).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    mirror.server.compact();
    mirror.recovers("in spite of it").await;
    assert!(mirror.row(Kind::Pod).errors > 0);
}

#[tokio::test]
async fn cluster_network_policies_are_found_once_their_api_is_there() {
    let server = server();
    server.set_cluster_policies(false);
    server.apply(CLUSTER_POLICY).unwrap();
    let mut mirror = Mirror::new(server);
    let complete = |mirror: &mut Mirror| mirror.inbox.waits_for().is_empty();
    mirror.until("a buffer without them", complete).await;
    assert!(mirror.board.is_connected());
    assert_eq!(
        mirror.row(Kind::ClusterNetworkPolicy).state,
        WatchState::Absent
    );
    assert_ne!(mirror.tables(), mirror.scratch());
    mirror.server.set_cluster_policies(true);
    mirror.recovers("with them").await;
    let row = mirror.row(Kind::ClusterNetworkPolicy);
    assert_eq!((row.state.as_str(), row.errors), ("connected", 0));
}

#[tokio::test]
async fn cluster_network_policies_stay_while_their_api_cant_be_found() {
    let server = server();
    server.apply(CLUSTER_POLICY).unwrap();
    let mut mirror = Mirror::new(server);
    mirror.agrees("with them").await;
    let before = mirror.tables();
    mirror.server.set_cluster_policies(false);
    mirror.server.cut_watches();
    let gone = |mirror: &mut Mirror| mirror.row(Kind::ClusterNetworkPolicy).errors > 2;
    mirror.until("404s were counted", gone).await;
    mirror.stays(&before).await;
    mirror.server.set_cluster_policies(true);
    mirror.recovers("with them again").await;
}

#[tokio::test]
async fn cluster_network_policies_whose_api_was_deleted_meanwhile_go_once_that_is_certain() {
    let server = server();
    server.apply(CLUSTER_POLICY).unwrap();
    let mut mirror = Mirror::new(server);
    mirror.agrees("with them").await;
    let before = mirror.tables();
    // The kind disappears without an event for the disconnected watch: at first the
    // agent can't be sure.
    mirror.server.set_cluster_policies(false);
    mirror.server.cut_watches();
    mirror.server.inject("*", Fault::status(500), 3);
    let start = Instant::now();
    let absent =
        |mirror: &mut Mirror| mirror.row(Kind::ClusterNetworkPolicy).state == WatchState::Absent;
    let kept = |mirror: &mut Mirror| mirror.tables() == before;
    while start.elapsed() < PACE.certain {
        mirror.drain();
        assert!(
            kept(&mut mirror) && !absent(&mut mirror),
            "{:?}",
            start.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    mirror
        .until("lifted", |mirror| {
            absent(mirror) && mirror.tables() != before
        })
        .await;
    assert!(mirror.board.is_connected());
    mirror.server.set_cluster_policies(true);
    mirror.recovers("with them anew").await;
    assert_eq!(mirror.tables(), before);
}

#[tokio::test]
async fn two_agents_follow_one_server() {
    let mut one = Mirror::new(server());
    one.agrees("for one").await;
    let mut two = one.beside();
    two.server.apply(&pod("c", 3)).unwrap();
    two.server.inject("pods", Fault::GoneEvent, 1);
    one.recovers("for one").await;
    two.recovers("for the other").await;
    assert_eq!(one.tables(), two.tables());
}
