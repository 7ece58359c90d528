//! The shell's interface to the datapath, so that the shell can be tested without one.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringfence_api::SeenMark;
use ringfence_policy::diff::Change;
use ringfence_policy::tables::Tables;

use crate::datapath::{
    Applied, ConnectionRow, Counters, Datapath, DropSeries, EndpointState, Followed, Interface,
    MapUsage, Others, Stats,
};

/// The datapath as the rest of the agent sees it. Calls block briefly.
pub trait Dataplane: Send + 'static {
    /// Puts tables and interfaces in force that differ by `change` from those of the last call.
    fn apply(
        &mut self,
        tables: &Tables,
        change: &Change,
        interfaces: &[Interface],
    ) -> anyhow::Result<Applied>;
    /// Sets what is known about devices that belong to no known pod. Call before
    /// [`Dataplane::apply`].
    fn set_others(&mut self, others: Others);
    /// Works like [`Dataplane::apply`] with the interfaces of the last call, for changes that
    /// leave every pod where it is.
    fn apply_delta(&mut self, tables: &Tables, change: &Change) -> anyhow::Result<Followed>;
    /// Sets which UDP ports belong to tunnels, in addition to those built in.
    fn set_tunnel_ports(&mut self, ports: &BTreeSet<u16>) -> anyhow::Result<()>;
    /// Returns the UDP ports of tunnels in force.
    fn tunnel_ports(&mut self) -> anyhow::Result<BTreeSet<u16>>;
    /// Returns the endpoints of this node.
    fn endpoints(&mut self) -> Vec<EndpointState>;
    /// Returns the tracked connections.
    fn connections(&mut self) -> anyhow::Result<Vec<ConnectionRow>>;
    /// Returns the fill level of each map that only the agent writes.
    fn maps(&mut self) -> Vec<MapUsage>;
    /// Returns the counters that packets write, for readers that passes must not wait for.
    fn counters(&self) -> Arc<dyn Counts>;
    /// Returns the generation of the active buffer.
    fn generation(&mut self) -> u64;
    /// Returns the mark of seen packets; none if the mark is never required.
    fn seen_mark(&self) -> Option<SeenMark>;
}

/// The counters that packets write, read without locking the datapath. Calls block for as long as
/// it takes to read them.
pub trait Counts: Send + Sync + 'static {
    /// Returns dropped and audited packets by pair of workloads.
    fn drops(&self) -> anyhow::Result<Vec<DropSeries>>;
    /// Returns the counters of the whole datapath.
    fn stats(&self) -> anyhow::Result<Stats>;
    /// Returns the fill level of each map that packets write.
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

impl Dataplane for Datapath {
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

    fn apply_delta(&mut self, tables: &Tables, change: &Change) -> anyhow::Result<Followed> {
        Ok(Self::apply_delta(self, tables, change)?)
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

    fn connections(&mut self) -> anyhow::Result<Vec<ConnectionRow>> {
        Ok(Self::connections(self)?)
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
