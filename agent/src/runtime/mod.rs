//! What the node's pod runtime reports about its sandboxes, from the host's side: their pods, and
//! the devices and addresses that their network plugins created.
//!
//! A pod can't influence any of this. Anything read inside its network namespace is only a claim
//! of the pod.

mod cache;
pub mod cri;
mod files;
pub mod plugin;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use cache::{Cache, CacheError};

/// The source of the information that a device belongs to a pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// The record of the chained network plugin.
    CniPlugin,
    /// The results of network plugins that libcni keeps on the node.
    CniCache,
    /// The container runtime, asked over its socket.
    Cri,
    /// The slot assigned by an earlier agent; the runtime reports nothing for the device now.
    Pin,
    /// The addresses in its network namespace, which the pod itself can change: good enough for
    /// manifests only.
    #[default]
    Claim,
}

impl FoundBy {
    /// Reports whether the source can't be influenced by the pod.
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
    /// The pod's UID; runtimes released before 2021 don't record it.
    pub uid: Option<String>,
    /// The file that names its network namespace, as the runtime refers to it.
    pub netns: Option<PathBuf>,
    /// Names of the devices that the plugin created on the node's side.
    pub devices: Vec<String>,
    /// The same for its additional interfaces, which policy doesn't cover.
    pub others: Vec<String>,
    /// The MAC that the plugin gave the pod's side, if recorded.
    pub mac: Option<[u8; 6]>,
    /// Addresses of the pod.
    pub addresses: Vec<IpAddr>,
    /// When it was recorded.
    pub recorded: SystemTime,
    /// The source of the record.
    pub by: FoundBy,
    /// Whether its device is open until its policy is in force.
    pub open: bool,
}
