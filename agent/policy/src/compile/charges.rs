//! Who makes tables large.
//!
//! A rule is there for a ruleset and a class that holds a peer of it. Where others
//! tell addresses of one peer apart, the ruleset has a rule for each of their classes:
//! the first is the ruleset's own, and all further ones are charged to whoever tells
//! them apart. So a namespace whose many blocks lie within everybody's 0.0.0.0/0 is
//! charged for what it does to the others' rulesets, and they aren't. What a ruleset
//! grants any address is one rule, however many classes there are.

use std::collections::{BTreeMap, BTreeSet};

use crate::intern::{HashMap, HashSet, Text};

use super::{
    State,
    classes::ClassSlot,
    grants::is_open,
    peers::{Member, PeerId},
    rulesets::{Pair, Ruleset, RulesetSlot},
};

/// A table that policies may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Rules,
    Ports,
}

/// Namespaces by the rulesets that their policies made.
pub(super) type Owners = HashMap<RulesetSlot, BTreeSet<Text>>;

struct Charges<'s> {
    state: &'s State,
    owners: &'s Owners,
    /// Namespaces by the peers that their policies name.
    makers: HashMap<PeerId, BTreeSet<&'s Text>>,
    /// Entries by namespace.
    sums: BTreeMap<&'s Text, u64>,
}

/// How many entries of a table each namespace is charged for.
pub(super) fn of<'s>(
    state: &'s State,
    owners: &'s Owners,
    table: Table,
) -> BTreeMap<&'s Text, u64> {
    let mut charges = Charges {
        state,
        owners,
        makers: HashMap::default(),
        sums: BTreeMap::new(),
    };
    for (slot, ruleset) in state.rulesets.iter() {
        charges.charge(slot, ruleset, table);
    }
    charges.sums
}

impl<'s> Charges<'s> {
    fn charge(&mut self, slot: RulesetSlot, ruleset: &Ruleset, table: Table) {
        let own: Vec<&'s Text> = self.owners.get(&slot).into_iter().flatten().collect();
        let mut sets = HashSet::default();
        let mut entries = |grants: &Pair| match table {
            Table::Rules => 1,
            Table::Ports => {
                let new = grants.iter().filter(|ports| sets.insert((*ports).clone()));
                new.map(|ports| ports.singles().blocks().len() as u64).sum()
            }
        };
        if is_open(&ruleset.default) {
            self.add(&own, entries(&ruleset.default));
        }
        // What of a class the ruleset sees, and whether it has a rule for that.
        let mut seen: HashMap<Vec<Member>, bool> = HashMap::default();
        for class in self.told(ruleset) {
            let Some(found) = self.state.classes.get(class) else {
                continue;
            };
            let tells = |member: &&Member| ruleset.peers.binary_search(&member.0).is_ok();
            let (told, others): (Vec<&Member>, Vec<&Member>) =
                found.set.iter().partition(|member| tells(member));
            let told: Vec<Member> = told.into_iter().copied().collect();
            match seen.get(&told) {
                None => {
                    let grants = ruleset.grants(&told);
                    let has_rule = grants != ruleset.default;
                    if has_rule {
                        self.add(&own, entries(&grants));
                    }
                    seen.insert(told, has_rule);
                }
                Some(true) if table == Table::Rules => {
                    let makers: BTreeSet<&'s Text> = others
                        .iter()
                        .flat_map(|member| self.makers(member.0))
                        .collect();
                    let makers: Vec<&Text> = makers.into_iter().collect();
                    self.add(if makers.is_empty() { &own } else { &makers }, 1);
                }
                Some(_) => {}
            }
        }
    }

    /// The classes that hold a peer of a ruleset.
    fn told(&self, ruleset: &Ruleset) -> BTreeSet<ClassSlot> {
        let peers = ruleset.peers.iter();
        let peers = peers.filter_map(|id| self.state.peers.get(*id));
        peers
            .flat_map(|peer| peer.classes.iter().copied())
            .collect()
    }

    fn makers(&mut self, peer: PeerId) -> BTreeSet<&'s Text> {
        let (state, owners) = (self.state, self.owners);
        let makers = self.makers.entry(peer).or_insert_with(|| {
            let users = state.peers.get(peer).into_iter();
            let users = users.flat_map(|known| &known.users);
            users
                .filter_map(|slot| owners.get(slot))
                .flatten()
                .collect()
        });
        makers.clone()
    }

    fn add(&mut self, to: &[&'s Text], entries: u64) {
        for space in to {
            *self.sums.entry(space).or_default() += entries;
        }
    }
}
