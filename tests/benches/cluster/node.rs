//! The node: its pods' namespaces, the API server double, and the agent.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfence_ebpf::abi::ABI_VERSION;
use ringfence_tests::apiserver::ApiServer;
use ringfence_tests::clusters::NODE;
use ringfence_tests::testnet::Net;
use serde_json::Value;

use crate::kernel::{self, Kernel, Mark};

/// How long the first tables may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Node {
    net: Net,
    agent: Option<u32>,
}

impl Node {
    /// A node with a namespace for each of these pods.
    pub(crate) fn new(pods: &[Value]) -> Result<Self> {
        let mut builder = Net::builder();
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().context("no name")?;
            let listed = pod["status"]["podIPs"].as_array().into_iter().flatten();
            let addresses = listed.filter_map(|ip| ip["ip"].as_str()?.parse::<IpAddr>().ok());
            builder = builder.pod(name, addresses);
        }
        let net = builder.build()?;
        for pod in pods {
            let meta = &pod["metadata"];
            let name = meta["name"].as_str().unwrap_or_default();
            let namespace = meta["namespace"].as_str().context("no namespace")?;
            net.record(name, namespace, name, None)?;
        }
        Ok(Self { net, agent: None })
    }

    /// A double that listens on the node's loopback device.
    pub(crate) fn server(&self) -> Result<ApiServer> {
        let listener = self.net.node().run(|| TcpListener::bind("127.0.0.1:0"))??;
        ApiServer::on(listener)
    }

    /// Starts the agent; returns how long it took until the first tables were
    /// in force on every pod, and its maps.
    pub(crate) fn start(&mut self, server: &ApiServer, first: &Mark) -> Result<(f64, Kernel)> {
        let binary = binary()?;
        let kubeconfig = self.net.dir().join("kubeconfig");
        server.write_kubeconfig(&kubeconfig)?;
        let log = File::create(self.log())?;
        let mut command = self.net.node().command(&binary);
        command
            .args(["agent", "--source", "kubernetes", "--node-name", NODE])
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .arg("--netns-dir")
            .arg(self.net.netns_dir())
            .arg("--cni-cache")
            .arg(self.net.cni_cache())
            // So that programs on a device show that its pod is known.
            .arg("--unknown-pods=allow")
            .arg("--pin-dir")
            .arg(self.net.pin_dir())
            .arg("--socket")
            .arg(self.net.socket())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        kernel::seed(&self.net.pin_dir())?;
        let start = Instant::now();
        self.agent = Some(self.net.spawn(&mut command)?);
        loop {
            if self.is_guarded()? {
                let kernel = Kernel::open(&self.net.pin_dir())?;
                if kernel.has(first)? {
                    return Ok((start.elapsed().as_secs_f64(), kernel));
                }
            }
            if start.elapsed() > PATIENCE {
                bail!("no first tables; the agent says:\n{}", self.said()?);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Adds a pod's network namespace and its record.
    pub(crate) fn add_pod(
        &mut self,
        (namespace, name): (&str, &str),
        addresses: &[IpAddr],
    ) -> Result<()> {
        self.net.add_pod(name, addresses)?;
        self.net.record(name, namespace, name, None)
    }

    /// Removes a pod's namespace.
    pub(crate) fn remove_pod(&mut self, name: &str) -> Result<()> {
        self.net.remove_pod(name)
    }

    /// Whether both programs are pinned on every pod's device.
    pub(crate) fn is_guarded(&self) -> Result<bool> {
        let links = self.net.pin_dir().join(format!("v{ABI_VERSION}/links"));
        let Ok(entries) = fs::read_dir(links) else {
            return Ok(false);
        };
        let names = entries.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        let pods = self.net.pods().len();
        let of = |end: &str| names.iter().filter(|name| name.ends_with(end)).count();
        Ok(of("-from_pod") == pods && of("-to_pod") == pods)
    }

    fn log(&self) -> PathBuf {
        self.net.dir().join("agent.log")
    }

    /// What the agent has said.
    pub(crate) fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(self.log())?)
    }

    fn pid(&self) -> Result<u32> {
        self.agent.context("no agent runs")
    }

    /// The agent's resident memory, and the most that it ever was, in bytes.
    pub(crate) fn memory(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
            kib.map(|kib: f64| kib * 1024.0)
                .with_context(|| format!("no {name}"))
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// What the kernel holds for the agent's maps, in bytes.
    pub(crate) fn maps(&self) -> Result<f64> {
        let mut maps = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", self.pid()?))? {
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            let field = |name: &str| -> Option<f64> {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                line.trim().parse().ok()
            };
            if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
                maps.insert(id as u64, bytes);
            }
        }
        ensure!(!maps.is_empty(), "the agent holds no maps");
        Ok(maps.values().sum())
    }

    /// Ends the agent.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = self.pid()?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        let child = self.net.child(pid).context("no child")?;
        let status = child.wait()?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }
}

/// The release binary, which `cargo xtask bench` has built.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("RINGFENCE_BIN") {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    let folder = here.ancestors().nth(2).context("no target folder")?;
    Ok(folder.join("ringfence"))
}
