//! Real traffic between two pods: nothing, nftables and Ringfence in turn.

use anyhow::Result;

use super::{Case, measured};
use crate::ebpf;

/// Measured in network namespaces of the bench's own; needs root.
pub(super) fn cases() -> Result<Vec<Case>> {
    ebpf::build()?;
    measured::cases("wire", &[])
}
