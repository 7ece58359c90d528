//! What the node's pod runtime says of its sandboxes, from the host's side: whose they
//! are, which devices and addresses their network plugins made.
//!
//! A pod has no hand in any of it. What is read inside its network namespace is what
//! the pod says of itself.

mod cache;
pub mod cri;
mod files;
pub mod plugin;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use cache::{Cache, CacheError};

/// What told whose device it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// The record of the chained network plugin.
    CniPlugin,
    /// The results of network plugins that libcni keeps on the node.
    CniCache,
    /// The container runtime, asked over its socket.
    Cri,
    /// The slot that an earlier agent gave it: the runtime says nothing of it now.
    Pin,
    /// The addresses in its network namespace, which the pod itself can change: good
    /// enough for manifests alone.
    #[default]
    Claim,
}

impl FoundBy {
    /// Whether it was told by somebody other than the pod.
    pub const fn is_certain(self) -> bool {
        matches!(self, Self::CniPlugin | Self::CniCache | Self::Cri)
    }
}

/// One pod's sandbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sandbox {
    /// The container id of the sandbox.
    pub id: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID; runtimes from before 2021 don't record it.
    pub uid: Option<String>,
    /// The file that names its network namespace, as the runtime calls it.
    pub netns: Option<PathBuf>,
    /// Names of the devices that the plugin made on the node's side.
    pub devices: Vec<String>,
    /// The same of its further interfaces, which no policy is about.
    pub others: Vec<String>,
    /// The MAC that the plugin gave the pod's side, if it says.
    pub mac: Option<[u8; 6]>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// When that was recorded.
    pub recorded: SystemTime,
    /// Who says so.
    pub by: FoundBy,
    /// Its device is open until its policy is in force.
    pub open: bool,
}
