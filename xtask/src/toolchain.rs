//! The compiler for the BPF target, which must come with the source of `core`.
//!
//! The workspace builds with stable Rust, but the BPF target ships no compiled
//! `core`, so it is built from source. Two compilers can do that: a rustup nightly
//! with rust-src, or Debian's `rustc-web` with `rust-web-src`. A rustup nightly
//! without rust-src is common, so the search looks for the source itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{paths, shell};

/// Minimum minor version of Rust for the workspace: `rust-version` in Cargo.toml.
const OLDEST_MINOR: u32 = 95;

/// A compiler that can build the BPF object.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    /// A name for people.
    pub(crate) name: String,
    /// Full path of its cargo.
    pub(crate) cargo: PathBuf,
    /// Full path of its rustc.
    pub(crate) rustc: PathBuf,
    /// Major version of its LLVM; the linker's must not be older.
    pub(crate) llvm: u32,
}

/// The linker, and the LLVM version inside it if known.
#[derive(Clone, Debug)]
pub(crate) struct Linker {
    /// Full path.
    pub(crate) path: PathBuf,
    /// Major version of its LLVM; `None` for binaries that cargo didn't build.
    pub(crate) llvm: Option<u32>,
}

impl Linker {
    /// Reports whether the linker can read the bitcode that the toolchain's LLVM writes:
    /// of the linker's own version or older.
    pub(crate) fn reads(&self, toolchain: &Toolchain) -> bool {
        self.llvm.is_none_or(|llvm| llvm >= toolchain.llvm)
    }
}

/// Returns all usable compilers, rustup's first.
pub(crate) fn find_all() -> Vec<Toolchain> {
    let toolchains = paths::rustup_home().join("toolchains");
    let mut nightlies: Vec<PathBuf> = fs::read_dir(toolchains)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|dir| file_name(dir).starts_with("nightly"))
        .collect();
    // `nightly-x86_64…`, which rustup updates, sorts after dated nightlies.
    nightlies.sort_unstable_by(|a, b| b.cmp(a));
    let rustup = nightlies
        .iter()
        .filter_map(|dir| probe(&format!("rustup {}", file_name(dir)), dir));
    let system = probe("the system's Rust", Path::new("/usr"));
    rustup.chain(system).collect()
}

/// Returns bpf-linker, if a version known to work is installed.
pub(crate) fn find_linker() -> Option<Linker> {
    let path = paths::program("bpf-linker")?;
    let version = shell::output(Command::new(&path).arg("--version")).ok()?;
    if !recent(&version) {
        return None;
    }
    let installed = paths::cargo_home().join("bin/bpf-linker");
    let llvm = (path == installed).then(linker_llvm).flatten();
    Some(Linker { path, llvm })
}

/// Returns the installed linker and the first compiler that works with it.
pub(crate) fn choose() -> Option<(Toolchain, Linker)> {
    let linker = find_linker()?;
    let toolchain = find_all().into_iter().find(|t| linker.reads(t))?;
    Some((toolchain, linker))
}

fn probe(name: &str, prefix: &Path) -> Option<Toolchain> {
    let (rustc, cargo) = (prefix.join("bin/rustc"), prefix.join("bin/cargo"));
    let source = prefix.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !cargo.is_file() || !source.is_file() {
        return None;
    }
    let mut command = Command::new(&rustc);
    let version = shell::output(shell::clear_toolchain(command.arg("-vV"))).ok()?;
    let (minor, llvm) = versions(&version)?;
    let name = format!("{name} (1.{minor}, LLVM {llvm})");
    (minor >= OLDEST_MINOR).then_some(Toolchain {
        name,
        cargo,
        rustc,
        llvm,
    })
}

/// Parses the minor version of Rust and the major version of LLVM from `rustc -vV`.
fn versions(text: &str) -> Option<(u32, u32)> {
    let field = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key))
            .map(str::trim)
    };
    let minor = field("release:")?.split('.').nth(1)?.parse().ok()?;
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((minor, llvm))
}

/// Reports whether `bpf-linker X.Y.Z` is a version known to work.
fn recent(version: &str) -> bool {
    let number = version.split_whitespace().nth(1).unwrap_or_default();
    let mut parts = number.split('.').map_while(|part| part.parse::<u32>().ok());
    (parts.next(), parts.next()) >= (Some(0), Some(13))
}

/// Returns the LLVM version that cargo built the linker with, from the feature it was
/// installed with.
fn linker_llvm() -> Option<u32> {
    let text = fs::read_to_string(paths::cargo_home().join(".crates2.json")).ok()?;
    let entry = &text[text.find("\"bpf-linker ")?..];
    let features = &entry[entry.find("\"features\":[")?..];
    let features = &features[..features.find(']')?];
    let number = &features[features.find("llvm-")? + "llvm-".len()..];
    let end = number.find(|c: char| !c.is_ascii_digit())?;
    number[..end].parse().ok()
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_compilers_own_words() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x86_64-unknown-linux-gnu\n\
                    release: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(versions(text), Some((96, 22)));
        assert_eq!(
            versions("release: 1.97.0-nightly\nLLVM version: 22.1\n"),
            Some((97, 22))
        );
        assert_eq!(versions("nonsense"), None);
    }

    #[test]
    fn linkers_that_nobody_tried_count_as_missing() {
        assert!(recent("bpf-linker 0.13.0\n"));
        assert!(recent("bpf-linker 1.0.0\n"));
        assert!(!recent("bpf-linker 0.9.15\n"));
        assert!(!recent(""));
    }

    #[test]
    fn an_older_linker_is_refused_and_an_unknown_one_is_trusted() {
        let toolchain = Toolchain {
            name: String::new(),
            cargo: PathBuf::new(),
            rustc: PathBuf::new(),
            llvm: 22,
        };
        let linker = |llvm| Linker {
            path: PathBuf::new(),
            llvm,
        };
        assert!(!linker(Some(21)).reads(&toolchain));
        assert!(linker(Some(23)).reads(&toolchain));
        assert!(linker(None).reads(&toolchain));
    }
}
