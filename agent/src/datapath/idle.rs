//! Names of workloads that nobody uses any longer are given up: else a cluster whose
//! workloads come under ever new names would fill the table within months.
//!
//! A name is in use while the tables, an endpoint, a live flow or a count has its id. Ids
//! are never given twice, so that what was overlooked shows a number and no other's name;
//! and a name goes only where two looks have found it idle, so that no packet that is on
//! its way between them misses it.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use ringfence_ebpf::abi::Identity;
use ringfence_ebpf::conntrack;
use ringfence_policy::tables::Tables;

use super::error::DatapathError;
use super::{Datapath, buckets};

/// Between two looks at the tables.
const PERIOD: Duration = Duration::from_secs(10);
/// So many names may be idle, beside those that flows and counts held before, until it is
/// worth while to see which of them are: that reads all flows of the node.
const MANY: usize = 256;
/// Between two such looks where no more have become idle.
const LONG: Duration = Duration::from_secs(600);

/// What the last looks found.
#[derive(Default)]
pub(super) struct Idle {
    at: Option<Instant>,
    /// Ids that the tables and endpoints didn't use.
    ids: BTreeSet<u32>,
    /// How many of those flows or counts held, and when that was seen.
    held: usize,
    held_at: Option<Instant>,
}

impl Datapath {
    /// Gives up names that were idle at the last look and still are.
    pub(super) fn settle_names(&mut self, tables: &Tables) -> Result<(), DatapathError> {
        let early = self.idle.at.is_some_and(|at| at.elapsed() < PERIOD);
        let busy = !self.predecessors.is_empty() || !self.worlds.are_level();
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
            // There is room for names that had none: the maps are read to find whose.
            self.seen = None;
        }
        Ok(())
    }

    /// Ids of names that neither the tables nor an endpoint has.
    fn idle_now(&self, tables: &Tables) -> BTreeSet<u32> {
        let mut idle: BTreeSet<u32> = self.names.ids().collect();
        // The compiler stores each name once: told apart by where they are.
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
        for (_, endpoint) in self.endpoints.seated() {
            idle.remove(&endpoint.workload);
        }
        idle
    }

    /// Ids that live flows and counts have.
    fn held(&mut self) -> Result<BTreeSet<u32>, DatapathError> {
        let clock = self.clock()?;
        let flows = buckets::entries(&self.maps)?.into_iter();
        let flows = flows.filter(|(_, flow)| !conntrack::expired(flow, clock));
        let mut held: BTreeSet<u32> = flows.map(|(_, flow)| flow.peer).collect();
        held.extend(self.counters.named()?);
        Ok(held)
    }
}
