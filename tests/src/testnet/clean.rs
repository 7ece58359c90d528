//! Removing a network, also one whose process died before it could.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where the folders of networks are.
const RUN: &str = "/run";
/// What their names begin with; the process id of the owner follows.
pub(super) const PREFIX: &str = "ringfence-test-";
/// Processes to end with the network: `pid starttime`, one a line.
const PROCESSES: &str = "processes";
/// Marks a network that outlives its owner on purpose.
const KEPT: &str = "kept";

/// Removes what dead runs left behind.
pub fn clean_stale() {
    for dir in folders() {
        let name = dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let owner = name[PREFIX.len()..]
            .split('-')
            .next()
            .unwrap_or_default()
            .to_owned();
        let alive = owner
            .parse()
            .is_ok_and(|pid: i32| start_time(pid).is_some());
        if !alive && !dir.join(KEPT).exists() {
            // Another run may be cleaning too: who comes second finds nothing.
            let _ = remove(&dir);
        }
    }
}

/// Folders of networks that were kept on purpose.
pub fn kept() -> Vec<PathBuf> {
    let kept = |dir: &PathBuf| dir.join(KEPT).exists();
    folders().filter(kept).collect()
}

/// Removes a network: its processes, mounts and files.
pub fn remove(dir: &Path) -> Result<()> {
    end_processes(dir);
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    let own = |line: &&str| Path::new(line).starts_with(dir) && Path::new(line) != dir;
    let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for mount in mounts.filter(own) {
        // Lazily: a socket of a test may still hold a namespace.
        umount2(mount, MntFlags::MNT_DETACH).with_context(|| format!("can't unmount {mount}"))?;
    }
    fs::remove_dir_all(dir).with_context(|| format!("can't remove {}", dir.display()))
}

/// Notes a process that shall end with the network.
pub(super) fn note_process(dir: &Path, pid: u32) -> Result<()> {
    let pid = i32::try_from(pid)?;
    let Some(start) = start_time(pid) else {
        return Ok(());
    };
    let mut file = fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join(PROCESSES))?;
    writeln!(file, "{pid} {start}")?;
    Ok(())
}

/// Lets a network outlive this process.
pub(super) fn mark_kept(dir: &Path) -> Result<()> {
    fs::write(dir.join(KEPT), "").with_context(|| format!("can't write in {}", dir.display()))
}

fn folders() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(RUN).into_iter().flatten().flatten();
    let ours = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(PREFIX);
    entries
        .filter(move |entry| ours(&entry.file_name()))
        .map(|entry| entry.path())
}

fn end_processes(dir: &Path) {
    let noted = fs::read_to_string(dir.join(PROCESSES)).unwrap_or_default();
    let noted: Vec<(i32, &str)> = noted
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(pid, start)| Some((pid.parse().ok()?, start)))
        .collect();
    let lives = |pid: i32, start: &str| start_time(pid).is_some_and(|now| now == start);
    for (signal, patience) in [(Signal::SIGTERM, 100), (Signal::SIGKILL, 20)] {
        for &(pid, start) in noted.iter().filter(|&&(pid, start)| lives(pid, start)) {
            let _ = kill(Pid::from_raw(pid), signal);
            wait_until(patience, || !lives(pid, start));
        }
    }
}

fn wait_until(ticks: u32, done: impl Fn() -> bool) {
    for _ in 0..ticks {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// When a process started, so that a reused id isn't taken for it. `None` for
/// one that is gone or a zombie.
fn start_time(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; count fields after it.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?;
    (state != "Z").then(|| start.to_owned())
}
