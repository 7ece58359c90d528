//! The binaries that guests run: cargo's, stripped, and the libraries that they need.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{ebpf, paths, shell};

/// Programs that the test networks call. Busybox has both, but its `ip` lacks features,
/// and its `nsenter` prefers an applet to the program of the same name.
const PROGRAMS: &[&str] = &["ip", "nsenter"];

/// The content of a guest's `/bin`, and the libraries for it.
pub(super) struct Binaries {
    tests: BTreeMap<String, PathBuf>,
    /// Files by name, small enough for an initramfs.
    pub(super) files: BTreeMap<String, PathBuf>,
    /// Shared libraries and the loader, at their paths on this machine.
    pub(super) libraries: BTreeSet<PathBuf>,
}

impl Binaries {
    /// Returns a test binary as cargo built it, for this machine.
    pub(super) fn test(&self, name: &str) -> Result<&Path> {
        let path = self.tests.get(name);
        path.map(PathBuf::as_path)
            .with_context(|| format!("cargo built no test {name}"))
    }
}

/// Builds the agent and the given tests.
pub(super) fn build(tests: &[&str]) -> Result<Binaries> {
    // Build the whole workspace: given a single package, cargo would rebuild dependencies.
    shell::run(ebpf::cargo().args(["build", "--quiet", "--workspace", "--bin", "ringfence"]))?;
    let mut command = ebpf::cargo();
    command.args(["test", "--quiet", "--no-run", "--message-format=json"]);
    command.arg("--workspace");
    for test in tests {
        command.args(["--test", test]);
    }
    let built = executables(&shell::output(&mut command)?);
    let mut binaries = Binaries {
        tests: built,
        files: BTreeMap::new(),
        libraries: BTreeSet::new(),
    };
    let folder = paths::target().join("kernels/bin");
    fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    let agent = (
        "ringfence".to_owned(),
        paths::built("debug")?.join("ringfence"),
    );
    let mut stripped = vec![agent];
    for test in tests {
        stripped.push(((*test).to_owned(), binaries.test(test)?.to_owned()));
    }
    for (name, path) in stripped {
        let to = folder.join(&name);
        // Debug info is nine tenths of each file, and the guest would hold it all in memory.
        shell::run(Command::new("strip").arg("-o").arg(&to).arg(&path))?;
        binaries.add(name, to)?;
    }
    for name in PROGRAMS {
        let path = paths::program(name).with_context(|| format!("no program {name}"))?;
        binaries.add((*name).to_owned(), path)?;
    }
    let busybox = paths::program("busybox").context("no program busybox")?;
    binaries.add("busybox".to_owned(), busybox)?;
    Ok(binaries)
}

impl Binaries {
    fn add(&mut self, name: String, path: PathBuf) -> Result<()> {
        // `ldd` fails on static binaries, which need no libraries.
        let linked = Command::new("ldd").arg(&path).output();
        let linked = linked.context("can't start `ldd`")?;
        self.libraries
            .extend(libraries(&String::from_utf8_lossy(&linked.stdout)));
        self.files.insert(name, path);
        Ok(())
    }
}

/// Returns the test executables in cargo's messages, by target name.
fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    let messages = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let name = message["target"]["name"].as_str()?.to_owned();
        let path = message["executable"].as_str()?.into();
        (message["profile"]["test"] == true).then_some((name, path))
    });
    messages.collect()
}

/// Returns the files in the output of `ldd`: `NAME => PATH (ADDRESS)`, the loader
/// without an arrow, and the kernel's vDSO without a path.
fn libraries(ldd: &str) -> impl Iterator<Item = PathBuf> {
    ldd.lines().filter_map(|line| {
        let path = line.split("=>").last()?.split_whitespace().next()?;
        path.starts_with('/').then(|| path.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_and_the_kernels_page_is_not() {
        let ldd = "\tlinux-vdso.so.1 (0x7ff)\n\
                   \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f0)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x7f1)\n";
        let found: Vec<PathBuf> = libraries(ldd).collect();
        assert_eq!(
            found,
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert_eq!(libraries("\tnot a dynamic executable\n").count(), 0);
    }

    #[test]
    fn a_test_is_told_from_the_library_that_it_tests() {
        let messages = r#"{"target":{"name":"smoke"},"profile":{"test":true},"executable":"/t/smoke-1"}
{"target":{"name":"ringfence"},"profile":{"test":false},"executable":"/t/ringfence"}
{"reason":"build-finished","success":true}"#;
        let found = executables(messages);
        assert_eq!(found.len(), 1);
        assert_eq!(found["smoke"], Path::new("/t/smoke-1"));
    }
}
