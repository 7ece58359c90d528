//! Live flows, for `ringfence flows`.

use std::collections::BTreeMap;

use ringfence_ebpf::abi::{Direction, Flow, FlowKey, Protocol};
use ringfence_ebpf::conntrack::{self, Clock, State};
use ringfence_policy::index::PodKey;
use serde::Serialize;

use super::error::DatapathError;
use super::{Datapath, buckets};

/// One tracked connection of one endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FlowEntry {
    /// `namespace/name` of the endpoint's pod.
    pub pod: String,
    /// The endpoint's address.
    pub local: String,
    /// The endpoint's port; ICMP: the query's identifier.
    pub local_port: u16,
    /// The peer's address.
    pub remote: String,
    /// The peer's port.
    pub remote_port: u16,
    /// A name of [`Protocol`].
    pub protocol: &'static str,
    /// Workload of the peer when the flow was opened.
    pub peer: String,
    /// `ingress` if the peer opened it, `egress` if the pod did.
    pub opened: &'static str,
    /// `opening`, `established`, `half-closed` or `closing`.
    pub state: &'static str,
    /// It was open before it was tracked.
    pub picked_up: bool,
    /// Seconds since its first packet.
    pub age: u64,
    /// Seconds since its last packet.
    pub idle: u64,
    /// Packets to and from the pod.
    pub packets: [u64; 2],
    /// Bytes to and from the pod.
    pub bytes: [u64; 2],
}

pub(super) fn list(datapath: &mut Datapath) -> Result<Vec<FlowEntry>, DatapathError> {
    let clock = datapath.clock()?;
    let pods: BTreeMap<u32, String> = datapath
        .endpoints()
        .into_iter()
        .map(|state| (state.id, name(state.pod)))
        .collect();
    let mut flows: Vec<(u64, FlowEntry)> = buckets::entries(&datapath.maps)?
        .into_iter()
        // One that was promoted meanwhile stands in both tables.
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .filter(|(key, _)| key.protocol < FlowKey::FRAGMENTS)
        .filter(|(_, flow)| !conntrack::expired(flow, clock))
        .filter_map(|(key, flow)| {
            // An endpoint that is gone leaves its flows to expire unseen.
            let pod = pods.get(&key.endpoint)?.clone();
            Some((flow.last_seen, entry(pod, &key, &flow, clock, datapath)))
        })
        .collect();
    flows.sort_by_key(|(last_seen, _)| std::cmp::Reverse(*last_seen));
    Ok(flows.into_iter().map(|(_, flow)| flow).collect())
}

/// What a person reads for a pod; nothing where none is known.
fn name(pod: Option<PodKey>) -> String {
    pod.map_or_else(String::new, |pod| pod.to_string())
}

fn entry(pod: String, key: &FlowKey, flow: &Flow, clock: Clock, datapath: &Datapath) -> FlowEntry {
    let seconds = |since: u64| clock.now.saturating_sub(since) / clock.second;
    FlowEntry {
        pod,
        local: key.local.to_string(),
        local_port: key.local_port,
        remote: key.remote.to_string(),
        remote_port: key.remote_port,
        protocol: Protocol::from_iana(key.protocol as u8).name(),
        peer: datapath.names.name(flow.peer),
        opened: Direction::from_u8(flow.opened_by).map_or("unknown", Direction::name),
        state: match flow.state {
            s if s == State::Replied as u8 => "established",
            s if s == State::OpenerDone as u8 || s == State::OtherDone as u8 => "half-closed",
            s if s == State::Closing as u8 => "closing",
            _ => "opening",
        },
        picked_up: flow.flags & Flow::PICKED_UP != 0,
        age: seconds(flow.opened),
        idle: seconds(flow.last_seen),
        packets: flow.packets,
        bytes: flow.bytes,
    }
}
