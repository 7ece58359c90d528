//! The demo's network, its servers, and the agent on its node.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::cluster::{self, Cluster};
use crate::testnet::{Dnat, Net, Ns, Server};
use crate::{paths, shell};

/// Addresses of the client outside the cluster, by family.
const CLIENT: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 50)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x50)),
];
/// Addresses of the database outside the cluster, by family.
pub(super) const DATABASE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 20)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x20)),
];
/// The port of the database.
pub(super) const DATABASE_PORT: u16 = 5432;
/// The address of NodeLocal DNSCache on each node, which no object contains.
pub(super) const DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10));
/// The port of NodeLocal DNSCache.
pub(super) const DNS_PORT: u16 = 53;
/// The port on which every pod listens.
pub(super) const POD_PORT: u16 = 8080;
/// Seconds that the agent may take to start or to put a change in force.
const PATIENCE: &str = "20";

/// The demo's environment.
pub(super) struct Stage {
    pub(super) net: Net,
    pub(super) cluster: Cluster,
    /// The copy of the manifests that the agent watches and the fix changes.
    pub(super) manifests: PathBuf,
    agent: Option<u32>,
    /// Dropped after `net`, which removes namespaces lazily.
    pub(super) servers: Vec<Server>,
}

impl Stage {
    /// Builds the network from the manifests' addresses and starts the servers.
    pub(super) fn build(manifests: &Path) -> Result<Self> {
        let cluster = Cluster::read(manifests)?;
        let mut builder = Net::builder()
            .node(cluster.node.clone())
            .outside([CLIENT, DATABASE].concat());
        for pod in &cluster.pods {
            builder = builder.pod(&pod.name, pod.addresses.clone());
        }
        let net = builder.build()?;
        net.dnat(&services(&cluster, &net))?;
        net.node().ip(&format!("addr add {DNS}/32 dev lo\n"))?;
        let copy = net.dir().join("manifests");
        fs::create_dir(&copy)?;
        for file in cluster::files(manifests)? {
            fs::copy(&file, copy.join(file.file_name().unwrap_or_default()))?;
        }
        let servers = serve(net.dir(), &cluster)?;
        Ok(Self {
            net,
            cluster,
            manifests: copy,
            agent: None,
            servers,
        })
    }

    /// Returns the network namespace of a pod, `outside` or `node`.
    pub(super) fn ns(&self, name: &str) -> Result<&Ns> {
        Ok(match name {
            "outside" => self.net.outside(),
            "node" => self.net.node(),
            pod => &self.net.pod(pod)?.ns,
        })
    }

    /// Starts the agent on the node; returns once every pod's policy is in force.
    pub(super) fn start_agent(&mut self) -> Result<()> {
        let log = self.log();
        let log = File::options().create(true).append(true).open(&log)?;
        let mut command = self.net.node().command(binary()?);
        command
            .arg("agent")
            .arg("--manifests")
            .arg(&self.manifests)
            .args(["--node-name", &self.cluster.node_name])
            .arg("--netns-dir")
            .arg(self.net.netns_dir())
            .args(["--metrics-addr", "127.0.0.1:9435"])
            .args(self.where_it_is())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // The terminal's Ctrl-C must not kill the agent: removing the network
            // does.
            .process_group(0);
        self.agent = Some(self.net.spawn(&mut command)?);
        for pod in self.cluster.pods.clone() {
            self.wait_for(&pod.full_name())?;
        }
        Ok(())
    }

    /// Kills the agent without a chance to clean up.
    pub(super) fn kill_agent(&mut self) -> Result<()> {
        let pid = self.agent.take().context("no agent runs")?;
        let child = self.net.child(pid).context("no agent runs")?;
        child.kill().context("can't kill the agent")?;
        let status = child.wait()?;
        ensure!(
            !status.success(),
            "the agent had ended before it was killed"
        );
        Ok(())
    }

    /// Stops the agent as the node would: by SIGTERM, with a clean exit.
    pub(super) fn stop_agent(&mut self) -> Result<()> {
        let pid = self.agent.take().context("no agent runs")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM).context("SIGTERM")?;
        let child = self.net.child(pid).context("no agent runs")?;
        for _ in 0..200 {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "on SIGTERM the agent ended with {status}");
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        bail!("the agent doesn't stop on SIGTERM")
    }

    /// Waits until the pod's current policy is in force.
    pub(super) fn wait_for(&mut self, pod: &str) -> Result<()> {
        // `status` can't connect before the agent's socket exists.
        for _ in 0..100 {
            if self.net.socket().exists() || self.agent_ended()?.is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let waited = self.ringfence(&["status", "--wait", pod, "--timeout", PATIENCE]);
        if waited.is_err()
            && let Some(status) = self.agent_ended()?
        {
            bail!(
                "the agent ended with {status}; it says:\n{}",
                self.log_tail()
            );
        }
        waited
            .map(drop)
            .with_context(|| format!("{pod} isn't guarded; the agent says:\n{}", self.log_tail()))
    }

    /// Runs `ringfence` against the demo's agent; returns its output.
    pub(super) fn ringfence(&self, args: &[&str]) -> Result<String> {
        shell::output(Command::new(binary()?).args(args).args(self.where_it_is()))
    }

    /// Runs `ringfence … -o json`; returns its output, parsed.
    pub(super) fn ringfence_json(&self, args: &[&str]) -> Result<Value> {
        let text = self.ringfence(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("ringfence {}", args.join(" ")))
    }

    /// Returns the flags that select the demo's agent.
    pub(super) fn where_it_is(&self) -> Vec<String> {
        let (socket, pins) = (self.net.socket(), self.net.pin_dir());
        let flags = [
            "--socket",
            &socket.to_string_lossy(),
            "--pin-dir",
            &pins.to_string_lossy(),
        ];
        flags.map(str::to_owned).to_vec()
    }

    /// Returns the path of the agent's log.
    pub(super) fn log(&self) -> PathBuf {
        self.net.dir().join("agent.log")
    }

    fn agent_ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        let child = self.agent.and_then(|pid| self.net.child(pid));
        Ok(child
            .map(std::process::Child::try_wait)
            .transpose()?
            .flatten())
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Returns the path of the binary that `cargo build` produces.
pub(super) fn binary() -> Result<PathBuf> {
    Ok(paths::built("debug")?.join("ringfence"))
}

/// Starts a server in each pod, at the database and at the node's DNS cache; each sends its
/// name as a banner.
pub(super) fn serve(net: &Path, cluster: &Cluster) -> Result<Vec<Server>> {
    let outside = Ns::open(net.join("outside"));
    let mut servers = vec![Server::default().tcp(&outside, DATABASE_PORT, "database")?];
    let node = Ns::open(net.join("node"));
    servers.push(Server::default().tcp(&node, DNS_PORT, "dns")?);
    for pod in &cluster.pods {
        let ns = Ns::open(net.join("netns").join(&pod.name));
        servers.push(Server::default().tcp(&ns, POD_PORT, &pod.name)?);
    }
    Ok(servers)
}

/// Returns the DNAT rules that kube-proxy would create for the Services' NodePorts.
fn services(cluster: &Cluster, net: &Net) -> Vec<Dnat> {
    let mut rules = Vec::new();
    for port in &cluster.node_ports {
        for v4 in [true, false] {
            let pod = cluster.pod(&port.pod).and_then(|pod| pod.address(v4));
            if let (Some(address), Ok(pod)) = (net.node_address(v4), pod) {
                rules.push(Dnat {
                    address,
                    protocol: "tcp",
                    port: port.port,
                    to: vec![SocketAddr::new(pod, port.target)],
                    masquerade: !port.local,
                });
            }
        }
    }
    rules
}
