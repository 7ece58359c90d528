//! The metrics port under a pod that floods it, and the clients that are served there.
#![allow(clippy::unwrap_used)]

mod attack;
mod clients;

use ringfence_tests::agent::Shop;
use ringfence_tests::apiserver::ApiServer;

/// Starts an API server on the node's own address with the objects of the shop's
/// manifests, and makes it the agent's source; metrics are served on every address of
/// the node.
fn cluster(shop: &mut Shop) -> ApiServer {
    let address = shop.net.node_address(true).unwrap();
    let server = shop.on_cluster((address, 6443).into()).unwrap();
    shop.agent.metrics_ip = "::".parse().unwrap();
    server
}
