//! Nanoseconds per packet, from test runs of the loaded programs.

use anyhow::Result;

use super::{Case, measured};
use crate::ebpf;

/// Measures on the machine's own kernel; requires root.
pub(super) fn cases() -> Result<Vec<Case>> {
    let object = ebpf::build_bench()?;
    measured::cases("packet", &[("RINGFENCE_BENCH_OBJECT", object.as_os_str())])
}
