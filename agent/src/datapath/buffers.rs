//! The two buffers: packets read one, the agent writes the other.
//!
//! The compiler's tables are the only copy in memory of what the maps should hold. For each buffer
//! there is a set of keys whose entries are still out of date: those written by a change, and at
//! the start those that differ in a dump.

use ringfence_ebpf::abi::{Addr, Buffer, CidrKey, Control, Identity, PortKey, RuleKey, ServiceKey};
use ringfence_policy::delta::Keys;
use ringfence_policy::tables::Tables;

use super::catalog::MapName;
use super::dump::Dump;
use super::error::DatapathError;
use super::maps::{Held, Maps, PolicyMaps, Table, map_error};
use super::names::Names;
use super::occupant::side;
use super::sync::bring;

/// Both buffers, and which of them is active.
pub(super) struct Buffers {
    /// The buffer that packets read.
    pub(super) active: Buffer,
    /// Incremented by every flip.
    pub(super) generation: u64,
    /// Keys that are out of date in each buffer. Names of addresses aren't buffered, so an address
    /// whose name differs is out of date in both.
    pub(super) lacking: [Keys; 2],
    /// Number of prefixes, rules and port blocks last written to each buffer.
    sizes: [[usize; 3]; 2],
    /// Number of addresses that have an entry.
    addresses: usize,
    /// Number of Service ports last written.
    services: usize,
    /// Number of pod ranges.
    ranges: usize,
}

impl Buffers {
    /// Opens the buffers knowing only which one is active and its generation.
    pub(super) fn open(maps: &Maps) -> Self {
        let control = Control {
            state: maps.state(),
            ..Control::default()
        };
        Self::new(control.buffer(), control.state >> 1)
    }

    pub(super) fn new(active: Buffer, generation: u64) -> Self {
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

    /// Returns the buffer that packets don't read.
    pub(super) const fn standby(&self) -> Buffer {
        self.active ^ 1
    }

    /// Reports whether both buffers are up to date.
    pub(super) fn are_level(&self) -> bool {
        self.lacking.iter().all(Keys::is_empty)
    }

    /// Records the keys that a change wrote.
    pub(super) fn note(&mut self, keys: &Keys) {
        self.lacking
            .iter_mut()
            .for_each(|lacking| lacking.add(keys));
    }

    /// Determines from the contents of the maps what the buffers lack: after a crash the standby
    /// buffer may be partly written, and is completed or reverted from here.
    pub(super) fn compare(
        &mut self,
        dump: &Dump,
        tables: &Tables,
        id: impl Fn(&str) -> Option<u32>,
    ) {
        self.addresses = dump.addresses.len();
        self.services = dump.services.len();
        self.ranges = dump.ranges();
        for buffer in [0, 1] {
            let lacking = dump.lacking(buffer, tables, &id);
            self.sizes[side(buffer)] = dump.sizes(buffer);
            self.lacking[side(buffer)] = lacking;
        }
    }

    /// Assigns an id to every name that a buffer lacks, then brings the buffer up to date.
    pub(super) fn write(
        &mut self,
        maps: &mut Maps,
        names: &mut Names,
        buffer: Buffer,
        tables: &Tables,
    ) -> Result<(), DatapathError> {
        for addr in &self.lacking[side(buffer)].addresses {
            if let Some((name, flags)) = tables.identities.get(addr)
                && flags & Identity::IS_NODE == 0
            {
                names.id(maps, name)?;
            }
        }
        let id = |name: &str| names.known(name).unwrap_or(Identity::UNNAMED);
        self.bring(maps.policy(), buffer, tables, id)
    }

    /// Brings a buffer up to date with the tables. After an error halfway, the remaining keys stay
    /// out of date.
    pub(super) fn bring(
        &mut self,
        maps: PolicyMaps<'_>,
        buffer: Buffer,
        tables: &Tables,
        id: impl Fn(&str) -> u32,
    ) -> Result<(), DatapathError> {
        let who = |addr: &Addr| who(tables, addr, |name| Some(id(name)));
        self.bring_addresses(maps.addresses, buffer, tables, who)?;
        self.bring_services(maps.services, buffer, tables)?;
        self.bring_ranges(maps.cidrs, buffer, tables)?;
        let lacking = &mut self.lacking[side(buffer)];
        let cidr = |(addr, len): &(Addr, u8)| cidr_key(buffer, *addr, *len);
        let class = |known: &_| tables.cidrs.get(known).copied();
        bring(MapName::Cidrs, maps.cidrs, &mut lacking.cidrs, cidr, class)?;
        let rule = |(ruleset, class): &(u32, u32)| rule_key(buffer, *ruleset, *class);
        let grant = |known: &_| tables.rules.get(known).copied();
        bring(MapName::Rules, maps.rules, &mut lacking.rules, rule, grant)?;
        let port = |(set, protocol, block): &_| port_key(buffer, *set, *protocol, *block);
        let bits = |known: &_| tables.ports.get(known).copied();
        bring(MapName::Ports, maps.ports, &mut lacking.ports, port, bits)?;
        self.sizes[side(buffer)] = [
            &tables.cidrs.len(),
            &tables.rules.len(),
            &tables.ports.len(),
        ]
        .map(|size| *size);
        Ok(())
    }

    /// Brings addresses up to date. An element holds the classes of both buffers, so it is read
    /// before it is written; nothing else writes it.
    fn bring_addresses(
        &mut self,
        map: &mut dyn Held<Addr, Identity>,
        buffer: Buffer,
        tables: &Tables,
        who: impl Fn(&Addr) -> Option<(u32, u32)>,
    ) -> Result<(), DatapathError> {
        let error = |operation| move |error| map_error(operation, MapName::Addresses, &error);
        let lacking = &mut self.lacking[side(buffer)].addresses;
        let is_known = |addr: &&Addr| {
            tables.identities.contains_key(addr) || tables.classes.contains_key(addr)
        };
        // Removals come first to make room.
        let mut order: Vec<Addr> = lacking.iter().filter(|a| !is_known(a)).copied().collect();
        order.extend(lacking.iter().filter(is_known));
        for addr in order {
            let held = map.held(&addr).map_err(error("reading"))?;
            let class = tables.classes.get(&addr).copied();
            match address(held, buffer, who(&addr), class) {
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

    /// Brings Services up to date. They aren't buffered: an entry written for one buffer is up to
    /// date in the other as well.
    fn bring_services(
        &mut self,
        map: &mut dyn Table<ServiceKey, u32>,
        buffer: Buffer,
        tables: &Tables,
    ) -> Result<(), DatapathError> {
        let lacking = &mut self.lacking[side(buffer)].services;
        let wanted = |key: &ServiceKey| tables.services.get(key).map(|()| 1);
        bring(MapName::Services, map, lacking, |key| *key, wanted)?;
        self.lacking[side(buffer ^ 1)].services.clear();
        self.services = tables.services.len();
        Ok(())
    }

    /// Brings pod ranges up to date. They aren't buffered either; they share the map with classes.
    fn bring_ranges(
        &mut self,
        map: &mut dyn Table<(CidrKey, u32), u32>,
        buffer: Buffer,
        tables: &Tables,
    ) -> Result<(), DatapathError> {
        let lacking = &mut self.lacking[side(buffer)].ranges;
        let key = |(addr, len): &(Addr, u8)| cidr_key(CidrKey::RANGES, *addr, *len);
        let wanted = |range: &(Addr, u8)| tables.ranges.get(range).copied();
        bring(MapName::Cidrs, map, lacking, key, wanted)?;
        self.lacking[side(buffer ^ 1)].ranges.clear();
        self.ranges = tables.ranges.len();
        Ok(())
    }

    /// Returns the number of entries in each policy map, both buffers together.
    pub(super) fn entries(&self) -> [(MapName, usize); 5] {
        let both = |i: usize| self.sizes[0][i] + self.sizes[1][i];
        [
            (MapName::Addresses, self.addresses),
            (MapName::Cidrs, both(0) + self.ranges),
            (MapName::Rules, both(1)),
            (MapName::Ports, both(2)),
            (MapName::Services, self.services),
        ]
    }
}

/// Returns the workload id and flags of an address that the tables know; none also if its name has
/// no id yet.
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

/// Returns what an address' element should be once one buffer has its class; the class of the
/// other buffer is kept. None if there should be no element.
fn address(
    held: Option<Identity>,
    buffer: Buffer,
    who: Option<(u32, u32)>,
    class: Option<u32>,
) -> Option<Identity> {
    let (this, other) = (side(buffer), side(buffer ^ 1));
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

pub(super) const fn cidr_key(buffer: Buffer, addr: Addr, len: u8) -> (CidrKey, u32) {
    let key = CidrKey { buffer, addr };
    (key, CidrKey::BUFFER_BITS + len as u32)
}

pub(super) const fn rule_key(buffer: Buffer, ruleset: u32, class: u32) -> RuleKey {
    RuleKey {
        buffer,
        ruleset,
        class,
    }
}

pub(super) const fn port_key(buffer: Buffer, set: u32, protocol: u16, block: u16) -> PortKey {
    PortKey {
        buffer,
        set,
        protocol,
        block,
    }
}

#[cfg(test)]
#[path = "buffers_tests.rs"]
mod tests;
