//! The table entries that a change wrote, used to bring copies of the tables up to date.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_ebpf::abi::{Addr, ServiceKey};

use crate::{compile::writer::Before, prefix::Prefix, tables::Tables};

/// Keys of entries that were added, removed or changed. Look the keys up in the tables for the
/// current values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Keys of `classes` and of `identities`, which share one entry in the kernel.
    pub addresses: BTreeSet<Addr>,
    /// Keys of `cidrs`.
    pub cidrs: BTreeSet<(Addr, u8)>,
    /// Keys of `rules`.
    pub rules: BTreeSet<(u32, u32)>,
    /// Keys of `ports`.
    pub ports: BTreeSet<(u32, u16, u16)>,
    /// Keys of `services`.
    pub services: BTreeSet<ServiceKey>,
    /// Keys of `ranges`.
    pub ranges: BTreeSet<(Addr, u8)>,
}

impl Keys {
    /// Returns the keys that differ between two generations.
    pub fn between(old: &Tables, new: &Tables) -> Self {
        let mut addresses = differing(&old.classes, &new.classes);
        addresses.append(&mut differing(&old.identities, &new.identities));
        Self {
            addresses,
            cidrs: differing(&old.cidrs, &new.cidrs),
            rules: differing(&old.rules, &new.rules),
            ports: differing(&old.ports, &new.ports),
            services: differing(&old.services, &new.services),
            ranges: differing(&old.ranges, &new.ranges),
        }
    }

    /// Returns the keys whose entries differ from their values before they were written.
    pub(crate) fn of(before: &Before, new: &Tables) -> Self {
        let mut addresses = rewritten(&before.classes, &new.classes);
        addresses.append(&mut rewritten(&before.identities, &new.identities));
        Self {
            addresses,
            cidrs: rewritten::<Prefix, _>(&before.cidrs, &new.cidrs),
            rules: rewritten(&before.rules, &new.rules),
            ports: rewritten(&before.ports, &new.ports),
            services: rewritten(&before.services, &new.services),
            ranges: rewritten::<Prefix, _>(&before.ranges, &new.ranges),
        }
    }

    /// Reports whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
            && self.cidrs.is_empty()
            && self.rules.is_empty()
            && self.ports.is_empty()
            && self.services.is_empty()
            && self.ranges.is_empty()
    }

    /// Adds the keys of another change.
    pub fn add(&mut self, other: &Self) {
        self.addresses.extend(&other.addresses);
        self.cidrs.extend(&other.cidrs);
        self.rules.extend(&other.rules);
        self.ports.extend(&other.ports);
        self.services.extend(&other.services);
        self.ranges.extend(&other.ranges);
    }
}

fn differing<K: Ord + Copy, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> BTreeSet<K> {
    let gone = old.keys().filter(|key| !new.contains_key(key));
    let written = new
        .iter()
        .filter(|(key, value)| old.get(key) != Some(value));
    gone.chain(written.map(|(key, _)| key)).copied().collect()
}

fn rewritten<'b, K: Ord + Copy + 'b, V: PartialEq + 'b>(
    before: impl IntoIterator<Item = (&'b K, &'b Option<V>)>,
    new: &BTreeMap<K, V>,
) -> BTreeSet<K> {
    let before = before.into_iter();
    let changed = before.filter(|(key, old)| new.get(key) != old.as_ref());
    changed.map(|(key, _)| *key).collect()
}
