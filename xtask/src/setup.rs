//! Finds or installs what building and testing needs.
//!
//! Finding is looking at files and asking two programs their version: well
//! under a second, so that every command does it. Installing is a list of
//! commands, printed before they run; a user who isn't root gets the list.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::toolchain::{self, Linker, Toolchain};
use crate::{paths, shell, tools};

/// The linker's version that is installed where there is none.
const LINKER_VERSION: &str = "0.13.0";

/// Programs that the demo and the tests call, and Debian's package of each.
const PROGRAMS: &[(&str, &str)] = &[
    // LLVM's fuzzer is C++.
    ("c++", "g++"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    // Its NFQUEUE: the kernel may lack nftables' own `queue`.
    ("iptables", "iptables"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
];

/// What the guests of `cargo xtask kernels` take beside those: nothing else
/// needs it, so that a demo doesn't install an emulator.
const GUEST_PROGRAMS: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("dpkg-deb", "dpkg"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("strip", "binutils"),
    ("xz", "xz-utils"),
];

/// Debian's keys, with which its kernels are checked on whatever has apt.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Debian's compiler with the library's source, kept at a recent version for
/// its browsers.
const DEBIAN_RUST: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// What `setup` found.
pub(crate) struct Tools {
    /// The compiler for the BPF target.
    pub(crate) toolchain: Toolchain,
    /// The linker for the BPF target.
    pub(crate) linker: Linker,
}

/// Finds what is needed and installs what is missing.
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

/// The same, and says what there is.
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

/// Whether Debian's kernels can be fetched here and would run this machine's
/// binaries.
pub(crate) fn can_run_guests() -> bool {
    std::env::consts::ARCH == "x86_64" && has_apt()
}

/// Installs what the guests take, if anything of it is missing.
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

/// Installs Debian's packages where there is apt, and says what is missing
/// where there isn't.
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

/// Whether this process may make namespaces and load BPF programs.
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
    // A ready binary holds its own LLVM, the newest that the linker knows.
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

/// Where LLVM of that version is; installs it where apt has it.
fn llvm(major: u32) -> Result<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    if let Some(prefix) = llvm_prefix(major, &debian) {
        return Ok(prefix);
    }
    let package = format!("llvm-{major}-dev");
    if has_apt() && in_apt(&[&package]) {
        // The linker is linked against the C++ library too.
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

/// Whether apt knows an installation candidate for each.
fn in_apt(packages: &[&str]) -> bool {
    packages.iter().all(|package| {
        let mut command = Command::new("apt-cache");
        let text = shell::output(command.env("LC_ALL", "C").args(["policy", package]));
        text.is_ok_and(|text| has_candidate(&text))
    })
}

/// Brings the package lists up to date: a fresh image has none, and an older
/// one's name an older compiler than the mirror has, or versions that it dropped.
pub(crate) fn refresh_lists() {
    if is_root() && has_apt() {
        // Where no mirror answers, what the lists say is still worth a try.
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

/// Cargo as the user has it, outside of the checkout's settings.
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
