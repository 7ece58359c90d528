//! What the shell asks of the datapath, so that it can be tested without one.

use std::collections::BTreeSet;

use ringfence_policy::diff::Change;
use ringfence_policy::tables::Tables;

use crate::datapath::{
    Applied, Datapath, DropSeries, EndpointState, FlowEntry, Followed, Interface, MapUsage, Stats,
};

/// The datapath as the rest of the agent sees it. Calls block, briefly.
pub trait Kernel: Send + 'static {
    /// Puts tables and interfaces in force, of which this differs from what the
    /// last call was told.
    fn apply(
        &mut self,
        tables: &Tables,
        change: &Change,
        interfaces: &[Interface],
    ) -> anyhow::Result<Applied>;
    /// The same with the interfaces of the last call, for changes that leave every
    /// pod where it is.
    fn follow(&mut self, tables: &Tables, change: &Change) -> anyhow::Result<Followed>;
    /// Puts in force which UDP ports are tunnels', beside those built in.
    fn set_tunnel_ports(&mut self, ports: &BTreeSet<u16>) -> anyhow::Result<()>;
    /// Those that are in force.
    fn tunnel_ports(&mut self) -> anyhow::Result<BTreeSet<u16>>;
    /// The endpoints of this node.
    fn endpoints(&mut self) -> Vec<EndpointState>;
    /// Drops and audited packets by pair of workloads.
    fn drops(&mut self) -> anyhow::Result<Vec<DropSeries>>;
    /// Tracked connections.
    fn flows(&mut self) -> anyhow::Result<Vec<FlowEntry>>;
    /// Counters of the whole datapath.
    fn stats(&mut self) -> anyhow::Result<Stats>;
    /// How full each map is.
    fn maps(&mut self) -> Vec<MapUsage>;
    /// The world's generation.
    fn generation(&mut self) -> u64;
}

impl Kernel for Datapath {
    fn apply(
        &mut self,
        tables: &Tables,
        change: &Change,
        interfaces: &[Interface],
    ) -> anyhow::Result<Applied> {
        Ok(self.apply_change(tables, change, interfaces)?)
    }

    fn follow(&mut self, tables: &Tables, change: &Change) -> anyhow::Result<Followed> {
        Ok(Self::follow(self, tables, change)?)
    }

    fn set_tunnel_ports(&mut self, ports: &BTreeSet<u16>) -> anyhow::Result<()> {
        Ok(Self::set_tunnel_ports(self, ports)?)
    }

    fn tunnel_ports(&mut self) -> anyhow::Result<BTreeSet<u16>> {
        Ok(Self::tunnel_ports(self)?)
    }

    fn endpoints(&mut self) -> Vec<EndpointState> {
        Self::endpoints(self)
    }

    fn drops(&mut self) -> anyhow::Result<Vec<DropSeries>> {
        Ok(Self::drops(self)?)
    }

    fn flows(&mut self) -> anyhow::Result<Vec<FlowEntry>> {
        Ok(Self::flows(self)?)
    }

    fn stats(&mut self) -> anyhow::Result<Stats> {
        Ok(Self::stats(self)?)
    }

    fn maps(&mut self) -> Vec<MapUsage> {
        Self::maps(self)
    }

    fn generation(&mut self) -> u64 {
        Self::generation(self)
    }
}
