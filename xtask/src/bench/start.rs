//! How long pods take to start with an agent running, and until their first call.

use anyhow::Result;

use super::{Case, measured};
use crate::{ebpf, tools};

/// Runs the release binary and a container runtime on the bench's own network; requires
/// root.
pub(super) fn cases() -> Result<Vec<Case>> {
    ebpf::build_release()?;
    tools::install()?;
    measured::cases("start", &[])
}
