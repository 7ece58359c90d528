//! Number of this node's pods, by state.

use std::collections::BTreeMap;

use crate::datapath::EndpointState;
use ringfence_api::Status;

pub(super) fn count_states(
    endpoints: &[EndpointState],
    status: &Status,
) -> BTreeMap<&'static str, usize> {
    let mut states: BTreeMap<_, usize> = [
        "audit",
        "closed",
        "enforce",
        "gone",
        "host_network",
        "open",
        "pending",
        "quarantine",
        "unguarded",
        "unknown",
    ]
    .map(|state| (state, 0))
    .into();
    for endpoint in endpoints {
        *states.entry(state(endpoint)).or_default() += 1;
    }
    for (state, count) in [
        ("unguarded", status.unguarded.len()),
        ("pending", status.pending.len()),
        ("host_network", status.host_network.len()),
        ("unknown", status.unknown.len()),
    ] {
        *states.entry(state).or_default() += count;
    }
    states
}

/// Returns the stricter state of an endpoint's two directions.
fn state(endpoint: &EndpointState) -> &'static str {
    if endpoint.gone {
        return "gone";
    }
    if !endpoint.attached {
        return "unguarded";
    }
    ["closed", "quarantine", "enforce", "audit"]
        .into_iter()
        .find(|state| [endpoint.ingress, endpoint.egress].contains(state))
        .unwrap_or("open")
}
