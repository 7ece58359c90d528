//! The commands that need no root and no datapath: the same compiler over a folder
//! of manifests, or over a cluster as it is now.

pub mod callers;
mod difference;
pub mod explain;
pub mod matrix;

use std::path::Path;

use ringfence_policy::index::Index;
use ringfence_policy::ports::PortSpec;

use crate::cli::{ClusterArgs, PolicyArgs};
use crate::failure::Failure;
use crate::kubernetes::list::{self, ListError};
use crate::manifests::Store;
use crate::settings::Origin;

/// Reads what a question is about.
fn load(cluster: &ClusterArgs, policy: &PolicyArgs) -> Result<Index, Failure> {
    match Origin::of(cluster.manifests.clone(), cluster.kubeconfig.clone()) {
        Origin::Manifests(folder) => read(&folder, policy),
        Origin::Kubernetes(access) => {
            list::index(&access, &policy.config()).map_err(|error| match error {
                ListError::Access(_) => Failure::input(error),
                ListError::List { .. } | ListError::Runtime(_) => Failure::fault(error),
            })
        }
    }
}

/// Reads a folder; any error in it is refused, since an answer from half of the
/// policies would be wrong.
fn read(manifests: &Path, policy: &PolicyArgs) -> Result<Index, Failure> {
    let store = Store::open(manifests).map_err(Failure::input)?;
    Ok(store.index(&policy.config()))
}

fn port(text: &str) -> Result<PortSpec, Failure> {
    text.parse().map_err(Failure::input)
}
