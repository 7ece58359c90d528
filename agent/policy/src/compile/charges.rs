//! Attributes table entries to namespaces.
//!
//! A rule exists for a ruleset and a class that contains a peer of the ruleset. Where other
//! namespaces' peers split the addresses of one peer, the ruleset has a rule for each of the
//! resulting classes: the first is charged to the ruleset's own namespaces, and all further ones to
//! the namespaces whose peers cause the split. What callers' labels open in a callee's ruleset is
//! charged to the callers' namespaces, and what ClusterNetworkPolicies open to no namespace. So a
//! namespace with many blocks within everybody's 0.0.0.0/0 is charged for its effect on the others'
//! rulesets, and the others aren't. What a ruleset grants to any address is one rule, however many
//! classes there are.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    index::{Index, held::CLUSTER},
    intern::{HashMap, HashSet, Text},
    ports::Ports,
};

use super::{
    State,
    classes::ClassSlot,
    grants::is_open,
    labelled::carriers,
    peer::Base,
    peers::{Member, PeerId},
    rulesets::{Pair, Ruleset, RulesetSlot},
};

/// A table that policies may fill up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Rules,
    Ports,
}

/// The namespaces of the pods under each ruleset.
#[derive(Debug)]
pub(super) struct Owners {
    spaces: HashMap<RulesetSlot, BTreeSet<Text>>,
    cluster: Text,
}

impl Owners {
    pub(super) fn new() -> Self {
        Self {
            spaces: HashMap::default(),
            cluster: CLUSTER.into(),
        }
    }

    pub(super) fn note(&mut self, slot: RulesetSlot, space: &Text) {
        self.spaces
            .entry(slot)
            .or_default()
            .insert(Text::clone(space));
    }

    fn of(&self, slot: RulesetSlot) -> impl Iterator<Item = &Text> {
        self.spaces.get(&slot).into_iter().flatten()
    }
}

struct Charges<'s> {
    state: &'s State,
    index: &'s Index,
    owners: &'s Owners,
    cluster: &'s Text,
    /// The namespaces that caused each peer to exist, as far as looked up.
    makers: HashMap<PeerId, BTreeSet<&'s Text>>,
    /// Entries charged to each namespace.
    sums: BTreeMap<&'s Text, u64>,
}

/// The peers of a ruleset that a class contains, by their origin: its own policies, labels of
/// callers, ClusterNetworkPolicies.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Told {
    own: Vec<Member>,
    labels: Vec<Member>,
    cluster: Vec<Member>,
}

/// Returns how many entries of a table each namespace is charged for, and under [`CLUSTER`] how
/// many ClusterNetworkPolicies are.
pub(super) fn of<'s>(
    state: &'s State,
    index: &'s Index,
    owners: &'s Owners,
    table: Table,
) -> BTreeMap<&'s Text, u64> {
    let mut charges = Charges {
        state,
        index,
        owners,
        cluster: &owners.cluster,
        makers: HashMap::default(),
        sums: BTreeMap::new(),
    };
    for (slot, ruleset) in state.rulesets.iter() {
        match table {
            Table::Rules => charges.rules(slot, ruleset),
            Table::Ports => charges.ports(slot, ruleset),
        }
    }
    charges.sums
}

impl<'s> Charges<'s> {
    /// Returns the namespaces to charge for what a ruleset grants other than by callers' labels.
    fn own(&self, slot: RulesetSlot, ruleset: &Ruleset) -> Vec<&'s Text> {
        // A ruleset that isn't the regular ingress or egress ruleset of any pod comes from
        // ClusterNetworkPolicies alone.
        let own: Vec<&'s Text> = self.owners.of(slot).collect();
        match ruleset.has_network() && !own.is_empty() {
            true => own,
            false => vec![self.cluster],
        }
    }

    /// Charges the rules of a ruleset. The first rule for each combination of its own peers is
    /// charged to its own namespaces; further ones that labels split off are charged to the labels'
    /// namespaces, and the rest to ClusterNetworkPolicies.
    fn rules(&mut self, slot: RulesetSlot, ruleset: &'s Ruleset) {
        let own = self.own(slot, ruleset);
        if is_open(&ruleset.default) {
            self.add(&own, 1);
        }
        let mut owns: HashSet<Vec<Member>> = HashSet::default();
        let mut pairs: HashSet<(Vec<Member>, Vec<Member>)> = HashSet::default();
        for (told, has_rule, further) in self.told(ruleset) {
            let payers = self.payers(&told, &own);
            for others in further.iter().filter(|_| has_rule) {
                let makers = others.iter().map(|member| self.makers(member.0));
                let makers: BTreeSet<&'s Text> = makers.flatten().collect();
                let makers: Vec<&'s Text> = makers.into_iter().collect();
                self.add(if makers.is_empty() { &payers } else { &makers }, 1);
            }
            if !has_rule {
                continue;
            }
            if !told.own.is_empty() && owns.insert(told.own.clone()) {
                self.add(&own, 1);
            }
            let named = !told.own.is_empty() || !told.labels.is_empty();
            let is_new = pairs.insert((told.own.clone(), told.labels.clone()));
            match (named && is_new, told.labels.is_empty()) {
                (true, true) => {}
                (true, false) => self.add(&payers, 1),
                (false, _) => self.add(&[self.cluster], 1),
            }
        }
    }

    /// Charges each port set to all namespaces that contribute to one of its rules.
    fn ports(&mut self, slot: RulesetSlot, ruleset: &'s Ruleset) {
        let own = self.own(slot, ruleset);
        let mut sets: HashMap<Ports, BTreeSet<&'s Text>> = HashMap::default();
        let mut note = |grants: &Pair, payers: &[&'s Text]| {
            for ports in grants {
                sets.entry(ports.clone()).or_default().extend(payers);
            }
        };
        if is_open(&ruleset.default) {
            note(&ruleset.default, &own);
        }
        for (told, has_rule, _) in self.told(ruleset) {
            if has_rule {
                note(&ruleset.grants(&told.all()), &self.payers(&told, &own));
            }
        }
        for (ports, payers) in sets {
            let payers: Vec<&'s Text> = payers.into_iter().collect();
            self.add(&payers, ports.singles().blocks().len() as u64);
        }
    }

    /// Returns the namespaces to charge for a rule that exists without any split by other peers.
    fn payers(&self, told: &Told, own: &[&'s Text]) -> Vec<&'s Text> {
        if !told.labels.is_empty() {
            let peers = told.labels.iter();
            let peers = peers.filter_map(|member| self.state.peers.get(member.0));
            let carriers = peers.flat_map(|known| carriers(self.index, &known.peer.base));
            let carriers: BTreeSet<&'s Text> = carriers.collect();
            return carriers.into_iter().collect();
        }
        match told.own.is_empty() {
            true => vec![self.cluster],
            false => own.to_vec(),
        }
    }

    /// Returns the combinations of peers that a ruleset distinguishes. For each: whether it has a
    /// rule, and for each class beyond the first the peers that split it from the others.
    fn told(&self, ruleset: &Ruleset) -> Vec<(Told, bool, Vec<Vec<Member>>)> {
        let peers = ruleset.peers.iter();
        let peers = peers.filter_map(|id| self.state.peers.get(*id));
        let classes: BTreeSet<ClassSlot> = peers
            .flat_map(|peer| peer.classes.iter().copied())
            .collect();
        let mut places: HashMap<Vec<Member>, usize> = HashMap::default();
        let mut all: Vec<(Told, bool, Vec<Vec<Member>>)> = Vec::new();
        for class in classes {
            let Some(found) = self.state.classes.get(class) else {
                continue;
            };
            let tells = |member: &Member| ruleset.peers.binary_search(&member.0).is_ok();
            let (told, others): (Vec<Member>, Vec<Member>) =
                found.set.iter().copied().partition(tells);
            if let Some(place) = places.get(&told) {
                all[*place].2.push(others);
                continue;
            }
            let has_rule = ruleset.grants(&told) != ruleset.default;
            places.insert(told.clone(), all.len());
            all.push((self.sort(ruleset, told), has_rule, Vec::new()));
        }
        all
    }

    fn sort(&self, ruleset: &Ruleset, told: Vec<Member>) -> Told {
        let mut sorted = Told::default();
        for member in told {
            let list = if !ruleset.in_network(member.0) {
                &mut sorted.cluster
            } else if self.is_label(member.0) {
                &mut sorted.labels
            } else {
                &mut sorted.own
            };
            list.push(member);
        }
        sorted
    }

    fn is_label(&self, peer: PeerId) -> bool {
        let known = self.state.peers.get(peer);
        known.is_some_and(|known| matches!(known.peer.base, Base::Label { .. }))
    }

    /// Returns the namespaces that cause a peer to exist.
    fn makers(&mut self, peer: PeerId) -> BTreeSet<&'s Text> {
        let (state, index, owners) = (self.state, self.index, self.owners);
        let (is_label, cluster) = (self.is_label(peer), self.cluster);
        let makers = self.makers.entry(peer).or_insert_with(|| {
            let Some(known) = state.peers.get(peer) else {
                return BTreeSet::new();
            };
            if is_label {
                return carriers(index, &known.peer.base).into_iter().collect();
            }
            let mut makers = BTreeSet::new();
            for slot in &known.users {
                let user = state.rulesets.get(*slot);
                match user.is_some_and(|ruleset| ruleset.in_network(peer)) {
                    true => makers.extend(owners.of(*slot)),
                    false => drop(makers.insert(cluster)),
                }
            }
            makers
        });
        makers.clone()
    }

    fn add(&mut self, to: &[&'s Text], entries: u64) {
        for space in to {
            *self.sums.entry(space).or_default() += entries;
        }
    }
}

impl Told {
    fn all(&self) -> Vec<Member> {
        let parts = [&self.own, &self.labels, &self.cluster];
        let mut all: Vec<Member> = parts.into_iter().flatten().copied().collect();
        all.sort_unstable();
        all
    }
}
