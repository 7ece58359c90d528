//! Mutation tests of the code that decides: if no test notices a changed operator or
//! return value, the code is untested.
//!
//! A run takes hours, so it is split into shards whose results are kept: a stopped run
//! resumes with the next shard. A survivor must be killed by a new test or listed in
//! `docs/mutants.md` with the reason.

mod listed;
mod shard;

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{ebpf, paths, shell};
use shard::Shard;

/// Where survivors are listed, each with its reason.
const LIST: &str = "docs/mutants.md";

/// A package to mutate.
pub(super) struct Subject {
    package: &'static str,
    /// Short name, for folders and tables.
    name: &'static str,
    /// Prefix of the names of its mutants.
    source: &'static str,
    /// Number of shards, chosen so that each takes less than an hour on two cores.
    shards: usize,
    /// Source files that no test on the host runs.
    without: &'static [&'static str],
}

const SUBJECTS: &[Subject] = &[
    Subject {
        package: "ringfence-ebpf",
        name: "ebpf",
        source: "ebpf/",
        shards: 12,
        // Compiled for BPF only.
        without: &["ebpf/src/bpf/**", "ebpf/src/main.rs"],
    },
    Subject {
        package: "ringfence-policy",
        name: "policy",
        source: "agent/policy/",
        shards: 24,
        without: &["agent/policy/src/testing.rs"],
    },
];

/// Which shards to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Discard the results of earlier runs
    #[arg(long)]
    restart: bool,
    /// Run at most this many shards now
    #[arg(long, value_name = "COUNT")]
    shards: Option<usize>,
    /// Only this package: `ebpf` or `policy`
    #[arg(long)]
    only: Option<String>,
}

/// Runs the unfinished shards and compares the survivors with the list.
pub(crate) fn run(options: &Options) -> Result<()> {
    let subjects: Vec<&'static Subject> = SUBJECTS
        .iter()
        .filter(|s| options.only.as_deref().is_none_or(|only| only == s.name))
        .collect();
    if subjects.is_empty() {
        let names: Vec<&str> = SUBJECTS.iter().map(|s| s.name).collect();
        bail!("no such package; there are: {}", names.join(", "));
    }
    install()?;
    let shards: Vec<Shard> = subjects.iter().flat_map(|s| Shard::of(s)).collect();
    if options.restart {
        shards.iter().try_for_each(Shard::forget)?;
    }
    print!("{}", shard::table(&shards));
    let mut left = options.shards.unwrap_or(usize::MAX);
    for subject in &subjects {
        left = run_some(subject, left)?;
    }
    print!("{}", shard::table(&shards));
    compare(&subjects, &shards)
}

/// Runs at most `most` of a package's unfinished shards; returns how many more may run.
fn run_some(subject: &'static Subject, most: usize) -> Result<usize> {
    let mut open = Shard::of(subject);
    open.retain(|shard| shard.done().is_none());
    open.truncate(most);
    if open.is_empty() {
        return Ok(most);
    }
    let what = format!("tests that judge {}, without a mutant", subject.name);
    let tests = shell::step(&what, || shard::baseline(subject))?;
    for shard in &open {
        shell::step(&shard.to_string(), || shard.run(tests))?;
    }
    Ok(most - open.len())
}

fn install() -> Result<()> {
    if paths::program("cargo-mutants").is_some() {
        return Ok(());
    }
    shell::step("install cargo-mutants", || {
        let mut command: Command = ebpf::cargo();
        shell::run(command.args(["install", "cargo-mutants", "--locked"]))
    })
}

/// Checks that every survivor is listed and, once all shards are done, that no other
/// mutant is.
fn compare(subjects: &[&Subject], shards: &[Shard]) -> Result<()> {
    let path = paths::root().join(LIST);
    let text = fs::read_to_string(&path).with_context(|| format!("can't read {LIST}"))?;
    let listed = listed::read(&text)?;
    let done: Vec<shard::Done> = shards.iter().filter_map(Shard::done).collect();
    let survivors = listed::count(done.iter().flat_map(|d| d.survivors.clone()));
    let mut faults: Vec<String> = listed::beyond(&survivors, &listed)
        .into_iter()
        .map(|name| format!("survives and isn't listed: {name}"))
        .collect();
    if done.len() == shards.len() {
        let gone = listed::beyond(&listed, &survivors).into_iter();
        let ours = gone.filter(|name| subjects.iter().any(|s| name.starts_with(s.source)));
        faults.extend(ours.map(|name| format!("listed, but gone or killed: {name}")));
    } else {
        println!("{} of {} shards are done", done.len(), shards.len());
    }
    faults.iter().for_each(|fault| println!("    {fault}"));
    match faults.len() {
        0 => Ok(()),
        count => bail!("{count} mutants aren't as {LIST} says"),
    }
}
