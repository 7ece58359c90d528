//! What a new generation may take from whom.

mod overlay;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
};

use ringfence_ebpf::abi::{Addr, EndpointWorld, Grant, Identity, PortBlock, PortKey, PortSet};

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
    /// Endpoints of the new generation that may lose something: their epoch
    /// rises, so that open flows are decided anew. New endpoints are among them,
    /// and all where some address no longer is, or only now is, a node's or, on some
    /// port, a Service's: flows with this node are allowed whatever policy says, so is
    /// what goes to a Service before DNAT, and the packets of a flow with what has
    /// become a Service don't say that they are to be decided after DNAT. The same where
    /// unknown addresses are taken for Services' or no longer are.
    pub raised: BTreeSet<PodKey>,
    /// Whether all that differs is exact addresses added to `classes`, and names,
    /// which are of one world: then both worlds can be written without a flip.
    pub additive: bool,
    /// Whether endpoints came, went or have other addresses: their interfaces are
    /// to be looked for.
    pub relocated: bool,
    /// The entries that differ.
    pub keys: Keys,
    /// Number of the compiler's update that gave the old generation.
    pub since: u64,
    /// Number of the one that gave the new one; 0 if neither came of an update.
    pub until: u64,
}

impl Change {
    /// Compares two generations.
    ///
    /// Exact up to what can't be seen from tables: for each pair (class before,
    /// class now) that some address went through, an endpoint loses something
    /// if its ruleset of now grants the class of now less than before.
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

    /// The same from what was written, without a look at the rest. Of a class
    /// that is in use before and after, as `is_kept` says, it is taken for granted
    /// that some address stayed in it.
    pub(crate) fn of(before: &Before, new: &Tables, is_kept: &dyn Fn(u32) -> bool) -> Self {
        let old = Overlay::new(before, new);
        let stays = |from: u32, to: u32, class: u32| {
            // What a ruleset grants a class is as before where nothing was written.
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

    /// Goes on with the change that followed.
    pub fn then(&mut self, later: Self) {
        self.raised.extend(later.raised);
        self.additive &= later.additive;
        self.relocated |= later.relocated;
        self.keys.add(&later.keys);
        self.until = later.until;
    }
}

/// Every pod and its addresses.
fn places(tables: &Tables) -> impl Iterator<Item = (&PodKey, &[IpAddr])> {
    let all = tables.endpoints.iter();
    all.map(|(key, policy)| (key, policy.addresses.as_slice()))
}

fn everybody(tables: &Tables) -> BTreeSet<PodKey> {
    tables.endpoints.keys().cloned().collect()
}

/// Bits of an identity that decide, beyond who it is.
const KINDS: u32 =
    Identity::IS_NODE | Identity::IS_THIS_NODE | Identity::SHOWN | Identity::IS_UNLISTED;

/// Addresses of nodes and Services, and what they are.
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

/// Every (class before, class now) that some address goes through.
///
/// Between the prefixes of both generations nothing changes, so each prefix
/// speaks for the addresses that no longer one covers.
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

/// What is asked of the generation before.
trait Old {
    /// The rule that a ruleset has for a class, if it has one of its own.
    fn rule(&self, ruleset: u32, class: u32) -> Option<Grant>;
    /// The classes for which a ruleset has rules.
    fn classes(&self, ruleset: u32) -> Vec<u32>;
    /// The classes whose rule was written to; `None` if that isn't known.
    fn written(&self, ruleset: u32) -> Option<&[u32]>;
    /// Every block of a port set, by protocol and number.
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

/// Id 0 names no blocks, and none are stored under it.
fn of_set(set: u32) -> RangeInclusive<(u32, u16, u16)> {
    let set = set & PortSet::BLOCKS;
    (set, 0, 0)..=(set, u16::MAX, u16::MAX)
}

/// Of so few classes it costs less to look for their rules than to see how many rules
/// there are. Fewer in tests, which so go both ways.
const FEW: usize = if cfg!(test) { 2 } else { 8 };

/// The half of a grant that is compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Half {
    Enforced,
    Staged,
}

struct Losses<'t, O, S> {
    old: &'t O,
    new: &'t Tables,
    /// Classes to which addresses went, by the one that they were in.
    to: HashMap<u32, Vec<u32>>,
    /// The other way round.
    from: HashMap<u32, Vec<u32>>,
    /// Whether an address may have stayed in a class, which it is to be compared for
    /// under the rulesets before and now.
    stays: S,
    /// Whether the second ruleset grants all that the first did.
    rulesets: HashMap<(u32, u32, Half), bool>,
    /// Whether the second port set holds all of the first.
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
        let cut_off = now.flags & !before.flags & EndpointWorld::QUARANTINE != 0;
        before.addresses == now.addresses
            && !cut_off
            && self.none_of(&before.half(), &now.half())
            && self.none_of(&before.exempt_half(), &now.exempt_half())
    }

    fn none_of(&mut self, before: &EndpointWorld, now: &EndpointWorld) -> bool {
        let ingress = [
            EndpointWorld::INGRESS_ISOLATED,
            EndpointWorld::INGRESS_STAGED,
        ];
        let egress = [EndpointWorld::EGRESS_ISOLATED, EndpointWorld::EGRESS_STAGED];
        let flags = [before.flags, now.flags];
        self.none_in(flags, [before.ingress, now.ingress], ingress)
            && self.none_in(flags, [before.egress, now.egress], egress)
    }

    /// A staged policy takes nothing, but only a fresh decision counts what it would take.
    fn none_in(
        &mut self,
        [before, now]: [u32; 2],
        [ruleset_before, ruleset_now]: [u32; 2],
        bits: [u32; 2],
    ) -> bool {
        let halves = [Half::Enforced, Half::Staged];
        bits.into_iter()
            .zip(halves)
            .all(|(bit, half)| match (before & bit != 0, now & bit != 0) {
                (_, false) => true,
                (false, true) => false,
                (true, true) => self.covers(ruleset_before, ruleset_now, half),
            })
    }

    fn covers(&mut self, before: u32, now: u32, half: Half) -> bool {
        if let Some(known) = self.rulesets.get(&(before, now, half)) {
            return *known;
        }
        let pick = |grant: Grant| match half {
            Half::Enforced => grant.enforced,
            Half::Staged => grant.staged,
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
        self.rulesets.insert((before, now, half), covers);
        covers
    }

    /// Pairs (class before, class now) that stand for all that some address went through,
    /// by what the first ruleset granted and the second grants.
    ///
    /// Class 0 stands for all classes that have no rule in either: they are granted what
    /// it is.
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

    /// These classes, and with them all that addresses went from or to and for which a
    /// ruleset has a rule: an endpoint that keeps its ruleset costs what was written or
    /// what it has, whichever is less.
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

    /// By content: in two generations one id may stand for two sets.
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
        // No block has an entry of its own and is whole.
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
