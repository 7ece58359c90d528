//! Real traffic between two pods: nothing, nftables and Ringfence in turn.

use anyhow::Result;

use super::{Case, measured};
use crate::ebpf;

/// Measured in network namespaces of the bench's own; needs root.
pub(super) fn cases() -> Result<Vec<Case>> {
    let object = ebpf::build_bench()?;
    measured::cases("wire", &[("RINGFENCE_BENCH_OBJECT", object.as_os_str())])
}
