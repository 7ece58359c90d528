//! The kernel side of the agent: maps, links and programs, all of them pinned.
//!
//! Nothing outside this folder touches eBPF, and nothing in it makes policy decisions. The pins
//! keep enforcement running while no agent runs.

#![allow(unsafe_code)]

mod apply;
mod attach;
mod btf;
mod buckets;
mod buffers;
mod carry;
mod catalog;
mod connections;
mod control;
mod counters;
mod cut;
mod devices;
mod dump;
mod endpoints;
mod error;
mod events;
mod fields;
mod idle;
mod kfunc;
mod links;
mod load;
mod locals;
mod lock;
mod maps;
mod move_over;
mod names;
mod occupant;
mod others;
mod predecessors;
mod preflight;
mod quotas;
mod raw;
mod remove;
mod run;
mod shown;
mod sync;
#[cfg(test)]
mod testing;
mod ticks;
mod tunnels;
mod verified;
mod written;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence_ebpf::abi::Control;
use ringfence_policy::compile::IdKey;
use ringfence_policy::index::PodKey;
use serde::Serialize;

pub use catalog::{MapName, MapSpec, Writer};
pub use connections::ConnectionRow;
pub use counters::{Counters, DropSeries, MapUsage, Stats};
pub use error::DatapathError;
pub use events::{EventRecord, Events};
pub use load::over_pins;
pub use others::{Others, Stranger};
pub use remove::{Removed, uninstall};
pub use run::Run;
pub use shown::EndpointState;
pub use verified::Verified;

pub use ringfence_hooks::{Attach, Hook};

use crate::runtime::FoundBy;
use buffers::Buffers;
use endpoints::Endpoints;
use links::Links;
use lock::Lock;
use maps::Maps;
use names::Names;
use predecessors::Predecessors;
use ticks::Ticks;

/// The default of [`Options::seen_mark`]: the bit of `skb->mark` that records that a hook saw a
/// packet come in. Not used by kube-proxy (0x4000, 0x8000), CNI's portmap (0x2000), AWS' plugin
/// (0x80), flannel, kindnet, Cilium (0x0f00 and the upper half) or Calico (the upper half).
pub const SEEN_MARK: u32 = 0x1000;

/// Options for opening the datapath.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory on a bpffs; a subdirectory per ABI version is created in it.
    pub pin_dir: PathBuf,
    /// Audit mode: drop nothing, count everything.
    pub audit: bool,
    /// Maximum number of events per second and endpoint that reach the ring.
    pub events_per_second: u32,
    /// How long after opening the datapath unknown TCP connections of newly managed endpoints, and
    /// answers to their UDP queries, are picked up as replies. A pod that starts later has no
    /// older connections.
    pub pickup: Duration,
    /// How programs are attached.
    pub attach: Attach,
    /// The bit of `skb->mark` that records that a hook saw a packet come in; with 0 no mark is
    /// required.
    pub seen_mark: u32,
    /// Whether the agent enters pods' network namespaces, which requires CAP_SYS_ADMIN.
    pub enters_namespaces: bool,
}

/// A pod's interface, as discovery found it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Interface {
    /// The pod.
    pub pod: PodKey,
    /// Index of the host-side device in the agent's network namespace.
    pub ifindex: u32,
    /// Name of the host-side device.
    pub name: String,
    /// MAC of the pod's side.
    pub mac: [u8; 6],
    /// The source of the information that the device belongs to the pod.
    pub by: FoundBy,
}

/// Result of [`Datapath::apply_delta`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Followed {
    /// Generation of the active buffer.
    pub generation: u64,
    /// Whether the buffers were flipped.
    pub flipped: bool,
    /// Since when packets are decided by the new tables: bringing the other buffer up to date came
    /// after that.
    pub at: Instant,
    /// Interfaces that got no slot: pod and error. To be retried.
    pub refused: Vec<(PodKey, String)>,
}

impl Default for Followed {
    fn default() -> Self {
        Self {
            generation: 0,
            flipped: false,
            at: Instant::now(),
            refused: Vec::new(),
        }
    }
}

/// Result of [`Datapath::apply`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Applied {
    /// Generation of the active buffer.
    pub generation: u64,
    /// Whether the buffers were flipped.
    pub flipped: bool,
    /// Since when packets are decided by the new tables; none if nothing was put in force.
    #[serde(skip)]
    pub in_force_at: Option<Instant>,
    /// Interfaces to which the programs couldn't be attached: pod and error. To be retried.
    pub failed: Vec<(PodKey, String)>,
    /// Number of other devices that have their hooks.
    pub devices: usize,
    /// Other devices that don't have their hooks: name and error. To be retried.
    pub unhooked: Vec<(String, String)>,
    /// Why the tables aren't in force, or why something else was left undone. To be retried.
    /// Programs are attached nevertheless, and quarantines and closed endpoints are in force.
    pub error: Option<String>,
    /// Pods that are closed because their policy couldn't be written.
    pub closed: Vec<PodKey>,
}

/// The loaded datapath.
pub struct Datapath {
    maps: Maps,
    links: Links,
    buffers: Buffers,
    endpoints: Endpoints,
    names: Names,
    options: Options,
    events: Option<Events>,
    /// The interfaces of the last call, including those that were retained.
    interfaces: Vec<Interface>,
    /// What discovery last reported about devices that belong to no known pod.
    others: Others,
    /// Number of the last update whose keys were recorded; none before the first, and after tables
    /// that didn't come from an update.
    seen: Option<u64>,
    /// Whether the last call succeeded, so that connections were decided by what it put in force.
    trusted: bool,
    ticks: Ticks,
    /// The tunnels' ports of the last call; none if that failed, or before the first call.
    tunnels: Option<BTreeSet<u16>>,
    settled: quotas::Settled,
    idle: idle::Idle,
    /// Whether every existing hook sets the mark of seen packets.
    marked: bool,
    /// Whether any unknown address is treated as a Service's.
    hides_services: bool,
    counters: Arc<Counters>,
    /// End of the pick-up window, in nanoseconds of `CLOCK_MONOTONIC`.
    pickup_until: u64,
    /// Agents of other versions whose hooks are still to be taken over.
    predecessors: Predecessors,
    /// Held for as long as this process may write the maps.
    _lock: Lock,
}

impl std::fmt::Debug for Datapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datapath")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Datapath {
    /// Checks the machine, loads the programs, reuses pinned maps, and replaces the programs of
    /// existing links by the new ones.
    ///
    /// The rules of the pinned active buffer stay in force until the first [`Datapath::apply`].
    ///
    /// # Errors
    /// Reports what is missing and how to fix it; nothing is attached then.
    pub fn open(options: &Options) -> Result<Self, DatapathError> {
        preflight::check(load::OBJECT, &options.pin_dir, options.enters_namespaces)?;
        let folder = preflight::folder(&options.pin_dir)?;
        let lock = Lock::take(&folder)?;
        let pickup = u64::try_from(options.pickup.as_nanos()).unwrap_or(u64::MAX);
        let pickup_until = apply::monotonic()?.saturating_add(pickup);
        let ticks = Ticks::of_this_kernel()?;
        let predecessors = Predecessors::find(&options.pin_dir, &folder)?;
        let loaded = load::load(&folder, options.seen_mark)?;
        let mut maps = loaded.maps;
        predecessors.number(&mut maps, options.seen_mark)?;
        let marked = maps.keep_seen_mark(options.seen_mark)?;
        let hides_services = maps.control()?.flags & Control::HIDES_SERVICES != 0;
        maps.note_mark(if marked { options.seen_mark } else { 0 })?;
        let by_clsact = options.attach.by_clsact();
        let mut links = Links::adopt(&folder, loaded.ebpf, by_clsact, options.seen_mark)?;
        let names = Names::load(&mut maps)?;
        let counters = Arc::new(Counters::open(&folder, &names)?);
        let buffers = Buffers::open(&maps);
        let mut endpoints = Endpoints::dump(&mut maps)?;
        for predecessor in predecessors.folders() {
            endpoints.carry(&mut maps, predecessor)?;
        }
        links.leave(predecessors.devices()?);
        let events = Some(Events::new(loaded.events, names.shared())?);
        let mut datapath = Self {
            maps,
            links,
            buffers,
            endpoints,
            names,
            options: options.clone(),
            events,
            interfaces: Vec::new(),
            others: Others::default(),
            seen: None,
            trusted: false,
            ticks,
            tunnels: None,
            settled: quotas::Settled::default(),
            idle: idle::Idle::default(),
            marked,
            hides_services,
            counters,
            pickup_until,
            predecessors,
            _lock: lock,
        };
        if datapath.buffers.generation == 0 {
            // The network plugin may close devices before the first policy is in force, so the
            // mode must be set from here on.
            let control = datapath.control(0, datapath.buffers.active);
            datapath.maps.set_control(control)?;
        }
        Ok(datapath)
    }

    /// Returns the endpoints that are currently managed.
    pub fn endpoints(&self) -> Vec<EndpointState> {
        let (active, audits) = (self.buffers.active, self.options.audit);
        self.endpoints
            .states(&self.links, &self.names, active, audits)
    }

    /// Returns the directory that everything is pinned in: the pin directory of this ABI version.
    pub fn folder(&self) -> PathBuf {
        preflight::place(&self.options.pin_dir)
    }

    /// Sets what is known about devices that belong to no known pod, for later calls of
    /// [`Datapath::apply_change`]. A closed stranger gets a pod's hooks but no slot, so that all
    /// its traffic is dropped.
    pub fn set_others(&mut self, others: Others) {
        self.others = others;
    }

    /// Returns the key by which ids in the maps are hashed. It stays the same as long as the maps.
    pub fn id_key(&self) -> IdKey {
        self.names.key()
    }

    /// Returns the generation of the active buffer, which every flip increments.
    pub fn generation(&self) -> u64 {
        self.buffers.generation
    }

    /// Returns the mark bit of seen packets, or 0 if marks aren't used, and whether packets are
    /// already required to have it.
    pub const fn seen_mark(&self) -> (u32, bool) {
        (self.options.seen_mark, self.marked)
    }

    /// Returns denied and audited packets by workload pair, since the maps were created.
    ///
    /// # Errors
    /// If a map can't be read.
    pub fn drops(&self) -> Result<Vec<DropSeries>, DatapathError> {
        self.counters.drops()
    }

    /// Returns the datapath's own counters.
    ///
    /// # Errors
    /// If a map can't be read.
    pub fn stats(&self) -> Result<Stats, DatapathError> {
        self.counters.stats()
    }

    /// Returns the fill level of each policy and connection map.
    pub fn maps(&self) -> Vec<MapUsage> {
        let mut all = self.written();
        all.extend(self.counters.held());
        all
    }

    /// Returns the fill level of each map that only the agent writes, without reading the maps.
    pub fn written(&self) -> Vec<MapUsage> {
        counters::written(self)
    }

    /// Returns the counters that packets write, for readers on other threads.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Returns the addresses of endpoints under quarantine in the active buffer.
    pub fn quarantined(&self) -> Vec<std::net::IpAddr> {
        self.endpoints.quarantined(self.buffers.active)
    }

    /// Returns live connections, most recently seen first.
    ///
    /// # Errors
    /// If a map can't be read.
    pub fn connections(&mut self) -> Result<Vec<ConnectionRow>, DatapathError> {
        connections::list(self)
    }

    /// Returns the stream of events on the first call, and none on later calls.
    pub const fn take_events(&mut self) -> Option<Events> {
        self.events.take()
    }
}
