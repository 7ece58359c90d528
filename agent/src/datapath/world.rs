//! Two worlds: the packets read one, the agent writes the other.

use std::collections::BTreeMap;

use ringfence_ebpf::abi::{
    Addr, CIDR_WORLD_BITS, ClassKey, Grant, PortBlock, PortKey, RuleKey, World,
};
use ringfence_policy::tables::Tables;

use super::error::DatapathError;
use super::maps::{AgentField, Maps, Raw, entries, map_error};
use super::seat::side;
use super::sync::level;

/// What one world holds, as map keys and values.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Held {
    classes: BTreeMap<ClassKey, u32>,
    cidrs: BTreeMap<(ClassKey, u32), u32>,
    rules: BTreeMap<RuleKey, Grant>,
    ports: BTreeMap<PortKey, PortBlock>,
}

impl Held {
    /// The entries that tables stand for in a world.
    pub(super) fn of(tables: &Tables, world: World) -> Self {
        let class_key = |addr: &Addr| ClassKey { world, addr: *addr };
        Self {
            classes: tables
                .classes
                .iter()
                .map(|(addr, class)| (class_key(addr), *class))
                .collect(),
            cidrs: tables
                .cidrs
                .iter()
                .map(|((addr, len), class)| {
                    ((class_key(addr), CIDR_WORLD_BITS + u32::from(*len)), *class)
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
}

impl Worlds {
    /// What the pinned maps hold: after a crash the standby may be half
    /// written, and is finished or undone from here.
    pub(super) fn dump(maps: &Maps) -> Result<Self, DatapathError> {
        let mut held = [Held::default(), Held::default()];
        for (key, class) in entries("CLASSES", &maps.classes)? {
            held[side(key.world)].classes.insert(key, class);
        }
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
        world: World,
        tables: &Tables,
    ) -> Result<(), DatapathError> {
        let wanted = Held::of(tables, world);
        let held = &mut self.held[side(world)];
        level(
            "CLASSES",
            &mut maps.classes,
            &mut held.classes,
            &wanted.classes,
        )?;
        level("CIDRS", &mut maps.cidrs, &mut held.cidrs, &wanted.cidrs)?;
        level("RULES", &mut maps.rules, &mut held.rules, &wanted.rules)?;
        level("PORTS", &mut maps.ports, &mut held.ports, &wanted.ports)
    }

    /// Entries of a policy map, both worlds together.
    pub(super) fn entries(&self, map: &str) -> usize {
        self.held
            .iter()
            .map(|held| match map {
                "CLASSES" => held.classes.len(),
                "CIDRS" => held.cidrs.len(),
                "RULES" => held.rules.len(),
                "PORTS" => held.ports.len(),
                _ => 0,
            })
            .sum()
    }
}
