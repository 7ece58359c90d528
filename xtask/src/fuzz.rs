//! Coverage-guided fuzzing of the parsers of YAML, JSON, labels and packets.
//!
//! It doesn't use cargo-fuzz, which requires a nightly: instrumentation is an LLVM
//! pass that stable rustc can run too, and the fuzzer itself is a library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{ebpf, paths, setup, shell};

/// Targets, each with its share of the time and its seed folders. Anyone who can
/// send a packet reaches the datapath, so it gets the largest share.
const TARGETS: &[(&str, u64, &[&str])] = &[
    ("packet", 6, &["tests/fuzz/corpus/packet"]),
    ("yaml", 1, &["tests/fuzz/corpus/yaml", "deploy/demo"]),
    ("labels", 1, &["tests/fuzz/corpus/labels"]),
    ("object", 1, &["tests/fuzz/corpus/object"]),
];

/// Coverage flags as cargo-fuzz sets them. Checks are on: an overflow is a fault too.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "--cfg=fuzzing",
];

/// Time after which an input counts as a fault, in seconds. Aliases of aliases up
/// to the parser's limit take ten with instrumentation on a busy machine.
const SLOW: u32 = 60;
/// Memory use above which an input counts as a fault, in MB.
const LARGE: u32 = 2048;
/// Maximum length of an input: long enough for several documents.
const LONGEST: u32 = 8192;

/// Fuzzes each target for `seconds` times its share.
pub(crate) fn run(seconds: u64) -> Result<()> {
    setup::run()?;
    let binaries = build()?;
    for (name, share, seeds) in TARGETS {
        fuzz(&binaries, name, seeds, seconds * share)?;
    }
    Ok(())
}

fn folder() -> PathBuf {
    paths::root().join("target/fuzz")
}

/// Builds the fuzz targets in a separate target folder. Passing `--target` keeps the
/// flags away from build scripts and macros, which wouldn't link with them.
fn build() -> Result<PathBuf> {
    let host = shell::output(Command::new(rustc()).args(["--print", "host-tuple"]))?;
    let mut command = ebpf::cargo();
    command
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        // A panic reports its location without debug info, which takes time to build.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .args(["build", "--release", "--package", "ringfence-fuzz"])
        .args(["--bins", "--features", "libfuzzer", "--target", host.trim()])
        .arg("--target-dir")
        .arg(folder());
    shell::run(&mut command).context("can't build the fuzz targets")?;
    Ok(folder().join(host.trim()).join("release"))
}

fn rustc() -> PathBuf {
    std::env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from)
}

/// Fuzzes one target. New inputs are kept under `target`; the next run starts from
/// them.
fn fuzz(binaries: &Path, name: &str, seeds: &[&str], seconds: u64) -> Result<()> {
    let grown = folder().join("corpus").join(name);
    let failed = folder().join("failed").join(name);
    for dir in [&grown, &failed] {
        fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
    }
    let binary = binaries.join(format!("fuzz-{name}"));
    let mut command = Command::new(&binary);
    command
        .current_dir(paths::root())
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={SLOW}"))
        .arg(format!("-rss_limit_mb={LARGE}"))
        .arg(format!("-max_len={LONGEST}"))
        .arg(format!("-artifact_prefix={}/", failed.display()))
        .args(["-dict=tests/fuzz/words.dict", "-print_final_stats=1"])
        .arg(&grown)
        .args(seeds);
    let output = command
        .output()
        .with_context(|| format!("can't start {}", binary.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{}", last_lines(&said));
        bail!(
            "an input makes {name} fail; it is in {}. Try it alone with `{} FILE`, and keep it in \
             tests/fuzz/corpus/{name} once the fault is mended",
            failed.display(),
            binary.display()
        );
    }
    let inputs = executed(&said).with_context(|| format!("{name} says nothing of its inputs"))?;
    eprintln!("    {name}: {inputs} inputs in {seconds} s, none makes it fail");
    Ok(())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

fn executed(text: &str) -> Option<u64> {
    let label = "stat::number_of_executed_units:";
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_inputs_is_read_from_the_fuzzers_last_words() {
        let text = "Done 7 runs\nstat::number_of_executed_units: 4096\nstat::x: 1\n";
        assert_eq!(executed(text), Some(4096));
        assert_eq!(executed("nothing"), None);
    }

    #[test]
    fn every_folder_of_seeds_is_there() {
        let mut folders = TARGETS.iter().flat_map(|(_, _, seeds)| *seeds);
        assert!(folders.all(|seeds| paths::root().join(seeds).is_dir()));
    }
}
