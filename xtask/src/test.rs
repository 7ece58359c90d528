//! The full test run, as in CI.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{demo, ebpf, fuzz, kernels, lanes, setup, shell, standalone, tidy, tools};

/// Random clusters per property test in `soak`.
const SOAK_CLUSTERS: &str = "100000";
/// Seconds that each storm lasts in `soak`.
const SOAK_STORM_SECONDS: &str = "120";
/// Pods that a container runtime starts per test of container starts in `soak`.
const SOAK_STARTS: &str = "200";
/// Number of agent takeovers in `soak`.
const SOAK_TAKEOVERS: &str = "50";
/// Seconds that each fuzz target runs in `test` and in `soak`, times its share:
/// the packet target gets a minute and an hour.
const FUZZ: (u64, u64) = (10, 600);

/// Runs everything once; the first failure ends the run with the exact command.
pub(crate) fn test() -> Result<()> {
    all(&[], FUZZ.0, Profile::Debug)
}

/// Runs everything, with the random tests and the fuzzers at full length.
pub(crate) fn soak() -> Result<()> {
    let env = [
        ("RINGFENCE_CLUSTERS", SOAK_CLUSTERS),
        ("RINGFENCE_STORM_SECONDS", SOAK_STORM_SECONDS),
        ("RINGFENCE_STARTS", SOAK_STARTS),
        ("RINGFENCE_TAKEOVERS", SOAK_TAKEOVERS),
    ];
    all(&env, FUZZ.1, Profile::Release)
}

/// The binaries in the image that the tests of `deploy/` run.
#[derive(Clone, Copy)]
enum Profile {
    /// The build that the other tests run: no dependency is compiled a second time.
    Debug,
    /// The build that users run.
    Release,
}

fn all(env: &[(&str, &str)], fuzz_seconds: u64, profile: Profile) -> Result<()> {
    let start = Instant::now();
    if !setup::is_root() {
        bail!(
            "the tests make network namespaces and load BPF programs: run as root, for example \
             `sudo -E env PATH=\"$PATH\" cargo xtask test`"
        );
    }
    shell::step("house rules", tidy::run)?;
    ebpf::build()?;
    let steps: &[(&str, &[&str])] = &[
        ("format", &["fmt", "--all", "--check"]),
        ("build", &["build", "--workspace"]),
        (
            "lints",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        ),
    ];
    for (name, args) in steps {
        cargo_step(name, args, env)?;
    }
    // The tests of deploy/ put these into an image.
    match profile {
        Profile::Debug => standalone::put_binaries("debug")?,
        Profile::Release => ebpf::build_release()?,
    }
    cargo_step("tests", &["test", "--workspace"], env)?;
    shell::step("agents of other versions", ebpf::build_other_agents)?;
    shell::step("fuzz", || fuzz::run(fuzz_seconds))?;
    shell::step("what the tests of deploy/ take", tools::install)?;
    shell::step("tests that need root", || lanes::run(env))?;
    shell::step("kernels", || kernels::run(&kernels::Options::default()))?;
    shell::step("demo", || demo::run(&demo::Options::default()))?;
    println!("\nAll passed in {}.", shell::seconds(start.elapsed()));
    Ok(())
}

fn cargo_step(name: &str, args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    shell::step(name, || {
        let mut command: Command = ebpf::cargo();
        command.args(args).envs(env.iter().copied());
        shell::run(&mut command).with_context(|| format!("{name} failed"))
    })
}
