//! The contents of `/metrics`. Everything that the datapath counts is read when a page is rendered:
//! it lags behind the kernel by at most the page's second.

mod states;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};
use ringfence_api::{CniStatus, RemoteStatus};

use crate::api::remote;
use crate::cni;
use crate::datapath::{DropSeries, MapUsage, Stats};
use crate::kubernetes::Board;
use crate::state::Shared;
use crate::web::Refused;
use states::count_states;

/// In seconds. The kernel's wait for a flip alone takes about 8 ms.
const APPLY_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

const PAIR_LABELS: [&str; 7] = [
    "source_namespace",
    "source",
    "destination_namespace",
    "destination",
    "direction",
    "reason",
    "protocol",
];

/// Counters that live in the process.
pub struct Metrics {
    registry: Registry,
    apply_seconds: HistogramVec,
    apply_errors: IntCounter,
    /// Connections that were closed unserved.
    pub refused: Arc<Refused>,
}

/// The state of the datapath and the loop at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Drop counters.
    pub drops: Vec<DropSeries>,
    /// Counters of the whole datapath.
    pub stats: Stats,
    /// How full each map is.
    pub maps: Vec<MapUsage>,
    /// Guarded endpoints by state: `enforce`, `audit`, `open`, `quarantine`; endpoints whose pod is
    /// `gone`; `unguarded` pods; pods without a network, yet or any more (`pending`); pods on the
    /// `host_network`, which can't be guarded; and devices that lead to `unknown` pods.
    pub endpoints: BTreeMap<&'static str, usize>,
    /// Other devices of the node: `hooked`, `unhooked`.
    pub devices: BTreeMap<&'static str, usize>,
    /// The generation of the active buffer.
    pub generation: u64,
    /// Whether the source of policy could be read.
    pub source_connected: bool,
    /// Documents and objects that don't parse, so that an older state is in force.
    pub invalid: usize,
    /// Object and field of everything in policy that can't be used.
    pub problems: BTreeSet<(String, String)>,
    /// The watches of the API server, if that is the source.
    pub board: Option<Board>,
    /// The network plugin, if the agent installs it.
    pub plugin: Option<CniStatus>,
    /// The read-only API, if it is served.
    pub api: Option<RemoteStatus>,
}

impl Metrics {
    /// Creates the metrics; fails only if a name here is malformed or duplicate.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let apply_seconds = HistogramVec::new(
            HistogramOpts::new(
                "ringfence_policy_apply_seconds",
                "From the first event of a policy change until it is in force, by kind of object.",
            )
            .buckets(APPLY_BUCKETS.to_vec()),
            &["kind"],
        )?;
        let apply_errors = IntCounter::new(
            "ringfence_apply_errors_total",
            "Passes that failed; each is retried.",
        )?;
        let build = IntGaugeVec::new(
            Opts::new(
                "ringfence_build_info",
                "Always 1; the version is in the label.",
            ),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(apply_seconds.clone()))?;
        registry.register(Box::new(apply_errors.clone()))?;
        registry.register(Box::new(build))?;
        let refused = Refused::new()?;
        registry.register(Box::new(refused.counters()))?;
        Ok(Self {
            registry,
            refused: Arc::new(refused),
            apply_seconds,
            apply_errors,
        })
    }

    /// Records how long after its event a policy change was in force; `kind` is the object's kind.
    pub fn applied(&self, kind: &str, after: Duration) {
        let histogram = self.apply_seconds.with_label_values(&[kind]);
        histogram.observe(after.as_secs_f64());
    }

    /// Counts a failed pass.
    pub fn failed(&self) {
        self.apply_errors.inc();
    }

    /// Renders the page in Prometheus' text format.
    pub fn render(&self, snapshot: &Snapshot) -> prometheus::Result<Vec<u8>> {
        let mut families = self.registry.gather();
        families.extend(snapshot.families()?);
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut page = Vec::new();
        TextEncoder::new().encode(&families, &mut page)?;
        Ok(page)
    }
}

impl Snapshot {
    /// Reads the datapath. Blocks while a pass applies; delays a pass only while the agent's own
    /// memory is read.
    pub fn take(shared: &Shared) -> anyhow::Result<Self> {
        let status = shared.status();
        let mut kernel = shared.dataplane();
        let (mut maps, endpoints) = (kernel.maps(), kernel.endpoints());
        let generation = kernel.generation();
        drop(kernel);
        maps.extend(shared.counters.maps());
        Ok(Self {
            drops: shared.counters.drops()?,
            stats: shared.counters.stats()?,
            maps,
            endpoints: count_states(&endpoints, &status),
            devices: [
                ("hooked", status.devices),
                ("unhooked", status.unhooked.len()),
            ]
            .into(),
            generation,
            source_connected: status.source_connected,
            invalid: status.invalid.len(),
            problems: shared.problem_fields(),
            board: shared.board().cloned(),
            plugin: status.plugin,
            api: status.api,
        })
    }

    /// Uses a registry of its own: a collector that is registered once can't fail, and a page
    /// without the kernel's counters must not pass for one on which they are zero.
    fn families(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let registry = Registry::new();
        self.drop_counters(&registry, "dropped", "Denied packets, dropped", false)?;
        self.drop_counters(
            &registry,
            "audited",
            "Packets that staged policy would deny",
            true,
        )?;
        self.connection_counters(&registry)?;
        self.gauges(&registry)?;
        self.problems(&registry)?;
        self.plain_gauges(&registry)?;
        if let Some(board) = &self.board {
            board.register(&registry)?;
        }
        if let Some(plugin) = &self.plugin {
            cni::register(plugin, &registry)?;
        }
        if let Some(api) = &self.api {
            remote::register(api, &registry)?;
        }
        Ok(registry.gather())
    }

    fn drop_counters(
        &self,
        registry: &Registry,
        word: &str,
        help: &str,
        audited: bool,
    ) -> prometheus::Result<()> {
        let counters = |unit: &str| {
            let opts = Opts::new(
                format!("ringfence_{word}_{unit}_total"),
                format!("{help} ({unit})."),
            );
            let counters = IntCounterVec::new(opts, &PAIR_LABELS)?;
            registry.register(Box::new(counters.clone()))?;
            prometheus::Result::Ok(counters)
        };
        let (packets, bytes) = (counters("packets")?, counters("bytes")?);
        for series in self.drops.iter().filter(|series| series.audited == audited) {
            let (source_namespace, source) = workload(&series.source);
            let (destination_namespace, destination) = workload(&series.destination);
            let values = [
                source_namespace,
                source,
                destination_namespace,
                destination,
                series.direction,
                series.reason,
                series.protocol,
            ];
            packets.with_label_values(&values).inc_by(series.packets);
            bytes.with_label_values(&values).inc_by(series.bytes);
        }
        Ok(())
    }

    fn connection_counters(&self, registry: &Registry) -> prometheus::Result<()> {
        let opened = IntCounterVec::new(
            Opts::new(
                "ringfence_connections_opened_total",
                "Connections opened, by verdict.",
            ),
            &["verdict"],
        )?;
        opened
            .with_label_values(&["allow"])
            .inc_by(self.stats.connections_allowed);
        opened
            .with_label_values(&["audit"])
            .inc_by(self.stats.connections_audited);
        registry.register(Box::new(opened))?;
        for (name, help, value) in self.stats.series() {
            let counter = IntCounter::new(name, help)?;
            counter.inc_by(value);
            registry.register(Box::new(counter))?;
        }
        Ok(())
    }

    fn gauges(&self, registry: &Registry) -> prometheus::Result<()> {
        let labelled = |name: &str, help: &str, label: &str| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let endpoints = labelled(
            "ringfence_endpoints",
            "Pods of this node, by state.",
            "state",
        )?;
        for (state, count) in &self.endpoints {
            endpoints.with_label_values(&[state]).set(gauge(*count));
        }
        let devices = labelled(
            "ringfence_devices",
            "Devices of this node that belong to no pod, by whether they are hooked.",
            "state",
        )?;
        for (state, count) in &self.devices {
            devices.with_label_values(&[state]).set(gauge(*count));
        }
        let entries = labelled("ringfence_map_entries", "Entries in use, by map.", "map")?;
        let capacity = labelled(
            "ringfence_map_capacity",
            "Capacity in entries, by map.",
            "map",
        )?;
        for map in &self.maps {
            entries
                .with_label_values(&[map.name.as_str()])
                .set(gauge(map.entries));
            capacity
                .with_label_values(&[map.name.as_str()])
                .set(gauge(map.capacity));
        }
        Ok(())
    }

    /// Bounds the number of series, so that tenants who write labels can't fill the page.
    fn problems(&self, registry: &Registry) -> prometheus::Result<()> {
        const MOST: usize = 256;
        let opts = Opts::new(
            "ringfence_policy_problems",
            "Fields, labels and annotations that can't be used, by object; those beyond \
             256 are counted under `other`.",
        );
        let gauge_vec = IntGaugeVec::new(opts, &["object", "field"])?;
        // Objects that didn't fit come first: nobody can hide them behind faults of their own
        // making.
        let (held, others): (Vec<_>, Vec<_>) = self
            .problems
            .iter()
            .partition(|(_, field)| field == "capacity");
        for (object, field) in held.into_iter().chain(others).take(MOST) {
            gauge_vec.with_label_values(&[object, field]).set(1);
        }
        if let Some(rest) = self.problems.len().checked_sub(MOST).filter(|n| *n > 0) {
            gauge_vec.with_label_values(&["other", ""]).set(gauge(rest));
        }
        registry.register(Box::new(gauge_vec))
    }

    fn plain_gauges(&self, registry: &Registry) -> prometheus::Result<()> {
        let plain = [
            (
                "ringfence_policy_generation",
                "Generation of the policy in force.",
                gauge(self.generation),
            ),
            (
                "ringfence_source_connected",
                "1 if the source of policy could be read in the last pass.",
                self.source_connected.into(),
            ),
            (
                "ringfence_policy_invalid",
                "Documents and objects that don't parse; the last good state of each is in force.",
                gauge(self.invalid),
            ),
        ];
        for (name, help, value) in plain {
            let gauge = IntGauge::new(name, help)?;
            gauge.set(value);
            registry.register(Box::new(gauge))?;
        }
        Ok(())
    }
}

/// Converts to a signed gauge; no count here comes near the limit.
fn gauge(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// Splits `namespace/service`; a single word such as `outside` has no namespace.
fn workload(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or(("", name))
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
