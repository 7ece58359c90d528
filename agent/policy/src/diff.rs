//! Computes which endpoints a new generation may restrict.

mod overlay;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
};

use ringfence_ebpf::abi::{Addr, EndpointRules, Grant, Identity, PortBlock, PortKey, PortSet};

use crate::{
    compile::writer::Before,
    delta::Keys,
    index::PodKey,
    intern::{HashMap, Text},
    tables::{EndpointPolicy, Tables},
};

use overlay::Overlay;

/// The difference between two generations, as far as it matters to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Endpoints of the new generation that may lose a grant. Their epoch is raised so that open
    /// connections are decided again. Includes new endpoints. Includes all endpoints if an
    /// address becomes or stops being a node's, or, on some port, a Service's, for these reasons:
    /// connections with this node are allowed regardless of policy, packets to a Service are
    /// allowed before DNAT, and the packets of an existing connection to an address that becomes
    /// a Service's aren't marked to be decided after DNAT. Also includes all endpoints if unknown
    /// addresses start or stop being treated as Services'.
    pub raised: BTreeSet<PodKey>,
    /// Whether the only differences are exact addresses added to `classes`, and names, which
    /// both buffers share. Such a change can be written to both buffers without a flip.
    pub additive: bool,
    /// Whether endpoints were added or removed or changed addresses, so their interfaces must be
    /// looked up.
    pub relocated: bool,
    /// The entries that differ.
    pub keys: Keys,
    /// Number of the compiler update that gave the old generation.
    pub since: u64,
    /// Number of the compiler update that gave the new generation; 0 if neither came from an
    /// update.
    pub until: u64,
}

impl Change {
    /// Compares two generations.
    ///
    /// Exact as far as tables allow: for each pair (class before, class now) that some address
    /// went through, an endpoint loses a grant if its current ruleset grants the current class
    /// less than its old ruleset granted the old class.
    pub fn between(old: &Tables, new: &Tables) -> Self {
        let mut losses = Losses::new(old, new, moves(old, new), |_, _, _| false);
        let mut raised = BTreeSet::new();
        for (key, now) in &new.endpoints {
            let before = old.endpoints.get(key);
            if !before.is_some_and(|before| losses.none(before, now)) {
                raised.insert(key.clone());
            }
        }
        let hides = old.hides_services != new.hides_services;
        if hides || kinds(&old.identities) != kinds(&new.identities) || old.services != new.services
        {
            raised = everybody(new);
        }
        Self {
            raised,
            additive: additive(old, new),
            relocated: places(old).ne(places(new)),
            keys: Keys::between(old, new),
            ..Self::default()
        }
    }

    /// Computes the change from the written entries alone. If a class is in use before and after,
    /// as `is_kept` reports, assumes that some address stayed in it.
    pub(crate) fn of(before: &Before, new: &Tables, is_kept: &dyn Fn(u32) -> bool) -> Self {
        let old = Overlay::new(before, new);
        let stays = |from: u32, to: u32, class: u32| {
            // Where nothing was written, a ruleset grants a class the same as before.
            let may_differ = from != to || before.rules.contains_key(&(from, class));
            may_differ && is_kept(class)
        };
        let mut losses = Losses::new(&old, new, old.moves(), stays);
        let mut raised = BTreeSet::new();
        for (key, now) in &new.endpoints {
            let kept = match before.endpoints.get(key) {
                Some(before) => before.as_ref().is_some_and(|b| losses.none(b, now)),
                None => losses.none(now, now),
            };
            if !kept {
                raised.insert(key.clone());
            }
        }
        if old.changes_kinds() {
            raised = everybody(new);
        }
        Self {
            raised,
            additive: old.is_additive(),
            relocated: old.relocates(),
            keys: Keys::of(before, new),
            ..Self::default()
        }
    }

    /// Appends the change that followed.
    pub fn then(&mut self, later: Self) {
        self.raised.extend(later.raised);
        self.additive &= later.additive;
        self.relocated |= later.relocated;
        self.keys.add(&later.keys);
        self.until = later.until;
    }
}

/// Returns every pod and its addresses.
fn places(tables: &Tables) -> impl Iterator<Item = (&PodKey, &[IpAddr])> {
    let all = tables.endpoints.iter();
    all.map(|(key, policy)| (key, policy.addresses.as_slice()))
}

fn everybody(tables: &Tables) -> BTreeSet<PodKey> {
    tables.endpoints.keys().cloned().collect()
}

/// Identity bits that affect verdicts, apart from the workload itself.
const KINDS: u32 =
    Identity::IS_NODE | Identity::IS_THIS_NODE | Identity::SHOWN | Identity::IS_UNLISTED;

/// Returns the addresses of nodes and Services with their kinds.
fn kinds(identities: &BTreeMap<Addr, (Text, u32)>) -> Vec<(Addr, u32)> {
    let all = identities.iter();
    let kinds = all.map(|(addr, (_, flags))| (*addr, flags & KINDS));
    kinds.filter(|(_, kinds)| *kinds != 0).collect()
}

fn additive(old: &Tables, new: &Tables) -> bool {
    let kept = |(addr, class): (&Addr, &u32)| new.classes.get(addr) == Some(class);
    old.cidrs == new.cidrs
        && old.rules == new.rules
        && old.ports == new.ports
        && old.endpoints == new.endpoints
        && old.classes.iter().all(kept)
}

/// Returns every (class before, class now) that some address goes through.
///
/// Nothing changes between the prefixes of both generations, so each prefix represents those of
/// its addresses that aren't covered by a longer prefix.
fn moves(old: &Tables, new: &Tables) -> BTreeSet<(u32, u32)> {
    let mut moves = BTreeSet::from([(0, 0)]);
    for addr in old.classes.keys().chain(new.classes.keys()) {
        moves.insert((old.class_of(addr), new.class_of(addr)));
    }
    for (addr, len) in old.cidrs.keys().chain(new.cidrs.keys()) {
        let before = old.class_by_prefix(addr, *len);
        moves.insert((before, new.class_by_prefix(addr, *len)));
    }
    moves
}

/// Queries on the old generation.
trait Old {
    /// Returns a ruleset's own rule for a class, if it has one.
    fn rule(&self, ruleset: u32, class: u32) -> Option<Grant>;
    /// Returns the classes for which a ruleset has rules.
    fn classes(&self, ruleset: u32) -> Vec<u32>;
    /// Returns the classes whose rule was written; `None` if that isn't known.
    fn written(&self, ruleset: u32) -> Option<&[u32]>;
    /// Returns every block of a port set, by protocol and number.
    fn blocks(&self, set: u32) -> Vec<((u16, u16), PortBlock)>;
}

impl Old for Tables {
    fn rule(&self, ruleset: u32, class: u32) -> Option<Grant> {
        self.rules.get(&(ruleset, class)).copied()
    }

    fn classes(&self, ruleset: u32) -> Vec<u32> {
        let rules = self.rules.range((ruleset, 0)..=(ruleset, u32::MAX));
        rules.map(|((_, class), _)| *class).collect()
    }

    fn written(&self, _: u32) -> Option<&[u32]> {
        None
    }

    fn blocks(&self, set: u32) -> Vec<((u16, u16), PortBlock)> {
        let blocks = self.ports.range(of_set(set));
        blocks.map(|(key, bits)| ((key.1, key.2), *bits)).collect()
    }
}

/// Returns the key range of a port set's blocks. Id 0 names no blocks, and none are stored under
/// it.
fn of_set(set: u32) -> RangeInclusive<(u32, u16, u16)> {
    let set = set & PortSet::BLOCKS;
    (set, 0, 0)..=(set, u16::MAX, u16::MAX)
}

/// Up to this many classes, looking up each class's rule is cheaper than counting the rules.
/// Lower in tests, so that they cover both paths.
const FEW: usize = if cfg!(test) { 2 } else { 8 };

/// The part of a grant that is compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Stage {
    Enforced,
    Staged,
}

struct Losses<'t, O, S> {
    old: &'t O,
    new: &'t Tables,
    /// New classes of addresses, by old class.
    to: HashMap<u32, Vec<u32>>,
    /// Old classes of addresses, by new class.
    from: HashMap<u32, Vec<u32>>,
    /// Whether an address may have stayed in a class, so that the class must be compared under
    /// the old and the new ruleset.
    stays: S,
    /// Whether the second ruleset grants everything the first one did.
    rulesets: HashMap<(u32, u32, Stage), bool>,
    /// Whether the second port set contains all of the first.
    sets: HashMap<(u32, u32), bool>,
}

impl<'t, O: Old, S: Fn(u32, u32, u32) -> bool> Losses<'t, O, S> {
    fn new(old: &'t O, new: &'t Tables, moves: BTreeSet<(u32, u32)>, stays: S) -> Self {
        let mut sides = [HashMap::default(), HashMap::default()];
        for (from, to) in moves {
            for (side, (class, other)) in sides.iter_mut().zip([(from, to), (to, from)]) {
                let others: &mut Vec<u32> = side.entry(class).or_default();
                others.push(other);
            }
        }
        let [to, from] = sides;
        Self {
            old,
            new,
            to,
            from,
            stays,
            rulesets: HashMap::default(),
            sets: HashMap::default(),
        }
    }

    fn none(&mut self, before: &EndpointPolicy, now: &EndpointPolicy) -> bool {
        let cut_off = now.flags & !before.flags & EndpointRules::QUARANTINE != 0;
        before.addresses == now.addresses
            && !cut_off
            && self.none_of(&before.rules(), &now.rules())
            && self.none_of(&before.exempt_rules(), &now.exempt_rules())
    }

    fn none_of(&mut self, before: &EndpointRules, now: &EndpointRules) -> bool {
        let ingress = [
            EndpointRules::INGRESS_ISOLATED,
            EndpointRules::INGRESS_STAGED,
        ];
        let egress = [EndpointRules::EGRESS_ISOLATED, EndpointRules::EGRESS_STAGED];
        let flags = [before.flags, now.flags];
        self.none_in(flags, [before.ingress, now.ingress], ingress)
            && self.none_in(flags, [before.egress, now.egress], egress)
    }

    /// A staged policy denies nothing, but only a new decision counts what it would deny.
    fn none_in(
        &mut self,
        [before, now]: [u32; 2],
        [ruleset_before, ruleset_now]: [u32; 2],
        bits: [u32; 2],
    ) -> bool {
        let stages = [Stage::Enforced, Stage::Staged];
        bits.into_iter()
            .zip(stages)
            .all(|(bit, stage)| match (before & bit != 0, now & bit != 0) {
                (_, false) => true,
                (false, true) => false,
                (true, true) => self.covers(ruleset_before, ruleset_now, stage),
            })
    }

    fn covers(&mut self, before: u32, now: u32, stage: Stage) -> bool {
        if let Some(known) = self.rulesets.get(&(before, now, stage)) {
            return *known;
        }
        let pick = |grant: Grant| match stage {
            Stage::Enforced => grant.enforced,
            Stage::Staged => grant.staged,
        };
        let old = |class: u32| {
            let rule = self.old.rule(before, class);
            rule.or_else(|| self.old.rule(before, 0))
                .unwrap_or_default()
        };
        let sets = self.compared(before, now).into_iter();
        let sets = sets.map(|(from, to)| (pick(old(from)), pick(self.new.granted(now, to))));
        let sets: BTreeSet<(u32, u32)> = sets.collect();
        let covers = sets.into_iter().all(|(a, b)| self.holds(a, b));
        self.rulesets.insert((before, now, stage), covers);
        covers
    }

    /// Returns the pairs (class before, class now) that represent every move of an address, by
    /// what the first ruleset granted and the second grants.
    ///
    /// Class 0 represents all classes without a rule in either ruleset: they get the grant of
    /// class 0.
    fn compared(&self, before: u32, now: u32) -> BTreeSet<(u32, u32)> {
        let mut pairs = BTreeSet::new();
        let written = self.old.written(before).filter(|_| before == now);
        if written.is_none_or(|written| written.contains(&0)) {
            pairs.insert((0, 0));
        }
        let classes = match written {
            Some(written) => self.kept(now, written),
            None => [self.old.classes(before), Old::classes(self.new, now)].concat(),
        };
        for class in classes.into_iter().filter(|class| *class != 0) {
            if let Some(to) = self.to.get(&class)
                && self.old.rule(before, class).is_some()
            {
                pairs.extend(to.iter().map(|to| (class, *to)));
            }
            if let Some(from) = self.from.get(&class)
                && Old::rule(self.new, now, class).is_some()
            {
                pairs.extend(from.iter().map(|from| (*from, class)));
            }
            if (self.stays)(before, now, class) {
                pairs.insert((class, class));
            }
        }
        pairs
    }

    /// Returns the given classes and those that addresses left or joined and for which the
    /// ruleset has a rule. An endpoint that keeps its ruleset costs the number of written entries
    /// or the number of its rules, whichever is less.
    fn kept(&self, ruleset: u32, written: &[u32]) -> Vec<u32> {
        let mut classes = written.to_vec();
        let moved = self.to.len() + self.from.len();
        if moved > FEW {
            let own = self.new.rules.range((ruleset, 0)..=(ruleset, u32::MAX));
            classes.extend(own.take(moved).map(|((_, class), _)| *class));
        }
        if moved <= FEW || classes.len() >= written.len() + moved {
            classes.truncate(written.len());
            classes.extend(self.to.keys().chain(self.from.keys()));
        }
        classes
    }

    /// Compares by content: the same id may name two different sets in two generations.
    fn holds(&mut self, before: u32, now: u32) -> bool {
        if before == PortSet::NONE || now == PortSet::ALL {
            return true;
        }
        if let Some(known) = self.sets.get(&(before, now)) {
            return *known;
        }
        let blocks = now & PortSet::BLOCKS;
        let there = |protocol, block| {
            let found = self.new.ports.get(&(blocks, protocol, block));
            found.copied().unwrap_or_default()
        };
        // A block with an entry of its own is never full.
        let covered = |((protocol, block), bits): ((u16, u16), PortBlock)| {
            let whole = u8::try_from(protocol).map_or(0, PortSet::whole);
            let held = there(protocol, block);
            let is_whole =
                block != PortKey::SUMMARY && there(protocol, PortKey::SUMMARY).contains(block);
            now & whole != 0 || is_whole || bits.0.iter().zip(held.0).all(|(a, b)| a & !b == 0)
        };
        let whole = before & !now & PortSet::ALL == 0;
        let holds = whole && self.old.blocks(before).into_iter().all(covered);
        self.sets.insert((before, now), holds);
        holds
    }
}

#[cfg(test)]
mod fallback_tests;
#[cfg(test)]
mod tests;
