//! Two worlds: the packets read one, the agent writes the other.

use std::collections::BTreeMap;

use ringfence_ebpf::abi::{Addr, CidrKey, Grant, Identity, PortBlock, PortKey, RuleKey, World};
use ringfence_policy::tables::Tables;

use super::error::DatapathError;
use super::maps::{AgentField, Maps, Raw, entries, map_error};
use super::names::Names;
use super::seat::side;
use super::sync::level;

/// What one world holds, as map keys and values.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Held {
    cidrs: BTreeMap<(CidrKey, u32), u32>,
    rules: BTreeMap<RuleKey, Grant>,
    ports: BTreeMap<PortKey, PortBlock>,
}

impl Held {
    /// The entries that tables stand for in a world.
    pub(super) fn of(tables: &Tables, world: World) -> Self {
        Self {
            cidrs: tables
                .cidrs
                .iter()
                .map(|((addr, len), class)| {
                    let key = CidrKey { world, addr: *addr };
                    ((key, CidrKey::WORLD_BITS + u32::from(*len)), *class)
                })
                .collect(),
            rules: tables
                .rules
                .iter()
                .map(|((ruleset, class), grant)| {
                    let (ruleset, class) = (*ruleset, *class);
                    (
                        RuleKey {
                            world,
                            ruleset,
                            class,
                        },
                        *grant,
                    )
                })
                .collect(),
            ports: tables
                .ports
                .iter()
                .map(|((set, protocol, block), bits)| {
                    let (set, protocol, block) = (*set, *protocol, *block);
                    (
                        PortKey {
                            world,
                            set,
                            protocol,
                            block,
                        },
                        *bits,
                    )
                })
                .collect(),
        }
    }
}

/// Both worlds and which one is in force.
pub(super) struct Worlds {
    /// The world that packets read.
    pub(super) active: World,
    /// Rises with every flip.
    pub(super) generation: u64,
    held: [Held; 2],
    /// Names of addresses, and their classes in both worlds.
    addresses: BTreeMap<Addr, Identity>,
}

/// What the map of addresses should hold once a world is brought to the tables:
/// the other world's classes stay as they are.
fn addresses(
    held: &BTreeMap<Addr, Identity>,
    world: World,
    tables: &Tables,
    mut id: impl FnMut(&str) -> Result<u32, DatapathError>,
) -> Result<BTreeMap<Addr, Identity>, DatapathError> {
    let other = side(world ^ 1);
    let mut wanted: BTreeMap<Addr, Identity> = held
        .iter()
        .filter(|(_, identity)| identity.classes[other] != Identity::BY_PREFIX)
        .map(|(addr, identity)| {
            let mut kept = Identity::UNKNOWN;
            kept.classes[other] = identity.classes[other];
            (*addr, kept)
        })
        .collect();
    for (addr, (name, flags)) in &tables.identities {
        let identity = wanted.entry(*addr).or_insert(Identity::UNKNOWN);
        identity.flags = *flags;
        identity.workload = if flags & Identity::IS_NODE != 0 {
            Identity::NODE
        } else {
            id(name)?
        };
    }
    for (addr, class) in &tables.classes {
        let identity = wanted.entry(*addr).or_insert(Identity::UNKNOWN);
        identity.classes[side(world)] = *class;
    }
    Ok(wanted)
}

impl Worlds {
    /// What the pinned maps hold: after a crash the standby may be half
    /// written, and is finished or undone from here.
    pub(super) fn dump(maps: &Maps) -> Result<Self, DatapathError> {
        let mut held = [Held::default(), Held::default()];
        for entry in maps.cidrs.iter() {
            let (key, Raw(class)) = entry.map_err(|error| map_error("reading", "CIDRS", &error))?;
            let Raw(data) = key.data();
            held[side(data.world)]
                .cidrs
                .insert((data, key.prefix_len()), class);
        }
        for (key, grant) in entries("RULES", &maps.rules)? {
            held[side(key.world)].rules.insert(key, grant);
        }
        for (key, block) in entries("PORTS", &maps.ports)? {
            held[side(key.world)].ports.insert(key, block);
        }
        Ok(Self {
            active: maps.control()?.world & 1,
            generation: maps.agent(AgentField::Generation)?,
            held,
            addresses: entries("ADDRESSES", &maps.addresses)?.into_iter().collect(),
        })
    }

    /// The world that nobody reads.
    pub(super) const fn standby(&self) -> World {
        self.active ^ 1
    }

    /// Brings a world to the tables.
    pub(super) fn write(
        &mut self,
        maps: &mut Maps,
        names: &mut Names,
        world: World,
        tables: &Tables,
    ) -> Result<(), DatapathError> {
        let wanted = addresses(&self.addresses, world, tables, |name| names.id(maps, name))?;
        level(
            "ADDRESSES",
            &mut maps.addresses,
            &mut self.addresses,
            &wanted,
        )?;
        let wanted = Held::of(tables, world);
        let held = &mut self.held[side(world)];
        level("CIDRS", &mut maps.cidrs, &mut held.cidrs, &wanted.cidrs)?;
        level("RULES", &mut maps.rules, &mut held.rules, &wanted.rules)?;
        level("PORTS", &mut maps.ports, &mut held.ports, &wanted.ports)
    }

    /// Entries of a policy map, both worlds together.
    pub(super) fn entries(&self, map: &str) -> usize {
        if map == "ADDRESSES" {
            return self.addresses.len();
        }
        self.held
            .iter()
            .map(|held| match map {
                "CIDRS" => held.cidrs.len(),
                "RULES" => held.rules.len(),
                "PORTS" => held.ports.len(),
                _ => 0,
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const BY_PREFIX: u32 = Identity::BY_PREFIX;

    fn tables(named: Option<&str>, class: Option<u32>) -> Tables {
        let addr = Addr::v4([10, 0, 0, 1]);
        Tables {
            identities: named
                .map(|name| (addr, (Arc::from(name), 0)))
                .into_iter()
                .collect(),
            classes: class.map(|class| (addr, class)).into_iter().collect(),
            ..Tables::default()
        }
    }

    fn written(held: &BTreeMap<Addr, Identity>, world: World, tables: &Tables) -> Vec<Identity> {
        let wanted = addresses(held, world, tables, |_| Ok(16)).expect("an id");
        wanted.into_values().collect()
    }

    #[test]
    fn writing_one_worlds_class_of_an_address_leaves_the_others_as_it_was() {
        let mut identity = Identity {
            workload: 16,
            flags: 0,
            classes: [7, BY_PREFIX],
        };
        let held = BTreeMap::from([(Addr::v4([10, 0, 0, 1]), identity)]);
        identity.classes[1] = 9;
        assert_eq!(written(&held, 1, &tables(Some("a/b"), Some(9))), [identity]);
    }

    #[test]
    fn an_address_stays_as_long_as_a_world_has_a_class_for_it() {
        let identity = Identity {
            workload: 16,
            flags: 0,
            classes: [7, 9],
        };
        let held = BTreeMap::from([(Addr::v4([10, 0, 0, 1]), identity)]);
        let nameless = |classes| Identity {
            workload: Identity::OUTSIDE,
            flags: 0,
            classes,
        };
        let gone = tables(None, None);
        assert_eq!(written(&held, 1, &gone), [nameless([7, BY_PREFIX])]);
        let half = BTreeMap::from([(Addr::v4([10, 0, 0, 1]), nameless([7, BY_PREFIX]))]);
        assert_eq!(written(&half, 0, &gone), []);
    }
}
