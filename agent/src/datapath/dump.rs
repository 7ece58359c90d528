//! What the policy maps hold, read once at the start, and how that differs from
//! tables.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_ebpf::abi::{
    Addr, CidrKey, Grant, Identity, PortBlock, PortKey, RuleKey, ServiceKey, World,
};
use ringfence_policy::delta::Keys;
use ringfence_policy::tables::Tables;

use super::error::DatapathError;
use super::maps::{Maps, Raw, entries, map_error};
use super::seat::side;
use super::world::{cidr_key, port_key, rule_key, who};

/// The elements of every policy map.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Dump {
    /// Names of addresses, and their classes in both worlds.
    pub(super) addresses: BTreeMap<Addr, Identity>,
    pub(super) cidrs: BTreeMap<(CidrKey, u32), u32>,
    pub(super) rules: BTreeMap<RuleKey, Grant>,
    pub(super) ports: BTreeMap<PortKey, PortBlock>,
    /// Of one world, like names.
    pub(super) services: BTreeMap<ServiceKey, u32>,
}

impl Dump {
    /// Reads the pinned maps.
    pub(super) fn read(maps: &Maps) -> Result<Self, DatapathError> {
        let mut cidrs = BTreeMap::new();
        for entry in maps.cidrs.iter() {
            let (key, Raw(class)) = entry.map_err(|error| map_error("reading", "CIDRS", &error))?;
            let Raw(data) = key.data();
            cidrs.insert((data, key.prefix_len()), class);
        }
        Ok(Self {
            addresses: entries("ADDRESSES", &maps.addresses)?.into_iter().collect(),
            cidrs,
            rules: entries("RULES", &maps.rules)?.into_iter().collect(),
            ports: entries("PORTS", &maps.ports)?.into_iter().collect(),
            services: entries("SERVICES", &maps.services)?.into_iter().collect(),
        })
    }

    /// How many prefixes, rules and blocks of ports are of a world.
    pub(super) fn sizes(&self, world: World) -> [usize; 3] {
        [
            self.cidrs
                .keys()
                .filter(|(key, _)| key.world == world)
                .count(),
            self.rules.keys().filter(|key| key.world == world).count(),
            self.ports.keys().filter(|key| key.world == world).count(),
        ]
    }

    fn of_ranges(&self) -> impl Iterator<Item = &(CidrKey, u32)> {
        let all = self.cidrs.keys();
        all.filter(|(key, _)| key.world == CidrKey::RANGES)
    }

    /// How many ranges of pods there are.
    pub(super) fn ranges(&self) -> usize {
        self.of_ranges().count()
    }

    /// The keys of entries that aren't in a world what the tables say.
    pub(super) fn lacking(
        &self,
        world: World,
        tables: &Tables,
        id: impl Fn(&str) -> Option<u32>,
    ) -> Keys {
        let in_cidrs = self.cidrs.keys().filter(|(key, _)| key.world == world);
        let in_rules = self.rules.keys().filter(|key| key.world == world);
        let in_ports = self.ports.keys().filter(|key| key.world == world);
        let prefix = |(key, bits): &(CidrKey, u32)| {
            let len = bits.saturating_sub(CidrKey::WORLD_BITS);
            (key.addr, u8::try_from(len).unwrap_or(u8::MAX))
        };
        Keys {
            addresses: self.lacking_addresses(world, tables, id),
            cidrs: differing(in_cidrs.map(prefix), &tables.cidrs, |(addr, len)| {
                self.cidrs.get(&cidr_key(world, *addr, *len)).copied()
            }),
            rules: differing(
                in_rules.map(|key| (key.ruleset, key.class)),
                &tables.rules,
                |(ruleset, class)| self.rules.get(&rule_key(world, *ruleset, *class)).copied(),
            ),
            ports: differing(
                in_ports.map(|key| (key.set, key.protocol, key.block)),
                &tables.ports,
                |(set, protocol, block)| {
                    self.ports
                        .get(&port_key(world, *set, *protocol, *block))
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
        world: World,
        tables: &Tables,
        id: impl Fn(&str) -> Option<u32>,
    ) -> BTreeSet<Addr> {
        let differs = |addr: &&Addr| {
            let held = self.addresses.get(addr).copied();
            let held = held.unwrap_or(Identity::UNKNOWN);
            let class = tables.classes.get(addr).copied();
            let named = who(tables, addr, &id);
            let unknown = (Identity::UNKNOWN.workload, Identity::UNKNOWN.flags);
            // A name without an id isn't the one that is there.
            named.is_none() && tables.identities.contains_key(addr)
                || named.unwrap_or(unknown) != (held.workload, held.flags)
                || class.unwrap_or(Identity::BY_PREFIX) != held.classes[side(world)]
        };
        let held = self.addresses.keys();
        let known = tables.identities.keys().chain(tables.classes.keys());
        held.chain(known).filter(differs).copied().collect()
    }
}

/// The keys of what is held otherwise than it is wanted.
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
