//! How long pods take to start beside the agent, and until their first call.

use anyhow::Result;

use super::{Case, measured};
use crate::{ebpf, tools};

/// With the release binary and a container runtime on a network of the bench's own; needs
/// root.
pub(super) fn cases() -> Result<Vec<Case>> {
    ebpf::build_release()?;
    tools::install()?;
    measured::cases("start", &[])
}
