//! The agent on a node of a cluster whose API server misbehaves: enforced policy stays
//! enforced, and changes get through in the end.
#![allow(clippy::unwrap_used)]

mod credentials;
mod events;
mod faults;
mod identity;
mod outage;
mod restart;
mod waiting;

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ringfence_tests::agent::Shop;
use ringfence_tests::apiserver::ApiServer;
use serde_json::Value;

/// How long a change may take on a busy machine, after a fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// The shop, whose objects are in an API server on the node's loopback device.
struct Cluster {
    shop: Shop,
    server: ApiServer,
}

impl Cluster {
    /// Creates the cluster with a kubeconfig; the agent isn't started yet.
    fn open() -> Self {
        let mut shop = Shop::open().unwrap();
        let loopback = (Ipv4Addr::LOCALHOST, 0).into();
        let server = shop.on_cluster(loopback).unwrap();
        Self { shop, server }
    }

    /// Starts a cluster with an agent that guards all pods.
    fn start() -> Self {
        let mut cluster = Self::open();
        cluster.shop.start().unwrap();
        cluster.shop.is_guarded("at first").unwrap();
        cluster
    }

    /// Revokes the client's permission, or grants it again.
    fn allow_client(&self, allowed: bool) {
        let client = match allowed {
            true => Shop::client(),
            false => Shop::stranger(),
        };
        self.server.apply(&client.yaml()).unwrap();
    }

    /// Waits until the client's calls have the expected result.
    fn client_is(&self, allowed: bool, when: &str) {
        let start = Instant::now();
        while self.shop.calls("client", "server", allowed).ok() != Some(allowed) {
            let log = self.shop.agent.log().unwrap();
            let late = start.elapsed() > PATIENCE;
            assert!(!late, "{when}: not {allowed}: {:#}\n{log}", self.status());
            sleep(Duration::from_millis(20));
        }
    }

    fn status(&self) -> Value {
        self.shop.agent.json(&["status"]).unwrap()
    }

    /// Waits until the status satisfies a condition.
    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let start = Instant::now();
        loop {
            let status = self.status();
            if holds(&status) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {status:#}");
            sleep(Duration::from_millis(20));
        }
    }

    /// Returns the value of a metric about the watch of a kind.
    fn watch_metric(&self, name: &str, kind: &str) -> u64 {
        let metric = format!("ringfence_watch_{name}{{kind=\"{kind}\"}}");
        self.shop.agent.metric(&metric).unwrap() as u64
    }
}
