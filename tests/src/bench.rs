//! What benches share: who measures goes first, and so often.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Whatever else runs on this machine waits meanwhile, in whichever group it is.
/// Threads inherit it, and the kernel keeps some of each second back for the others.
pub fn go_first() -> Result<()> {
    let pid = std::process::id().to_string();
    let status = Command::new("chrt")
        .args(["--fifo", "--pid", "1", &pid])
        .stdout(Stdio::null())
        .status()
        .context("chrt")?;
    ensure!(status.success(), "chrt ended with {status}");
    Ok(())
}

/// How many rounds to measure: what RINGFENCE_BENCH_ROUNDS says, else `usual`.
pub fn rounds(usual: usize) -> Result<usize> {
    match std::env::var("RINGFENCE_BENCH_ROUNDS") {
        Ok(rounds) => rounds.parse().context("RINGFENCE_BENCH_ROUNDS"),
        Err(_) => Ok(usual),
    }
}
