//! The metrics port under a pod that floods it, and who is served there.
#![allow(clippy::unwrap_used)]

mod attack;
mod clients;

use ringfence_tests::agent::Shop;
use ringfence_tests::apiserver::ApiServer;

/// An API server on the node's own address that holds what the shop's manifests say,
/// and is the agent's source from now on; metrics on every address of the node.
fn cluster(shop: &mut Shop) -> ApiServer {
    let address = shop.net.node_address(true).unwrap();
    let server = shop.on_cluster((address, 6443).into()).unwrap();
    shop.agent.metrics_ip = "::".parse().unwrap();
    server
}
