//! What `deploy/` holds: manifests, the image, dashboard and alerts; and the whole of
//! it on one node.
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

/// An API server on the node's own address that holds what the shop's manifests say,
/// and is the agent's source from now on.
fn cluster(shop: &mut Shop) -> ApiServer {
    let address = shop.net.node_address(true).unwrap();
    shop.on_cluster((address, 6443).into()).unwrap()
}
