//! The static binaries: all that an image needs, regardless of the node's libraries.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::paths;

/// Type of the program header that names the loader (`PT_INTERP` in elf.h).
const INTERPRETER: usize = 3;

/// The agent and the network plugin.
const BINARIES: [&str; 2] = ["ringfence", "ringfence-cni"];

/// Copies the binaries that cargo built with a profile (`debug`, `release`) to
/// `target/static`.
pub(crate) fn put_binaries(profile: &str) -> Result<()> {
    let (built, folder) = (paths::built(profile)?, paths::target().join("static"));
    for name in BINARIES {
        let built = built.join(name);
        let bytes = fs::read(&built).with_context(|| format!("can't read {}", built.display()))?;
        ensure!(
            !has_interpreter(&bytes)?,
            "{} asks for a loader: it isn't static",
            built.display()
        );
        put(&built, &folder.join(name))?;
    }
    eprintln!("    {}", folder.display());
    Ok(())
}

/// Copies a binary into a separate folder: an image build takes the folder as a whole.
fn put(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    }
    // Renamed into place: the old binary may be running.
    let partial = to.with_extension("partial");
    fs::copy(from, &partial).with_context(|| format!("can't write {}", partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("can't write {}", to.display()))
}

/// Reports whether a 64-bit little-endian ELF file requests a loader, as every file
/// linked to shared libraries does.
fn has_interpreter(elf: &[u8]) -> Result<bool> {
    ensure!(
        elf.starts_with(b"\x7fELF\x02\x01"),
        "no 64-bit little-endian ELF file"
    );
    // Offsets of Elf64_Ehdr: e_phoff, e_phentsize, e_phnum.
    let table = number(elf, 32, 8)?;
    let (size, count) = (number(elf, 54, 2)?, number(elf, 56, 2)?);
    for index in 0..count {
        if number(elf, table + index * size, 4)? == INTERPRETER {
            return Ok(true);
        }
    }
    Ok(false)
}

fn number(bytes: &[u8], at: usize, size: usize) -> Result<usize> {
    let bytes = bytes.get(at..at + size).context("a torn ELF file")?;
    let digits = bytes.iter().rev().map(|byte| usize::from(*byte));
    Ok(digits.fold(0, |number, digit| number << 8 | digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_with_shared_libraries_is_told_from_a_static_one() {
        let own = fs::read(std::env::current_exe().expect("a path")).expect("readable");
        assert!(!has_interpreter(&own).expect("an ELF file"));
        let shell = fs::read("/bin/sh").expect("readable");
        assert!(has_interpreter(&shell).expect("an ELF file"));
        // The header of a file without program headers.
        let mut bare = own[..64].to_vec();
        bare[56..58].fill(0);
        assert!(!has_interpreter(&bare).expect("an ELF file"));
    }

    #[test]
    fn what_is_no_whole_elf_file_is_an_error() {
        assert!(has_interpreter(b"#!/bin/sh\n").is_err());
        assert!(has_interpreter(b"\x7fELF\x02\x01").is_err());
    }
}
