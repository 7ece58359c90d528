//! The command line end to end: read the demo's manifests, compile, print.

use std::process::Command;

use anyhow::Result;

use super::{Case, milliseconds};
use crate::{ebpf, paths, shell};

/// Measures the release binary.
pub(super) fn cases() -> Result<Vec<Case>> {
    ebpf::build_release()?;
    let binary = paths::built("release")?.join("ringfence");
    let time = |args: &[&str]| {
        milliseconds(20, || {
            let mut command = Command::new(&binary);
            shell::output(command.current_dir(paths::root()).args(args)).map(drop)
        })
    };
    let matrix = [
        "matrix",
        "--manifests",
        "deploy/demo",
        "--port",
        "TCP/8080",
        "-o",
        "json",
    ];
    Ok(vec![
        Case::new("process", "demo", "ms", time(&["--version"])?)?,
        Case::new("matrix", "demo", "ms", time(&matrix)?)?.against("process"),
    ])
}
