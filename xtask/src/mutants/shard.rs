//! A part of one package's mutants, small enough for one run.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Subject, listed};
use crate::{ebpf, paths, shell};

/// Random clusters per test: enough to kill mutants, few enough for hundreds of runs.
const CLUSTERS: &str = "100";
/// The targets of the tests' package that test the two libraries without root.
const TESTS: &[&str] = &["oracle", "changes", "packets_host"];
/// Arguments that skip the tests of test helpers, which kill no mutant.
const SKIPPED: &[&str] = &["--skip", "clusters::", "--skip", "testnet::"];
/// A mutant counts as hung if the tests take this many times longer with it.
const LONGER: u32 = 5;
/// Minimum of that limit: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// Some of a package's mutants.
pub(super) struct Shard {
    subject: &'static Subject,
    /// From 0, as cargo-mutants counts.
    number: usize,
}

/// The results of a shard.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
pub(super) struct Done {
    seconds: u64,
    killed: usize,
    /// Names of the mutants that no test noticed.
    pub(super) survivors: Vec<String>,
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Subject { name, shards, .. } = self.subject;
        write!(
            f,
            "mutants of {name}, shard {} of {shards}",
            self.number + 1
        )
    }
}

impl Shard {
    /// Returns all shards of a package.
    pub(super) fn of(subject: &'static Subject) -> Vec<Self> {
        let shard = |number| Self { subject, number };
        (0..subject.shards).map(shard).collect()
    }

    fn folder(&self) -> PathBuf {
        let Subject { name, shards, .. } = self.subject;
        let part = format!("{}-of-{shards}", self.number + 1);
        paths::root().join("target/mutants").join(name).join(part)
    }

    fn result(&self) -> PathBuf {
        self.folder().join("done.json")
    }

    /// Returns the results, if the shard ran to completion.
    pub(super) fn done(&self) -> Option<Done> {
        let text = fs::read_to_string(self.result()).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Discards the results of an earlier run.
    pub(super) fn forget(&self) -> Result<()> {
        let path = self.result();
        match path.exists() {
            true => {
                fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))
            }
            false => Ok(()),
        }
    }

    /// Runs the mutants and writes the results.
    ///
    /// `tests` is how long the tests take without a mutant.
    pub(super) fn run(&self, tests: Duration) -> Result<()> {
        let folder = self.folder();
        fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        let start = Instant::now();
        let mut command = self.command(PATIENCE.max(tests * LONGER));
        let status = command
            .status()
            .with_context(|| format!("can't start `{}`", shell::text(&command)))?;
        // 2: mutants survived; 3: a test timed out, which kills a mutant too.
        if !matches!(status.code(), Some(0 | 2 | 3)) {
            bail!("`{}` ended with {status}", shell::text(&command));
        }
        let done = Done {
            seconds: start.elapsed().as_secs(),
            killed: self.lines("caught.txt")?.len() + self.lines("timeout.txt")?.len(),
            survivors: self.lines("missed.txt")?,
        };
        let text = serde_json::to_string_pretty(&done)?;
        let path = self.result();
        fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))
    }

    fn command(&self, limit: Duration) -> Command {
        let Subject {
            package, shards, ..
        } = self.subject;
        let mut command = cargo();
        command
            .args(["mutants", "--package", package])
            .args(["--test-package", package])
            .args(["--test-package", "ringfence-tests"])
            .args(["--shard", &format!("{}/{shards}", self.number)])
            // cargo-mutants' own baseline would leave out the tests' package.
            .args(["--baseline", "skip", "--no-shuffle"])
            .args(["--timeout", &limit.as_secs().to_string()])
            .args(self.subject.without.iter().flat_map(|w| ["--exclude", w]))
            .arg("--output")
            .arg(self.folder())
            // Restricts the build too, which would otherwise link every test.
            .args(targets().map(|target| format!("--cargo-arg={target}")))
            .args(["--", "--"])
            .args(SKIPPED);
        command
    }

    fn lines(&self, file: &str) -> Result<Vec<String>> {
        let path = self.folder().join("mutants.out").join(file);
        let text =
            fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        Ok(text.lines().map(listed::name).collect())
    }
}

/// Runs the tests without a mutant; returns how long they take once built.
pub(super) fn baseline(subject: &Subject) -> Result<Duration> {
    let tests = || {
        let mut command = cargo();
        command
            .args(["test", "--quiet", "--package", subject.package])
            .args(["--package", "ringfence-tests"])
            .args(targets());
        command
    };
    shell::run(tests().arg("--no-run"))?;
    let start = Instant::now();
    shell::run(tests().arg("--").args(SKIPPED))?;
    Ok(start.elapsed())
}

/// Returns a cargo command with a separate target folder, in which dependencies are
/// compiled once for all shards.
fn cargo() -> Command {
    let mut command = ebpf::cargo();
    command
        .env("RINGFENCE_CLUSTERS", CLUSTERS)
        .env(
            "CARGO_TARGET_DIR",
            paths::root().join("target/mutants/build"),
        )
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    command
}

fn targets() -> impl Iterator<Item = String> {
    let tests = TESTS.iter().map(|test| format!("--test={test}"));
    std::iter::once("--lib".to_owned()).chain(tests)
}

/// Formats all shards as a table, with durations and results of the finished ones.
pub(super) fn table(shards: &[Shard]) -> String {
    let head = ["package", "shard", "took", "killed", "survived"].map(str::to_owned);
    let row = |shard: &Shard| {
        let number = format!("{}/{}", shard.number + 1, shard.subject.shards);
        let found = match shard.done() {
            Some(done) => [
                shell::seconds(Duration::from_secs(done.seconds)),
                done.killed.to_string(),
                done.survivors.len().to_string(),
            ],
            None => ["-"; 3].map(str::to_owned),
        };
        [vec![shard.subject.name.to_owned(), number], found.to_vec()].concat()
    };
    let rows: Vec<Vec<String>> = std::iter::once(head.to_vec())
        .chain(shards.iter().map(row))
        .collect();
    shell::columns(&rows)
}
