//! Runs the tests that need root, several binaries at a time: each test has its own network
//! and folders, and mostly waits for a packet that must not arrive.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{ebpf, paths, shell};

/// Arguments that select these tests. They need root to load BPF programs and to create
/// namespaces.
const ROOT_TESTS: [&str; 2] = ["--ignored", "--test-threads=1"];
/// Binaries that run alone: they expect packet rates, or numbers of changes in a time, that
/// a busy machine doesn't reach, or they inspect everything that is loaded in the kernel.
const ALONE: [&str; 6] = [
    "metrics_port",
    "runtime",
    "shares",
    "storms",
    "takeover",
    "versions",
];
/// Number of binaries that run at a time.
const LANES: usize = 2;

/// A message from cargo that contains the path of a test binary.
#[derive(Deserialize)]
struct Artifact {
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// A binary with tests that need root.
struct Binary {
    name: String,
    file: PathBuf,
    tests: usize,
}

/// Builds and runs all binaries; the first failure is shown and ends the run.
pub(crate) fn run(env: &[(&str, &str)]) -> Result<()> {
    let mut binaries = build()?;
    // The longest first, so that no lane still runs one of them at the end.
    binaries.sort_by_key(|binary| std::cmp::Reverse(binary.tests));
    let is_alone = |binary: &Binary| ALONE.contains(&binary.name.as_str());
    let (alone, others): (Vec<_>, Vec<_>) = binaries.into_iter().partition(is_alone);
    lanes(others, LANES, env)?;
    lanes(alone, 1, env)
}

fn build() -> Result<Vec<Binary>> {
    let mut command = ebpf::cargo();
    // Build the whole workspace: given a single package, cargo would rebuild dependencies.
    command.args(["test", "--workspace", "--tests", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics");
    command.stderr(std::process::Stdio::inherit());
    let output = command.output().context("can't start cargo")?;
    if !output.status.success() {
        bail!("`{}` ended with {}", shell::text(&command), output.status);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let artifacts = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    let mut binaries = Vec::new();
    for artifact in artifacts.filter(|artifact| artifact.profile.test) {
        let Some(file) = artifact.executable else {
            continue;
        };
        let tests = shell::output(Command::new(&file).args(["--list", "--ignored"]))?;
        let tests = tests
            .lines()
            .filter(|line| line.ends_with(": test"))
            .count();
        let name = artifact.target.name;
        if tests > 0 {
            binaries.push(Binary { name, file, tests });
        }
    }
    Ok(binaries)
}

/// Runs binaries, up to `lanes` at a time.
fn lanes(binaries: Vec<Binary>, lanes: usize, env: &[(&str, &str)]) -> Result<()> {
    let queue = Mutex::new(VecDeque::from(binaries));
    let failed = Mutex::new(None);
    let lock = || failed.lock().unwrap_or_else(PoisonError::into_inner);
    let next = || {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        lock().is_none().then(|| queue.pop_front()).flatten()
    };
    thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                while let Some(binary) = next() {
                    if let Err(error) = run_one(&binary, env) {
                        lock().get_or_insert(error);
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn run_one(binary: &Binary, env: &[(&str, &str)]) -> Result<()> {
    let start = Instant::now();
    eprintln!("    {}: {} tests ...", binary.name, binary.tests);
    let mut command = Command::new(&binary.file);
    command.args(ROOT_TESTS).envs(env.iter().copied());
    // As `cargo test` does.
    command.current_dir(paths::root().join("tests"));
    let output = command.output();
    let output = output.with_context(|| format!("can't start {}", binary.file.display()))?;
    say(binary, &output, start.elapsed());
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "tests of {} failed; alone: `cargo test --workspace --test {} -- {}`",
        binary.name,
        binary.name,
        ROOT_TESTS.join(" ")
    )
}

/// Prints a result in one write, so that lanes don't interleave their output.
fn say(binary: &Binary, output: &Output, took: Duration) {
    let mark = if output.status.success() {
        "ok"
    } else {
        "FAILED"
    };
    let mut text = format!(
        "{}    {}: {} tests, {mark} in {}\n",
        String::from_utf8_lossy(&output.stdout),
        binary.name,
        binary.tests,
        shell::seconds(took)
    );
    if !output.status.success() {
        text.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    eprint!("{text}");
}
