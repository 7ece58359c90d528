//! `/v1/status`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::words::words;
use crate::{
    CniStatus, RemoteStatus, Scrapes, SeenMark, UnhookedDevice, UnknownDevice, WatchStatus,
};

/// Status of the agent, as printed by `ringfence status -o json`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// This node's name.
    pub node: String,
    /// What it does with denied packets.
    pub mode: Mode,
    /// The source of policy.
    pub source: String,
    /// Whether the source could be read in the last pass.
    pub source_connected: bool,
    /// What must be known before the first tables are put in force, and isn't yet.
    #[serde(default)]
    pub waits_for: Vec<String>,
    /// Status of the watches of the API server.
    #[serde(default)]
    pub watches: Vec<WatchStatus>,
    /// Process id of the agent.
    pub pid: u32,
    /// The other versions that it has taken over from, and what was kept; none if it started from
    /// scratch, or after an agent of its own version.
    #[serde(default)]
    pub took_over: Option<String>,
    /// Connections that only the pick-up window allowed, since the tables were created.
    #[serde(default)]
    pub picked_up: u64,
    /// Number of passes since the start.
    pub passes: u64,
    /// Number of failed passes since the start.
    pub apply_errors: u64,
    /// Why the last pass failed, if it did.
    pub error: Option<String>,
    /// Generation of the active buffer.
    pub generation: u64,
    /// Number of guarded endpoints.
    pub endpoints: usize,
    /// Pods of this node that should be guarded and aren't, and why.
    pub unguarded: Vec<UnguardedPod>,
    /// Pods of this node that have no network yet, or no longer, so that there is nothing to
    /// guard.
    #[serde(default)]
    pub pending: Vec<UnguardedPod>,
    /// Pods that use the node's own network.
    #[serde(default)]
    pub host_network: Vec<UnguardedPod>,
    /// Pods of this node that are guarded, and closed because their policy couldn't be put in
    /// force: `error` says why.
    #[serde(default)]
    pub closed: Vec<String>,
    /// Devices that lead to unknown pods.
    #[serde(default)]
    pub unknown: Vec<UnknownDevice>,
    /// Number of other devices of the node that have their hooks.
    pub devices: usize,
    /// Other devices that lack their hooks, and why: traffic of pods to Services isn't checked
    /// there, and foreign tags aren't cleared.
    pub unhooked: Vec<UnhookedDevice>,
    /// Addresses of the node's own interfaces, at each of which it answers.
    #[serde(default)]
    pub node_addresses: Vec<IpAddr>,
    /// The cluster's pod ranges, in which an address without a known owner counts as `unknown`;
    /// none before the first pass.
    #[serde(default)]
    pub pod_ranges: Option<Vec<String>>,
    /// UDP ports that nodes decapsulate, in addition to those always treated as tunnels'.
    #[serde(default)]
    pub tunnel_ports: Vec<u16>,
    /// The mark bit of seen packets; none with `--seen-mark 0`.
    #[serde(default)]
    pub seen_mark: Option<SeenMark>,
    /// Why there may be more addresses or tunnels: those already known stay in use.
    #[serde(default)]
    pub node_faults: Vec<String>,
    /// Manifests that don't parse; the last good state of their objects stays in force.
    pub invalid: Vec<String>,
    /// Labels and annotations that don't parse, and how each is interpreted.
    pub problems: Vec<String>,
    /// Namespaces, and records of the pod runtime, that couldn't be read.
    pub skipped: Vec<String>,
    /// Status of the network plugin; none if the agent doesn't install it.
    #[serde(default)]
    pub plugin: Option<CniStatus>,
    /// Status of the metrics page; none if it isn't served.
    #[serde(default)]
    pub metrics: Option<Scrapes>,
    /// Status of the read-only API for programs; none if it isn't served.
    #[serde(default)]
    pub api: Option<RemoteStatus>,
}

impl Status {
    /// Returns all pods without a firewall of their own, including those that need none.
    pub fn not_guarded(&self) -> impl Iterator<Item = &UnguardedPod> {
        let all = self.unguarded.iter().chain(&self.pending);
        all.chain(&self.host_network)
    }
}

/// A pod of this node that isn't guarded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnguardedPod {
    /// `namespace/name`.
    pub pod: String,
    /// Why.
    pub reason: String,
}

words! {
    /// What an agent does with denied packets.
    Mode {
        /// It drops them.
        Enforce = "enforce",
        /// It counts them and lets them pass.
        Audit = "audit",
    }
}

// Agents enforce unless told otherwise.
#[allow(clippy::derivable_impls)]
impl Default for Mode {
    fn default() -> Self {
        Self::Enforce
    }
}
