//! The agent following a live cluster: its speed and its memory.

use anyhow::Result;

use super::{Case, measured};
use crate::ebpf;

/// Runs the release binary on the bench's own node, against the API server double in
/// the bench's process; requires root.
pub(super) fn cases() -> Result<Vec<Case>> {
    ebpf::build_release()?;
    measured::cases("cluster", &[])
}
