//! Tables being written, and their previous content.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_ebpf::abi::{Addr, Grant, PortBlock, ServiceKey};

use crate::{
    index::PodKey,
    intern::{HashMap, Text},
    prefix::Prefix,
    tables::{EndpointPolicy, Tables},
};

/// The previous values of entries that were written to; `None` where there was none.
type Old<K, V> = HashMap<K, Option<V>>;

/// What the tables held before they were written to, for the entries that were.
#[derive(Debug, Default)]
pub(crate) struct Before {
    pub(crate) classes: Old<Addr, u32>,
    pub(crate) cidrs: Old<Prefix, u32>,
    pub(crate) rules: Old<(u32, u32), Grant>,
    pub(crate) ports: Old<(u32, u16, u16), PortBlock>,
    pub(crate) endpoints: Old<PodKey, EndpointPolicy>,
    pub(crate) identities: Old<Addr, (Text, u32)>,
    pub(crate) services: Old<ServiceKey, ()>,
    pub(crate) ranges: Old<Prefix, u32>,
    pub(crate) hides_services: Option<bool>,
}

/// Tables that remember their previous content.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) tables: Tables,
    /// `None` while everything is written for the first time.
    before: Option<Before>,
}

impl Writer {
    /// Starts to remember changes; returns what was remembered so far.
    pub(super) fn remember(&mut self) -> Before {
        self.before.replace(Before::default()).unwrap_or_default()
    }

    /// Restores the previous content of the tables.
    pub(super) fn undo(&mut self) {
        let before = self.remember();
        let tables = &mut self.tables;
        restore(&mut tables.classes, before.classes);
        restore(&mut tables.cidrs, before.cidrs);
        restore(&mut tables.rules, before.rules);
        restore(&mut tables.ports, before.ports);
        restore(&mut tables.endpoints, before.endpoints);
        restore(&mut tables.identities, before.identities);
        restore(&mut tables.services, before.services);
        restore(&mut tables.ranges, before.ranges);
        tables.hides_services = before.hides_services.unwrap_or(tables.hides_services);
    }

    pub(super) fn class(&mut self, addr: Addr, class: Option<u32>) {
        // When prefixes change, most addresses under them have no entry of their own before or
        // after.
        if self.tables.classes.get(&addr) == class.as_ref() {
            return;
        }
        let old = self.before.as_mut().map(|b| &mut b.classes);
        write(&mut self.tables.classes, old, addr, class);
    }

    pub(super) fn cidr(&mut self, prefix: Prefix, class: Option<u32>) {
        let old = self.before.as_mut().map(|b| &mut b.cidrs);
        write(&mut self.tables.cidrs, old, prefix, class);
    }

    pub(super) fn rule(&mut self, ruleset: u32, class: u32, grant: Option<Grant>) {
        let old = self.before.as_mut().map(|b| &mut b.rules);
        write(&mut self.tables.rules, old, (ruleset, class), grant);
    }

    pub(super) fn ports(&mut self, key: (u32, u16, u16), block: Option<PortBlock>) {
        let old = self.before.as_mut().map(|b| &mut b.ports);
        write(&mut self.tables.ports, old, key, block);
    }

    pub(super) fn endpoint(&mut self, key: PodKey, policy: Option<EndpointPolicy>) {
        let old = self.before.as_mut().map(|b| &mut b.endpoints);
        write(&mut self.tables.endpoints, old, key, policy);
    }

    pub(super) fn identity(&mut self, addr: Addr, identity: Option<(Text, u32)>) {
        // Most often an address is processed because of its class.
        if self.tables.identities.get(&addr) == identity.as_ref() {
            return;
        }
        let old = self.before.as_mut().map(|b| &mut b.identities);
        write(&mut self.tables.identities, old, addr, identity);
    }

    /// Writes the workload that addresses in a prefix are counted under.
    pub(super) fn range(&mut self, prefix: Prefix, workload: Option<u32>) {
        let old = self.before.as_mut().map(|b| &mut b.ranges);
        write(&mut self.tables.ranges, old, prefix, workload);
    }

    /// Writes whether some Services' addresses didn't fit.
    pub(super) fn hides_services(&mut self, hides: bool) {
        let held = std::mem::replace(&mut self.tables.hides_services, hides);
        if let Some(before) = self.before.as_mut() {
            before.hides_services.get_or_insert(held);
        }
    }

    /// Writes the ports that Services have at an address.
    pub(super) fn services(&mut self, addr: Addr, ports: &BTreeSet<ServiceKey>) {
        let held: BTreeSet<ServiceKey> = self.tables.service_ports(addr).collect();
        for key in held.symmetric_difference(ports) {
            let old = self.before.as_mut().map(|b| &mut b.services);
            let value = ports.contains(key).then_some(());
            write(&mut self.tables.services, old, *key, value);
        }
    }
}

fn write<K: Ord + std::hash::Hash + Clone, V: PartialEq>(
    map: &mut BTreeMap<K, V>,
    old: Option<&mut Old<K, V>>,
    key: K,
    value: Option<V>,
) {
    let replaced = match value {
        Some(value) => map.insert(key.clone(), value),
        None => map.remove(&key),
    };
    if let Some(old) = old {
        // The first write saw the previous value.
        old.entry(key).or_insert(replaced);
    }
}

fn restore<K: Ord, V>(map: &mut BTreeMap<K, V>, old: Old<K, V>) {
    for (key, value) in old {
        match value {
            Some(value) => drop(map.insert(key, value)),
            None => drop(map.remove(&key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_undone_was_never_written() {
        let mut writer = Writer::default();
        writer.rule(1, 1, Some(Grant::default()));
        writer.cidr((Addr::UNSPECIFIED, 0), Some(1));
        let whole = writer.tables.clone();
        writer.remember();
        let grant = Grant {
            enforced: 1,
            staged: 2,
        };
        writer.rule(1, 1, None);
        writer.rule(1, 1, Some(grant));
        writer.rule(2, 2, Some(grant));
        writer.cidr((Addr::UNSPECIFIED, 0), None);
        writer.class(Addr::UNSPECIFIED, Some(1));
        writer.identity(Addr::UNSPECIFIED, Some(("a/b".into(), 0)));
        writer.endpoint(PodKey::default(), Some(EndpointPolicy::default()));
        writer.ports((16, 6, 0), Some(PortBlock::default()));
        writer.services(Addr::UNSPECIFIED, &[ServiceKey::default()].into());
        writer.range((Addr::UNSPECIFIED, 7), Some(1));
        writer.hides_services(true);
        assert_ne!(writer.tables, whole);
        writer.undo();
        assert_eq!(writer.tables, whole);
    }
}
