//! Typed handles on all maps, and the only place that reads and writes elements.

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, ArrayOfMaps, HashMap, MapData, MapError};
use ringfence_ebpf::abi::{
    Addr, Bucket, CidrKey, Claim, Connection, ConnectionKey, Control, Endpoint, Grant, Identity,
    Name, Plain, PortBlock, PortKey, Quota, RuleKey, Seed, ServiceKey,
};

use super::catalog::MapName;
use super::control::InForce;
use super::error::{DatapathError, chain};
use super::fields::AgentField;
use super::written::written;

/// Wraps an ABI type so that aya accepts it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Raw<T>(pub(super) T);

// SAFETY: `Raw` is transparent, and `Plain` guarantees plain bytes.
unsafe impl<T: Plain> Pod for Raw<T> {}

/// A hash map from `K` to `V`.
pub(super) type Hash<K, V> = HashMap<MapData, Raw<K>, Raw<V>>;

/// A table of connections.
pub(super) type Buckets = Array<MapData, Raw<Bucket>>;

/// All maps that the agent uses.
pub(super) struct Maps {
    pub(super) control: Array<MapData, Raw<Control>>,
    pub(super) in_force: InForce,
    pub(super) endpoints: Array<MapData, Raw<Endpoint>>,
    pub(super) cidrs: LpmTrie<MapData, Raw<CidrKey>, Raw<u32>>,
    pub(super) rules: Hash<RuleKey, Grant>,
    pub(super) ports: Hash<PortKey, PortBlock>,
    pub(super) addresses: Hash<Addr, Identity>,
    pub(super) services: Hash<ServiceKey, u32>,
    pub(super) connections: Buckets,
    pub(super) conn_overflow: Hash<ConnectionKey, Connection>,
    pub(super) opening: Buckets,
    pub(super) seed: Array<MapData, Raw<Seed>>,
    pub(super) claims: Hash<Addr, Claim>,
    ticks: Array<MapData, u64>,
    tunnels: Array<MapData, u64>,
    quota: Array<MapData, Raw<Quota>>,
    locals: HashMap<MapData, Raw<Addr>, u32>,
    gone: Array<MapData, u32>,
    pub(super) names: Hash<u32, Name>,
    pub(super) agent: Array<MapData, u64>,
    grace: ArrayOfMaps<MapData, Array<MapData, u32>>,
    grace_inner: Array<MapData, u32>,
}

impl Maps {
    /// Creates the handles; `take` returns each loaded map once.
    pub(super) fn new(
        mut take: impl FnMut(MapName) -> Result<aya::maps::Map, DatapathError>,
        names: Hash<u32, Name>,
        agent: Array<MapData, u64>,
        in_force: InForce,
    ) -> Result<Self, DatapathError> {
        macro_rules! typed {
            ($map:ident) => {
                take(MapName::$map)?
                    .try_into()
                    .map_err(|error: MapError| map_error("opening", MapName::$map, &error))?
            };
        }
        let grace_inner =
            Array::create(1, 0).map_err(|error| map_error("creating", MapName::Grace, &error))?;
        Ok(Self {
            control: typed!(Control),
            in_force,
            endpoints: typed!(Endpoints),
            cidrs: typed!(Cidrs),
            rules: typed!(Rules),
            ports: typed!(Ports),
            addresses: typed!(Addresses),
            services: typed!(Services),
            connections: typed!(Connections),
            conn_overflow: typed!(ConnOverflow),
            opening: typed!(Opening),
            seed: typed!(Seed),
            claims: typed!(Claims),
            ticks: typed!(Ticks),
            tunnels: typed!(Tunnels),
            quota: typed!(Quota),
            locals: typed!(Locals),
            gone: typed!(Gone),
            names,
            agent,
            grace: typed!(Grace),
            grace_inner,
        })
    }

    /// Waits until every program that was running has ended.
    ///
    /// Updating a map in a map waits for a grace period before the syscall returns (Linux 4.16,
    /// `maybe_wait_bpf_programs`), about 8 ms.
    pub(super) fn wait_for_readers(&mut self) -> Result<(), DatapathError> {
        self.grace
            .set(0, &self.grace_inner, 0)
            .map_err(|error| map_error("waiting on", MapName::Grace, &error))
    }

    /// Returns the time that program `clock` last read.
    pub(super) fn ticks(&self) -> Result<u64, DatapathError> {
        self.ticks
            .get(&0, 0)
            .map_err(|error| map_error("reading", MapName::Ticks, &error))
    }

    /// Returns one word of the tunnels' ports.
    pub(super) fn tunnels(&self, word: u32) -> Result<u64, DatapathError> {
        self.tunnels
            .get(&word, 0)
            .map_err(|error| map_error("reading", MapName::Tunnels, &error))
    }

    /// Replaces one word of the tunnels' ports.
    pub(super) fn set_tunnels(&mut self, word: u32, ports: u64) -> Result<(), DatapathError> {
        wrote(
            "writing",
            MapName::Tunnels,
            self.tunnels.set(word, ports, 0),
        )
    }

    /// Returns the connection counts of the endpoint in a slot.
    pub(super) fn quota(&self, slot: u32) -> Result<Quota, DatapathError> {
        match self.quota.get(&slot, 0) {
            Ok(Raw(quota)) => Ok(quota),
            Err(error) => Err(map_error("reading", MapName::Quota, &error)),
        }
    }

    /// Returns how many connections of the endpoint in a slot are gone, as last written.
    pub(super) fn gone(&self, slot: u32) -> Result<u32, DatapathError> {
        self.gone
            .get(&slot, 0)
            .map_err(|error| map_error("reading", MapName::Gone, &error))
    }

    /// Writes how many connections of the endpoint in a slot are gone.
    pub(super) fn set_gone(&mut self, slot: u32, gone: u32) -> Result<(), DatapathError> {
        wrote("writing", MapName::Gone, self.gone.set(slot, gone, 0))
    }

    /// Records, for agents of other versions, which mark packets must have.
    pub(super) fn note_mark(&mut self, mark: u32) -> Result<(), DatapathError> {
        self.set_agent(AgentField::SeenMark, mark.into())
    }

    /// Returns the maps that hold both buffers.
    pub(super) fn policy(&mut self) -> PolicyMaps<'_> {
        PolicyMaps {
            addresses: &mut self.addresses,
            services: &mut self.services,
            cidrs: &mut self.cidrs,
            rules: &mut self.rules,
            ports: &mut self.ports,
        }
    }

    /// Writes the endpoint in a slot.
    pub(super) fn set_endpoint(
        &mut self,
        slot: u32,
        endpoint: &Endpoint,
    ) -> Result<(), DatapathError> {
        wrote(
            "writing",
            MapName::Endpoints,
            self.endpoints.set(slot, Raw(*endpoint), 0),
        )
    }

    /// Returns all addresses of endpoints, with their slots.
    pub(super) fn locals(&self) -> Result<Vec<(Addr, u32)>, DatapathError> {
        let entries = self.locals.iter().map(|entry| {
            entry
                .map(|(Raw(addr), slot)| (addr, slot))
                .map_err(|error| map_error("reading", MapName::Locals, &error))
        });
        entries.collect()
    }

    /// Assigns an address to a slot.
    pub(super) fn set_local(&mut self, addr: Addr, slot: u32) -> Result<(), DatapathError> {
        wrote(
            "writing",
            MapName::Locals,
            self.locals.insert(Raw(addr), slot, 0),
        )
    }

    /// Removes an address of a slot, unless it belongs to another slot by now.
    pub(super) fn unset_local(&mut self, addr: Addr, slot: u32) -> Result<(), DatapathError> {
        match self.locals.get(&Raw(addr), 0) {
            Ok(held) if held == slot => wrote(
                "removing from",
                MapName::Locals,
                self.locals.remove(&Raw(addr)),
            ),
            Ok(_) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(map_error("reading", MapName::Locals, &error)),
        }
    }

    /// Returns a number that the agent keeps across restarts.
    pub(super) fn agent(&self, field: AgentField) -> Result<u64, DatapathError> {
        self.agent
            .get(&(field as u32), 0)
            .map_err(|error| map_error("reading", MapName::Agent, &error))
    }

    /// Stores a number across restarts.
    pub(super) fn set_agent(&mut self, field: AgentField, value: u64) -> Result<(), DatapathError> {
        wrote(
            "writing",
            MapName::Agent,
            self.agent.set(field as u32, value, 0),
        )
    }
}

/// The maps that hold both buffers.
pub(super) struct PolicyMaps<'m> {
    pub(super) addresses: &'m mut dyn Held<Addr, Identity>,
    pub(super) services: &'m mut dyn Table<ServiceKey, u32>,
    pub(super) cidrs: &'m mut dyn Table<(CidrKey, u32), u32>,
    pub(super) rules: &'m mut dyn Table<RuleKey, Grant>,
    pub(super) ports: &'m mut dyn Table<PortKey, PortBlock>,
}

/// A map whose elements are inserted and removed individually.
pub(super) trait Table<K, V> {
    /// Inserts or replaces an element.
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError>;
    /// Removes an element; absence isn't an error.
    fn take(&mut self, key: &K) -> Result<(), MapError>;
}

/// A map whose elements can also be looked up individually.
pub(super) trait Held<K, V>: Table<K, V> {
    /// Looks up an element.
    fn held(&self, key: &K) -> Result<Option<V>, MapError>;
}

impl<K: Plain, V: Plain> Held<K, V> for Hash<K, V> {
    fn held(&self, key: &K) -> Result<Option<V>, MapError> {
        match self.get(&Raw(*key), 0) {
            Ok(Raw(value)) => Ok(Some(value)),
            Err(error) => absent_is_fine(Err(error)).map(|()| None),
        }
    }
}

impl<K: Plain, V: Plain> Table<K, V> for Hash<K, V> {
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.insert(Raw(*key), Raw(*value), 0)
            .inspect(|()| written())
    }

    fn take(&mut self, key: &K) -> Result<(), MapError> {
        absent_is_fine(self.remove(&Raw(*key))).inspect(|()| written())
    }
}

impl Table<(CidrKey, u32), u32> for LpmTrie<MapData, Raw<CidrKey>, Raw<u32>> {
    fn put(&mut self, key: &(CidrKey, u32), value: &u32) -> Result<(), MapError> {
        self.insert(&Key::new(key.1, Raw(key.0)), Raw(*value), 0)
            .inspect(|()| written())
    }

    fn take(&mut self, key: &(CidrKey, u32)) -> Result<(), MapError> {
        absent_is_fine(self.remove(&Key::new(key.1, Raw(key.0)))).inspect(|()| written())
    }
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc_enoent()) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn libc_enoent() -> i32 {
    nix::errno::Errno::ENOENT as i32
}

/// Returns all elements of a hash map, but no more than it can hold: if elements are evicted
/// during iteration, the kernel starts over.
pub(super) fn entries<K: Plain, V: Plain>(
    name: MapName,
    map: &Hash<K, V>,
) -> Result<Vec<(K, V)>, DatapathError> {
    map.iter()
        .take(name.capacity() as usize)
        .map(|entry| match entry {
            Ok((Raw(key), Raw(value))) => Ok((key, value)),
            Err(error) => Err(map_error("reading", name, &error)),
        })
        .collect()
}

/// Converts the result of a write.
pub(super) fn wrote(
    operation: &'static str,
    map: MapName,
    result: Result<(), MapError>,
) -> Result<(), DatapathError> {
    let result = result.map_err(|error| map_error(operation, map, &error));
    result.inspect(|()| written())
}

/// Adds names to a map error; a full map has its own variant.
pub(super) fn map_error(operation: &'static str, map: MapName, error: &MapError) -> DatapathError {
    let full = matches!(error, MapError::SyscallError(error)
        if matches!(error.io_error.raw_os_error(), Some(code)
            if code == nix::errno::Errno::E2BIG as i32 || code == nix::errno::Errno::ENOSPC as i32));
    if full {
        return DatapathError::MapFull {
            map,
            capacity: map.capacity(),
        };
    }
    DatapathError::Map {
        operation,
        map,
        message: chain(error),
    }
}
