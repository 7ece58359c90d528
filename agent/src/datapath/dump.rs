//! The contents of the policy maps, read once at the start, and their difference from the tables.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_ebpf::abi::{
    Addr, Buffer, CidrKey, Grant, Identity, PortBlock, PortKey, RuleKey, ServiceKey,
};
use ringfence_policy::delta::Keys;
use ringfence_policy::tables::Tables;

use super::buffers::{cidr_key, port_key, rule_key, who};
use super::catalog::MapName;
use super::error::DatapathError;
use super::maps::{Maps, Raw, entries, map_error};
use super::occupant::side;

/// The elements of every policy map.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Dump {
    /// Workloads of addresses, and their classes in both buffers.
    pub(super) addresses: BTreeMap<Addr, Identity>,
    pub(super) cidrs: BTreeMap<(CidrKey, u32), u32>,
    pub(super) rules: BTreeMap<RuleKey, Grant>,
    pub(super) ports: BTreeMap<PortKey, PortBlock>,
    /// Not buffered, like workloads.
    pub(super) services: BTreeMap<ServiceKey, u32>,
}

impl Dump {
    /// Reads the pinned maps.
    pub(super) fn read(maps: &Maps) -> Result<Self, DatapathError> {
        let mut cidrs = BTreeMap::new();
        for entry in maps.cidrs.iter() {
            let (key, Raw(class)) =
                entry.map_err(|error| map_error("reading", MapName::Cidrs, &error))?;
            let Raw(data) = key.data();
            cidrs.insert((data, key.prefix_len()), class);
        }
        Ok(Self {
            addresses: entries(MapName::Addresses, &maps.addresses)?
                .into_iter()
                .collect(),
            cidrs,
            rules: entries(MapName::Rules, &maps.rules)?.into_iter().collect(),
            ports: entries(MapName::Ports, &maps.ports)?.into_iter().collect(),
            services: entries(MapName::Services, &maps.services)?
                .into_iter()
                .collect(),
        })
    }

    /// Returns the number of prefixes, rules and port blocks of a buffer.
    pub(super) fn sizes(&self, buffer: Buffer) -> [usize; 3] {
        [
            self.cidrs
                .keys()
                .filter(|(key, _)| key.buffer == buffer)
                .count(),
            self.rules.keys().filter(|key| key.buffer == buffer).count(),
            self.ports.keys().filter(|key| key.buffer == buffer).count(),
        ]
    }

    fn of_ranges(&self) -> impl Iterator<Item = &(CidrKey, u32)> {
        let all = self.cidrs.keys();
        all.filter(|(key, _)| key.buffer == CidrKey::RANGES)
    }

    /// Returns the number of pod ranges.
    pub(super) fn ranges(&self) -> usize {
        self.of_ranges().count()
    }

    /// Returns the keys of entries in which a buffer differs from the tables.
    pub(super) fn lacking(
        &self,
        buffer: Buffer,
        tables: &Tables,
        id: impl Fn(&str) -> Option<u32>,
    ) -> Keys {
        let in_cidrs = self.cidrs.keys().filter(|(key, _)| key.buffer == buffer);
        let in_rules = self.rules.keys().filter(|key| key.buffer == buffer);
        let in_ports = self.ports.keys().filter(|key| key.buffer == buffer);
        let prefix = |(key, bits): &(CidrKey, u32)| {
            let len = bits.saturating_sub(CidrKey::BUFFER_BITS);
            (key.addr, u8::try_from(len).unwrap_or(u8::MAX))
        };
        Keys {
            addresses: self.lacking_addresses(buffer, tables, id),
            cidrs: differing(in_cidrs.map(prefix), &tables.cidrs, |(addr, len)| {
                self.cidrs.get(&cidr_key(buffer, *addr, *len)).copied()
            }),
            rules: differing(
                in_rules.map(|key| (key.ruleset, key.class)),
                &tables.rules,
                |(ruleset, class)| self.rules.get(&rule_key(buffer, *ruleset, *class)).copied(),
            ),
            ports: differing(
                in_ports.map(|key| (key.set, key.protocol, key.block)),
                &tables.ports,
                |(set, protocol, block)| {
                    self.ports
                        .get(&port_key(buffer, *set, *protocol, *block))
                        .copied()
                },
            ),
            ranges: differing(
                self.of_ranges().map(prefix),
                &tables.ranges,
                |(addr, len)| {
                    let key = cidr_key(CidrKey::RANGES, *addr, *len);
                    self.cidrs.get(&key).copied()
                },
            ),
            services: differing(self.services.keys().copied(), &tables.services, |key| {
                self.services.get(key).map(|_| ())
            }),
        }
    }

    fn lacking_addresses(
        &self,
        buffer: Buffer,
        tables: &Tables,
        id: impl Fn(&str) -> Option<u32>,
    ) -> BTreeSet<Addr> {
        let differs = |addr: &&Addr| {
            let held = self.addresses.get(addr).copied();
            let held = held.unwrap_or(Identity::UNKNOWN);
            let class = tables.classes.get(addr).copied();
            let named = who(tables, addr, &id);
            let unknown = (Identity::UNKNOWN.workload, Identity::UNKNOWN.flags);
            // A name that has no id yet differs from whatever is stored.
            named.is_none() && tables.identities.contains_key(addr)
                || named.unwrap_or(unknown) != (held.workload, held.flags)
                || class.unwrap_or(Identity::BY_PREFIX) != held.classes[side(buffer)]
        };
        let held = self.addresses.keys();
        let known = tables.identities.keys().chain(tables.classes.keys());
        held.chain(known).filter(differs).copied().collect()
    }
}

/// Returns the keys of entries whose stored value differs from the wanted one.
fn differing<K: Ord + Copy, V: PartialEq + Copy>(
    held: impl Iterator<Item = K>,
    wanted: &BTreeMap<K, V>,
    get: impl Fn(&K) -> Option<V>,
) -> BTreeSet<K> {
    let surplus = held.filter(|key| !wanted.contains_key(key));
    let others = wanted
        .iter()
        .filter(|(key, value)| get(key) != Some(**value));
    let others = others.map(|(key, _)| *key);
    surplus.chain(others).collect()
}
