//! Nanoseconds a packet, through test runs of the loaded programs.
//!
//! The measuring itself is a bench of the tests' package, which may depend on
//! the agent; this starts it and reads what it measured.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Case;
use crate::{ebpf, shell};

/// A case as `tests/benches/packet.rs` prints it.
#[derive(Deserialize)]
struct Measured {
    case: String,
    variant: String,
    samples: Vec<f64>,
    against: Option<String>,
    target: Option<f64>,
}

/// Measured on the machine's own kernel; needs root.
pub(super) fn cases() -> Result<Vec<Case>> {
    ebpf::build()?;
    let object = ebpf::build_bench()?;
    let mut command = ebpf::cargo();
    command
        .args([
            "bench",
            "--quiet",
            "-p",
            "ringfence-tests",
            "--bench",
            "packet",
        ])
        .env("RINGFENCE_BENCH_OBJECT", object);
    let text = shell::output(&mut command)?;
    let measured: Vec<Measured> =
        serde_json::from_str(&text).context("can't read what the bench printed")?;
    measured
        .into_iter()
        .map(|m| {
            let mut case = Case::new(m.case, m.variant, "ns", m.samples)?;
            case.against = m.against;
            case.target = m.target;
            Ok(case)
        })
        .collect()
}
