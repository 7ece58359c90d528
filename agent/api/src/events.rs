//! `/v1/events`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Direction, Protocol, Reason, Whole};

/// One line of `/v1/events`.
// Lines are handled one at a time: boxing the larger variant would only add an allocation.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventLine {
    /// A packet.
    Packet(Whole<Event>),
    /// Events that this follower was too slow to read.
    Lost(Lost),
}

/// One denied or audited packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Nanoseconds, `CLOCK_MONOTONIC` of the node.
    pub time: u64,
    /// Sender's workload.
    pub source: String,
    /// Receiver's workload.
    pub destination: String,
    /// Source address.
    pub source_address: IpAddr,
    /// Destination address.
    pub destination_address: IpAddr,
    /// Source port; 0 if the packet has none.
    pub source_port: u16,
    /// Destination port; 0 if the packet has none.
    pub destination_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its direction.
    pub direction: Direction,
    /// Why it was denied.
    pub reason: Reason,
    /// The packet passed because the denial was only audited.
    pub audited: bool,
    /// Length in bytes, including the link header.
    pub len: u32,
    /// TCP flags byte, or ICMP type.
    pub detail: u8,
}

/// Events that a follower has lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lost {
    /// Number of events.
    pub lost: u64,
}
