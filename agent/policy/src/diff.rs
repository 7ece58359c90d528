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
    /// become a Service don't say that they are to be decided after DNAT.
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
        if kinds(&old.identities) != kinds(&new.identities) || old.services != new.services {
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
    /// that is in use before and after it is taken for granted that some
    /// address stayed in it.
    pub(crate) fn of(before: &Before, new: &Tables, is_live: &dyn Fn(u32) -> bool) -> Self {
        let old = Overlay::new(before, new);
        let stays = |from: u32, to: u32, class: u32| {
            // What a ruleset grants a class is as before where nothing was written.
            let may_differ = from != to || before.rules.contains_key(&(from, class));
            may_differ && is_live(class)
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
    /// What a ruleset grants, by class.
    fn grants(&self, ruleset: u32) -> Vec<(u32, Grant)>;
    /// What a ruleset that stays grants those of these classes, and those whose rule
    /// was written to; of others it may say more.
    fn grants_of(&self, ruleset: u32, classes: &mut dyn Iterator<Item = u32>) -> Vec<(u32, Grant)>;
    /// Every block of a port set, by protocol and number.
    fn blocks(&self, set: u32) -> Vec<((u16, u16), PortBlock)>;
}

impl Old for Tables {
    fn grants(&self, ruleset: u32) -> Vec<(u32, Grant)> {
        let rules = self.rules.range((ruleset, 0)..=(ruleset, u32::MAX));
        rules.map(|((_, class), grant)| (*class, *grant)).collect()
    }

    fn grants_of(&self, ruleset: u32, _: &mut dyn Iterator<Item = u32>) -> Vec<(u32, Grant)> {
        Old::grants(self, ruleset)
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
    moves: HashMap<u32, Vec<u32>>,
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
        let mut by_class: HashMap<u32, Vec<u32>> = HashMap::default();
        for (from, to) in moves {
            by_class.entry(from).or_default().push(to);
        }
        Self {
            old,
            new,
            moves: by_class,
            stays,
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
        // Who was granted nothing can't lose anything.
        let mut sets = BTreeSet::new();
        // An endpoint that keeps its ruleset costs what was written, not what it has.
        let grants = match before == now {
            true => {
                let mut moved = self.moves.keys().copied();
                self.old.grants_of(before, &mut moved)
            }
            false => self.old.grants(before),
        };
        for (class, grant) in grants {
            let moved = self.moves.get(&class).into_iter().flatten().copied();
            let stayed = (self.stays)(before, now, class).then_some(class);
            for to in moved.chain(stayed) {
                let now = self.new.rules.get(&(now, to)).copied();
                sets.insert((pick(grant), pick(now.unwrap_or_default())));
            }
        }
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
mod tests;
