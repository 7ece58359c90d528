//! Compares the cost of a packet with its cost at another commit.
//!
//! Each side runs its own commit's bench, host code and objects: map layouts may differ
//! between the commits, and one process can't link two versions of a library. So two
//! processes take turns on one CPU, to which both pin themselves with priority over
//! everything else on it. Figures are compared turn by turn and unadjusted, including the
//! kernel's own loop: a machine that slows down slows both figures of a pair.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Case, measured};
use crate::{ebpf, paths, shell};

/// Turns of each side, unless RINGFENCE_BENCH_ROUNDS is set.
const TURNS: usize = 15;
/// Rounds of a bench per turn: setting up the tables takes most of a turn.
const ROUNDS: &str = "3";
/// The cases that make up every connection and every storm.
const TARGETS: [&str; 3] = ["established", "reply", "denied"];
/// Maximum ratio of these cases to the same cases at the other commit.
const TARGET: f64 = 1.03;

/// A case and its variant.
type Name = (String, String);

/// Measures this checkout and a commit in turns; compares the cases that both have.
pub(super) fn cases(commit: &str) -> Result<Vec<Case>> {
    let root = checkout(commit)?;
    let mut then = Side::build(&root)?;
    let mut now = Side::build(paths::root())?;
    for turn in 0..turns()? {
        eprintln!("    turn {}", turn + 1);
        // Alternate which side goes first.
        let (first, second) = if turn % 2 == 0 {
            (&mut then, &mut now)
        } else {
            (&mut now, &mut then)
        };
        first.measure()?;
        second.measure()?;
    }
    compared(&now, &then, commit)
}

fn turns() -> Result<usize> {
    match std::env::var("RINGFENCE_BENCH_ROUNDS") {
        Ok(turns) => turns.parse().context("RINGFENCE_BENCH_ROUNDS"),
        Err(_) => Ok(TURNS),
    }
}

/// Clones the commit under `target/`, sharing this checkout's git objects. The clone is
/// kept with its build output, so that the next run has nothing to build; this checkout
/// has no reference to it.
fn checkout(commit: &str) -> Result<PathBuf> {
    let git = |folder: &Path, arguments: &[&str]| {
        let mut git = Command::new("git");
        shell::output(git.arg("-C").arg(folder).args(arguments))
    };
    let root = paths::root();
    let whole = format!("{commit}^{{commit}}");
    let whole = git(root, &["rev-parse", "--verify", &whole])?;
    let whole = whole.trim();
    let place = root.join("target/against").join(whole);
    let path = place.to_str().context("a path that isn't UTF-8")?;
    if !place.exists() {
        git(
            root,
            &["clone", "--quiet", "--shared", "--no-checkout", ".", path],
        )?;
    }
    git(&place, &["checkout", "--quiet", "--detach", whole])?;
    Ok(place)
}

/// One of the two commits to compare.
struct Side {
    bench: PathBuf,
    object: PathBuf,
    /// Cases in the order in which the bench prints them; `samples` has one figure per turn.
    names: Vec<Name>,
    samples: HashMap<Name, Vec<f64>>,
}

/// A line of cargo's output about a built artifact.
#[derive(Deserialize)]
struct Built {
    executable: Option<PathBuf>,
}

impl Side {
    fn build(root: &Path) -> Result<Self> {
        let object = ebpf::build_bench_of(root)?;
        let mut cargo = ebpf::cargo();
        cargo.current_dir(root).args([
            "bench",
            "--no-run",
            "-p",
            "ringfence-tests",
            "--bench",
            "packet",
            "--message-format",
            "json-render-diagnostics",
        ]);
        if root != paths::root() {
            // In one target folder, packages of both checkouts would have the same names.
            cargo.env("CARGO_TARGET_DIR", root.join("target"));
        }
        let lines = shell::step(&format!("build the bench in {}", root.display()), || {
            shell::output(&mut cargo)
        })?;
        let bench = lines
            .lines()
            .filter_map(|line| serde_json::from_str::<Built>(line).ok()?.executable)
            .next_back()
            .context("cargo names no bench that it has built")?;
        Ok(Self {
            bench,
            object,
            names: Vec::new(),
            samples: HashMap::new(),
        })
    }

    /// Runs one turn. Its figure is the mean of a few rounds of each case: the kernel reports
    /// whole nanoseconds, and one nanosecond may be 3%.
    fn measure(&mut self) -> Result<()> {
        let mut bench = Command::new(&self.bench);
        bench
            // As cargo passes it.
            .arg("--bench")
            .env("RINGFENCE_BENCH_OBJECT", &self.object)
            .env("RINGFENCE_BENCH_ROUNDS", ROUNDS);
        for case in measured::read(&shell::output(&mut bench)?)? {
            // A case that already has pairs repeats another case's figures.
            if !case.paired.is_empty() {
                continue;
            }
            let mean = case.samples.iter().sum::<f64>() / case.samples.len() as f64;
            let name = (case.case, case.variant);
            if !self.samples.contains_key(&name) {
                self.names.push(name.clone());
            }
            self.samples.entry(name).or_default().push(mean);
        }
        Ok(())
    }
}

/// Returns the cases that both sides have, in the order of `now`.
fn compared(now: &Side, then: &Side, commit: &str) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for name in &now.names {
        let (new, Some(old)) = (&now.samples[name], then.samples.get(name)) else {
            continue;
        };
        let mut case = Case::new(&name.0, &name.1, "ns", new.clone())?.against(commit);
        case.paired = new.iter().zip(old).map(|(new, old)| new / old).collect();
        case.paired.sort_by(f64::total_cmp);
        case.target = TARGETS.contains(&name.0.as_str()).then_some(TARGET);
        let (low, high) = interval(&case.paired);
        eprintln!("{}, {}: between {low:.3} and {high:.3}", name.0, name.1);
        cases.push(case);
    }
    ensure!(!cases.is_empty(), "nothing that both commits measure");
    Ok(cases)
}

/// Returns the interval that contains the true median in 19 of 20 runs, by ranks of the
/// binomial distribution.
fn interval(sorted: &[f64]) -> (f64, f64) {
    let count = sorted.len() as f64;
    let half = 0.98 * count.sqrt();
    let low = (count / 2.0 - half).max(0.0) as usize;
    let high = ((count / 2.0 + half).ceil() as usize).min(sorted.len() - 1);
    (sorted[low], sorted[high])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(cases: &[(&str, &[f64])]) -> Side {
        let name = |case: &str| (case.to_owned(), "v4".to_owned());
        Side {
            bench: PathBuf::new(),
            object: PathBuf::new(),
            names: cases.iter().map(|(case, _)| name(case)).collect(),
            samples: cases.iter().map(|(c, s)| (name(c), s.to_vec())).collect(),
        }
    }

    #[test]
    fn cases_that_both_commits_have_are_compared_turn_by_turn() {
        let now = side(&[("denied", &[3.0, 8.0, 2.0]), ("later", &[1.0, 1.0, 1.0])]);
        let then = side(&[("gone", &[1.0, 1.0, 1.0]), ("denied", &[2.0, 4.0, 2.0])]);
        let cases = compared(&now, &then, "abc").expect("a case");
        assert_eq!(cases.len(), 1);
        assert_eq!(cases[0].paired, [1.0, 1.5, 2.0]);
        assert_eq!(cases[0].against.as_deref(), Some("abc"));
        assert_eq!(cases[0].target, Some(TARGET));
    }

    #[test]
    fn commits_that_measure_nothing_alike_are_an_error() {
        let (now, then) = (side(&[("a", &[1.0])]), side(&[("b", &[1.0])]));
        assert!(compared(&now, &then, "abc").is_err());
    }

    #[test]
    fn the_interval_of_a_median_lies_around_it() {
        let ratios: Vec<f64> = (0..15).map(f64::from).collect();
        assert_eq!(interval(&ratios), (3.0, 12.0));
        assert_eq!(interval(&[1.0]), (1.0, 1.0));
    }
}
