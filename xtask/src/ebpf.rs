//! The BPF object and the binary that embeds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, Tools};
use crate::{paths, shell, standalone};

/// The crate's name is also its binary's.
const PACKAGE: &str = "ringfence-ebpf";
const TARGET: &str = "bpfel-unknown-none";
/// Features that give the maps other layouts.
const OTHERS: [&str; 2] = ["other-policy", "other-connections"];
/// Where a checkout has the object that its agent's build script embeds.
const OBJECT: &str = "target/bpf/ringfence.o";

/// Builds the BPF object; returns its path.
pub(crate) fn build() -> Result<PathBuf> {
    build_with(paths::root(), None, OBJECT)
}

/// Builds the BPF object with logging on the packet path.
pub(crate) fn build_debug() -> Result<PathBuf> {
    build_with(paths::root(), Some("debug-log"), OBJECT)
}

/// Builds the objects of other versions, for the tests of the move to one and back.
pub(crate) fn build_others() -> Result<()> {
    for feature in OTHERS {
        let object = format!("target/bpf/{feature}.o");
        build_with(paths::root(), Some(feature), &object)?;
    }
    Ok(())
}

/// The agent alone, over dependencies as they are built for all packages: cargo builds them
/// again where it is told of one package.
const AGENT: [&str; 4] = ["build", "--workspace", "--bin", "ringfence"];

/// Builds an agent with each object of [`build_others`], beside the one of this version:
/// cargo knows one name for all of them.
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

/// Builds the object, and another that also holds what the hooks are measured against;
/// returns the latter's path.
pub(crate) fn build_bench() -> Result<PathBuf> {
    build_bench_of(paths::root())
}

/// The same of another checkout, by the tools of this one.
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

/// The workspace's own cargo, in the checkout.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root());
    command
}

/// Compiles the package in a target folder of its own: another compiler, and
/// the outer cargo may hold the lock of the workspace's.
fn compile(tools: &Tools, root: &Path, feature: Option<&str>) -> Result<PathBuf> {
    let folder = root.join("target/bpf-build");
    let mut command = Command::new(&tools.toolchain.cargo);
    shell::clear_toolchain(&mut command)
        .current_dir(root)
        .env("RUSTC", &tools.toolchain.rustc)
        // `-Z build-std` on a compiler that isn't a nightly.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&tools.linker.path, root))
        // BTF is made from debug info; one unit lets the linker inline across all.
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
        // 32-bit arithmetic and jumps without shifting back and forth (Linux 5.1).
        "-Ctarget-cpu=v3".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        // Paths in BTF line info: the same object from every checkout.
        format!("--remap-path-prefix={}=.", root.display()),
        // aya picks the layout of `pt_regs` by the architecture that will run it.
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
    ]
    .join("\x1f")
}

/// Copies where the content differs; an untouched object doesn't make the
/// agent build again.
fn copy_if_changed(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("can't read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
    }
    // Renamed into place, so that a build at the same time never reads half of it.
    let partial = to.with_extension("o.partial");
    fs::write(&partial, new).with_context(|| format!("can't write {}", partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("can't write {}", to.display()))?;
    Ok(true)
}
