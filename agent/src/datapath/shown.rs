//! What people and programs are shown of endpoints.

use ringfence_ebpf::abi::World;
use ringfence_policy::index::PodKey;
use serde::Serialize;

use super::endpoints::{Endpoints, addresses};
use super::links::Links;
use super::names::Names;
use super::seat::{Side, side, word};
use crate::runtime::FoundBy;

/// Why an endpoint without a pod is listed.
const GONE: &str = "gone: its object is deleted or has finished, and its interface is still there";
/// Why one whose pod isn't known is listed under its pinned policy.
const UNSEEN: &str = "its pod isn't known yet; what was in force before this agent is in force";

/// One endpoint, for `ringfence endpoints`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct EndpointState {
    /// The pod; the last one whose it was if that is gone; none if this agent hasn't seen it.
    pub pod: Option<PodKey>,
    /// Its pod is gone, and its interface isn't.
    pub gone: bool,
    /// What is odd about it, if anything is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// `namespace/service`.
    pub workload: String,
    /// Endpoint id, never reused.
    pub id: u32,
    /// Slot, which is its tag.
    pub slot: u32,
    /// Index of the host-side device.
    pub ifindex: u32,
    /// Name of the host-side device.
    pub interface: String,
    /// The pod's addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// What told that the device is the pod's.
    pub found_by: FoundBy,
    /// `open`, `audit`, `enforce`, `quarantine` or `closed` (its pod is gone,
    /// its interface isn't). In an agent that audits all but `open` is `audit`.
    pub ingress: &'static str,
    /// The same for packets from the pod.
    pub egress: &'static str,
    /// Whether both programs are attached, first in their chains, when that was
    /// last looked at.
    pub attached: bool,
    /// Filters of others on the device's clsact qdisc, as in `ingress bpf NAME
    /// (priority 2)`. They run after both programs; one that returns OK makes
    /// later packets look as if they came from no pod of this node.
    pub foreign_filters: Vec<String>,
}

impl EndpointState {
    /// Whether it is the present endpoint of a pod, named `namespace/name`.
    pub fn is_of(&self, pod: &str) -> bool {
        !self.gone && self.pod.as_ref().is_some_and(|own| own.to_string() == pod)
    }
}

impl Endpoints {
    /// For `ringfence endpoints`.
    pub(super) fn states(
        &self,
        links: &Links,
        names: &Names,
        active: World,
        audits: bool,
    ) -> Vec<EndpointState> {
        self.seats
            .iter()
            .map(|(slot, seat)| {
                let endpoint = &seat.endpoint;
                let half = endpoint.worlds[side(active)];
                let gone = seat.is_left(&half);
                let word = |side| word(!gone, half.flags, side, audits);
                let is_known = seat.pod.is_some();
                EndpointState {
                    ingress: word(Side::INGRESS),
                    egress: word(Side::EGRESS),
                    pod: seat.pod.as_ref().or(seat.last.as_ref()).cloned(),
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
                    interface: seat.name.clone(),
                    addresses: addresses(endpoint).collect(),
                    found_by: seat.by,
                    attached: links.attached(endpoint.ifindex),
                    foreign_filters: links.foreign(endpoint.ifindex),
                }
            })
            .collect()
    }
}
