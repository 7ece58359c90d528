//! A storm of denied packets: how many there are, how accurately they are counted, and
//! what they cost the agent.

use anyhow::Result;

use super::{Case, measured};
use crate::ebpf;

/// Runs the release binary on the bench's own network; requires root.
pub(super) fn cases() -> Result<Vec<Case>> {
    ebpf::build_release()?;
    measured::cases("storm", &[])
}
