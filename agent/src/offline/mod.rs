//! The commands that need no root, no cluster and no datapath: the same compiler
//! over a folder of manifests.

pub mod callers;
mod difference;
pub mod explain;
pub mod matrix;

use std::path::Path;

use ringfence_policy::index::Index;
use ringfence_policy::ports::PortSpec;

use crate::cli::PolicyArgs;
use crate::failure::Failure;
use crate::manifests::Store;

/// Reads a folder; any error in it is refused, since an answer from half of the
/// policies would be wrong.
fn load(manifests: &Path, policy: &PolicyArgs) -> Result<Index, Failure> {
    let store = Store::open(manifests).map_err(Failure::input)?;
    Ok(store.index(&policy.config()))
}

fn port(text: &str) -> Result<PortSpec, Failure> {
    text.parse().map_err(Failure::input)
}
