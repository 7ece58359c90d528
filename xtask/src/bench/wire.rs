//! Real traffic between two pods: unfiltered, with nftables and with Ringfence in turn.

use anyhow::Result;

use super::{Case, measured};
use crate::ebpf;

/// Measures in the bench's own network namespaces; requires root.
pub(super) fn cases() -> Result<Vec<Case>> {
    let object = ebpf::build_bench()?;
    measured::cases("wire", &[("RINGFENCE_BENCH_OBJECT", object.as_os_str())])
}
