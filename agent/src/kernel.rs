//! What the shell asks of the datapath, so that it can be tested without one.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringfence_policy::diff::Change;
use ringfence_policy::tables::Tables;

use crate::datapath::{
    Applied, Counters, Datapath, DropSeries, EndpointState, FlowEntry, Followed, Interface,
    MapUsage, Others, Stats,
};
use crate::state::SeenMark;

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
    /// Says what is known of devices that are no known pod's, before [`Kernel::apply`].
    fn set_others(&mut self, others: Others);
    /// As [`Kernel::apply`] with the interfaces of the last call, for changes that leave every
    /// pod where it is.
    fn follow(&mut self, tables: &Tables, change: &Change) -> anyhow::Result<Followed>;
    /// Puts in force which UDP ports are tunnels', beside those built in.
    fn set_tunnel_ports(&mut self, ports: &BTreeSet<u16>) -> anyhow::Result<()>;
    /// Those that are in force.
    fn tunnel_ports(&mut self) -> anyhow::Result<BTreeSet<u16>>;
    /// The endpoints of this node.
    fn endpoints(&mut self) -> Vec<EndpointState>;
    /// Tracked connections.
    fn flows(&mut self) -> anyhow::Result<Vec<FlowEntry>>;
    /// How full each map is that only the agent writes.
    fn maps(&mut self) -> Vec<MapUsage>;
    /// What packets write, for readers that no pass shall wait for.
    fn counters(&self) -> Arc<dyn Counts>;
    /// The world's generation.
    fn generation(&mut self) -> u64;
    /// By which mark packets count as seen; none if they are never asked for one.
    fn seen_mark(&self) -> Option<SeenMark>;
}

/// What packets write into maps, read without a hold on the datapath. Calls block,
/// for as long as there is much to read.
pub trait Counts: Send + Sync + 'static {
    /// Drops and audited packets by pair of workloads.
    fn drops(&self) -> anyhow::Result<Vec<DropSeries>>;
    /// Counters of the whole datapath.
    fn stats(&self) -> anyhow::Result<Stats>;
    /// How full each map is that packets write.
    fn maps(&self) -> Vec<MapUsage>;
}

impl Counts for Counters {
    fn drops(&self) -> anyhow::Result<Vec<DropSeries>> {
        Ok(Self::drops(self)?)
    }

    fn stats(&self) -> anyhow::Result<Stats> {
        Ok(Self::stats(self)?)
    }

    fn maps(&self) -> Vec<MapUsage> {
        Self::held(self)
    }
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

    fn set_others(&mut self, others: Others) {
        Self::set_others(self, others);
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

    fn flows(&mut self) -> anyhow::Result<Vec<FlowEntry>> {
        Ok(Self::flows(self)?)
    }

    fn maps(&mut self) -> Vec<MapUsage> {
        Self::written(self)
    }

    fn counters(&self) -> Arc<dyn Counts> {
        Self::counters(self)
    }

    fn generation(&mut self) -> u64 {
        Self::generation(self)
    }

    fn seen_mark(&self) -> Option<SeenMark> {
        let (bit, asked) = Self::seen_mark(self);
        (bit != 0).then_some(SeenMark { bit, asked })
    }
}
