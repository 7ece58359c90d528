//! The catalogue of maps: the only place that knows them by name.
//!
//! Layouts, capacities, handles, metrics and dumps derive from it. [`MapName::spec`] describes
//! what the object under `ebpf/src/bpf` declares; a pinned map that differs is rejected.

use std::fmt;

use aya::maps::MapType;
use ringfence_ebpf::abi::{
    Addr, Bucket, Budget, CidrKey, Claim, Connection, ConnectionKey, Control, DropCount, DropKey,
    Endpoint, Grant, Identity, Name, PortBlock, PortKey, Quota, RuleKey, Seed, ServiceKey, Stat,
    capacity,
};

use serde::{Serialize, Serializer};

use super::fields::AgentField;

/// Who writes a map's elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    /// The agent.
    Agent,
    /// The programs in the kernel.
    Packets,
    /// The programs; the agent removes dead elements.
    Both,
}

/// The required layout of a map.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct MapSpec {
    /// Name in the object, and of the pin.
    pub name: &'static str,
    /// Type of the map.
    pub kind: MapType,
    /// Size of a key in bytes.
    pub key: usize,
    /// Size of a value in bytes.
    pub value: usize,
    /// Number of elements; for a ring buffer, its size in bytes.
    pub entries: u32,
    /// Who writes the elements.
    pub writer: Writer,
    /// Whether the map outlives the agent under a pin.
    pub pinned: bool,
}

impl fmt::Display for MapSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            key,
            value,
            entries,
            ..
        } = self;
        write!(
            f,
            "{kind:?} with keys of {key} and values of {value} bytes, {entries} entries"
        )
    }
}

macro_rules! catalog {
    ($($(#[$doc:meta])* $variant:ident $name:literal $writer:ident $pinned:literal
        $kind:ident [$key:expr => $value:expr; $entries:expr])*) => {
        /// A map of the datapath.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum MapName {
            $($(#[$doc])* $variant,)*
        }

        impl MapName {
            /// All maps.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Returns the required layout of the map.
            pub const fn spec(self) -> MapSpec {
                match self {
                    $(Self::$variant => MapSpec {
                        name: $name,
                        kind: MapType::$kind,
                        key: $key,
                        value: $value,
                        entries: $entries,
                        writer: Writer::$writer,
                        pinned: $pinned,
                    },)*
                }
            }
        }
    };
}

const INDEX: usize = size_of::<u32>();
const PREFIX: usize = size_of::<u32>() + size_of::<CidrKey>();

catalog! {
    /// The active buffer, its generation, and flags.
    Control "CONTROL" Agent true Array[INDEX => size_of::<Control>(); 1]
    /// Endpoints by slot.
    Endpoints "ENDPOINTS" Agent true Array[INDEX => size_of::<Endpoint>(); capacity::ENDPOINTS]
    /// Peer classes by prefix.
    Cidrs "CIDRS" Agent true LpmTrie[PREFIX => 4; capacity::CIDRS]
    /// Port sets by ruleset and peer class.
    Rules "RULES" Agent true Hash[size_of::<RuleKey>() => size_of::<Grant>(); capacity::RULES]
    /// Blocks of port sets.
    Ports "PORTS" Agent true Hash[size_of::<PortKey>() => size_of::<PortBlock>(); capacity::PORTS]
    /// Workload and peer class by address.
    Addresses "ADDRESSES" Agent true
        Hash[size_of::<Addr>() => size_of::<Identity>(); capacity::ADDRESSES]
    /// Services by address and port.
    Services "SERVICES" Agent true Hash[size_of::<ServiceKey>() => 4; capacity::SERVICES]
    /// UDP ports of tunnels, one bit per port.
    Tunnels "TUNNELS" Agent true Array[INDEX => 8; capacity::TUNNELS]
    /// Replied connections, in buckets.
    Connections "CONNECTIONS" Packets true
        Array[INDEX => size_of::<Bucket>(); capacity::CONNECTIONS]
    /// Replied connections that found their bucket full.
    ConnOverflow "CONN_OVERFLOW" Both true
        Hash[size_of::<ConnectionKey>() => size_of::<Connection>(); capacity::CONN_OVERFLOW]
    /// Connections without a reply yet, in buckets.
    Opening "OPENING" Packets true Array[INDEX => size_of::<Bucket>(); capacity::OPENING]
    /// Random numbers that determine the buckets of connections.
    Seed "SEED" Agent true Array[INDEX => size_of::<Seed>(); 1]
    /// Number of connections and link-local claims, by slot.
    Quota "QUOTA" Packets true Array[INDEX => size_of::<Quota>(); capacity::ENDPOINTS]
    /// Number of connections removed by the agent, by slot.
    Gone "GONE" Agent true Array[INDEX => 4; capacity::ENDPOINTS]
    /// Link-local addresses that endpoints have claimed.
    Claims "CLAIMS" Both true Hash[size_of::<Addr>() => size_of::<Claim>(); capacity::CLAIMS]
    /// Slots by the addresses of their endpoints.
    Locals "LOCALS" Agent true Hash[size_of::<Addr>() => 4; capacity::LOCALS]
    /// Drop series by source.
    Sources "SOURCES" Packets true Hash[4 => 4; capacity::SOURCES]
    /// Drop counters.
    Drops "DROPS" Packets true
        PerCpuHash[size_of::<DropKey>() => size_of::<DropCount>(); capacity::DROPS]
    /// Drop counters of packets that have no series of their own.
    DropsOther "DROPS_OTHER" Packets true
        PerCpuArray[INDEX => size_of::<DropCount>(); DropKey::OTHER]
    /// Counters of the datapath itself.
    Stats "STATS" Packets true PerCpuArray[INDEX => 8; Stat::COUNT]
    /// Event rate limits, by slot.
    Budget "BUDGET" Packets true Array[INDEX => size_of::<Budget>(); capacity::ENDPOINTS]
    /// Events.
    Events "EVENTS" Packets true RingBuf[0 => 0; capacity::EVENTS]
    /// Names of workloads by id.
    Names "NAMES" Agent true Hash[4 => size_of::<Name>(); capacity::NAMES]
    /// Numbers that the agent keeps across restarts.
    Agent "AGENT" Agent true Array[INDEX => 8; AgentField::COUNT]
    /// The connections' clock, as program `clock` last read it.
    Ticks "TICKS" Packets false Array[INDEX => 8; 1]
    /// Updated in order to wait until every running program has ended.
    Grace "GRACE" Agent false ArrayOfMaps[INDEX => 4; 1]
}

impl MapName {
    /// Returns the name of the map in the object, which is also the name of its pin.
    pub const fn as_str(self) -> &'static str {
        self.spec().name
    }

    /// Returns the number of elements that the map can hold, or the size of a ring buffer in
    /// bytes.
    pub const fn capacity(self) -> u32 {
        self.spec().entries
    }

    /// Returns the maps that are pinned.
    pub fn pinned() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|map| map.spec().pinned)
    }
}

impl Serialize for MapName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for MapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use ringfence_ebpf::abi::ABI_VERSION;

    use super::MapName;

    /// FNV-1a.
    fn sum(text: &str) -> u64 {
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    #[test]
    fn other_names_or_shapes_of_pinned_maps_take_another_version() {
        let maps = MapName::pinned().map(|map| format!("{map}: {}\n", map.spec()));
        let found = (ABI_VERSION, sum(&maps.collect::<String>()));
        assert_eq!(
            found,
            (8, 6_093_196_087_415_150_623),
            "raise ABI_VERSION, and the version of connections or counters if it is theirs"
        );
    }

    #[test]
    fn the_kernel_holds_every_name_in_full() {
        // `BPF_OBJ_NAME_LEN` of linux/bpf.h, with its zero.
        assert!(MapName::ALL.iter().all(|map| map.as_str().len() < 16));
    }
}
