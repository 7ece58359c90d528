//! Pods of this node, by state.

use std::collections::BTreeMap;

use crate::datapath::EndpointState;
use crate::state::{HOST_NETWORK, Status};

pub(super) fn count_states(
    endpoints: &[EndpointState],
    status: &Status,
) -> BTreeMap<&'static str, usize> {
    let mut states: BTreeMap<_, usize> = [
        "audit",
        "closed",
        "enforce",
        "host_network",
        "open",
        "quarantine",
        "unguarded",
        "unknown",
    ]
    .map(|state| (state, 0))
    .into();
    for endpoint in endpoints {
        *states.entry(state(endpoint)).or_default() += 1;
    }
    for pod in &status.unguarded {
        let host_network = pod.reason == HOST_NETWORK;
        let state = if host_network {
            "host_network"
        } else {
            "unguarded"
        };
        *states.entry(state).or_default() += 1;
    }
    *states.entry("unknown").or_default() += status.unknown.len();
    states
}

/// The strictest of an endpoint's two directions.
fn state(endpoint: &EndpointState) -> &'static str {
    if !endpoint.attached {
        return "unguarded";
    }
    ["closed", "quarantine", "enforce", "audit"]
        .into_iter()
        .find(|state| [endpoint.ingress, endpoint.egress].contains(state))
        .unwrap_or("open")
}
