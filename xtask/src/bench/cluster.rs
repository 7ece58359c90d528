//! The agent following a live cluster: how fast and how small it is.

use anyhow::Result;

use super::{Case, measured};
use crate::ebpf;

/// With the release binary on a node of the bench's own, against the API server
/// double in the bench's process; needs root.
pub(super) fn cases() -> Result<Vec<Case>> {
    ebpf::build_release()?;
    measured::cases("cluster", &[])
}
