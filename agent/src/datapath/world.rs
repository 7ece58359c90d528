//! Two worlds: the packets read one, the agent writes the other.
//!
//! The compiler's tables are the only copy in memory of what should be in the
//! maps. Each world has the keys of the entries that it still lacks: those that a
//! change wrote, and at first those that a dump shows to be otherwise.

use ringfence_ebpf::abi::{Addr, CidrKey, Control, Identity, PortKey, RuleKey, ServiceKey, World};
use ringfence_policy::delta::Keys;
use ringfence_policy::tables::Tables;

use super::dump::Dump;
use super::error::DatapathError;
use super::maps::{Held, Maps, PolicyMaps, Table, map_error};
use super::names::Names;
use super::seat::side;
use super::sync::bring;

/// Both worlds and which one is in force.
pub(super) struct Worlds {
    /// The world that packets read.
    pub(super) active: World,
    /// Rises with every flip.
    pub(super) generation: u64,
    /// What each world lacks. Names of addresses are of one world, so an address
    /// whose name differs is lacking in both.
    pub(super) lacking: [Keys; 2],
    /// How many prefixes, rules and blocks of ports each world was last brought to.
    sizes: [[usize; 3]; 2],
    /// How many addresses have an entry.
    addresses: usize,
    /// How many ports Services were last brought to.
    services: usize,
    /// How many ranges of pods there are.
    ranges: usize,
}

impl Worlds {
    /// Two worlds of which nothing is known but their number.
    pub(super) fn open(maps: &Maps) -> Self {
        let control = Control {
            state: maps.state(),
            ..Control::default()
        };
        Self::new(control.world(), control.state >> 1)
    }

    pub(super) fn new(active: World, generation: u64) -> Self {
        Self {
            active,
            generation,
            lacking: Default::default(),
            sizes: Default::default(),
            addresses: 0,
            services: 0,
            ranges: 0,
        }
    }

    /// The world that nobody reads.
    pub(super) const fn standby(&self) -> World {
        self.active ^ 1
    }

    /// Whether neither world lacks anything.
    pub(super) fn are_level(&self) -> bool {
        self.lacking.iter().all(Keys::is_empty)
    }

    /// Takes note of what a change wrote.
    pub(super) fn note(&mut self, keys: &Keys) {
        self.lacking
            .iter_mut()
            .for_each(|lacking| lacking.add(keys));
    }

    /// Finds out what the worlds lack from what the maps hold: after a crash the
    /// standby may be half written, and is finished or undone from here.
    pub(super) fn compare(
        &mut self,
        dump: &Dump,
        tables: &Tables,
        id: impl Fn(&str) -> Option<u32>,
    ) {
        self.addresses = dump.addresses.len();
        self.services = dump.services.len();
        self.ranges = dump.ranges();
        for world in [0, 1] {
            let lacking = dump.lacking(world, tables, &id);
            self.sizes[side(world)] = dump.sizes(world);
            self.lacking[side(world)] = lacking;
        }
    }

    /// Gives every name that a world lacks its id, then brings the world to the
    /// tables.
    pub(super) fn write(
        &mut self,
        maps: &mut Maps,
        names: &mut Names,
        world: World,
        tables: &Tables,
    ) -> Result<(), DatapathError> {
        for addr in &self.lacking[side(world)].addresses {
            if let Some((name, flags)) = tables.identities.get(addr)
                && flags & Identity::IS_NODE == 0
            {
                names.id(maps, name)?;
            }
        }
        let id = |name: &str| names.known(name).unwrap_or(Identity::UNNAMED);
        self.bring(maps.policy(), world, tables, id)
    }

    /// Brings a world to the tables. An error halfway leaves the rest lacking.
    pub(super) fn bring(
        &mut self,
        maps: PolicyMaps<'_>,
        world: World,
        tables: &Tables,
        id: impl Fn(&str) -> u32,
    ) -> Result<(), DatapathError> {
        let who = |addr: &Addr| who(tables, addr, |name| Some(id(name)));
        self.bring_addresses(maps.addresses, world, tables, who)?;
        self.bring_services(maps.services, world, tables)?;
        self.bring_ranges(maps.cidrs, world, tables)?;
        let lacking = &mut self.lacking[side(world)];
        let cidr = |(addr, len): &(Addr, u8)| cidr_key(world, *addr, *len);
        let class = |known: &_| tables.cidrs.get(known).copied();
        bring("CIDRS", maps.cidrs, &mut lacking.cidrs, cidr, class)?;
        let rule = |(ruleset, class): &(u32, u32)| rule_key(world, *ruleset, *class);
        let grant = |known: &_| tables.rules.get(known).copied();
        bring("RULES", maps.rules, &mut lacking.rules, rule, grant)?;
        let port = |(set, protocol, block): &_| port_key(world, *set, *protocol, *block);
        let bits = |known: &_| tables.ports.get(known).copied();
        bring("PORTS", maps.ports, &mut lacking.ports, port, bits)?;
        self.sizes[side(world)] = [
            &tables.cidrs.len(),
            &tables.rules.len(),
            &tables.ports.len(),
        ]
        .map(|size| *size);
        Ok(())
    }

    /// An element holds the classes of both worlds: it is read before it is
    /// written, and nobody else writes it.
    fn bring_addresses(
        &mut self,
        map: &mut dyn Held<Addr, Identity>,
        world: World,
        tables: &Tables,
        who: impl Fn(&Addr) -> Option<(u32, u32)>,
    ) -> Result<(), DatapathError> {
        let error = |operation| move |error| map_error(operation, "ADDRESSES", &error);
        let lacking = &mut self.lacking[side(world)].addresses;
        let is_known = |addr: &&Addr| {
            tables.identities.contains_key(addr) || tables.classes.contains_key(addr)
        };
        // What may go comes first: it makes room.
        let mut order: Vec<Addr> = lacking.iter().filter(|a| !is_known(a)).copied().collect();
        order.extend(lacking.iter().filter(is_known));
        for addr in order {
            let held = map.held(&addr).map_err(error("reading"))?;
            let class = tables.classes.get(&addr).copied();
            match address(held, world, who(&addr), class) {
                wanted if wanted == held => {}
                Some(wanted) => {
                    map.put(&addr, &wanted).map_err(error("writing"))?;
                    self.addresses += usize::from(held.is_none());
                }
                None => {
                    map.take(&addr).map_err(error("removing from"))?;
                    self.addresses = self.addresses.saturating_sub(1);
                }
            }
            lacking.remove(&addr);
        }
        Ok(())
    }

    /// There is one world of them: what was written for one isn't lacking in the other.
    fn bring_services(
        &mut self,
        map: &mut dyn Table<ServiceKey, u32>,
        world: World,
        tables: &Tables,
    ) -> Result<(), DatapathError> {
        let lacking = &mut self.lacking[side(world)].services;
        let wanted = |key: &ServiceKey| tables.services.get(key).map(|()| 1);
        bring("SERVICES", map, lacking, |key| *key, wanted)?;
        self.lacking[side(world ^ 1)].services.clear();
        self.services = tables.services.len();
        Ok(())
    }

    /// There is one world of them too, beside those of classes.
    fn bring_ranges(
        &mut self,
        map: &mut dyn Table<(CidrKey, u32), u32>,
        world: World,
        tables: &Tables,
    ) -> Result<(), DatapathError> {
        let lacking = &mut self.lacking[side(world)].ranges;
        let key = |(addr, len): &(Addr, u8)| cidr_key(CidrKey::RANGES, *addr, *len);
        let wanted = |range: &(Addr, u8)| tables.ranges.get(range).copied();
        bring("CIDRS", map, lacking, key, wanted)?;
        self.lacking[side(world ^ 1)].ranges.clear();
        self.ranges = tables.ranges.len();
        Ok(())
    }

    /// Entries of a policy map, both worlds together.
    pub(super) fn entries(&self, map: &str) -> usize {
        let both = |i: usize| self.sizes[0][i] + self.sizes[1][i];
        match map {
            "ADDRESSES" => self.addresses,
            "SERVICES" => self.services,
            "CIDRS" => both(0) + self.ranges,
            "RULES" => both(1),
            "PORTS" => both(2),
            _ => 0,
        }
    }
}

/// Workload id and flags of an address that the tables know; none also where its
/// name has no id yet.
pub(super) fn who(
    tables: &Tables,
    addr: &Addr,
    id: impl Fn(&str) -> Option<u32>,
) -> Option<(u32, u32)> {
    let (name, flags) = tables.identities.get(addr)?;
    let workload = match flags & Identity::IS_NODE {
        0 => id(name)?,
        _ => Identity::NODE,
    };
    Some((workload, *flags))
}

/// What an address' element should be once a world has its class: the other
/// world's class stays as it is. None if it is to have no element.
fn address(
    held: Option<Identity>,
    world: World,
    who: Option<(u32, u32)>,
    class: Option<u32>,
) -> Option<Identity> {
    let (this, other) = (side(world), side(world ^ 1));
    let mut wanted = Identity::UNKNOWN;
    if let Some(held) = held {
        wanted.classes[other] = held.classes[other];
    }
    if let Some((workload, flags)) = who {
        (wanted.workload, wanted.flags) = (workload, flags);
    }
    wanted.classes[this] = class.unwrap_or(Identity::BY_PREFIX);
    (wanted != Identity::UNKNOWN).then_some(wanted)
}

pub(super) const fn cidr_key(world: World, addr: Addr, len: u8) -> (CidrKey, u32) {
    let key = CidrKey { world, addr };
    (key, CidrKey::WORLD_BITS + len as u32)
}

pub(super) const fn rule_key(world: World, ruleset: u32, class: u32) -> RuleKey {
    RuleKey {
        world,
        ruleset,
        class,
    }
}

pub(super) const fn port_key(world: World, set: u32, protocol: u16, block: u16) -> PortKey {
    PortKey {
        world,
        set,
        protocol,
        block,
    }
}

#[cfg(test)]
#[path = "world_tests.rs"]
mod tests;
