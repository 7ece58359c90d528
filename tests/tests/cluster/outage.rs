//! The server is away for a while, as when its machine restarts; kinds that it gains
//! and loses.

use std::thread::sleep;
use std::time::{Duration, Instant};

use ringfence_tests::testnet::Ns;
use serde_json::Value;

use crate::{Cluster, PATIENCE};

/// How long the server is away.
const AWAY: Duration = Duration::from_secs(25);
/// The longest from the server's return until changes made meanwhile are in force.
const SOON: Duration = Duration::from_secs(5);
/// How long the agent keeps asking whether a kind that answers 404 is gone.
const CERTAIN: Duration = Duration::from_secs(30);

/// Cuts all clients off from the server, whose connections are refused, until dropped.
struct Outage(Ns);

impl Outage {
    fn begin(cluster: &Cluster) -> Self {
        let node = cluster.shop.net.node().clone();
        let port = cluster.server.address().port();
        let rules = [
            "add table inet outage".to_owned(),
            "add chain inet outage out { type filter hook output priority 0; }".to_owned(),
            format!("add rule inet outage out tcp dport {port} reject with tcp reset"),
        ];
        for rule in &rules {
            node.output("nft", &[rule]).unwrap();
        }
        cluster.server.cut_watches();
        Self(node)
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        let ended = self.0.output("nft", &["delete table inet outage"]);
        if let Err(error) = ended {
            eprintln!("the outage goes on: {error:#}");
        }
    }
}

/// Returns the lines of the log above level info.
fn warnings(cluster: &Cluster) -> Vec<String> {
    let log = cluster.shop.agent.log().unwrap();
    let lines = log
        .lines()
        .filter(|line| line.contains(" WARN ") || line.contains("ERROR"));
    lines.map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_changed_during_an_outage_is_in_force_soon_after_it_and_two_lines_say_so() {
    let cluster = Cluster::start();
    let before = warnings(&cluster).len();
    let outage = Outage::begin(&cluster);
    let disconnected = |status: &Value| status["source_connected"] == false;
    cluster.until("the outage shows", disconnected);
    let said = cluster.shop.agent.run(&["status"]).unwrap();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stdout.starts_with("running on the last known state"),
        "{said:?}"
    );
    sleep(AWAY);
    cluster.shop.is_guarded("during the outage").unwrap();
    cluster.allow_client(false);
    // The server's history is lost too.
    cluster.server.compact();
    drop(outage);
    let start = Instant::now();
    cluster.client_is(false, "after the outage");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    cluster.until("connected again", |status| {
        status["source_connected"] == true
    });
    assert_eq!(cluster.shop.agent.run(&["status"]).unwrap().code, 0);
    let warnings = warnings(&cluster);
    assert_eq!(warnings.len() - before, 1, "{warnings:#?}");
    let log = cluster.shop.agent.log().unwrap();
    assert_eq!(
        log.matches("all watches are connected again").count(),
        1,
        "{log}"
    );
}

/// Denies all ingress to the server.
const DENY: &str = "
kind: ClusterNetworkPolicy
apiVersion: policy.networking.k8s.io/v1alpha2
metadata: { name: deny }
spec:
  tier: Admin
  priority: 1
  subject: { pods: { podSelector: { matchLabels: { app: server } } } }
  ingress: [{ action: Deny, from: [{ namespaces: {} }] }]
";

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_definition_that_comes_later_is_followed_and_lifted_once_it_is_certainly_gone() {
    let mut cluster = Cluster::open();
    cluster.server.set_cluster_policies(false);
    cluster.shop.start().unwrap();
    cluster.shop.is_guarded("without the kind").unwrap();
    let said = cluster.shop.agent.run(&["status"]).unwrap();
    let absent = "the cluster has no ClusterNetworkPolicy";
    assert!(said.code == 0 && said.stdout.contains(absent), "{said:?}");

    cluster.server.apply(DENY).unwrap();
    cluster.server.set_cluster_policies(true);
    let start = Instant::now();
    cluster.client_is(false, "with the kind");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    let said = cluster.shop.agent.run(&["status"]).unwrap();
    assert!(said.code == 0 && !said.stdout.contains(absent), "{said:?}");

    // Deleted while no watch is connected to report it.
    cluster.server.set_cluster_policies(false);
    cluster.server.cut_watches();
    let start = Instant::now();
    while start.elapsed() < CERTAIN - SOON {
        assert!(!cluster.shop.calls("client", "server", false).unwrap());
        sleep(Duration::from_secs(1));
    }
    cluster.client_is(true, "once that is certain");
    assert!(
        start.elapsed() < CERTAIN + 3 * SOON,
        "{:?}",
        start.elapsed()
    );
    assert!(start.elapsed() < PATIENCE);
    let said = cluster.shop.agent.run(&["status"]).unwrap();
    assert!(said.code == 0 && said.stdout.contains(absent), "{said:?}");
}
