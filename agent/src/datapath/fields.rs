//! Numbers that an agent keeps for later agents of any version.

/// Elements of map `AGENT`, which the kernel doesn't read. Agents of all versions read them, so no
/// element may ever change its meaning.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum AgentField {
    /// The next endpoint id to assign.
    NextEndpoint = 0,
    /// The next workload id to assign.
    NextWorkload = 1,
    /// `CONNECTIONS_VERSION` of the tables in this folder; 0 in agents without such a version.
    Connections = 2,
    /// `COUNTERS_VERSION`, likewise.
    Counters = 3,
    /// The mark that packets must have, once every hook sets it.
    SeenMark = 4,
    /// How often connections were left behind in another version's tables.
    ConnectionsLost = 5,
    /// How often counters were left behind.
    CountsLost = 6,
}

impl AgentField {
    /// Number of entries in map `AGENT`.
    pub(super) const COUNT: u32 = 8;
}
