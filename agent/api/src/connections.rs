//! `/v1/connections`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::words::words;
use crate::{Direction, Protocol};

/// One tracked connection of one endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// `namespace/name` of the endpoint's pod; empty if the agent hasn't seen the pod.
    pub pod: String,
    /// The endpoint's address on this side.
    pub local: IpAddr,
    /// The endpoint's port; for ICMP, the identifier of the query.
    pub local_port: u16,
    /// The peer's address.
    pub remote: IpAddr,
    /// The peer's port.
    pub remote_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Workload of the peer when the connection was opened.
    pub peer: String,
    /// [`Direction::Ingress`] if the peer opened it, [`Direction::Egress`] if the pod did.
    pub opened: Direction,
    /// How far it has come.
    pub state: ConnectionState,
    /// The connection was open before it was tracked.
    pub picked_up: bool,
    /// Seconds since its first packet.
    pub age: u64,
    /// Seconds since its last packet.
    pub idle: u64,
    /// Packets to and from the pod.
    pub packets: [u64; 2],
    /// Bytes to and from the pod, including link headers.
    pub bytes: [u64; 2],
}

words! {
    /// How far a connection has come.
    ConnectionState {
        /// No reply has come yet.
        Opening = "opening",
        /// Packets have passed both ways.
        Established = "established",
        /// One end has ended its direction.
        HalfClosed = "half-closed",
        /// Both ends have ended theirs, or one has reset it.
        Closing = "closing",
    }
}
