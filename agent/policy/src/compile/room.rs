//! Shares out table space among namespaces, before and after tables are compiled.

use std::sync::Arc;

use crate::{
    index::{
        Index,
        groups::{GroupId, PodId},
        held::CLUSTER,
        journal::Journal,
    },
    intern::{HashSet, Text},
};

use super::{
    Compiler,
    charges::{self, Table},
    is_local,
    shares::{Here, most},
};

/// Returns by how much a table may grow before its entries are attributed to namespaces again: that
/// costs as much as the table has entries.
const fn slack(capacity: usize) -> usize {
    capacity / 64
}

impl Compiler {
    /// Decides which policies are in force in which form, before any is compiled.
    pub(super) fn share_out(&mut self, index: &mut Index) {
        if self.shares.is_none() {
            return;
        }
        let (here, used) = (self.here(index), self.used());
        let (follows, key) = (self.follows(index), self.state.key);
        let facts = index.journal.facts.iter();
        let stale = facts
            .flat_map(|fact| self.state.locals.asking(fact))
            .collect();
        if let Some(shares) = self.shares.as_mut() {
            shares.take_note(index, &here, (follows, &stale), key);
            shares.reconsider(used);
            shares.share_out(index);
        }
        index.held.listen();
    }

    /// Recompiles with ever tighter limits for the namespaces that fill a table, until everything
    /// fits.
    pub(super) fn make_room(&mut self, index: &mut Index) {
        let mut limited = false;
        while let Some(table) = self.crowded(index) {
            if !self.limit_largest(index, table) {
                // Policies aren't the cause: nothing more can be limited.
                if let Some(shares) = &self.shares {
                    let sizes = self.sizes();
                    let capacity = |table| shares.of(table) as usize;
                    self.quiet = sizes.map(|(table, size)| size + slack(capacity(table)));
                }
                break;
            }
            limited = true;
            self.rebuild(index);
        }
        let used = self.used();
        if let Some(shares) = self.shares.as_mut() {
            shares.reconcile(used);
        }
        if limited {
            // The changes of held units in the meantime are already compiled.
            index.journal = Journal::listening();
            self.looked = index.journal.looked;
        }
    }

    /// Reports whether a table is full, or one namespace exceeds its limit in it.
    pub(super) fn is_crowded(&mut self, index: &Index) -> bool {
        self.crowded(index).is_some()
    }

    fn crowded(&mut self, index: &Index) -> Option<Table> {
        let shares = self.shares.as_ref()?;
        if let Some(table) = self.state.room.full {
            return Some(table);
        }
        for (place, (table, size)) in self.sizes().into_iter().enumerate() {
            let capacity = shares.of(table) as usize;
            let may = most(shares.of(table)) as usize;
            // Up to this size no namespace can exceed its limit. Space that one namespace frees may
            // belong to another by the time the table grows again.
            let quiet = self.quiet[place].max(may);
            if size <= quiet {
                self.quiet[place] = quiet.min(size + slack(capacity));
                continue;
            }
            let owners = self.state.locals.owners(index);
            let charges = charges::of(&self.state, index, &owners, table);
            let largest = charges.values().max().map_or(0, |n| *n as usize);
            if largest > may {
                return Some(table);
            }
            self.quiet[place] = size + (may - largest).max(slack(capacity));
        }
        None
    }

    /// Limits the namespace that has most of a table, among those that can be reduced.
    /// ClusterNetworkPolicies are limited only if they exceed their limit, or if no namespace can
    /// be reduced.
    fn limit_largest(&mut self, index: &mut Index, table: Table) -> bool {
        let owners = self.state.locals.owners(index);
        let charges = charges::of(&self.state, index, &owners, table);
        let mut charges: Vec<_> = charges.into_iter().map(|(space, n)| (n, space)).collect();
        let Some(shares) = self.shares.as_mut() else {
            return false;
        };
        let may = u64::from(most(shares.of(table)));
        let comes_last = |space: &Text, n: u64| &**space == CLUSTER && n <= may;
        charges.sort_by(|a, b| {
            let order = comes_last(a.1, a.0).cmp(&comes_last(b.1, b.0));
            order.then(b.0.cmp(&a.0)).then(a.1.cmp(b.1))
        });
        let limited = charges
            .into_iter()
            .any(|(entries, space)| shares.limit(index, space, (may, entries)));
        if limited {
            shares.share_out(index);
        }
        limited
    }

    /// Reports whether the journal contains all changes since the last update.
    fn follows(&self, index: &Index) -> bool {
        self.looked != 0 && self.looked == index.journal.looked
    }

    /// Returns the groups with pods in scope, including those of newly added pods.
    fn here(&self, index: &Index) -> Here {
        let local = |id: PodId| {
            let pod = index.entry(id)?;
            is_local(&self.scope, pod).then(|| index.group_of(id))?
        };
        let groups: HashSet<GroupId> = match self.follows(index) {
            true => {
                let new = index.journal.pods.iter().filter_map(|id| local(*id));
                self.state.locals.groups().chain(new).collect()
            }
            false => index.live().filter_map(|(id, _)| local(id)).collect(),
        };
        let mut here = Here::default();
        for id in groups.into_iter().filter(|id| index.groups.is_alive(*id)) {
            let space = Arc::clone(&index.groups.traits(id).namespace);
            here.entry(space).or_default().push(id);
        }
        here
    }

    fn sizes(&self) -> [(Table, usize); 2] {
        let tables = &self.state.writer.tables;
        [
            (Table::Rules, tables.rules.len()),
            (Table::Ports, tables.ports.len()),
        ]
    }

    fn used(&self) -> usize {
        self.sizes().iter().map(|(_, size)| size).sum()
    }
}
