//! The contents of `deploy/`: manifests, the image, dashboard and alerts, and all of it
//! together on one node.
#![allow(clippy::unwrap_used)]

mod alerts;
mod dashboard;
mod image;
mod manifests;
mod node;
mod rbac;
mod scrape;

use ringfence_tests::agent::Shop;
use ringfence_tests::apiserver::ApiServer;

/// Starts an API server on the node's own address with the objects of the shop's
/// manifests, and makes it the agent's source.
fn cluster(shop: &mut Shop) -> ApiServer {
    let address = shop.net.node_address(true).unwrap();
    shop.on_cluster((address, 6443).into()).unwrap()
}
