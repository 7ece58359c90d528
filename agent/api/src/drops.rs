//! `/v1/drops`.

use serde::{Deserialize, Serialize};

use crate::{Direction, Protocol, Reason};

/// Denied or audited packets of one workload pair, direction, reason and protocol.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DropSeries {
    /// Workload of the sender: `namespace/service`, `outside`, `node`, `unknown`, or `other` if
    /// the table of pairs was full.
    pub source: String,
    /// Workload of the receiver, likewise.
    pub destination: String,
    /// Direction of the packets.
    pub direction: Direction,
    /// Why they were denied.
    pub reason: Reason,
    /// Their protocol.
    pub protocol: Protocol,
    /// The packets passed because the denial was only audited.
    pub audited: bool,
    /// Number of packets.
    pub packets: u64,
    /// Number of bytes, including link headers.
    pub bytes: u64,
}
