//! What the agent says over TCP, and what its process takes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::{Agent, get};

/// A page of metrics is no older.
const PAGE: Duration = Duration::from_millis(1100);

impl Agent {
    /// The value of a metric by its name, and its labels if it has any.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let page = self.metrics()?;
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        let value = line.with_context(|| format!("no {name} in\n{page}"))?;
        Ok(value.trim().parse()?)
    }

    /// Packets that the page at `/metrics` has as dropped on their way from one
    /// workload to another.
    pub fn dropped(&self, source: &str, destination: &str) -> Result<u64> {
        // Labels come in the order of their names.
        let source = format!(",source=\"{source}\",");
        let destination = format!("{{destination=\"{destination}\",");
        let page = self.metrics()?;
        let lines = page.lines().filter(|line| {
            line.starts_with("ringfence_dropped_packets_total{")
                && line.contains(&source)
                && line.contains(&destination)
        });
        let values = lines.filter_map(|line| line.rsplit(' ').next());
        values.map(|value| Ok(value.parse::<u64>()?)).sum()
    }

    /// Stops its process, which then reads and writes nothing until [`Agent::thaw`].
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid.context("no agent runs")?;
        kill(Pid::from_raw(pid.try_into()?), signal).with_context(|| format!("{signal} to {pid}"))
    }

    /// Time that its process has had on all CPUs together.
    pub fn cpu_time(&self) -> Result<Duration> {
        let pid = self.pid.context("no agent runs")?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, in parentheses, may hold anything; user and system time are
        // the twelfth and thirteenth field after it (proc_pid_stat(5)).
        let after = &stat[stat.rfind(')').context("no name")? + 1..];
        let fields = after.split_whitespace().skip(11).take(2);
        let ticks: u64 = fields.map(str::parse::<u64>).sum::<Result<_, _>>()?;
        let each = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
        Ok(Duration::from_secs(ticks) / u32::try_from(each)?)
    }

    /// A line of `/proc/PID/status`, such as `VmRSS`, in KiB.
    pub fn memory(&self, line: &str) -> Result<u64> {
        let pid = self.pid.context("no agent runs")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let mut lines = status.lines();
        let value = lines.find_map(|one| one.strip_prefix(line)?.strip_prefix(':'));
        let value = value.with_context(|| format!("no {line} in\n{status}"))?;
        Ok(value.trim().trim_end_matches(" kB").parse()?)
    }

    /// How many files its process has open.
    pub fn open_files(&self) -> Result<usize> {
        let pid = self.pid.context("no agent runs")?;
        Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
    }

    /// The page of a probe, such as `/livez`.
    pub fn probe(&self, path: &str) -> Result<String> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.health_port));
        let stream = self
            .node
            .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))?;
        get(stream.with_context(|| format!("no probes at {to}"))?, path)
    }

    /// The page at `/metrics`, made after this call.
    pub fn metrics(&self) -> Result<String> {
        // One that was made before is the newest for a second.
        thread::sleep(PAGE);
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.metrics_port));
        let stream = self
            .node
            .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))?;
        get(
            stream.with_context(|| format!("no metrics at {to}"))?,
            "/metrics",
        )
    }
}
