//! Finds or installs the tools for building and testing.
//!
//! Finding them means checking files and asking two programs for their version. It takes
//! well under a second, so every command does it. Installing runs a list of commands,
//! each printed before it runs; a user who isn't root gets the list.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::toolchain::{self, Linker, Toolchain};
use crate::{paths, shell, tools};

/// The version of the linker to install if there is none.
const LINKER_VERSION: &str = "0.13.0";

/// Programs that the demo and the tests call, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    // LLVM's fuzzer is written in C++.
    ("c++", "g++"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    // For NFQUEUE: the kernel may lack nftables' own `queue`.
    ("iptables", "iptables"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
];

/// Additional programs for the guests of `cargo xtask kernels`. They are listed
/// separately so that a demo doesn't install an emulator.
const GUEST_PROGRAMS: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("dpkg-deb", "dpkg"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("strip", "binutils"),
    ("xz", "xz-utils"),
];

/// Debian's keys, which verify its kernels on any system with apt.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Debian's compiler with the source of the library. Debian keeps it recent for its
/// browsers.
const DEBIAN_RUST: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// The tools that `setup` found.
pub(crate) struct Tools {
    /// The compiler for the BPF target.
    pub(crate) toolchain: Toolchain,
    /// The linker for the BPF target.
    pub(crate) linker: Linker,
}

/// Finds the required tools and installs the missing ones.
pub(crate) fn run() -> Result<Tools> {
    if let Some(tools) = found() {
        return Ok(tools);
    }
    eprintln!("==> install what is missing (some minutes, once)");
    let start = Instant::now();
    refresh_lists();
    install_programs()?;
    install_toolchain()?;
    install_linker()?;
    eprintln!("    setup: ok in {}", shell::seconds(start.elapsed()));
    found().context("something is still missing after setup: see the messages above")
}

/// Finds or installs every tool, also those for guests and for the tests of `deploy/`, and
/// prints where each is.
pub(crate) fn report() -> Result<()> {
    let start = Instant::now();
    let tools = run()?;
    let guests = can_run_guests();
    if guests {
        install_guest_programs()?;
    }
    tools::install()?;
    println!("compiler for BPF   {}", tools.toolchain.name);
    println!("linker for BPF     {}", tools.linker.path.display());
    let guest_programs = if guests { GUEST_PROGRAMS } else { &[] };
    for (program, _) in PROGRAMS.iter().chain(guest_programs) {
        let path = paths::program(program).unwrap_or_default();
        println!("{program:<18} {}", path.display());
    }
    for (name, path) in tools::found() {
        println!("{name:<18} {}", path.display());
    }
    println!("nothing is missing ({})", shell::seconds(start.elapsed()));
    Ok(())
}

/// Reports whether Debian's kernels can be downloaded here and would run this
/// machine's binaries.
pub(crate) fn can_run_guests() -> bool {
    std::env::consts::ARCH == "x86_64" && has_apt()
}

/// Installs the missing programs for the guests.
pub(crate) fn install_guest_programs() -> Result<()> {
    let mut packages = missing_packages(GUEST_PROGRAMS);
    if !Path::new(KEYRING).exists() {
        packages.push("debian-archive-keyring");
    }
    if packages.is_empty() {
        return Ok(());
    }
    install_packages(&packages)
}

/// Installs Debian packages with apt. Without apt, fails with the names of the missing
/// packages.
pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    if !has_apt() {
        bail!(
            "missing programs; install the packages that hold them here: {}",
            packages.join(" ")
        );
    }
    refresh_lists();
    apt_install(packages)
}

/// Reports whether this process may create namespaces and load BPF programs.
pub(crate) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn found() -> Option<Tools> {
    let (toolchain, linker) = toolchain::choose()?;
    missing_packages(PROGRAMS)
        .is_empty()
        .then_some(Tools { toolchain, linker })
}

pub(crate) fn missing_packages(programs: &[(&'static str, &'static str)]) -> Vec<&'static str> {
    programs
        .iter()
        .filter(|(program, _)| paths::program(program).is_none())
        .map(|(_, package)| *package)
        .collect()
}

fn install_programs() -> Result<()> {
    let missing = missing_packages(PROGRAMS);
    if missing.is_empty() {
        return Ok(());
    }
    install_packages(&missing)
}

fn install_toolchain() -> Result<()> {
    if !toolchain::find_all().is_empty() {
        return Ok(());
    }
    if has_apt() && in_apt(DEBIAN_RUST) {
        return apt_install(DEBIAN_RUST);
    }
    let Some(rustup) = paths::program("rustup") else {
        bail!(
            "no compiler with the source of `core`; install rustup (https://rustup.rs), then: \
             rustup toolchain install nightly --profile minimal --component rust-src"
        );
    };
    let mut command = Command::new(rustup);
    command.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
    command.args(["--component", "rust-src"]);
    do_it(&mut command)
}

fn install_linker() -> Result<()> {
    let toolchain = toolchain::find_all()
        .into_iter()
        .next()
        .context("no compiler with the source of `core`, even after installing one")?;
    if toolchain::find_linker().is_some_and(|linker| linker.reads(&toolchain)) {
        return Ok(());
    }
    // A prebuilt binary contains its own LLVM, the newest that the linker supports.
    if paths::program("cargo-binstall").is_some() {
        let name = format!("bpf-linker@{LINKER_VERSION}");
        return do_it(cargo().args(["binstall", "--no-confirm", "--force", &name]));
    }
    let prefix = llvm(toolchain.llvm)?;
    let feature = format!("llvm-{}", toolchain.llvm);
    let mut command = cargo();
    command
        .env("LLVM_PREFIX", prefix)
        .args(["install", "bpf-linker", "--version", LINKER_VERSION])
        .args(["--force", "--no-default-features", "--features", &feature]);
    do_it(&mut command)
}

/// Returns the prefix of LLVM of this version; installs LLVM if apt has it.
fn llvm(major: u32) -> Result<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    if let Some(prefix) = llvm_prefix(major, &debian) {
        return Ok(prefix);
    }
    let package = format!("llvm-{major}-dev");
    if has_apt() && in_apt(&[&package]) {
        // The linker links against the C++ library too.
        apt_install(&[&package, "g++"])?;
        return Ok(debian);
    }
    bail!(
        "bpf-linker needs LLVM {major}; install its development files (LLVM's own packages: \
         https://apt.llvm.org) or a ready bpf-linker {LINKER_VERSION} on PATH \
         (https://github.com/aya-rs/bpf-linker/releases)"
    )
}

fn llvm_prefix(major: u32, debian: &Path) -> Option<PathBuf> {
    if debian.join("include/llvm-c").is_dir() && paths::program("c++").is_some() {
        return Some(debian.to_owned());
    }
    let names = [format!("llvm-config-{major}"), "llvm-config".to_owned()];
    names
        .iter()
        .find_map(|name| {
            let program = paths::program(name)?;
            let ask = |what: &str| shell::output(Command::new(&program).arg(what)).ok();
            let version = ask("--version")?;
            let right = version.split('.').next()?.trim().parse() == Ok(major);
            right.then(|| ask("--prefix")).flatten()
        })
        .map(|prefix| PathBuf::from(prefix.trim()))
}

pub(crate) fn has_apt() -> bool {
    paths::program("apt-get").is_some() && paths::program("apt-cache").is_some()
}

/// Reports whether apt has an installation candidate for each package.
fn in_apt(packages: &[&str]) -> bool {
    packages.iter().all(|package| {
        let mut command = Command::new("apt-cache");
        let text = shell::output(command.env("LC_ALL", "C").args(["policy", package]));
        text.is_ok_and(|text| has_candidate(&text))
    })
}

/// Updates the package lists: a fresh image has none, and the lists of an old image name
/// an older compiler than the mirror has, or versions that the mirror has dropped.
pub(crate) fn refresh_lists() {
    if is_root() && has_apt() {
        // If no mirror answers, the existing lists are still worth a try.
        if let Err(error) = do_it(apt().arg("update")) {
            eprintln!("    {error:#}: going on with the package lists that are here");
        }
    }
}

fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate:"))
        .any(|version| version.trim() != "(none)")
}

fn apt_install(packages: &[&str]) -> Result<()> {
    if !is_root() {
        bail!(
            "missing packages; run these two, then this command again:\n  \
             sudo apt-get update\n  \
             sudo apt-get install --no-install-recommends -y {}",
            packages.join(" ")
        );
    }
    do_it(
        apt()
            .args(["install", "--no-install-recommends", "-y"])
            .args(packages),
    )
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
    command
}

/// Returns a command for the user's own cargo, outside of the checkout's settings.
fn cargo() -> Command {
    let mut command = Command::new("cargo");
    shell::clear_toolchain(&mut command).current_dir("/");
    command
}

fn do_it(command: &mut Command) -> Result<()> {
    eprintln!("    {}", shell::text(command));
    let start = Instant::now();
    shell::run(command)?;
    eprintln!("    done in {}", shell::seconds(start.elapsed()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_a_candidate_is_not_in_apt() {
        let none = "rustc-web:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n";
        let some = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n";
        assert!(!has_candidate(none));
        assert!(!has_candidate(""));
        assert!(has_candidate(some));
    }
}
