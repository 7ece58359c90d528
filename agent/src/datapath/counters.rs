//! Counters by name, and how full the maps are.
//!
//! Both are read through handles of their own, so that nobody who reads them, for
//! as long as that takes, keeps a change of policy waiting.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuHashMap};
use ringfence_ebpf::abi::{
    Bucket, Direction, DropCount, DropKey, Flow, FlowKey, Protocol, Reason, Stat,
};
use serde::Serialize;

use super::error::DatapathError;
use super::fields::AgentField;
use super::maps::{Buckets, Hash, Raw, map_error, max_entries};
use super::names::{self, Names};
use super::{Datapath, buckets};

/// Denied or audited packets of one workload pair, direction, reason and protocol.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct DropSeries {
    /// Sender: `namespace/service`, `outside`, `node`, or `other` where the
    /// table of pairs was full.
    pub source: String,
    /// Receiver, likewise.
    pub destination: String,
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// A name of [`Reason`].
    pub reason: &'static str,
    /// A name of [`Protocol`].
    pub protocol: &'static str,
    /// The packets passed: the denial was only audited.
    pub audited: bool,
    /// Packets.
    pub packets: u64,
    /// Bytes, link header included.
    pub bytes: u64,
}

/// The datapath's own counters, since the maps were made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Stats {
    /// Flows opened by allowed packets.
    pub flows_allowed: u64,
    /// Flows opened by packets that were only audited.
    pub flows_audited: u64,
    /// Events that the full ring couldn't take.
    pub events_lost: u64,
    /// Events beyond an endpoint's rate.
    pub events_suppressed: u64,
    /// Flows that no table could take.
    pub flows_not_stored: u64,
    /// Answered flows that aren't kept for good, since their endpoint keeps as many
    /// as it may.
    pub flows_over_quota: u64,
    /// Fragmented packets whose first fragment couldn't be noted.
    pub fragments_not_stored: u64,
    /// Flows that only the pick-up window let through.
    pub flows_picked_up: u64,
    /// How often connections were left behind in tables of another version.
    pub connections_lost: u64,
    /// How often counts were.
    pub counts_lost: u64,
}

impl Stats {
    /// Names in metrics, what they say, and counts, but for opened flows, which are one
    /// metric.
    pub const fn series(&self) -> [(&'static str, &'static str, u64); 8] {
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
                "ringfence_flows_not_stored_total",
                "Flows that couldn't be stored; each of their packets is decided anew.",
                self.flows_not_stored,
            ),
            (
                "ringfence_flows_over_quota_total",
                "Answered flows not kept for good, since their pod keeps as many as it may.",
                self.flows_over_quota,
            ),
            (
                "ringfence_fragments_not_stored_total",
                "Fragmented packets that couldn't be noted; their later fragments are dropped.",
                self.fragments_not_stored,
            ),
            (
                "ringfence_flows_picked_up_total",
                "Connections that only the pick-up window let through, since they were open \
                 before they were tracked.",
                self.flows_picked_up,
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

/// How full a map is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MapUsage {
    /// Its name.
    pub name: &'static str,
    /// Entries that it holds.
    pub entries: u64,
    /// Entries that it could hold.
    pub capacity: u64,
}

/// What packets write: handles that any thread may read at any time.
pub struct Counters {
    names: names::Shared,
    drops: PerCpuHashMap<MapData, Raw<DropKey>, Raw<DropCount>>,
    drops_other: PerCpuArray<MapData, Raw<DropCount>>,
    stats: PerCpuArray<MapData, u64>,
    agent: Array<MapData, u64>,
    flows: Buckets,
    flows_more: Hash<FlowKey, Flow>,
    opening: Buckets,
    /// Flows in `FLOWS` and `OPENING`, and when they were counted.
    counted: Mutex<Option<(Instant, [u64; 2])>>,
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

impl Counters {
    /// Opens the pinned maps below a folder once more.
    pub(super) fn open(folder: &Path, names: &Names) -> Result<Self, DatapathError> {
        macro_rules! open {
            ($name:literal) => {
                MapData::from_pin(folder.join($name))
                    .and_then(Map::from_map_data)
                    .and_then(TryInto::try_into)
                    .map_err(|error: MapError| map_error("opening", $name, &error))?
            };
        }
        Ok(Self {
            names: names.shared(),
            drops: open!("DROPS"),
            drops_other: open!("DROPS_OTHER"),
            stats: open!("STATS"),
            agent: open!("AGENT"),
            flows: open!("FLOWS"),
            flows_more: open!("FLOWS_MORE"),
            opening: open!("OPENING"),
            counted: Mutex::new(None),
        })
    }

    /// Denied and audited packets by workload pair, since the maps were made.
    ///
    /// # Errors
    /// If a map can't be read.
    pub fn drops(&self) -> Result<Vec<DropSeries>, DatapathError> {
        let mut series = Vec::new();
        let name = |id| names::lookup(&self.names, id);
        for entry in self.drops.iter() {
            let (Raw(key), values) =
                entry.map_err(|error| map_error("reading", "DROPS", &error))?;
            let ends = (name(key.source), name(key.destination));
            series.extend(one(&key, ends, sum(values.iter())));
        }
        for index in 0..DropKey::OTHER {
            let values = self
                .drops_other
                .get(&index, 0)
                .map_err(|error| map_error("reading", "DROPS_OTHER", &error))?;
            let key = other_key(index);
            let ends = ("other".to_owned(), "other".to_owned());
            series.extend(one(&key, ends, sum(values.iter())).filter(|series| series.packets > 0));
        }
        series.sort();
        Ok(series)
    }

    /// Ids of workloads that have a count under their name.
    pub(super) fn named(&self) -> Result<BTreeSet<u32>, DatapathError> {
        let mut ids = BTreeSet::new();
        for key in self.drops.keys() {
            let Raw(key) = key.map_err(|error| map_error("reading", "DROPS", &error))?;
            ids.extend([key.source, key.destination]);
        }
        Ok(ids)
    }

    /// The datapath's own counters.
    ///
    /// # Errors
    /// If a map can't be read.
    pub fn stats(&self) -> Result<Stats, DatapathError> {
        let read = |stat: Stat| -> Result<u64, DatapathError> {
            let values = self
                .stats
                .get(&(stat as u32), 0)
                .map_err(|error| map_error("reading", "STATS", &error))?;
            Ok(values.iter().sum())
        };
        let kept = |field: AgentField| {
            let value = self.agent.get(&(field as u32), 0);
            value.map_err(|error| map_error("reading", "AGENT", &error))
        };
        Ok(Stats {
            flows_allowed: read(Stat::FlowsAllowed)?,
            flows_audited: read(Stat::FlowsAudited)?,
            events_lost: read(Stat::EventsLost)?,
            events_suppressed: read(Stat::EventsSuppressed)?,
            flows_not_stored: read(Stat::FlowsNotStored)?,
            flows_over_quota: read(Stat::FlowsOverQuota)?,
            fragments_not_stored: read(Stat::FragmentsNotStored)?,
            flows_picked_up: read(Stat::FlowsPickedUp)?,
            connections_lost: kept(AgentField::ConnectionsLost)?,
            counts_lost: kept(AgentField::CountsLost)?,
        })
    }

    /// How full each map is that packets write. Their entries are counted one by one.
    pub fn held(&self) -> Vec<MapUsage> {
        let [flows, opening] = self.flows_held();
        let ways = |name| u64::from(max_entries(name)) * Bucket::WAYS as u64;
        let most = max_entries("FLOWS_MORE") as usize;
        let more = count("FLOWS_MORE", self.flows_more.keys().take(most));
        vec![
            usage("DROPS", count("DROPS", self.drops.keys())),
            MapUsage {
                name: "FLOWS",
                entries: flows,
                capacity: ways("FLOWS"),
            },
            usage("FLOWS_MORE", more),
            MapUsage {
                name: "OPENING",
                entries: opening,
                capacity: ways("OPENING"),
            },
        ]
    }

    /// Flows in both tables of buckets. Counted at most once a minute: that reads
    /// them whole, which takes some 30 ms.
    fn flows_held(&self) -> [u64; 2] {
        const FRESH: Duration = Duration::from_secs(60);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, held)) = *counted
            && at.elapsed() < FRESH
        {
            return held;
        }
        let [flows, opening] = counted.map_or([0; 2], |(_, held)| held);
        // One that can't be read is what it was.
        let count = |name, map, before| match buckets::count(name, map) {
            Ok(count) => count,
            Err(error) => {
                tracing::warn!("counting flows: {error}");
                before
            }
        };
        let held = [
            count("FLOWS", &self.flows, flows),
            count("OPENING", &self.opening, opening),
        ];
        *counted = Some((Instant::now(), held));
        held
    }
}

fn usage(name: &'static str, entries: usize) -> MapUsage {
    MapUsage {
        name,
        entries: entries as u64,
        capacity: u64::from(max_entries(name)),
    }
}

/// How full each map is that the agent writes: it is known what was written.
pub(super) fn written(datapath: &Datapath) -> Vec<MapUsage> {
    let mut all: Vec<MapUsage> = ["ADDRESSES", "CIDRS", "RULES", "PORTS", "SERVICES"]
        .map(|name| usage(name, datapath.worlds.entries(name)))
        .into();
    all.push(usage("ENDPOINTS", datapath.endpoints.len()));
    all.push(usage("NAMES", datapath.names.len()));
    all
}

fn sum<'a>(values: impl Iterator<Item = &'a Raw<DropCount>>) -> DropCount {
    values.fold(DropCount::default(), |sum, Raw(value)| DropCount {
        packets: sum.packets + value.packets,
        bytes: sum.bytes + value.bytes,
    })
}

/// The inverse of [`DropKey::other`].
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

/// How many keys come, up to one that can't be read.
fn count<K>(name: &'static str, keys: impl Iterator<Item = Result<K, MapError>>) -> usize {
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
