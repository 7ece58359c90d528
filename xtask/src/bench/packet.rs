//! Nanoseconds a packet, through test runs of the loaded programs.

use anyhow::Result;

use super::{Case, measured};
use crate::ebpf;

/// Measured on the machine's own kernel; needs root.
pub(super) fn cases() -> Result<Vec<Case>> {
    let object = ebpf::build_bench()?;
    measured::cases("packet", &[("RINGFENCE_BENCH_OBJECT", object.as_os_str())])
}
