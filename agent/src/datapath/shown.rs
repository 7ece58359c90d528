//! Endpoints as they are displayed.

use ringfence_ebpf::abi::Buffer;
use ringfence_policy::index::PodKey;

use super::endpoints::{Endpoints, addresses};
use super::links::Links;
use super::names::Names;
use super::occupant::{Side, side, word};
use crate::runtime::FoundBy;

/// Reason shown for an endpoint without a pod.
const GONE: &str = "gone: its object is deleted or has finished, and its interface is still there";
/// Reason shown for an endpoint under its pinned policy whose pod isn't known.
const UNSEEN: &str = "its pod isn't known yet; what was in force before this agent is in force";

/// One endpoint, for `ringfence endpoints`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointState {
    /// The pod, or the last known pod if that is gone; none if this agent hasn't seen it.
    pub pod: Option<PodKey>,
    /// Whether its pod is gone while its interface still exists.
    pub gone: bool,
    /// What is unusual about it, if anything.
    pub reason: Option<&'static str>,
    /// `namespace/service`.
    pub workload: String,
    /// Endpoint id, never reused.
    pub id: u32,
    /// Slot, which is also its tag.
    pub slot: u32,
    /// Index of the host-side device.
    pub ifindex: u32,
    /// Name of the host-side device.
    pub interface: String,
    /// The pod's addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// The source of the information that the device belongs to the pod.
    pub found_by: FoundBy,
    /// `open`, `audit`, `enforce`, `quarantine` or `closed` (its pod is gone, its interface
    /// isn't). In an agent in audit mode, everything but `open` is shown as `audit`.
    pub ingress: &'static str,
    /// The same for packets from the pod.
    pub egress: &'static str,
    /// Whether both programs were attached, first in their chains, when last checked.
    pub attached: bool,
    /// Filters of other programs on the device's clsact qdisc, as in `ingress bpf NAME (priority
    /// 2)`. They run after both programs; if one returns OK, later packets look as if they didn't
    /// come from a pod of this node.
    pub foreign_filters: Vec<String>,
}

impl EndpointState {
    /// Reports whether this is the current endpoint of a pod, named `namespace/name`.
    pub fn is_of(&self, pod: &str) -> bool {
        !self.gone && self.pod.as_ref().is_some_and(|own| own.to_string() == pod)
    }
}

impl Endpoints {
    /// Returns all endpoints, for `ringfence endpoints`.
    pub(super) fn states(
        &self,
        links: &Links,
        names: &Names,
        active: Buffer,
        audits: bool,
    ) -> Vec<EndpointState> {
        self.slots
            .iter()
            .map(|(slot, occupant)| {
                let endpoint = &occupant.endpoint;
                let rules = endpoint.rules[side(active)];
                let gone = occupant.is_left(&rules);
                let word = |side| word(!gone, rules.flags, side, audits);
                let is_known = occupant.pod.is_some();
                EndpointState {
                    ingress: word(Side::INGRESS),
                    egress: word(Side::EGRESS),
                    pod: occupant.pod.as_ref().or(occupant.last.as_ref()).cloned(),
                    gone,
                    reason: match (gone, is_known) {
                        (true, _) => Some(GONE),
                        (false, false) => Some(UNSEEN),
                        (false, true) => None,
                    },
                    workload: names.name(endpoint.workload),
                    id: endpoint.id,
                    slot: *slot,
                    ifindex: endpoint.ifindex,
                    interface: occupant.name.clone(),
                    addresses: addresses(endpoint).collect(),
                    found_by: occupant.by,
                    attached: links.attached(endpoint.ifindex),
                    foreign_filters: links.foreign(endpoint.ifindex),
                }
            })
            .collect()
    }
}
