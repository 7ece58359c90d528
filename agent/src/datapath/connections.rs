//! Live connections, for `ringfence connections`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ringfence_ebpf::abi::{Connection, ConnectionKey, Direction, Protocol};
use ringfence_ebpf::conntrack::{self, Clock, State};
use ringfence_policy::index::PodKey;

use super::error::DatapathError;
use super::{Datapath, buckets};

/// One tracked connection of one endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionRow {
    /// `namespace/name` of the endpoint's pod.
    pub pod: String,
    /// The endpoint's address on this side.
    pub local: IpAddr,
    /// The endpoint's port; for ICMP, the identifier of the query.
    pub local_port: u16,
    /// The peer's address.
    pub remote: IpAddr,
    /// The peer's port.
    pub remote_port: u16,
    /// A name of [`Protocol`].
    pub protocol: &'static str,
    /// Workload of the peer when the connection was opened.
    pub peer: String,
    /// `ingress` if the peer opened it, `egress` if the pod did.
    pub opened: &'static str,
    /// `opening`, `established`, `half-closed` or `closing`.
    pub state: &'static str,
    /// The connection was open before it was tracked.
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

pub(super) fn list(datapath: &mut Datapath) -> Result<Vec<ConnectionRow>, DatapathError> {
    let clock = datapath.clock()?;
    let pods: BTreeMap<u32, String> = datapath
        .endpoints()
        .into_iter()
        .map(|state| (state.id, name(state.pod)))
        .collect();
    let mut connections: Vec<(u64, ConnectionRow)> = buckets::entries(&datapath.maps)?
        .into_iter()
        // A connection that was promoted meanwhile is in both tables.
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .filter(|(key, _)| key.protocol < ConnectionKey::FRAGMENTS)
        .filter(|(_, connection)| !conntrack::expired(connection, clock))
        .filter_map(|(key, connection)| {
            // Connections of an endpoint that is gone expire without being listed.
            let pod = pods.get(&key.endpoint)?.clone();
            Some((
                connection.last_seen,
                entry(pod, &key, &connection, clock, datapath),
            ))
        })
        .collect();
    connections.sort_by_key(|(last_seen, _)| std::cmp::Reverse(*last_seen));
    Ok(connections
        .into_iter()
        .map(|(_, connection)| connection)
        .collect())
}

/// Returns the displayed name of a pod, or an empty string if the pod is unknown.
fn name(pod: Option<PodKey>) -> String {
    pod.map_or_else(String::new, |pod| pod.to_string())
}

fn entry(
    pod: String,
    key: &ConnectionKey,
    connection: &Connection,
    clock: Clock,
    datapath: &Datapath,
) -> ConnectionRow {
    let seconds = |since: u64| clock.now.saturating_sub(since) / clock.second;
    ConnectionRow {
        pod,
        local: key.local.into(),
        local_port: key.local_port,
        remote: key.remote.into(),
        remote_port: key.remote_port,
        protocol: Protocol::from_iana(key.protocol as u8).name(),
        peer: datapath.names.name(connection.peer),
        opened: Direction::from_u8(connection.opened_by).map_or("unknown", Direction::name),
        state: match connection.state {
            s if s == State::Replied as u8 => "established",
            s if s == State::OpenerDone as u8 || s == State::OtherDone as u8 => "half-closed",
            s if s == State::Closing as u8 => "closing",
            _ => "opening",
        },
        picked_up: connection.flags & Connection::PICKED_UP != 0,
        age: seconds(connection.opened),
        idle: seconds(connection.last_seen),
        packets: connection.packets,
        bytes: connection.bytes,
    }
}
