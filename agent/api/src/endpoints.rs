//! `/v1/endpoints`, and the command that shows them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::words::words;
use crate::{UnguardedPod, Whole};

/// One pod's interface on a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// `namespace/name` of the pod, or of the last known pod if that is gone; none if the agent
    /// hasn't seen it.
    pub pod: Option<String>,
    /// Whether its pod is gone while its interface still exists.
    pub gone: bool,
    /// What is unusual about it, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `namespace/service`.
    pub workload: String,
    /// Endpoint id, never reused.
    pub id: u32,
    /// Slot, which is also the tag of its packets.
    pub slot: u32,
    /// Index of the host-side device.
    pub ifindex: u32,
    /// Name of the host-side device.
    pub interface: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The source of the information that the device belongs to the pod.
    pub found_by: FoundBy,
    /// What policy does with packets to the pod. An agent in audit mode shows everything but
    /// [`Enforcement::Open`] as [`Enforcement::Audit`].
    pub ingress: Enforcement,
    /// The same for packets from the pod.
    pub egress: Enforcement,
    /// Whether both programs were attached, first in their chains, when last checked.
    pub attached: bool,
    /// Filters of other programs on the device's clsact qdisc, as in `ingress bpf NAME (priority
    /// 2)`. They run after both programs; if one returns OK, later packets look as if they didn't
    /// come from a pod of this node.
    pub foreign_filters: Vec<String>,
}

words! {
    /// What policy does in one direction of an endpoint.
    Enforcement {
        /// Nothing isolates the pod.
        Open = "open",
        /// Denials are counted, and the packets pass.
        Audit = "audit",
        /// Denied packets are dropped.
        Enforce = "enforce",
        /// The pod is cut off by its label.
        Quarantine = "quarantine",
        /// The pod is gone and its interface isn't: everything is dropped.
        Closed = "closed",
    }
}

words! {
    /// The source of the information that a device belongs to a pod.
    FoundBy {
        /// The record of the chained network plugin.
        CniPlugin = "cni_plugin",
        /// The results of network plugins that libcni keeps on the node.
        CniCache = "cni_cache",
        /// The container runtime, asked over its socket.
        Cri = "cri",
        /// The slot assigned by an earlier agent.
        Pin = "pin",
        /// The addresses in its network namespace, which the pod itself can change.
        Claim = "claim",
    }
}

/// One row of `ringfence endpoints -o json`.
// A row of a list is either; boxing the larger one would only add an allocation per row.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EndpointRow {
    /// A pod's interface.
    Endpoint(Whole<Endpoint>),
    /// A pod without a firewall of its own.
    NotGuarded(Whole<NotGuarded>),
}

/// A pod that isn't guarded, as a row among endpoints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NotGuarded {
    /// `namespace/name`.
    pub pod: String,
    /// Always false: it has no interface to which programs are attached.
    pub attached: bool,
    /// Why it isn't guarded.
    pub reason: String,
}

impl From<&UnguardedPod> for NotGuarded {
    fn from(pod: &UnguardedPod) -> Self {
        Self {
            pod: pod.pod.clone(),
            attached: false,
            reason: pod.reason.clone(),
        }
    }
}
