//! Typed handles on every map, and the one place that reads and writes elements.

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, ArrayOfMaps, HashMap, MapData, MapError};
use ringfence_ebpf::abi::{
    Addr, Bucket, CidrKey, Claim, Control, DropKey, Endpoint, Flow, FlowKey, Grant, Identity, Name,
    Plain, PortBlock, PortKey, Quota, RuleKey, Seed, ServiceKey, capacity,
};

use super::control::InForce;
use super::error::{DatapathError, chain};
use super::fields::AgentField;
use super::written::written;

/// An ABI type as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Raw<T>(pub(super) T);

// SAFETY: `Raw` is transparent, and `Plain` promises plain bytes.
unsafe impl<T: Plain> Pod for Raw<T> {}

/// A hash map from `K` to `V`.
pub(super) type Hash<K, V> = HashMap<MapData, Raw<K>, Raw<V>>;

/// A table of flows.
pub(super) type Buckets = Array<MapData, Raw<Bucket>>;

/// Every map that the agent uses.
pub(super) struct Maps {
    pub(super) control: Array<MapData, Raw<Control>>,
    pub(super) in_force: InForce,
    pub(super) endpoints: Array<MapData, Raw<Endpoint>>,
    pub(super) cidrs: LpmTrie<MapData, Raw<CidrKey>, Raw<u32>>,
    pub(super) rules: Hash<RuleKey, Grant>,
    pub(super) ports: Hash<PortKey, PortBlock>,
    pub(super) addresses: Hash<Addr, Identity>,
    pub(super) services: Hash<ServiceKey, u32>,
    pub(super) flows: Buckets,
    pub(super) flows_more: Hash<FlowKey, Flow>,
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
    /// Puts the handles together; `take` gives each loaded map once.
    pub(super) fn new(
        mut take: impl FnMut(&'static str) -> Result<aya::maps::Map, DatapathError>,
        names: Hash<u32, Name>,
        agent: Array<MapData, u64>,
        in_force: InForce,
    ) -> Result<Self, DatapathError> {
        macro_rules! typed {
            ($name:literal) => {
                take($name)?
                    .try_into()
                    .map_err(|error: MapError| map_error("opening", $name, &error))?
            };
        }
        let grace_inner =
            Array::create(1, 0).map_err(|error| map_error("creating", "GRACE", &error))?;
        Ok(Self {
            control: typed!("CONTROL"),
            in_force,
            endpoints: typed!("ENDPOINTS"),
            cidrs: typed!("CIDRS"),
            rules: typed!("RULES"),
            ports: typed!("PORTS"),
            addresses: typed!("ADDRESSES"),
            services: typed!("SERVICES"),
            flows: typed!("FLOWS"),
            flows_more: typed!("FLOWS_MORE"),
            opening: typed!("OPENING"),
            seed: typed!("SEED"),
            claims: typed!("CLAIMS"),
            ticks: typed!("TICKS"),
            tunnels: typed!("TUNNELS"),
            quota: typed!("QUOTA"),
            locals: typed!("LOCALS"),
            gone: typed!("GONE"),
            names,
            agent,
            grace: typed!("GRACE"),
            grace_inner,
        })
    }

    /// Returns once every program that was running has ended.
    ///
    /// Updating a map in map waits for a grace period before the syscall
    /// returns (Linux 4.16, `maybe_wait_bpf_programs`), about 8 ms.
    pub(super) fn wait_for_readers(&mut self) -> Result<(), DatapathError> {
        self.grace
            .set(0, &self.grace_inner, 0)
            .map_err(|error| map_error("waiting on", "GRACE", &error))
    }

    /// What program `clock` has read last.
    pub(super) fn ticks(&self) -> Result<u64, DatapathError> {
        self.ticks
            .get(&0, 0)
            .map_err(|error| map_error("reading", "TICKS", &error))
    }

    /// One word of tunnels' ports.
    pub(super) fn tunnels(&self, word: u32) -> Result<u64, DatapathError> {
        self.tunnels
            .get(&word, 0)
            .map_err(|error| map_error("reading", "TUNNELS", &error))
    }

    /// Replaces one word of tunnels' ports.
    pub(super) fn set_tunnels(&mut self, word: u32, ports: u64) -> Result<(), DatapathError> {
        wrote("writing", "TUNNELS", self.tunnels.set(word, ports, 0))
    }

    /// How many flows the endpoint in a slot has.
    pub(super) fn quota(&self, slot: u32) -> Result<Quota, DatapathError> {
        match self.quota.get(&slot, 0) {
            Ok(Raw(quota)) => Ok(quota),
            Err(error) => Err(map_error("reading", "QUOTA", &error)),
        }
    }

    /// How many of them are gone, as was written last.
    pub(super) fn gone(&self, slot: u32) -> Result<u32, DatapathError> {
        self.gone
            .get(&slot, 0)
            .map_err(|error| map_error("reading", "GONE", &error))
    }

    /// Says how many are gone.
    pub(super) fn set_gone(&mut self, slot: u32, gone: u32) -> Result<(), DatapathError> {
        wrote("writing", "GONE", self.gone.set(slot, gone, 0))
    }

    /// Tells agents of other versions which mark packets are asked for.
    pub(super) fn note_mark(&mut self, mark: u32) -> Result<(), DatapathError> {
        self.set_agent(AgentField::SeenMark, mark.into())
    }

    /// Those that hold both worlds.
    pub(super) fn policy(&mut self) -> PolicyMaps<'_> {
        PolicyMaps {
            addresses: &mut self.addresses,
            services: &mut self.services,
            cidrs: &mut self.cidrs,
            rules: &mut self.rules,
            ports: &mut self.ports,
        }
    }

    /// Writes one slot.
    pub(super) fn set_endpoint(
        &mut self,
        slot: u32,
        endpoint: &Endpoint,
    ) -> Result<(), DatapathError> {
        wrote(
            "writing",
            "ENDPOINTS",
            self.endpoints.set(slot, Raw(*endpoint), 0),
        )
    }

    /// Every address of an endpoint, with its slot.
    pub(super) fn locals(&self) -> Result<Vec<(Addr, u32)>, DatapathError> {
        let entries = self.locals.iter().map(|entry| {
            entry
                .map(|(Raw(addr), slot)| (addr, slot))
                .map_err(|error| map_error("reading", "LOCALS", &error))
        });
        entries.collect()
    }

    /// Says whose an address is.
    pub(super) fn set_local(&mut self, addr: Addr, slot: u32) -> Result<(), DatapathError> {
        wrote("writing", "LOCALS", self.locals.insert(Raw(addr), slot, 0))
    }

    /// Takes an address off a slot, unless it is another's by now.
    pub(super) fn unset_local(&mut self, addr: Addr, slot: u32) -> Result<(), DatapathError> {
        match self.locals.get(&Raw(addr), 0) {
            Ok(held) if held == slot => {
                wrote("removing from", "LOCALS", self.locals.remove(&Raw(addr)))
            }
            Ok(_) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(map_error("reading", "LOCALS", &error)),
        }
    }

    /// A number that the agent keeps across restarts.
    pub(super) fn agent(&self, field: AgentField) -> Result<u64, DatapathError> {
        self.agent
            .get(&(field as u32), 0)
            .map_err(|error| map_error("reading", "AGENT", &error))
    }

    /// Keeps a number across restarts.
    pub(super) fn set_agent(&mut self, field: AgentField, value: u64) -> Result<(), DatapathError> {
        wrote("writing", "AGENT", self.agent.set(field as u32, value, 0))
    }
}

/// The maps that hold both worlds.
pub(super) struct PolicyMaps<'m> {
    pub(super) addresses: &'m mut dyn Held<Addr, Identity>,
    pub(super) services: &'m mut dyn Table<ServiceKey, u32>,
    pub(super) cidrs: &'m mut dyn Table<(CidrKey, u32), u32>,
    pub(super) rules: &'m mut dyn Table<RuleKey, Grant>,
    pub(super) ports: &'m mut dyn Table<PortKey, PortBlock>,
}

/// A map whose elements come and go one by one.
pub(super) trait Table<K, V> {
    /// Inserts or replaces.
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError>;
    /// Removes; absent is fine.
    fn take(&mut self, key: &K) -> Result<(), MapError>;
}

/// A map whose elements can be asked for one by one as well.
pub(super) trait Held<K, V>: Table<K, V> {
    /// What is there.
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

/// All elements of a hash map, but no more than it can hold: where elements are
/// evicted while they are listed, the kernel starts again from the first.
pub(super) fn entries<K: Plain, V: Plain>(
    name: &'static str,
    map: &Hash<K, V>,
) -> Result<Vec<(K, V)>, DatapathError> {
    map.iter()
        .take(max_entries(name) as usize)
        .map(|entry| match entry {
            Ok((Raw(key), Raw(value))) => Ok((key, value)),
            Err(error) => Err(map_error("reading", name, &error)),
        })
        .collect()
}

/// What came of a write.
pub(super) fn wrote(
    operation: &'static str,
    map: &'static str,
    result: Result<(), MapError>,
) -> Result<(), DatapathError> {
    let result = result.map_err(|error| map_error(operation, map, &error));
    result.inspect(|()| written())
}

/// A map error with its names; a full map is an error of its own.
pub(super) fn map_error(
    operation: &'static str,
    map: &'static str,
    error: &MapError,
) -> DatapathError {
    let full = matches!(error, MapError::SyscallError(error)
        if matches!(error.io_error.raw_os_error(), Some(code)
            if code == nix::errno::Errno::E2BIG as i32 || code == nix::errno::Errno::ENOSPC as i32));
    if full {
        return DatapathError::MapFull {
            map,
            capacity: max_entries(map),
        };
    }
    DatapathError::Map {
        operation,
        map,
        message: chain(error),
    }
}

/// Capacity of a map by its name, in entries.
pub(super) fn max_entries(map: &str) -> u32 {
    match map {
        "ENDPOINTS" | "BUDGET" | "QUOTA" | "GONE" => capacity::ENDPOINTS,
        "CIDRS" => capacity::CIDRS,
        "RULES" => capacity::RULES,
        "PORTS" => capacity::PORTS,
        "ADDRESSES" => capacity::ADDRESSES,
        "SERVICES" => capacity::SERVICES,
        "TUNNELS" => capacity::TUNNELS,
        "FLOWS" => capacity::FLOWS,
        "FLOWS_MORE" => capacity::FLOWS_MORE,
        "OPENING" => capacity::OPENING,
        "CLAIMS" => capacity::CLAIMS,
        "LOCALS" => capacity::LOCALS,
        "SOURCES" => capacity::SOURCES,
        "DROPS" => capacity::DROPS,
        "DROPS_OTHER" => DropKey::OTHER,
        "STATS" => ringfence_ebpf::abi::Stat::COUNT,
        "NAMES" => capacity::NAMES,
        "AGENT" => AgentField::COUNT,
        "EVENTS" => capacity::EVENTS,
        _ => 1,
    }
}
