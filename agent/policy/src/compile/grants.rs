//! What each ruleset grants each class, as table entries.

use std::collections::BTreeSet;

use ringfence_ebpf::abi::Grant;

use crate::{intern::HashMap, ports::Ports};

use super::{
    charges::Table,
    classes::{ClassSlot, Classes, NO_CLASS},
    ids::{self, Clash, IdKey, Ids},
    peers::Peers,
    rulesets::{Pair, RulesetSlot, Rulesets},
    slots::{Slots, Turnover},
    writer::Writer,
};

/// Index of a port set in use.
type SetSlot = u32;

/// A port set in use.
#[derive(Debug)]
struct Set {
    ports: Ports,
    uses: u32,
    /// In the form that [`Grant`] uses; `None` until it is numbered.
    id: Option<u32>,
}

/// The port sets in use.
#[derive(Debug)]
pub(super) struct PortSets {
    slots: Slots<Set>,
    by_ports: HashMap<Ports, SetSlot>,
    by_id: HashMap<u32, SetSlot>,
    key: IdKey,
    ids: Ids,
    touched: Vec<SetSlot>,
}

/// A rule (ruleset id, class id) whose port sets may not be numbered yet.
type Pending = (u32, u32, [SetSlot; 2]);

impl PortSets {
    pub(super) fn new(key: IdKey) -> Self {
        Self {
            key,
            slots: Slots::default(),
            by_ports: HashMap::default(),
            by_id: HashMap::default(),
            ids: Ids::new(ids::BLOCKS),
            touched: Vec::new(),
        }
    }

    fn enter(&mut self, ports: &Ports) -> SetSlot {
        let slot = match self.by_ports.get(ports) {
            Some(slot) => *slot,
            None => self.create(ports),
        };
        if let Some(set) = self.slots.get_mut(slot) {
            set.uses += 1;
        }
        slot
    }

    fn create(&mut self, ports: &Ports) -> SetSlot {
        let slot = self.slots.insert(Set {
            ports: ports.clone(),
            uses: 0,
            id: None,
        });
        self.by_ports.insert(ports.clone(), slot);
        self.touched.push(slot);
        slot
    }

    fn leave(&mut self, id: u32) {
        let Some(slot) = self.by_id.get(&id).copied() else {
            return;
        };
        if let Some(set) = self.slots.get_mut(slot) {
            set.uses -= 1;
            if set.uses == 0 {
                self.touched.push(slot);
            }
        }
    }

    /// Drops sets that no rule refers to, and numbers and writes new ones.
    fn reconcile(&mut self, writer: &mut Writer, room: &mut Remaining) -> Result<(), Clash> {
        let mut new = Vec::new();
        for slot in std::mem::take(&mut self.touched) {
            match self.slots.get(slot) {
                Some(set) if set.uses == 0 => self.drop_set(slot, writer),
                Some(set) if set.id.is_none() => new.push(slot),
                _ => {}
            }
        }
        new.sort_unstable();
        new.dedup();
        for slot in new {
            let Some(set) = self.slots.get(slot) else {
                continue;
            };
            let blocks = match set.ports.singles().is_empty() {
                true => 0,
                false => self.ids.take(self.key.of(&set.ports))?,
            };
            self.number(slot, blocks, writer, room);
        }
        self.ids.check()
    }

    /// Numbers all sets.
    fn rebuild(&mut self, writer: &mut Writer, room: &mut Remaining) {
        self.touched.clear();
        let mut contents = Vec::new();
        let mut given = Vec::new();
        for (slot, set) in self.slots.iter() {
            match set.ports.singles().is_empty() {
                true => given.push((slot, 0)),
                false => contents.push((self.key.of(&set.ports), (set.ports.clone(), slot))),
            }
        }
        let order = |a: &(Ports, SetSlot), b: &(Ports, SetSlot)| a.0.cmp(&b.0);
        let give = |(_, slot): &(Ports, SetSlot), id| given.push((*slot, id));
        self.ids.assign(&mut contents, order, give);
        for (slot, blocks) in given {
            self.number(slot, blocks, writer, room);
        }
    }

    fn number(&mut self, slot: SetSlot, blocks: u32, writer: &mut Writer, room: &mut Remaining) {
        let Some(set) = self.slots.get_mut(slot) else {
            return;
        };
        let id = blocks | set.ports.bits();
        set.id = Some(id);
        self.by_id.insert(id, slot);
        let held = set.ports.singles().blocks();
        if !room.takes_ports(writer.tables.ports.len() + held.len()) {
            return;
        }
        for ((protocol, block), bits) in held {
            writer.ports((blocks, protocol, block), Some(bits));
        }
    }

    fn drop_set(&mut self, slot: SetSlot, writer: &mut Writer) {
        let Some(set) = self.slots.remove(slot) else {
            return;
        };
        self.by_ports.remove(&set.ports);
        let Some(id) = set.id else { return };
        self.by_id.remove(&id);
        let blocks = id & ringfence_ebpf::abi::PortSet::BLOCKS;
        self.ids.free(blocks);
        for (protocol, block) in set.ports.singles().blocks().into_keys() {
            writer.ports((blocks, protocol, block), None);
        }
    }

    fn id(&self, slot: SetSlot) -> u32 {
        let set = self.slots.get(slot);
        set.and_then(|set| set.id).unwrap_or(0)
    }
}

/// Everything that rules are built from.
pub(super) struct Parts<'p> {
    pub(super) peers: &'p Peers,
    pub(super) classes: &'p Classes,
    pub(super) rulesets: &'p Rulesets,
    pub(super) sets: &'p mut PortSets,
    pub(super) writer: &'p mut Writer,
    pub(super) room: &'p mut Remaining,
}

/// How many entries the tables may have. Entries beyond that aren't written, and nothing they would
/// grant is allowed: a missing port is closed, and a ruleset that lacks a rule has none for class
/// 0.
#[derive(Debug)]
pub(super) struct Remaining {
    pub(super) rules: usize,
    pub(super) ports: usize,
    /// The first table that became full, if any.
    pub(super) full: Option<Table>,
}

impl Remaining {
    fn takes_rules(&mut self, count: usize) -> bool {
        self.takes(Table::Rules, count <= self.rules)
    }

    fn takes_ports(&mut self, count: usize) -> bool {
        self.takes(Table::Ports, count <= self.ports)
    }

    fn takes(&mut self, table: Table, takes: bool) -> bool {
        if !takes {
            self.full.get_or_insert(table);
        }
        takes
    }
}

impl Parts<'_> {
    /// Writes the rules of new rulesets and classes, and removes those of dropped ones.
    pub(super) fn reconcile(
        &mut self,
        rulesets: &Turnover,
        classes: &Turnover,
    ) -> Result<(), Clash> {
        for ruleset in &rulesets.gone {
            self.drop_ruleset(*ruleset);
        }
        for class in &classes.gone {
            self.drop_class(*class);
        }
        let mut pending = Vec::new();
        for ruleset in &rulesets.new {
            self.of_ruleset(*ruleset, &mut pending);
        }
        for class in &classes.new {
            self.of_class(*class, &rulesets.new, &mut pending);
        }
        self.sets.reconcile(self.writer, self.room)?;
        self.write(pending);
        Ok(())
    }

    /// Writes all rules.
    pub(super) fn rebuild(&mut self) {
        let mut pending = Vec::new();
        let slots: Vec<_> = self.rulesets.iter().map(|(slot, _)| slot).collect();
        for ruleset in slots {
            self.of_ruleset(ruleset, &mut pending);
        }
        self.sets.rebuild(self.writer, self.room);
        self.write(pending);
    }

    fn write(&mut self, pending: Vec<Pending>) {
        for (ruleset, class, [enforced, staged]) in pending {
            let grant = Grant {
                enforced: self.sets.id(enforced),
                staged: self.sets.id(staged),
            };
            self.writer.rule(ruleset, class, Some(grant));
        }
    }

    fn drop_rule(&mut self, ruleset: u32, class: u32) {
        let known = self.writer.tables.rules.get(&(ruleset, class));
        if let Some(grant) = known.copied() {
            self.sets.leave(grant.enforced);
            self.sets.leave(grant.staged);
            self.writer.rule(ruleset, class, None);
        }
    }

    fn drop_ruleset(&mut self, id: u32) {
        let own = (id, 0)..=(id, u32::MAX);
        let rules = self.writer.tables.rules.range(own);
        let classes: Vec<u32> = rules.map(|((_, class), _)| *class).collect();
        for class in classes {
            self.drop_rule(id, class);
        }
    }

    fn drop_class(&mut self, class: u32) {
        let ids: Vec<u32> = self.rulesets.iter().filter_map(|(_, r)| r.id).collect();
        for ruleset in ids {
            self.drop_rule(ruleset, class);
        }
    }

    /// Adds the rules of a ruleset: for the classes that contain one of its peers and, if unmatched
    /// addresses are granted something, for class 0, which covers every class without a rule.
    fn of_ruleset(&mut self, slot: RulesetSlot, pending: &mut Vec<Pending>) {
        let Some(ruleset) = self.rulesets.get(slot) else {
            return;
        };
        let peers = ruleset.peers.iter().filter_map(|id| self.peers.get(*id));
        let told: BTreeSet<ClassSlot> = peers.flat_map(|p| p.classes.iter().copied()).collect();
        let mut is_whole = true;
        for class in told {
            is_whole &= self.of_told(slot, class, pending);
        }
        // A class whose rule didn't fit may be granted less than the default: the rule that it
        // would fall back to must not exist then.
        if is_whole && is_open(&ruleset.default) {
            self.add(slot, NO_CLASS, &ruleset.default, pending);
        }
    }

    /// Adds the rules of a class, except those of new rulesets, which exist already. If one doesn't
    /// fit, everything is recompiled (`Compiler::apply_changes`).
    fn of_class(&mut self, class: ClassSlot, new: &[RulesetSlot], pending: &mut Vec<Pending>) {
        let Some(found) = self.classes.get(class) else {
            return;
        };
        let members = found.set.iter().filter_map(|(id, _)| self.peers.get(*id));
        let concerned: BTreeSet<RulesetSlot> = members
            .flat_map(|peer| peer.users.iter().copied())
            .collect();
        for slot in concerned {
            if new.binary_search(&slot).is_err() {
                self.of_told(slot, class, pending);
            }
        }
    }

    /// Adds the rule of a class that contains a peer of a ruleset, if its grants differ from those
    /// of class 0; they may be empty. Returns false if there is no room for it.
    fn of_told(&mut self, slot: RulesetSlot, class: ClassSlot, to: &mut Vec<Pending>) -> bool {
        let (Some(ruleset), Some(found)) = (self.rulesets.get(slot), self.classes.get(class))
        else {
            return true;
        };
        let grants = ruleset.grants(&found.set);
        grants == ruleset.default || self.add(slot, class, &grants, to)
    }

    /// Adds a rule; returns false if there is no room for it.
    fn add(
        &mut self,
        ruleset: RulesetSlot,
        class: ClassSlot,
        grants: &Pair,
        to: &mut Vec<Pending>,
    ) -> bool {
        let count = self.writer.tables.rules.len() + to.len() + 1;
        if !self.room.takes_rules(count) {
            return false;
        }
        let class = if class == NO_CLASS {
            0
        } else {
            self.classes.id(class)
        };
        let sets = [0, 1].map(|i| self.sets.enter(&grants[i]));
        to.push((self.rulesets.id(ruleset), class, sets));
        true
    }
}

/// Reports whether anything is granted.
pub(super) fn is_open(grants: &Pair) -> bool {
    grants.iter().any(|ports| !ports.is_empty())
}
