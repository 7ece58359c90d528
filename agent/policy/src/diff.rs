//! What a new generation may take from whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use ringfence_ebpf::abi::{Addr, EndpointWorld, Grant, PortBlock, PortSet};

use crate::{
    compile::writer::Before,
    index::PodKey,
    intern::HashMap,
    prefix::{self, Prefix},
    tables::{EndpointPolicy, Tables},
};

/// The difference between two generations, as far as it matters to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Endpoints of the new generation that may lose something: their epoch
    /// rises, so that open flows are decided anew. New endpoints are among them.
    pub raised: BTreeSet<PodKey>,
    /// Whether all that differs is exact addresses added to `classes` or
    /// `identities`: then both worlds can be written without a flip.
    pub additive: bool,
}

impl Change {
    /// Compares two generations.
    ///
    /// Exact up to what can't be seen from tables: for each pair (class before,
    /// class now) that some address went through, an endpoint loses something
    /// if its ruleset of now grants the class of now less than before.
    pub fn between(old: &Tables, new: &Tables) -> Self {
        let moves = moves(old, new);
        let pairs = |_: u32, _: u32| moves.iter().copied().collect();
        let mut losses = Losses::new(old, new, pairs);
        let mut raised = BTreeSet::new();
        for (key, now) in &new.endpoints {
            let before = old.endpoints.get(key);
            if !before.is_some_and(|before| losses.none(before, now)) {
                raised.insert(key.clone());
            }
        }
        Self {
            raised,
            additive: additive(old, new),
        }
    }

    /// The same from what was written, without a look at the rest. Of a class
    /// that is in use before and after it is taken for granted that some
    /// address stayed in it.
    pub(crate) fn of(before: &Before, new: &Tables, is_live: &dyn Fn(u32) -> bool) -> Self {
        let old = Overlay::new(before, new);
        let moved = old.moves();
        let pairs = |from: u32, to: u32| {
            let mut pairs = moved.clone();
            let classes: Vec<u32> = match from == to {
                true => old.rewritten.get(&from).cloned().unwrap_or_default(),
                false => old.classes_of(from),
            };
            let stayed = classes.into_iter().filter(|class| is_live(*class));
            pairs.extend(stayed.map(|class| (class, class)));
            pairs
        };
        let mut losses = Losses::new(&old, new, pairs);
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
        Self {
            raised,
            additive: old.is_additive(),
        }
    }
}

fn additive(old: &Tables, new: &Tables) -> bool {
    let kept = |(addr, class): (&Addr, &u32)| new.classes.get(addr) == Some(class);
    old.cidrs == new.cidrs
        && old.rules == new.rules
        && old.ports == new.ports
        && old.endpoints == new.endpoints
        && old.classes.iter().all(kept)
        && old
            .identities
            .iter()
            .all(|(addr, who)| new.identities.get(addr) == Some(who))
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
    fn grant(&self, ruleset: u32, class: u32) -> Grant;
    /// Every block of a port set, by protocol and number.
    fn blocks(&self, set: u32) -> Vec<((u16, u16), PortBlock)>;
}

impl Old for Tables {
    fn grant(&self, ruleset: u32, class: u32) -> Grant {
        let grant = self.rules.get(&(ruleset, class));
        grant.copied().unwrap_or_default()
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

/// The generation before: the one of now, but for what was written.
struct Overlay<'t> {
    before: &'t Before,
    new: &'t Tables,
    /// `None` if they are the same.
    cidrs: Option<BTreeMap<Prefix, u32>>,
    /// Classes whose rule was written to, by ruleset.
    rewritten: HashMap<u32, Vec<u32>>,
}

impl<'t> Overlay<'t> {
    fn new(before: &'t Before, new: &'t Tables) -> Self {
        let mut rewritten: HashMap<u32, Vec<u32>> = HashMap::default();
        for (ruleset, class) in before.rules.keys() {
            rewritten.entry(*ruleset).or_default().push(*class);
        }
        let cidrs = (!before.cidrs.is_empty()).then(|| {
            let mut cidrs = new.cidrs.clone();
            for (prefix, class) in &before.cidrs {
                match class {
                    Some(class) => cidrs.insert(*prefix, *class),
                    None => cidrs.remove(prefix),
                };
            }
            cidrs
        });
        Self {
            before,
            new,
            cidrs,
            rewritten,
        }
    }

    fn by_prefix(&self, addr: &Addr, max: u8) -> u32 {
        match &self.cidrs {
            Some(cidrs) => prefix::longest(cidrs, addr, max).map_or(0, |(_, class)| *class),
            None => self.new.class_by_prefix(addr, max),
        }
    }

    /// Every (class before, class now) of an address that was written to.
    fn moves(&self) -> BTreeSet<(u32, u32)> {
        let mut moves = BTreeSet::new();
        for (addr, class) in &self.before.classes {
            let was = class.unwrap_or_else(|| self.by_prefix(addr, 128));
            moves.insert((was, self.new.class_of(addr)));
        }
        for (addr, len) in self.before.cidrs.keys() {
            let was = self.by_prefix(addr, *len);
            moves.insert((was, self.new.class_by_prefix(addr, *len)));
        }
        moves
    }

    /// Every class for which a ruleset had a rule.
    fn classes_of(&self, ruleset: u32) -> Vec<u32> {
        let rules = self.new.rules.range((ruleset, 0)..=(ruleset, u32::MAX));
        let mut classes: Vec<u32> = rules.map(|((_, class), _)| *class).collect();
        classes.extend(self.rewritten.get(&ruleset).into_iter().flatten());
        classes
    }

    fn is_additive(&self) -> bool {
        let Before {
            classes,
            cidrs,
            rules,
            ports,
            endpoints,
            identities,
        } = self.before;
        let new = self.new;
        classes
            .iter()
            .all(|(k, old)| old.is_none() || new.classes.get(k) == old.as_ref())
            && identities
                .iter()
                .all(|(k, old)| old.is_none() || new.identities.get(k) == old.as_ref())
            && cidrs
                .iter()
                .all(|(k, old)| new.cidrs.get(k) == old.as_ref())
            && rules
                .iter()
                .all(|(k, old)| new.rules.get(k) == old.as_ref())
            && ports
                .iter()
                .all(|(k, old)| new.ports.get(k) == old.as_ref())
            && endpoints
                .iter()
                .all(|(k, old)| new.endpoints.get(k) == old.as_ref())
    }
}

impl Old for Overlay<'_> {
    fn grant(&self, ruleset: u32, class: u32) -> Grant {
        match self.before.rules.get(&(ruleset, class)) {
            Some(old) => old.unwrap_or_default(),
            None => Old::grant(self.new, ruleset, class),
        }
    }

    fn blocks(&self, set: u32) -> Vec<((u16, u16), PortBlock)> {
        let set = set & PortSet::BLOCKS;
        let mut blocks: BTreeMap<_, _> = Old::blocks(self.new, set).into_iter().collect();
        for ((of, protocol, block), old) in &self.before.ports {
            if *of == set {
                match old {
                    Some(bits) => blocks.insert((*protocol, *block), *bits),
                    None => blocks.remove(&(*protocol, *block)),
                };
            }
        }
        blocks.into_iter().collect()
    }
}

/// The half of a grant that is compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Half {
    Enforced,
    Staged,
}

struct Losses<'t, O, P> {
    old: &'t O,
    new: &'t Tables,
    /// Pairs of classes to compare, given the rulesets before and now.
    pairs: P,
    /// Whether the second ruleset grants all that the first did.
    rulesets: HashMap<(u32, u32, Half), bool>,
    /// Whether the second port set holds all of the first.
    sets: HashMap<(u32, u32), bool>,
}

impl<'t, O: Old, P: Fn(u32, u32) -> BTreeSet<(u32, u32)>> Losses<'t, O, P> {
    fn new(old: &'t O, new: &'t Tables, pairs: P) -> Self {
        Self {
            old,
            new,
            pairs,
            rulesets: HashMap::default(),
            sets: HashMap::default(),
        }
    }

    fn none(&mut self, before: &EndpointPolicy, now: &EndpointPolicy) -> bool {
        let cut_off = now.flags & !before.flags & EndpointWorld::QUARANTINE != 0;
        before.addresses == now.addresses
            && !cut_off
            && self.none_in(
                before,
                now,
                before.ingress,
                now.ingress,
                [
                    EndpointWorld::INGRESS_ISOLATED,
                    EndpointWorld::INGRESS_STAGED,
                ],
            )
            && self.none_in(
                before,
                now,
                before.egress,
                now.egress,
                [EndpointWorld::EGRESS_ISOLATED, EndpointWorld::EGRESS_STAGED],
            )
    }

    /// A staged policy takes nothing, but only a fresh decision counts what it would take.
    fn none_in(
        &mut self,
        before: &EndpointPolicy,
        now: &EndpointPolicy,
        ruleset_before: u32,
        ruleset_now: u32,
        bits: [u32; 2],
    ) -> bool {
        let halves = [Half::Enforced, Half::Staged];
        bits.into_iter().zip(halves).all(|(bit, half)| {
            match (before.flags & bit != 0, now.flags & bit != 0) {
                (_, false) => true,
                (false, true) => false,
                (true, true) => self.covers(ruleset_before, ruleset_now, half),
            }
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
        let (old, new) = (self.old, self.new);
        let sets: BTreeSet<(u32, u32)> = (self.pairs)(before, now)
            .into_iter()
            .map(|(from, to)| {
                let was = pick(old.grant(before, from));
                (was, pick(Old::grant(new, now, to)))
            })
            .collect();
        let covers = sets.into_iter().all(|(a, b)| self.holds(a, b));
        self.rulesets.insert((before, now, half), covers);
        covers
    }

    /// By content: in two generations one id may stand for two sets.
    fn holds(&mut self, before: u32, now: u32) -> bool {
        if before == PortSet::NONE || now == PortSet::ALL {
            return true;
        }
        if let Some(known) = self.sets.get(&(before, now)) {
            return *known;
        }
        let covered = |((protocol, block), bits): ((u16, u16), PortBlock)| {
            let whole = u8::try_from(protocol).map_or(0, PortSet::whole);
            let key = (now & PortSet::BLOCKS, protocol, block);
            let there = self.new.ports.get(&key).copied().unwrap_or_default();
            now & whole != 0 || bits.0.iter().zip(there.0).all(|(a, b)| a & !b == 0)
        };
        let whole = before & !now & PortSet::ALL == 0;
        let holds = whole && self.old.blocks(before).into_iter().all(covered);
        self.sets.insert((before, now), holds);
        holds
    }
}

#[cfg(test)]
mod tests;
