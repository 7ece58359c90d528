//! Builds the BPF object and the binary that embeds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, Tools};
use crate::{paths, shell, standalone};

/// Name of the crate and of its binary.
const PACKAGE: &str = "ringfence-ebpf";
const TARGET: &str = "bpfel-unknown-none";
/// Features that change the layouts of the maps.
const OTHERS: [&str; 2] = ["other-policy", "other-connections"];
/// Path in a checkout of the object that the agent's build script embeds.
const OBJECT: &str = "target/bpf/ringfence.o";

/// Builds the BPF object and returns its path.
pub(crate) fn build() -> Result<PathBuf> {
    build_with(paths::root(), None, OBJECT)
}

/// Builds the BPF object with logging on the packet path.
pub(crate) fn build_debug() -> Result<PathBuf> {
    build_with(paths::root(), Some("debug-log"), OBJECT)
}

/// Builds the objects of other versions, for the tests of upgrades and rollbacks.
pub(crate) fn build_others() -> Result<()> {
    for feature in OTHERS {
        let object = format!("target/bpf/{feature}.o");
        build_with(paths::root(), Some(feature), &object)?;
    }
    Ok(())
}

/// Arguments to build the agent alone, against the dependencies as built for all packages:
/// given a single package, cargo would build them again.
const AGENT: [&str; 4] = ["build", "--workspace", "--bin", "ringfence"];

/// Builds an agent with each object of [`build_others`] and copies it next to the agent of
/// this version: cargo gives all of them the same name.
pub(crate) fn build_other_agents() -> Result<()> {
    build_others()?;
    let debug = paths::built("debug")?;
    for feature in OTHERS {
        let feature_of_agent = format!("ringfence/{feature}");
        shell::run(cargo().args(AGENT).args(["--features", &feature_of_agent]))?;
        let (agent, other) = (
            debug.join("ringfence"),
            debug.join(format!("ringfence-{feature}")),
        );
        fs::copy(&agent, &other).with_context(|| format!("can't write {}", other.display()))?;
    }
    shell::run(cargo().args(AGENT))
}

/// Builds the object, and a second one that also contains the baselines for benchmarks of
/// the hooks; returns the path of the second.
pub(crate) fn build_bench() -> Result<PathBuf> {
    build_bench_of(paths::root())
}

/// Does the same in another checkout, with the tools of this one.
pub(crate) fn build_bench_of(root: &Path) -> Result<PathBuf> {
    build_with(root, None, OBJECT)?;
    build_with(root, Some("bench"), "target/bpf/bench.o")
}

fn build_with(root: &Path, feature: Option<&str>, object: &str) -> Result<PathBuf> {
    let tools = setup::run()?;
    let object = root.join(object);
    shell::step("build the BPF object", || {
        let built = compile(&tools, root, feature)?;
        let news = if copy_if_changed(&built, &object)? {
            "new"
        } else {
            "unchanged"
        };
        eprintln!(
            "    {} ({news}, by {})",
            object.display(),
            tools.toolchain.name
        );
        Ok(object)
    })
}

/// Builds the BPF object and the release binaries: the agent and its network plugin.
pub(crate) fn build_release() -> Result<()> {
    build()?;
    let packages = ["-p", "ringfence", "-p", "ringfence-cni"];
    shell::step("build the release binaries", || {
        shell::run(cargo().args(["build", "--release"]).args(packages))
    })?;
    standalone::put_binaries("release")
}

/// Returns a command for the workspace's own cargo, in the checkout.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root());
    command
}

/// Compiles the package in a separate target folder: the compiler is a different one,
/// and the outer cargo may hold the lock of the workspace's folder.
fn compile(tools: &Tools, root: &Path, feature: Option<&str>) -> Result<PathBuf> {
    let folder = root.join("target/bpf-build");
    let mut command = Command::new(&tools.toolchain.cargo);
    shell::clear_toolchain(&mut command)
        .current_dir(root)
        .env("RUSTC", &tools.toolchain.rustc)
        // Allows `-Z build-std` on a compiler that isn't a nightly.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&tools.linker.path, root))
        // BTF is generated from debug info; a single codegen unit allows inlining everywhere.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .args(["build", "--release", "-Z", "build-std=core"])
        .args(["--package", PACKAGE, "--bin", PACKAGE, "--target", TARGET])
        .arg("--target-dir")
        .arg(&folder)
        .args(feature.iter().flat_map(|feature| ["--features", feature]));
    shell::run(&mut command)?;
    Ok(folder.join(TARGET).join("release").join(PACKAGE))
}

fn flags(linker: &Path, root: &Path) -> String {
    [
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        // v3 has 32-bit arithmetic and jumps, which saves shifts (Linux 5.1).
        "-Ctarget-cpu=v3".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        // Normalizes paths in BTF line info: every checkout builds the same object.
        format!("--remap-path-prefix={}=.", root.display()),
        // aya selects the layout of `pt_regs` by the architecture that runs the object.
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
    ]
    .join("\x1f")
}

/// Copies a file if its content differs: an untouched object doesn't trigger a
/// rebuild of the agent.
fn copy_if_changed(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("can't read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
    }
    // Renamed into place, so that a concurrent build never reads a partial file.
    let partial = to.with_extension("o.partial");
    fs::write(&partial, new).with_context(|| format!("can't write {}", partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("can't write {}", to.display()))?;
    Ok(true)
}
