//! The generation before a change, reconstructed from the written entries.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_ebpf::abi::{Addr, Grant, PortBlock, PortSet};

use crate::{
    compile::writer::Before,
    intern::{HashMap, Text},
    prefix::{self, Prefix},
    tables::{EndpointPolicy, Tables},
};

use super::{KINDS, Old};

/// The old generation: the new one, except for the written entries.
pub(super) struct Overlay<'t> {
    before: &'t Before,
    new: &'t Tables,
    /// Old values of the prefixes that were written and existed before.
    cidrs: BTreeMap<Prefix, u32>,
    /// Classes whose rule was written, by ruleset.
    rewritten: HashMap<u32, Vec<u32>>,
}

impl<'t> Overlay<'t> {
    pub(super) fn new(before: &'t Before, new: &'t Tables) -> Self {
        let mut rewritten: HashMap<u32, Vec<u32>> = HashMap::default();
        for (ruleset, class) in before.rules.keys() {
            rewritten.entry(*ruleset).or_default().push(*class);
        }
        let written = before.cidrs.iter();
        let cidrs = written.filter_map(|(prefix, class)| Some((*prefix, (*class)?)));
        let cidrs = cidrs.collect();
        Self {
            before,
            new,
            cidrs,
            rewritten,
        }
    }

    /// Returns the class of the longest prefix of the old generation.
    fn by_prefix(&self, addr: &Addr, max: u8) -> u32 {
        let written = prefix::longest(&self.cidrs, addr, max);
        let kept = self.kept(addr, max);
        let longest = written.into_iter().chain(kept);
        longest
            .max_by_key(|(prefix, _)| prefix.1)
            .map_or(0, |(_, class)| *class)
    }

    /// Returns the longest prefix that wasn't written.
    fn kept(&self, addr: &Addr, mut max: u8) -> Option<(&Prefix, &u32)> {
        loop {
            let found = prefix::longest(&self.new.cidrs, addr, max)?;
            if !self.before.cidrs.contains_key(found.0) {
                return Some(found);
            }
            max = found.0.1.checked_sub(1)?;
        }
    }

    /// Returns every (class before, class now) of an address that was written.
    pub(super) fn moves(&self) -> BTreeSet<(u32, u32)> {
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

    pub(super) fn changes_kinds(&self) -> bool {
        let kinds = |known: Option<&(Text, u32)>| known.map_or(0, |(_, flags)| flags & KINDS);
        let mut before = self.before.identities.iter();
        let mut ports = self.before.services.iter();
        let hid = self.before.hides_services;
        hid.is_some_and(|hid| hid != self.new.hides_services)
            || before.any(|(addr, old)| kinds(old.as_ref()) != kinds(self.new.identities.get(addr)))
            || ports.any(|(key, old)| old.as_ref() != self.new.services.get(key))
    }

    pub(super) fn relocates(&self) -> bool {
        let mut before = self.before.endpoints.iter();
        before.any(|(key, old)| {
            let place = |policy: Option<&EndpointPolicy>| policy.map(|p| p.addresses.clone());
            place(old.as_ref()) != place(self.new.endpoints.get(key))
        })
    }

    pub(super) fn is_additive(&self) -> bool {
        let Before {
            classes,
            cidrs,
            rules,
            ports,
            endpoints,
            identities: _,
            services: _,
            ranges: _,
            hides_services: _,
        } = self.before;
        let new = self.new;
        classes
            .iter()
            .all(|(k, old)| old.is_none() || new.classes.get(k) == old.as_ref())
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
    fn rule(&self, ruleset: u32, class: u32) -> Option<Grant> {
        match self.before.rules.get(&(ruleset, class)) {
            Some(written) => *written,
            None => Old::rule(self.new, ruleset, class),
        }
    }

    fn classes(&self, ruleset: u32) -> Vec<u32> {
        let written = self.rewritten.get(&ruleset);
        let kept = Old::classes(self.new, ruleset).into_iter();
        let kept = kept.filter(|class| !self.before.rules.contains_key(&(ruleset, *class)));
        let old = written.into_iter().flatten().copied();
        let old = old.filter(|class| self.rule(ruleset, *class).is_some());
        kept.chain(old).collect()
    }

    fn written(&self, ruleset: u32) -> Option<&[u32]> {
        Some(self.rewritten.get(&ruleset).map_or(&[], Vec::as_slice))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_ruleset_granted_is_what_stands_there_but_for_what_was_written() {
        let grant = |enforced| Grant {
            enforced,
            staged: 0,
        };
        let mut new = Tables::default();
        for (class, now) in [(7, 71), (8, 81), (9, 91)] {
            new.rules.insert((1, class), grant(now));
        }
        new.rules.insert((2, 7), grant(72));
        let mut before = Before::default();
        let written = [(6, Some(grant(60))), (7, Some(grant(70))), (8, None)];
        before
            .rules
            .extend(written.map(|(class, old)| ((1, class), old)));
        let overlay = Overlay::new(&before, &new);
        let granted = |ruleset: u32| {
            let mut classes = overlay.classes(ruleset);
            classes.sort_unstable();
            let rule = |class: u32| (class, overlay.rule(ruleset, class).expect("a rule"));
            classes.into_iter().map(rule).collect::<Vec<_>>()
        };
        assert_eq!(granted(1), [(6, grant(60)), (7, grant(70)), (9, grant(91))]);
        assert_eq!(overlay.rule(1, 8), None);
        assert_eq!(granted(2), [(7, grant(72))]);
        assert_eq!(overlay.written(2), Some([].as_slice()));
    }
}
