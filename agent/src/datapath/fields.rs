//! Numbers that agents keep for those after them, of whatever version.

/// Elements of map `AGENT`, which the kernel doesn't read. Agents of all versions read
/// them: none ever means anything else.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum AgentField {
    /// The next endpoint id to give.
    NextEndpoint = 0,
    /// The next workload id to give.
    NextWorkload = 1,
    /// `CONNECTIONS_VERSION` of the tables in this folder; 0 before there was one.
    Connections = 2,
    /// `COUNTERS_VERSION`, likewise.
    Counters = 3,
    /// The mark that packets are asked for, once every hook sets it.
    SeenMark = 4,
    /// How often connections had to be left behind in another version's tables.
    ConnectionsLost = 5,
    /// How often counts had to be.
    CountsLost = 6,
}

impl AgentField {
    /// Entries of map `AGENT`.
    pub(super) const COUNT: u32 = 8;
}
