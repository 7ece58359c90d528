//! Counters with names, and the fill levels of the maps.
//!
//! Both are read through separate handles, so that a slow reader doesn't delay a policy change.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuHashMap};
use ringfence_ebpf::abi::{
    Bucket, Connection, ConnectionKey, Direction, DropCount, DropKey, Protocol, Reason, Stat,
};
use serde::Serialize;

use super::catalog::MapName;
use super::error::DatapathError;
use super::fields::AgentField;
use super::maps::{Buckets, Hash, Raw, map_error};
use super::names::{self, Names};
use super::{Datapath, buckets};

/// Denied or audited packets of one workload pair, direction, reason and protocol.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DropSeries {
    /// Workload of the sender: `namespace/service`, `outside`, `node`, or `other` if the table of
    /// pairs was full.
    pub source: String,
    /// Workload of the receiver, likewise.
    pub destination: String,
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// A name of [`Reason`].
    pub reason: &'static str,
    /// A name of [`Protocol`].
    pub protocol: &'static str,
    /// The packets passed because the denial was only audited.
    pub audited: bool,
    /// Number of packets.
    pub packets: u64,
    /// Number of bytes, including link headers.
    pub bytes: u64,
}

/// The datapath's own counters, since the maps were created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Stats {
    /// Connections opened by allowed packets.
    pub connections_allowed: u64,
    /// Connections opened by packets that were only audited.
    pub connections_audited: u64,
    /// Events lost because the ring was full.
    pub events_lost: u64,
    /// Events beyond an endpoint's rate limit.
    pub events_suppressed: u64,
    /// Connections that didn't fit into any table.
    pub connections_not_stored: u64,
    /// Answered connections that aren't kept permanently, since their endpoint has used up its
    /// quota.
    pub connections_over_quota: u64,
    /// Fragmented packets whose first fragment couldn't be recorded.
    pub fragments_not_stored: u64,
    /// Connections that were open before they were tracked.
    pub connections_picked_up: u64,
    /// Live answered connections, not kept permanently, that were evicted by new ones.
    pub connections_evicted: u64,
    /// How often connections were left behind in tables of another version.
    pub connections_lost: u64,
    /// How often counters were left behind.
    pub counts_lost: u64,
}

impl Stats {
    /// Returns name, help text and value of each metric, except for opened connections, which
    /// share one metric.
    pub const fn series(&self) -> [(&'static str, &'static str, u64); 9] {
        [
            (
                "ringfence_events_lost_total",
                "Events that the full ring couldn't take; counters are exact all the same.",
                self.events_lost,
            ),
            (
                "ringfence_events_suppressed_total",
                "Events beyond an endpoint's rate; counters are exact all the same.",
                self.events_suppressed,
            ),
            (
                "ringfence_connections_not_stored_total",
                "Connections that couldn't be stored; each of their packets is decided anew.",
                self.connections_not_stored,
            ),
            (
                "ringfence_connections_over_quota_total",
                "Answered connections not kept for good, since their pod keeps as many as it may.",
                self.connections_over_quota,
            ),
            (
                "ringfence_fragments_not_stored_total",
                "Fragmented packets that couldn't be noted; their later fragments are dropped.",
                self.fragments_not_stored,
            ),
            (
                "ringfence_connections_picked_up_total",
                "Connections that were open before they were tracked, taken over in the middle.",
                self.connections_picked_up,
            ),
            (
                "ringfence_connections_evicted_total",
                "Live answered connections, not kept for good, that gave way to new ones; each of \
                 their packets is decided anew.",
                self.connections_evicted,
            ),
            (
                "ringfence_connections_lost_total",
                "Changes of version that left tracked connections behind, to be picked up.",
                self.connections_lost,
            ),
            (
                "ringfence_counts_lost_total",
                "Changes of version that left counters behind: they began anew.",
                self.counts_lost,
            ),
        ]
    }
}

/// Fill level of a map.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MapUsage {
    /// Name of the map.
    pub name: MapName,
    /// Number of entries in use.
    pub entries: u64,
    /// Number of entries that fit.
    pub capacity: u64,
}

/// Counters written by packets: handles that any thread may read at any time.
pub struct Counters {
    names: names::Shared,
    drops: PerCpuHashMap<MapData, Raw<DropKey>, Raw<DropCount>>,
    drops_other: PerCpuArray<MapData, Raw<DropCount>>,
    stats: PerCpuArray<MapData, u64>,
    agent: Array<MapData, u64>,
    connections: Buckets,
    conn_overflow: Hash<ConnectionKey, Connection>,
    opening: Buckets,
    /// Number of connections in `CONNECTIONS` and `OPENING`, and when they were counted.
    counted: Mutex<Option<(Instant, [u64; 2])>>,
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

impl Counters {
    /// Opens separate handles on the maps pinned in a folder.
    pub(super) fn open(folder: &Path, names: &Names) -> Result<Self, DatapathError> {
        macro_rules! open {
            ($map:ident) => {
                MapData::from_pin(folder.join(MapName::$map.as_str()))
                    .and_then(Map::from_map_data)
                    .and_then(TryInto::try_into)
                    .map_err(|error: MapError| map_error("opening", MapName::$map, &error))?
            };
        }
        Ok(Self {
            names: names.shared(),
            drops: open!(Drops),
            drops_other: open!(DropsOther),
            stats: open!(Stats),
            agent: open!(Agent),
            connections: open!(Connections),
            conn_overflow: open!(ConnOverflow),
            opening: open!(Opening),
            counted: Mutex::new(None),
        })
    }

    /// Returns denied and audited packets by workload pair, since the maps were created.
    ///
    /// # Errors
    /// If a map can't be read.
    pub fn drops(&self) -> Result<Vec<DropSeries>, DatapathError> {
        let mut series = Vec::new();
        let name = |id| names::lookup(&self.names, id);
        for entry in self.drops.iter() {
            let (Raw(key), values) =
                entry.map_err(|error| map_error("reading", MapName::Drops, &error))?;
            let ends = (name(key.source), name(key.destination));
            series.extend(one(&key, ends, sum(values.iter())));
        }
        for index in 0..DropKey::OTHER {
            let values = self
                .drops_other
                .get(&index, 0)
                .map_err(|error| map_error("reading", MapName::DropsOther, &error))?;
            let key = other_key(index);
            let ends = ("other".to_owned(), "other".to_owned());
            series.extend(one(&key, ends, sum(values.iter())).filter(|series| series.packets > 0));
        }
        series.sort();
        Ok(series)
    }

    /// Returns the ids of workloads that have a drop counter under their name.
    pub(super) fn named(&self) -> Result<BTreeSet<u32>, DatapathError> {
        let mut ids = BTreeSet::new();
        for key in self.drops.keys() {
            let Raw(key) = key.map_err(|error| map_error("reading", MapName::Drops, &error))?;
            ids.extend([key.source, key.destination]);
        }
        Ok(ids)
    }

    /// Returns the datapath's own counters.
    ///
    /// # Errors
    /// If a map can't be read.
    pub fn stats(&self) -> Result<Stats, DatapathError> {
        let read = |stat: Stat| -> Result<u64, DatapathError> {
            let values = self
                .stats
                .get(&(stat as u32), 0)
                .map_err(|error| map_error("reading", MapName::Stats, &error))?;
            Ok(values.iter().sum())
        };
        let kept = |field: AgentField| {
            let value = self.agent.get(&(field as u32), 0);
            value.map_err(|error| map_error("reading", MapName::Agent, &error))
        };
        Ok(Stats {
            connections_allowed: read(Stat::ConnectionsAllowed)?,
            connections_audited: read(Stat::ConnectionsAudited)?,
            events_lost: read(Stat::EventsLost)?,
            events_suppressed: read(Stat::EventsSuppressed)?,
            connections_not_stored: read(Stat::ConnectionsNotStored)?,
            connections_over_quota: read(Stat::ConnectionsOverQuota)?,
            fragments_not_stored: read(Stat::FragmentsNotStored)?,
            connections_picked_up: read(Stat::ConnectionsPickedUp)?,
            connections_evicted: read(Stat::ConnectionsEvicted)?,
            connections_lost: kept(AgentField::ConnectionsLost)?,
            counts_lost: kept(AgentField::CountsLost)?,
        })
    }

    /// Returns the fill level of each map that packets write, counting the entries one by one.
    pub fn held(&self) -> Vec<MapUsage> {
        let [connections, opening] = self.connections_held();
        let ways = |map: MapName| u64::from(map.capacity()) * Bucket::WAYS as u64;
        let most = MapName::ConnOverflow.capacity() as usize;
        let more = count(MapName::ConnOverflow, self.conn_overflow.keys().take(most));
        vec![
            usage(MapName::Drops, count(MapName::Drops, self.drops.keys())),
            MapUsage {
                name: MapName::Connections,
                entries: connections,
                capacity: ways(MapName::Connections),
            },
            usage(MapName::ConnOverflow, more),
            MapUsage {
                name: MapName::Opening,
                entries: opening,
                capacity: ways(MapName::Opening),
            },
        ]
    }

    /// Returns the number of connections in each table of buckets. Counts at most once a minute,
    /// since that reads the tables completely, which takes some 30 ms.
    fn connections_held(&self) -> [u64; 2] {
        const FRESH: Duration = Duration::from_secs(60);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, held)) = *counted
            && at.elapsed() < FRESH
        {
            return held;
        }
        let [connections, opening] = counted.map_or([0; 2], |(_, held)| held);
        // A table that can't be read keeps its last count.
        let count = |name, map, before| match buckets::count(name, map) {
            Ok(count) => count,
            Err(error) => {
                tracing::warn!("counting connections: {error}");
                before
            }
        };
        let held = [
            count(MapName::Connections, &self.connections, connections),
            count(MapName::Opening, &self.opening, opening),
        ];
        *counted = Some((Instant::now(), held));
        held
    }
}

fn usage(name: MapName, entries: usize) -> MapUsage {
    MapUsage {
        name,
        entries: entries as u64,
        capacity: u64::from(name.capacity()),
    }
}

/// Returns the fill level of each map that the agent writes, from what it has written.
pub(super) fn written(datapath: &Datapath) -> Vec<MapUsage> {
    let policy = datapath.buffers.entries();
    let mut all: Vec<MapUsage> = policy.map(|(map, entries)| usage(map, entries)).into();
    all.push(usage(MapName::Endpoints, datapath.endpoints.len()));
    all.push(usage(MapName::Names, datapath.names.len()));
    all
}

fn sum<'a>(values: impl Iterator<Item = &'a Raw<DropCount>>) -> DropCount {
    values.fold(DropCount::default(), |sum, Raw(value)| DropCount {
        packets: sum.packets + value.packets,
        bytes: sum.bytes + value.bytes,
    })
}

/// Computes the inverse of [`DropKey::other`].
const fn other_key(index: u32) -> DropKey {
    DropKey {
        source: 0,
        destination: 0,
        audited: (index >> 9 & 1) as u8,
        direction: (index >> 8 & 1) as u8,
        reason: (index >> 3 & 31) as u8,
        protocol: (index & 7) as u8,
    }
}

fn one(key: &DropKey, ends: (String, String), count: DropCount) -> Option<DropSeries> {
    Some(DropSeries {
        source: ends.0,
        destination: ends.1,
        direction: Direction::from_u8(key.direction)?.name(),
        reason: Reason::from_u8(key.reason)?.name(),
        protocol: Protocol::from_u8(key.protocol)?.name(),
        audited: key.audited != 0,
        packets: count.packets,
        bytes: count.bytes,
    })
}

/// Counts keys, up to the first that can't be read.
fn count<K>(name: MapName, keys: impl Iterator<Item = Result<K, MapError>>) -> usize {
    let mut count = 0;
    for key in keys {
        if let Err(error) = key {
            tracing::warn!("{}", map_error("counting", name, &error));
            break;
        }
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_finds_the_table_full_keeps_all_but_its_names() {
        for direction in [Direction::Ingress, Direction::Egress] {
            for reason in Reason::ALL {
                for (protocol, audited) in [(Protocol::Other, 0), (Protocol::Icmp, 1)] {
                    let key = DropKey {
                        source: 7,
                        destination: 8,
                        direction: direction as u8,
                        reason: *reason as u8,
                        protocol: protocol as u8,
                        audited,
                    };
                    let nameless = DropKey {
                        source: 0,
                        destination: 0,
                        ..key
                    };
                    assert!(key.other() < DropKey::OTHER);
                    assert_eq!(other_key(key.other()), nameless);
                }
            }
        }
    }
}
