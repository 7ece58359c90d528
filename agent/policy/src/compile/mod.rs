//! Policies to tables, and changes of objects to changes of tables.
//!
//! 1. [`policy`]: what applies to each group of pods in scope: NetworkPolicies,
//!    label allowlists and ClusterNetworkPolicies in one form.
//! 2. [`ruleset`]: what they come to per direction, one value per distinct content.
//! 3. [`peers`]: which groups of pods each peer in use names.
//! 4. [`covers`]: which peers go by address, per prefix; [`classes`]: which peers
//!    each address matches.
//! 5. [`grants`]: ids, and what each ruleset grants each class.
//!
//! Each stage keeps what it found and is asked again only for what a change
//! concerns. From scratch is the same with everything concerned.

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
use grants::{Parts, PortSets, Room};
use ids::Clash;
pub use ids::IdKey;
use locals::Locals;
use peers::Peers;
use rulesets::Rulesets;
pub use shares::Capacity;
use shares::Shares;
use writer::Writer;

/// Keeps tables at what an index says.
#[derive(Debug)]
pub struct Compiler {
    scope: Scope,
    /// [`Journal::looked`] of the index at the last look; 0 before the first.
    looked: u64,
    /// How often the tables were brought up to date.
    updates: u64,
    state: State,
    /// None where everything has room.
    shares: Option<Shares>,
    /// Up to which size of rules and ports nobody can have too much of them.
    quiet: [usize; 2],
    /// How often everything was compiled from scratch.
    #[cfg(test)]
    rebuilds: u64,
}

/// Everything that was found out for one set of tables.
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
    room: Room,
    /// What had no room is missing: the next change starts from scratch.
    partial: bool,
}

/// What a change concerns.
#[derive(Debug, Default)]
struct Work {
    /// Pods that came, went or changed.
    pods: HashSet<PodId>,
    /// Groups to be tried against the peers in use.
    groups: HashSet<GroupId>,
    /// Addresses whose class or name may have changed.
    addresses: HashSet<Addr>,
}

impl Compiler {
    /// A compiler that has seen nothing yet, whose tables nobody else compares.
    pub fn new(scope: Scope) -> Self {
        Self::keyed(scope, IdKey::FIXED)
    }

    /// One whose ids are hashes under a key: that of the tables in force, so that
    /// what stays the same keeps its entries.
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

    /// The same with tables of this size, which are shared out among namespaces:
    /// see [`Index::problems`] for what had no room.
    #[must_use]
    pub fn with_capacity(self, capacity: Capacity) -> Self {
        Self {
            state: State::new(self.state.key, Some(capacity)),
            shares: Some(Shares::new(capacity)),
            ..self
        }
    }

    /// Brings the tables to what the index says now, and says what that may
    /// take from whom.
    ///
    /// Costs as much as what changed since the last call concerns; the first
    /// call, and one with an index that it didn't see last, starts from scratch.
    pub fn update(&mut self, index: &mut Index) -> Change {
        index.make_room_for_pods();
        self.share_out(index);
        let journal = std::mem::replace(&mut index.journal, Journal::listening());
        let follows = self.looked != 0 && self.looked == journal.looked && !self.state.partial;
        self.looked = index.journal.looked;
        let followed = follows.then(|| self.follow(index, journal).ok()).flatten();
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

    /// The change that nothing is, as of the last update.
    pub fn unchanged(&self) -> Change {
        Change {
            additive: true,
            since: self.updates,
            until: self.updates,
            ..Change::default()
        }
    }

    /// The tables as of the last update.
    pub fn tables(&self) -> &Tables {
        &self.state.writer.tables
    }

    /// Whether anything was worked out from a fact.
    #[cfg(test)]
    fn asks(&self, fact: &Fact) -> bool {
        self.state.locals.asking(fact).next().is_some()
    }

    /// The tables, given away.
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
        let touched = state.locals.enlist(scope, index, &pods, &mut state.writer);
        state.work_out(index, touched);
        state.rulesets.drop_unused(&mut state.peers);
        state.peers.settle(index, |_| {});
        state.cover();
        state.place_all(scope, index);
        state.rulesets.number_all();
        state.classes.settle_all(&mut state.peers);
        state.parts().settle_all();
        state.partial = state.room.full.is_some();
        state.write_all(index, &pods);
    }

    /// Follows what changed since the last look; gives the classes that nobody was in
    /// before.
    fn follow(&mut self, index: &Index, journal: Journal) -> Result<HashSet<u32>, Clash> {
        let (state, scope) = (&mut self.state, &self.scope);
        let mut work = Work {
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
                .enlist(scope, index, &work.pods, &mut state.writer),
        );
        let worked_out = state.work_out(index, stale);
        let rulesets = state.rulesets.drop_unused(&mut state.peers);
        state.name_groups(index, &mut work);
        state.cover_anew(index, &mut work.addresses);
        for addr in &work.addresses {
            state.place(scope, index, *addr);
        }
        state.rulesets.number(&rulesets.new)?;
        let classes = state.classes.settle(&mut state.peers)?;
        state.parts().settle(&rulesets, &classes)?;
        if state.room.full.is_some() {
            return Err(Clash);
        }
        let pods = worked_out.iter().filter(|id| index.groups.is_alive(**id));
        let mut pods: HashSet<PodId> = pods
            .flat_map(|id| index.groups.get(*id).pods.iter().copied())
            .collect();
        pods.extend(work.pods);
        state.write_all(index, &pods);
        // An id that went and came has had addresses all along, whatever it stands for.
        let gone: HashSet<u32> = classes.gone.into_iter().collect();
        let new = classes.new.iter().map(|class| state.classes.id(*class));
        Ok(new.filter(|id| !gone.contains(id)).collect())
    }
}

/// Whether a pod is compiled.
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
            room: Room {
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

    /// Works out anew what groups in scope are under; gives those of them.
    fn work_out(&mut self, index: &Index, groups: HashSet<GroupId>) -> HashSet<GroupId> {
        for group in &groups {
            let (rulesets, peers) = (&mut self.rulesets, &mut self.peers);
            self.locals.work_out(index, *group, rulesets, peers);
        }
        self.locals.forget_emptied(&mut self.rulesets);
        groups
    }

    /// Finds out who is named by which peer, where either changed.
    fn name_groups(&mut self, index: &Index, work: &mut Work) {
        for group in &work.groups {
            self.peers.try_peers(index, *group);
        }
        let mut changed: HashSet<GroupId> = std::mem::take(&mut work.groups);
        self.peers.settle(index, |group| {
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

    /// Writes what was found of addresses and of these pods, now that rulesets
    /// and classes have ids; nothing names the peers that died any longer.
    fn write_all(&mut self, index: &Index, pods: &HashSet<PodId>) {
        self.write_placed();
        self.writer.hides_services(index.hides_services());
        let (rulesets, writer) = (&self.rulesets, &mut self.writer);
        self.locals.write(index, rulesets, pods, writer);
        self.peers.bury();
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
