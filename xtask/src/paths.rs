//! Locations of the checkout and of cargo's and rustup's folders.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::shell;

/// Returns the top of the checkout.
///
/// It is fixed when xtask is compiled: cargo rebuilds xtask when the checkout moves.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Returns the target folder of the workspace, also if `CARGO_TARGET_DIR` moved it.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Returns the folder of cargo's output for a profile (`debug`, `release`). Its path contains
/// the target, since `.cargo/config.toml` sets one.
pub(crate) fn built(profile: &str) -> Result<PathBuf> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let host = shell::output(Command::new(rustc).args(["--print", "host-tuple"]))?;
    Ok(target().join(host.trim()).join(profile))
}

/// Returns cargo's home.
pub(crate) fn cargo_home() -> PathBuf {
    home_of("CARGO_HOME", ".cargo")
}

/// Returns rustup's home.
pub(crate) fn rustup_home() -> PathBuf {
    home_of("RUSTUP_HOME", ".rustup")
}

fn home_of(variable: &str, default: &str) -> PathBuf {
    if let Some(dir) = env::var_os(variable) {
        return dir.into();
    }
    Path::new(&env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(default)
}

/// Returns the full path of a program: on PATH, in the sbin folders that a user's PATH
/// often lacks, or among cargo's installed binaries.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), cargo_home().join("bin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
