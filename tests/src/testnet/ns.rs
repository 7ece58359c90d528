//! One network namespace: a file to enter it by, and ways to work inside.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// Sysctls of every namespace, written before it has a device, so that devices
/// are born with them. Duplicate-address detection would hold back each IPv6
/// address for a second; `rp_filter` would drop what a test sends askew.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
];

/// A network namespace, named by the file that holds it open.
#[derive(Clone, Debug)]
pub struct Ns {
    path: PathBuf,
}

impl Ns {
    /// The namespace behind a file that exists already.
    pub fn open(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes a namespace, its loopback device up, and mounts it at `path`.
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        File::create(&path).with_context(|| format!("can't make {}", path.display()))?;
        let target = path.clone();
        // A namespace belongs to a thread; the mount outlives it.
        on_a_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare(CLONE_NEWNET)")?;
            let own = Path::new("/proc/thread-self/ns/net");
            mount(
                Some(own),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .with_context(|| format!("can't mount a namespace at {}", target.display()))?;
            SYSCTLS
                .iter()
                .try_for_each(|(name, value)| write_sysctl(name, value))
        })?;
        let ns = Self { path };
        ns.ip("link set lo up\n")?;
        Ok(ns)
    }

    /// The file that holds the namespace.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a closure on a thread inside the namespace. Sockets that it returns
    /// stay in the namespace and work from any thread.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(&self.path)
            .with_context(|| format!("can't open {}", self.path.display()))?;
        on_a_thread(move || {
            setns(file, CloneFlags::CLONE_NEWNET).context("setns(CLONE_NEWNET)")?;
            Ok(work())
        })
    }

    /// A command that runs inside the namespace.
    ///
    /// `nsenter` keeps the mount namespace, unlike `ip netns exec`, so that
    /// BPF filesystems stay visible.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display()));
        command.arg("--").arg(program);
        command
    }

    /// Runs a command inside the namespace and returns what it printed.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        feed(self.command(program).args(args), "")
    }

    /// Runs lines of `ip` in one process.
    pub fn ip(&self, batch: &str) -> Result<()> {
        feed(self.command("ip").args(["-batch", "-"]), batch).map(drop)
    }

    /// Writes a sysctl of this namespace, given as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.run(|| write_sysctl(name, value))?
    }
}

/// Feeds a command and returns what it printed; an error holds its complaint
/// and its input.
pub(super) fn feed(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends early closes the pipe; its exit status tells more.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}\n{input}", complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn write_sysctl(name: &str, value: &str) -> Result<()> {
    // /proc/sys/net shows the namespace of the thread that opens it.
    let path = Path::new("/proc/sys").join(name);
    fs::write(&path, value).with_context(|| format!("can't write {}", path.display()))
}

/// Runs on a thread of its own, which nothing else will ever use: a thread that
/// has changed its namespace doesn't come back.
fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .map_err(|_| anyhow!("the thread inside the namespace panicked"))?
    })
}
