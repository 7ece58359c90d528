//! The real agent on the node of a test network: started, asked, ended.
//!
//! It needs [`crate::testnet`] alone, and a binary that `cargo build` made.

mod cluster;
mod manifests;
mod pages;
mod shop;
mod traffic;

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::testnet::{Net, Ns};

pub use cluster::Credentials;
pub use manifests::Manifest;
pub use shop::{Shop, TCP, UDP};
pub use traffic::{Exchange, Talk};

/// Seconds that the agent has to come up or to put a change in force.
const PATIENCE: &str = "60";
/// How long until the agent's socket is there, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Between two looks at something that is about to happen.
const TICK: Duration = Duration::from_millis(20);

/// Denied packets by (source, destination, direction, reason, protocol).
pub type Drops = BTreeMap<[String; 5], u64>;

/// How a process ended and what it said.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; -1 for a signal.
    pub code: i32,
    /// All of its stdout.
    pub stdout: String,
    /// All of its stderr.
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// One agent, running or not: its flags and its process.
#[derive(Debug)]
pub struct Agent {
    /// The executable.
    pub binary: PathBuf,
    /// `--node-name`.
    pub node_name: String,
    /// `--manifests`, unless there is a cluster.
    pub manifests: PathBuf,
    /// The API server that it follows instead, if any.
    pub cluster: Option<Credentials>,
    /// `--netns-dir`.
    pub netns_dir: PathBuf,
    /// `--cni-cache`, where there is a cluster.
    pub cni_cache: PathBuf,
    /// `--socket`.
    pub socket: PathBuf,
    /// `--pin-dir`.
    pub pin_dir: PathBuf,
    /// Address of `--metrics-addr`.
    pub metrics_ip: IpAddr,
    /// Its port, on which the node's loopback device is served in any case.
    pub metrics_port: u16,
    /// Port of `--health-addr` on the node's loopback device.
    pub health_port: u16,
    /// Further flags.
    pub flags: Vec<String>,
    node: Ns,
    log: PathBuf,
    pid: Option<u32>,
}

impl Agent {
    /// An agent with the folders that the network has for it; not yet started.
    pub fn new(net: &Net, node_name: &str, manifests: &Path) -> Self {
        Self {
            binary: binary(),
            node_name: node_name.to_owned(),
            manifests: manifests.to_owned(),
            cluster: None,
            netns_dir: net.netns_dir(),
            cni_cache: net.cni_cache(),
            socket: net.socket(),
            pin_dir: net.pin_dir(),
            metrics_ip: Ipv4Addr::LOCALHOST.into(),
            metrics_port: 9435,
            health_port: 9434,
            flags: Vec::new(),
            node: net.node().clone(),
            log: net.dir().join("agent.log"),
            pid: None,
        }
    }

    /// Another agent on the same machine, with nothing in common but the pods.
    pub fn beside(&self, node_name: &str) -> Self {
        let named = |path: &Path| path.with_file_name(format!("{node_name}-other"));
        Self {
            binary: self.binary.clone(),
            node_name: node_name.to_owned(),
            manifests: self.manifests.clone(),
            cluster: self.cluster.clone(),
            netns_dir: self.netns_dir.clone(),
            cni_cache: self.cni_cache.clone(),
            socket: named(&self.socket),
            pin_dir: named(&self.pin_dir),
            metrics_ip: self.metrics_ip,
            metrics_port: self.metrics_port + 1,
            health_port: self.health_port - 1,
            flags: Vec::new(),
            node: self.node.clone(),
            log: self.log.with_file_name(format!("{node_name}.log")),
            pid: None,
        }
    }

    /// `ringfence agent` with all its flags, inside the node's namespace.
    pub fn command(&self) -> Command {
        let mut command = match &self.cluster {
            Some(Credentials::ServiceAccount { folder, env }) => {
                cluster::in_a_pod(&self.node, &self.binary, folder, env)
            }
            _ => self.node.command(&self.binary),
        };
        self.arguments(&mut command);
        command
    }

    /// Adds the agent's subcommand and flags.
    pub fn arguments(&self, command: &mut Command) {
        command.arg("agent");
        match &self.cluster {
            None => command.arg("--manifests").arg(&self.manifests),
            Some(Credentials::Kubeconfig(file)) => command.arg("--kubeconfig").arg(file),
            Some(Credentials::ServiceAccount { .. }) => command,
        };
        if self.cluster.is_some() {
            command.arg("--cni-cache").arg(&self.cni_cache);
        }
        command
            .args(["--node-name", &self.node_name])
            .arg("--netns-dir")
            .arg(&self.netns_dir)
            .args([
                "--metrics-addr",
                &SocketAddr::new(self.metrics_ip, self.metrics_port).to_string(),
            ])
            .args(["--health-addr", &format!("127.0.0.1:{}", self.health_port)])
            .args(&self.flags);
        self.place(command);
    }

    /// Adds the flags that say which agent is meant.
    fn place(&self, command: &mut Command) {
        command.arg("--socket").arg(&self.socket);
        command.arg("--pin-dir").arg(&self.pin_dir);
    }

    /// Starts it; returns once the policy of every pod (`ns/name`) is in force.
    pub fn start(&mut self, net: &mut Net, pods: &[&str]) -> Result<()> {
        ensure!(
            self.binary.exists(),
            "{} isn't there: `cargo build -p ringfence`, or name one in RINGFENCE_BIN",
            self.binary.display()
        );
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        self.pid = Some(net.spawn(&mut command)?);
        let start = Instant::now();
        while UnixStream::connect(&self.socket).is_err() && start.elapsed() < START {
            if let Some(status) = self.child(net)?.try_wait()? {
                bail!("the agent ended with {status}; it says:\n{}", self.log()?);
            }
            thread::sleep(TICK);
        }
        pods.iter().try_for_each(|pod| self.wait_for(pod))
    }

    /// Runs an agent that is to give up by itself.
    pub fn refused(&self) -> Result<Ended> {
        end_of(&mut self.command(), Duration::from_secs(20))
    }

    /// Returns once the pod's present policy is in force.
    pub fn wait_for(&self, pod: &str) -> Result<()> {
        let ended = self.run(&["status", "--wait", pod, "--timeout", PATIENCE])?;
        ensure!(
            ended.code == 0,
            "{pod} isn't guarded: {}the agent says:\n{}",
            ended.stderr,
            self.log()?
        );
        Ok(())
    }

    /// Returns once a pass that began after this call is done, whatever came of it.
    pub fn pass(&self) -> Result<()> {
        // Whether there is such a pod is told after a pass of its own; unlike
        // `status --wait` this asks once.
        let asked = UnixStream::connect(&self.socket);
        let asked = asked.with_context(|| format!("no agent at {}", self.socket.display()))?;
        get(asked, "/v1/wait?pod=no/body").map(drop)
    }

    /// Ends it without a chance to clean up.
    pub fn kill(&mut self, net: &mut Net) -> Result<()> {
        let status = self.end(net, Signal::SIGKILL)?;
        ensure!(
            !status.success(),
            "the agent had ended before it was killed"
        );
        Ok(())
    }

    /// Ends it as the node would: SIGTERM, to which it has to exit 0.
    pub fn stop(&mut self, net: &mut Net) -> Result<()> {
        let status = self.end(net, Signal::SIGTERM)?;
        ensure!(status.success(), "on SIGTERM the agent ended with {status}");
        Ok(())
    }

    fn end(&mut self, net: &mut Net, signal: Signal) -> Result<ExitStatus> {
        let child = self.child(net)?;
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        let status = wait(child, Duration::from_secs(10))?
            .with_context(|| format!("the agent doesn't end on {signal}"))?;
        self.pid = None;
        Ok(status)
    }

    fn child<'a>(&self, net: &'a mut Net) -> Result<&'a mut Child> {
        let child = self.pid.and_then(|pid| net.child(pid));
        child.context("no agent runs")
    }

    /// Runs `ringfence` with these arguments, about this agent.
    pub fn run(&self, args: &[&str]) -> Result<Ended> {
        let mut command = Command::new(&self.binary);
        command.args(args);
        self.place(&mut command);
        let output = command.output();
        Ok(output
            .with_context(|| format!("can't start {}", self.binary.display()))?
            .into())
    }

    /// The same inside the node's network namespace.
    pub fn run_on_node(&self, args: &[&str]) -> Result<Ended> {
        let mut command = self.node.command(&self.binary);
        command.args(args);
        self.place(&mut command);
        end_of(&mut command, START)
    }

    /// Runs `ringfence … -o json`. What an agent that isn't well says of itself is an answer.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let ended = self.run(&[args, &["-o", "json"]].concat())?;
        ensure!(
            ended.code == 0 || args == ["status"] && ended.code == 1,
            "ringfence {}: {}",
            args.join(" "),
            ended.stderr
        );
        serde_json::from_str(&ended.stdout).with_context(|| format!("ringfence {}", args.join(" ")))
    }

    /// What it has counted so far as dropped.
    pub fn drops(&self) -> Result<Drops> {
        let mut drops = Drops::new();
        for row in self.json(&["drops"])?.as_array().into_iter().flatten() {
            if row["audited"] == Value::Bool(false) {
                let key = ["source", "destination", "direction", "reason", "protocol"];
                let key = key.map(|name| row[name].as_str().unwrap_or_default().to_owned());
                *drops.entry(key).or_default() += row["packets"].as_u64().unwrap_or_default();
            }
        }
        Ok(drops)
    }

    /// Its own words since the network was made.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("no {}", self.log.display()))
    }
}

/// Asks for a page; the head comes with it.
fn get(mut stream: impl Read + Write, path: &str) -> Result<String> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: node\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    ensure!(page.contains(" 200 OK"), "{path}: {page}");
    Ok(page)
}

/// Runs a command to its end; one that doesn't end in time is killed, and an error.
pub fn end_of(command: &mut Command, patience: Duration) -> Result<Ended> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start {command:?}"))?;
    if wait(&mut child, patience)?.is_none() {
        child.kill()?;
        let ended = Ended::from(child.wait_with_output()?);
        bail!("{command:?} goes on; it says:\n{}", ended.stderr);
    }
    Ok(child.wait_with_output()?.into())
}

fn wait(child: &mut Child, patience: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        match child.try_wait()? {
            None if start.elapsed() < patience => thread::sleep(TICK),
            ended => return Ok(ended),
        }
    }
}

/// The binary under test: what RINGFENCE_BIN names, else the one that cargo put
/// beside this executable or beside the folder that it is in.
fn binary() -> PathBuf {
    if let Some(path) = env::var_os("RINGFENCE_BIN") {
        return path.into();
    }
    let here = env::current_exe().unwrap_or_default();
    let mut folder = here.parent().unwrap_or(Path::new("."));
    if folder.ends_with("deps") {
        folder = folder.parent().unwrap_or(folder);
    }
    folder.join("ringfence")
}
