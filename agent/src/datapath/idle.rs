//! Releases workload names that are no longer in use: otherwise a cluster that keeps creating
//! workloads under new names would fill the table within months.
//!
//! A name is in use while its id occurs in the tables, an endpoint, a live connection or a
//! counter. Ids are never reused, so a reference that was overlooked shows a number and not the
//! name of another workload. A name is released only after two consecutive scans found it idle, so
//! that packets being processed in between don't lose their name.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use ringfence_ebpf::abi::Identity;
use ringfence_ebpf::conntrack;
use ringfence_policy::tables::Tables;

use super::error::DatapathError;
use super::{Datapath, buckets};

/// Interval between scans of the tables.
const PERIOD: Duration = Duration::from_secs(10);
/// Number of names that must be idle, in addition to those last found in connections and counters,
/// before it is worth checking which of them are: that reads all connections of the node.
const MANY: usize = 256;
/// Interval between such checks if no more names have become idle.
const LONG: Duration = Duration::from_secs(600);

/// Results of the last scans.
#[derive(Default)]
pub(super) struct Idle {
    at: Option<Instant>,
    /// Ids that the tables and endpoints didn't use.
    ids: BTreeSet<u32>,
    /// How many of those were found in connections or counters, and when.
    held: usize,
    held_at: Option<Instant>,
}

impl Datapath {
    /// Releases names that were idle in the last scan and still are.
    pub(super) fn reconcile_names(&mut self, tables: &Tables) -> Result<(), DatapathError> {
        let early = self.idle.at.is_some_and(|at| at.elapsed() < PERIOD);
        let busy = !self.predecessors.is_empty() || !self.buffers.are_level();
        if early || busy || self.names.len() < MANY {
            return Ok(());
        }
        self.idle.at = Some(Instant::now());
        let now = self.idle_now(tables);
        let before = std::mem::replace(&mut self.idle.ids, now);
        let twice: BTreeSet<u32> = before.intersection(&self.idle.ids).copied().collect();
        let long_ago = self.idle.held_at.is_none_or(|at| at.elapsed() > LONG);
        if twice.len() < MANY || twice.len() < MANY + self.idle.held && !long_ago {
            return Ok(());
        }
        let held = self.held()?;
        self.idle.held = twice.intersection(&held).count();
        self.idle.held_at = Some(Instant::now());
        for id in twice.difference(&held) {
            self.names.give_up(&mut self.maps, *id)?;
            self.idle.ids.remove(id);
        }
        if self.names.take_refused() {
            // There is room now for names that were refused: read the maps to find their
            // addresses.
            self.seen = None;
        }
        Ok(())
    }

    /// Returns the ids of names used neither by the tables nor by an endpoint.
    fn idle_now(&self, tables: &Tables) -> BTreeSet<u32> {
        let mut idle: BTreeSet<u32> = self.names.ids().collect();
        // The compiler stores each name once, so names are told apart by their address.
        let mut seen: HashSet<*const u8> = HashSet::new();
        let addresses = tables.identities.values();
        let addresses = addresses.filter(|(_, flags)| flags & Identity::IS_NODE == 0);
        let addresses = addresses.filter(|(name, _)| seen.insert(name.as_ptr()));
        let endpoints = tables.endpoints.values().map(|one| one.workload.as_str());
        for name in addresses.map(|(name, _)| &**name).chain(endpoints) {
            if let Some(id) = self.names.known(name) {
                idle.remove(&id);
            }
        }
        for (_, endpoint) in self.endpoints.occupied() {
            idle.remove(&endpoint.workload);
        }
        idle
    }

    /// Returns the ids used by live connections and counters.
    fn held(&mut self) -> Result<BTreeSet<u32>, DatapathError> {
        let clock = self.clock()?;
        let connections = buckets::entries(&self.maps)?.into_iter();
        let connections =
            connections.filter(|(_, connection)| !conntrack::expired(connection, clock));
        let mut held: BTreeSet<u32> = connections.map(|(_, connection)| connection.peer).collect();
        held.extend(self.counters.named()?);
        Ok(held)
    }
}
