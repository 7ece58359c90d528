//! Compiles policies into tables, and changes of objects into changes of tables.
//!
//! 1. [`policy`]: which policies apply to each group of pods in scope: NetworkPolicies, label
//!    allowlists and ClusterNetworkPolicies in one form.
//! 2. [`ruleset`]: the combined content per direction, one value per distinct content.
//! 3. [`peers`]: which groups of pods each peer in use selects.
//! 4. [`covers`]: which peers match by address, per prefix; [`classes`]: which peers each address
//!    matches.
//! 5. [`grants`]: ids, and what each ruleset grants each class.
//!
//! Each stage keeps its results and recomputes only what a change affects. A full compile is the
//! same with everything affected.

mod addresses;
mod allowlist;
mod asks;
mod charges;
mod classes;
mod cluster;
mod covers;
mod dns;
mod grants;
mod ids;
mod labelled;
mod locals;
mod lookup;
mod netpol;
pub(crate) mod peer;
mod peers;
pub(crate) mod policy;
mod room;
pub(crate) mod ruleset;
mod rulesets;
mod shares;
mod slots;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

use std::collections::BTreeMap;

use ringfence_ebpf::abi::Addr;

use crate::{
    diff::Change,
    index::{
        Index, PodEntry, Scope,
        groups::{GroupId, PodId},
        journal::{Fact, Journal},
    },
    intern::{HashSet, Pool},
    prefix::Prefix,
    tables::Tables,
};

use addresses::Placed;
use classes::{ClassSlot, Classes};
use covers::Covered;
use grants::{Parts, PortSets, Remaining};
use ids::Clash;
pub use ids::IdKey;
use locals::Locals;
use peers::Peers;
use rulesets::Rulesets;
pub use shares::Capacity;
use shares::Shares;
use writer::Writer;

/// Keeps tables up to date with an index.
#[derive(Debug)]
pub struct Compiler {
    scope: Scope,
    /// [`Journal::looked`] of the index at the last update; 0 before the first.
    looked: u64,
    /// How many times the tables were brought up to date.
    updates: u64,
    state: State,
    /// `None` if capacity is unlimited.
    shares: Option<Shares>,
    /// The sizes of the rules and ports tables up to which no namespace can exceed its limit.
    quiet: [usize; 2],
    /// How many times everything was compiled from scratch.
    #[cfg(test)]
    rebuilds: u64,
}

/// All intermediate results for one set of tables.
#[derive(Debug)]
struct State {
    key: IdKey,
    locals: Locals,
    peers: Peers,
    classes: Classes,
    rulesets: Rulesets,
    sets: PortSets,
    /// What each prefix covers, and its class.
    prefixes: BTreeMap<Prefix, (Covered, ClassSlot)>,
    placed: Placed,
    /// Names of workloads.
    names: Pool<str>,
    writer: Writer,
    room: Remaining,
    /// Something didn't fit and is missing from the tables: the next change recompiles from
    /// scratch.
    partial: bool,
}

/// What a change affects.
#[derive(Debug, Default)]
struct Affected {
    /// Pods that were added, removed or changed.
    pods: HashSet<PodId>,
    /// Groups to match against the peers in use.
    groups: HashSet<GroupId>,
    /// Addresses whose class or name may have changed.
    addresses: HashSet<Addr>,
}

impl Compiler {
    /// Creates an empty compiler whose tables aren't compared with those of any other compiler.
    pub fn new(scope: Scope) -> Self {
        Self::keyed(scope, IdKey::FIXED)
    }

    /// Creates a compiler whose ids are hashes under a key. Pass the key of the tables in force, so
    /// that unchanged content keeps its entries.
    pub fn keyed(scope: Scope, key: IdKey) -> Self {
        Self {
            scope,
            looked: 0,
            updates: 0,
            state: State::new(key, None),
            shares: None,
            quiet: [0; 2],
            #[cfg(test)]
            rebuilds: 0,
        }
    }

    /// Limits the tables to this size and shares it out among namespaces. [`Index::problems`]
    /// reports what didn't fit.
    #[must_use]
    pub fn with_capacity(self, capacity: Capacity) -> Self {
        Self {
            state: State::new(self.state.key, Some(capacity)),
            shares: Some(Shares::new(capacity)),
            ..self
        }
    }

    /// Brings the tables up to date with the index and returns the change, including the traffic it
    /// may take away.
    ///
    /// The cost is proportional to what the changes since the last call affect. The first call, and
    /// a call with an index other than that of the last call, start from scratch.
    pub fn update(&mut self, index: &mut Index) -> Change {
        index.make_room_for_pods();
        self.share_out(index);
        let journal = std::mem::replace(&mut index.journal, Journal::listening());
        let follows = self.looked != 0 && self.looked == journal.looked && !self.state.partial;
        self.looked = index.journal.looked;
        let followed = follows
            .then(|| self.apply_changes(index, journal).ok())
            .flatten();
        let mut change = if let Some(new) = followed.filter(|_| !self.is_crowded(index)) {
            let state = &mut self.state;
            let before = state.writer.remember();
            let is_kept = |class| state.classes.is_live(class) && !new.contains(&class);
            Change::of(&before, &state.writer.tables, &is_kept)
        } else {
            self.state.writer.undo();
            let old = std::mem::take(&mut self.state.writer.tables);
            self.rebuild(index);
            self.make_room(index);
            self.state.writer.remember();
            Change::between(&old, &self.state.writer.tables)
        };
        index.groups.collect();
        change.since = self.updates;
        self.updates += 1;
        change.until = self.updates;
        change
    }

    /// Returns an empty change as of the last update.
    pub fn unchanged(&self) -> Change {
        Change {
            additive: true,
            since: self.updates,
            until: self.updates,
            ..Change::default()
        }
    }

    /// Returns the tables as of the last update.
    pub fn tables(&self) -> &Tables {
        &self.state.writer.tables
    }

    /// Reports whether any result depends on a fact.
    #[cfg(test)]
    fn asks(&self, fact: &Fact) -> bool {
        self.state.locals.asking(fact).next().is_some()
    }

    /// Consumes the compiler and returns its tables.
    pub(crate) fn into_tables(self) -> Tables {
        self.state.writer.tables
    }

    /// Compiles everything from scratch.
    pub(crate) fn rebuild(&mut self, index: &Index) {
        #[cfg(test)]
        {
            self.rebuilds += 1;
        }
        let capacity = self.shares.as_ref().map(|shares| shares.capacity);
        self.state = State::new(self.state.key, capacity);
        let state = &mut self.state;
        let scope = &self.scope;
        let local = index.live().filter(|(_, pod)| is_local(scope, pod));
        let pods: HashSet<PodId> = local.map(|(id, _)| id).collect();
        let touched = state
            .locals
            .register(scope, index, &pods, &mut state.writer);
        state.work_out(index, touched);
        state.rulesets.drop_unused(&mut state.peers);
        state.peers.reconcile(index, |_| {});
        state.cover(index);
        state.rebuild(scope, index);
        state.rulesets.number_all();
        state.classes.rebuild(&mut state.peers);
        state.parts().rebuild();
        state.partial = state.room.full.is_some();
        for range in index.ranges.entries() {
            state.writer.range(range, index.ranges.entry(&range));
        }
        state.write_all(index, &pods);
    }

    /// Applies the changes since the last update; returns the ids of classes that had no addresses
    /// before.
    fn apply_changes(&mut self, index: &Index, journal: Journal) -> Result<HashSet<u32>, Clash> {
        let (state, scope) = (&mut self.state, &self.scope);
        let mut work = Affected {
            pods: journal.pods,
            groups: journal.groups,
            addresses: journal.addresses,
        };
        let mut stale =
            state
                .locals
                .under_policies(index, &journal.policies, &journal.cluster_policies);
        for fact in &journal.facts {
            stale.extend(state.locals.asking(fact));
            if let Fact::Namespace(name) = fact {
                let space = index.spaces.get(name);
                work.groups
                    .extend(space.into_iter().flat_map(|s| &s.groups));
            }
        }
        stale.extend(
            state
                .locals
                .register(scope, index, &work.pods, &mut state.writer),
        );
        for range in journal.ranges {
            state.writer.range(range, index.ranges.entry(&range));
            state.peers.touch(range);
        }
        let worked_out = state.work_out(index, stale);
        let rulesets = state.rulesets.drop_unused(&mut state.peers);
        state.name_groups(index, &mut work);
        state.cover_anew(index, &mut work.addresses);
        for addr in &work.addresses {
            state.classify(scope, index, *addr);
        }
        state.rulesets.number(&rulesets.new)?;
        let classes = state.classes.reconcile(&mut state.peers)?;
        state.parts().reconcile(&rulesets, &classes)?;
        if state.room.full.is_some() {
            return Err(Clash);
        }
        let pods = worked_out.iter().filter(|id| index.groups.is_alive(**id));
        let mut pods: HashSet<PodId> = pods
            .flat_map(|id| index.groups.get(*id).pods.iter().copied())
            .collect();
        pods.extend(work.pods);
        state.write_all(index, &pods);
        // An id that was freed and reused has had addresses all along, whatever it means now.
        let gone: HashSet<u32> = classes.gone.into_iter().collect();
        let new = classes.new.iter().map(|class| state.classes.id(*class));
        Ok(new.filter(|id| !gone.contains(id)).collect())
    }
}

/// Reports whether a pod is in scope.
fn is_local(scope: &Scope, pod: &PodEntry) -> bool {
    match scope {
        Scope::Everything => true,
        Scope::Node(name) => pod.node() == Some(name),
    }
}

impl State {
    fn new(key: IdKey, capacity: Option<Capacity>) -> Self {
        let count = |of: fn(&Capacity) -> u32| {
            let entries = capacity.as_ref().map(of);
            entries.map_or(usize::MAX, |entries| entries as usize)
        };
        Self {
            key,
            room: Remaining {
                rules: count(|c| c.rules),
                ports: count(|c| c.ports),
                full: None,
            },
            locals: Locals::default(),
            peers: Peers::new(key),
            classes: Classes::new(),
            rulesets: Rulesets::new(),
            sets: PortSets::new(key),
            prefixes: BTreeMap::new(),
            placed: Placed::default(),
            names: Pool::default(),
            writer: Writer::default(),
            partial: false,
        }
    }

    /// Recomputes the rules of the groups in scope among these; returns `groups`.
    fn work_out(&mut self, index: &Index, groups: HashSet<GroupId>) -> HashSet<GroupId> {
        for group in &groups {
            let (rulesets, peers) = (&mut self.rulesets, &mut self.peers);
            self.locals.work_out(index, *group, rulesets, peers);
        }
        self.locals.forget_emptied(&mut self.rulesets);
        groups
    }

    /// Finds which peers select which groups, for groups and peers that changed.
    fn name_groups(&mut self, index: &Index, work: &mut Affected) {
        for group in &work.groups {
            self.peers.try_peers(index, *group);
        }
        let mut changed: HashSet<GroupId> = std::mem::take(&mut work.groups);
        self.peers.reconcile(index, |group| {
            changed.insert(group);
        });
        for group in changed {
            for id in &index.groups.get(group).pods {
                let pod = index.entry(*id);
                let addresses = pod.iter().flat_map(|pod| &pod.addresses);
                work.addresses.extend(addresses.map(|ip| Addr::from(*ip)));
            }
        }
    }

    /// Writes the results for addresses and for these pods. Call it once rulesets and classes have
    /// ids; by then nothing refers to dead peers.
    fn write_all(&mut self, index: &Index, pods: &HashSet<PodId>) {
        self.write_placed();
        self.writer.hides_services(index.hides_services());
        let (rulesets, writer) = (&self.rulesets, &mut self.writer);
        self.locals.write(index, rulesets, pods, writer);
        self.peers.free_dead();
    }

    fn parts(&mut self) -> Parts<'_> {
        Parts {
            peers: &self.peers,
            classes: &self.classes,
            rulesets: &self.rulesets,
            sets: &mut self.sets,
            writer: &mut self.writer,
            room: &mut self.room,
        }
    }
}
