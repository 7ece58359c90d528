//! A storm of denied packets: how many, counted how well, and at what cost to
//! the agent.

use anyhow::Result;

use super::{Case, measured};
use crate::ebpf;

/// With the release binary on a network of the bench's own; needs root.
pub(super) fn cases() -> Result<Vec<Case>> {
    ebpf::build_release()?;
    measured::cases("storm", &[])
}
