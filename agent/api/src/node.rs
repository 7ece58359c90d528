//! What a status says of the node and of the agent's surroundings.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::words::words;

/// The bit that ingress hooks set in the marks of the packets they see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeenMark {
    /// The bit.
    pub bit: u32,
    /// Whether packets without it are dropped, which starts at the end of the first pass.
    pub asked: bool,
}

/// Address of the metrics page, and whether it is being read.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Scrapes {
    /// Address and port.
    pub address: String,
    /// When it was last read, in seconds since 1970; none if not since this agent started.
    pub last: Option<u64>,
}

/// A device that leads to an unknown pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnknownDevice {
    /// Name of the device.
    pub device: String,
    /// `namespace/name`, if the pod runtime has a record of the pod.
    pub pod: Option<String>,
    /// Whether all traffic is dropped; otherwise `--unknown-pods` or `--unknown-exempt` allows it.
    pub closed: bool,
}

/// A device that should have hooks and doesn't.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnhookedDevice {
    /// Name of the device.
    pub device: String,
    /// Why.
    pub reason: String,
}

/// One watch's row in `status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WatchStatus {
    /// The watched kind.
    pub kind: String,
    /// Whether it delivers changes.
    pub state: WatchState,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Whether its objects have been listed in full, so that they are or may be in force.
    pub listed: bool,
    /// The last fault, over or not.
    pub error: Option<String>,
    /// Faults since the start.
    pub errors: u64,
    /// Lists since the start; all but the first are relists.
    pub lists: u64,
}

words! {
    /// Whether a watch of the API server delivers changes.
    WatchState {
        /// It does.
        Connected = "connected",
        /// It doesn't: the last known state stays in force.
        Disconnected = "disconnected",
        /// The cluster doesn't have the kind.
        Absent = "absent",
    }
}

words! {
    /// How the runtime learns of the network plugin.
    Way {
        /// From an entry in the list.
        List = "list",
        /// From the drop-in: the runtime has proven that it reads it.
        DropIn = "drop_in",
        /// From both, until a pod's start shows whether the runtime reads drop-ins.
        Both = "both",
    }
}

/// How the plugin is installed, as printed by `ringfence status -o json`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CniStatus {
    /// The network list that the runtime uses; none while no network is configured.
    pub list: Option<PathBuf>,
    /// How the runtime learns of the plugin; none while it doesn't.
    pub way: Option<Way>,
    /// How often the plugin was put back after somebody else removed it.
    pub rewrites: u64,
    /// Why the plugin isn't installed, or isn't of this version.
    pub error: Option<String>,
    /// Files before the list that no runtime accepts.
    pub faults: Vec<String>,
}

impl CniStatus {
    /// Reports whether pods that start now are closed by this version's plugin.
    pub const fn is_installed(&self) -> bool {
        self.way.is_some() && self.error.is_none()
    }

    /// Lists what a person should look into.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.error.iter().chain(&self.faults)
    }
}

/// The state of the API, as part of the agent's status.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RemoteStatus {
    /// Address and port.
    pub address: String,
    /// When the certificate in force expires, in seconds since 1970.
    pub certificate_expires: i64,
    /// Why the present files can't be used; none if they are in force.
    #[serde(default)]
    pub certificate_error: Option<String>,
    /// How often files couldn't be used since the start.
    #[serde(default)]
    pub certificate_errors: u64,
}
