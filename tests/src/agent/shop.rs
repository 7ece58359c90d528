//! The smallest cluster on which enforcement shows: a server that is closed, a
//! client that may call it, and a rogue that may not.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Agent, Credentials, Manifest, manifests};
use crate::apiserver::ApiServer;
use crate::testnet::{Net, Ns, Probe, Server, probe_tcp, probe_udp};

/// The server's TCP port that the client may call.
pub const TCP: u16 = 8080;
/// The server's UDP port that the client may call.
pub const UDP: u16 = 5353;
/// A dropped attempt is one packet only if nobody waits for the first
/// retransmission, a second later.
const DENIED: Duration = Duration::from_millis(250);
/// An allowed one may be late on a busy machine.
const ALLOWED: Duration = Duration::from_secs(3);

/// Network, manifests and agent. The fields' order is the order of their end.
#[derive(Debug)]
pub struct Shop {
    servers: Vec<Server>,
    /// The agent on the node, not started yet.
    pub agent: Agent,
    /// Where its manifests are.
    pub manifests: PathBuf,
    /// The network, with pods `server`, `client` and `rogue`.
    pub net: Net,
}

impl Shop {
    /// The node's name.
    pub const NODE: &'static str = "node-1";

    /// Lays the network, starts the servers, writes the manifests.
    pub fn open() -> Result<Self> {
        Self::with([Self::server(), Self::client(), Self::rogue()])
    }

    /// The same with pods of one's own; every pod serves on both ports.
    pub fn with(pods: impl IntoIterator<Item = Manifest>) -> Result<Self> {
        let pods: Vec<Manifest> = pods.into_iter().collect();
        let mut builder = Net::builder();
        for pod in &pods {
            builder = builder.pod(pod.name(), [IpAddr::from(pod.v4()), pod.v6().into()]);
        }
        let net = builder.build()?;
        let manifests = net.dir().join("manifests");
        fs::create_dir(&manifests)?;
        let mut shop = Self {
            servers: Vec::new(),
            agent: Agent::new(&net, Self::NODE, &manifests),
            manifests,
            net,
        };
        let address = |v4| {
            let address = shop.net.node_address(v4);
            address.map(|ip| ip.to_string()).unwrap_or_default()
        };
        let node = (Self::NODE, [address(true), address(false)]);
        shop.write("cluster", &manifests::cluster(&[node]))?;
        for pod in &pods {
            shop.write(pod.name(), &pod.yaml())?;
            shop.serve(pod.name())?;
            shop.record(pod)?;
        }
        Ok(shop)
    }

    /// Closed to all but those that list it.
    pub fn server() -> Manifest {
        Manifest::pod("server", Self::NODE, 10).label("ringfence.dev/ingress", "enforce")
    }

    /// May call the server, over TCP and UDP.
    pub fn client() -> Manifest {
        let ports = format!("{TCP}_udp-{UDP}");
        Self::stranger().label("egress.ringfence.dev/server", &ports)
    }

    /// The client without leave to call anybody.
    pub fn stranger() -> Manifest {
        Manifest::pod("client", Self::NODE, 11)
    }

    /// Has no labels of Ringfence's.
    pub fn rogue() -> Manifest {
        Manifest::pod("rogue", Self::NODE, 12)
    }

    /// Records a pod as its network plugin would: whose its device is.
    pub fn record(&self, pod: &Manifest) -> Result<()> {
        let (name, uid) = (pod.name(), pod.uid());
        self.net.record(name, "shop", name, Some(&uid))
    }

    /// Puts an API server that holds what the manifests say on an address of the node's,
    /// and has the agent follow that from now on, with a kubeconfig.
    pub fn on_cluster(&mut self, at: SocketAddr) -> Result<ApiServer> {
        let server = ApiServer::on(self.net.node().run(|| TcpListener::bind(at))??)?;
        server.apply_dir(&self.manifests)?;
        let kubeconfig = self.net.dir().join("kubeconfig");
        server.write_kubeconfig(&kubeconfig)?;
        self.agent.cluster = Some(Credentials::Kubeconfig(kubeconfig));
        Ok(server)
    }

    /// Starts the agent; returns once all three pods are guarded.
    pub fn start(&mut self) -> Result<()> {
        let pods = ["shop/server", "shop/client", "shop/rogue"];
        self.agent.start(&mut self.net, &pods)
    }

    /// Serves in a pod: TCP and UDP echo.
    pub fn serve(&mut self, pod: &str) -> Result<()> {
        let ns = self.ns(pod)?.clone();
        let server = Server::default().tcp(&ns, TCP, pod)?.udp(&ns, UDP)?;
        self.servers.push(server);
        Ok(())
    }

    /// Ends all servers, which hold namespaces open.
    pub fn end_servers(&mut self) {
        self.servers.clear();
    }

    /// Writes `NAME.yaml`, all at once: no reader sees half of it.
    pub fn write(&self, name: &str, yaml: &str) -> Result<()> {
        let draft = self.manifests.join(format!(".{name}"));
        let file = self.manifests.join(format!("{name}.yaml"));
        fs::write(&draft, yaml)
            .and_then(|()| fs::rename(&draft, &file))
            .with_context(|| format!("can't write {}", file.display()))
    }

    /// Removes `NAME.yaml`.
    pub fn remove(&self, name: &str) -> Result<()> {
        let file = self.manifests.join(format!("{name}.yaml"));
        fs::remove_file(&file).with_context(|| format!("can't remove {}", file.display()))
    }

    /// The namespace of a pod, or of the `node`.
    pub fn ns(&self, name: &str) -> Result<&Ns> {
        match name {
            "node" => Ok(self.net.node()),
            pod => Ok(&self.net.pod(pod)?.ns),
        }
    }

    /// Where a pod's port is.
    pub fn address(&self, pod: &str, v4: bool, port: u16) -> Result<SocketAddr> {
        let address = self.net.pod(pod)?.address(v4);
        Ok(SocketAddr::new(address.context("no address")?, port))
    }

    /// Whether a call gets through, over TCP and UDP and both families; an error
    /// if they differ. `expected` says how long to wait.
    pub fn calls(&self, from: &str, to: &str, expected: bool) -> Result<bool> {
        let patience = if expected { ALLOWED } else { DENIED };
        let ns = self.ns(from)?;
        let mut seen = Vec::new();
        for v4 in [true, false] {
            let ip = self.address(to, v4, 0)?.ip();
            seen.push(probe_tcp(ns, ip, TCP, patience)?);
            seen.push(probe_udp(ns, ip, UDP, patience)?);
        }
        if seen.iter().all(|probe| *probe == Probe::Open) {
            return Ok(true);
        }
        // Where a neighbour didn't answer, the kernel soon says so instead of waiting.
        let closed = [Probe::TimedOut, Probe::Unreachable];
        anyhow::ensure!(
            seen.iter().all(|probe| closed.contains(probe)),
            "{from} to {to}, TCP and UDP over IPv4, then over IPv6: {seen:?}"
        );
        Ok(false)
    }

    /// Fails unless calls between the three end as policy wants.
    pub fn is_guarded(&self, when: &str) -> Result<()> {
        for (from, allowed) in [("client", true), ("rogue", false), ("node", true)] {
            let seen = self.calls(from, "server", allowed)?;
            anyhow::ensure!(
                seen == allowed,
                "{when}: {from} to server is {}",
                if seen { "allowed" } else { "denied" }
            );
        }
        Ok(())
    }
}
