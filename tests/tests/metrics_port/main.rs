//! The metrics port under a pod that floods it, and who is served there.
#![allow(clippy::unwrap_used)]

mod attack;
mod clients;

use std::net::TcpListener;

use ringfence_tests::agent::{Credentials, Shop};
use ringfence_tests::apiserver::ApiServer;

/// An API server on the node's own address that holds what the shop's manifests say,
/// and is the agent's source from now on; metrics on every address of the node.
fn cluster(shop: &mut Shop) -> ApiServer {
    let address = shop.net.node_address(true).unwrap();
    let listener = shop.net.node().run(|| TcpListener::bind((address, 6443)));
    let server = ApiServer::on(listener.unwrap().unwrap()).unwrap();
    server.apply_dir(&shop.manifests).unwrap();
    let kubeconfig = shop.net.dir().join("kubeconfig");
    server.write_kubeconfig(&kubeconfig).unwrap();
    shop.agent.cluster = Some(Credentials::Kubeconfig(kubeconfig));
    shop.agent.metrics_ip = "::".parse().unwrap();
    server
}
