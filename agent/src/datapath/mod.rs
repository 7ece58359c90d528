//! The kernel's side of the agent: maps, links and programs, all of it pinned.
//!
//! Nothing outside this folder touches eBPF, and nothing in it decides policy.
//! While no agent runs the kernel goes on enforcing from the pins.

#![allow(unsafe_code)]

mod apply;
mod attach;
mod btf;
mod buckets;
mod carry;
mod control;
mod counters;
mod cut;
mod devices;
mod dump;
mod endpoints;
mod error;
mod events;
mod fields;
mod flows;
mod idle;
mod kfunc;
mod links;
mod load;
mod locals;
mod lock;
mod maps;
mod move_over;
mod names;
mod others;
mod predecessors;
mod preflight;
mod quotas;
mod raw;
mod remove;
mod run;
mod seat;
mod shown;
mod sync;
#[cfg(test)]
mod testing;
mod ticks;
mod tunnels;
mod verified;
mod world;
mod written;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence_ebpf::abi::Control;
use ringfence_policy::compile::IdKey;
use ringfence_policy::index::PodKey;
use serde::Serialize;

pub use counters::{Counters, DropSeries, MapUsage, Stats};
pub use error::DatapathError;
pub use events::{EventRecord, Events};
pub use flows::FlowEntry;
pub use load::over_pins;
pub use others::{Others, Stranger};
pub use remove::{Removed, uninstall};
pub use run::Run;
pub use shown::EndpointState;
pub use verified::Verified;

pub use ringfence_hooks::{Attach, Hook};

use crate::runtime::FoundBy;
use endpoints::Endpoints;
use links::Links;
use lock::Lock;
use maps::Maps;
use names::Names;
use predecessors::Predecessors;
use ticks::Ticks;
use world::Worlds;

/// The bit of `skb->mark` that says that a hook saw a packet come in, unless
/// [`Options::seen_mark`] is another one. Not used by kube-proxy (0x4000, 0x8000), CNI's
/// portmap (0x2000), AWS' plugin (0x80), flannel, kindnet, Cilium (0x0f00 and the upper
/// half) or Calico (the upper half).
pub const SEEN_MARK: u32 = 0x1000;

/// How the datapath is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder on a bpffs; an ABI-versioned folder is made in it.
    pub pin_dir: PathBuf,
    /// Drop nothing, count everything.
    pub audit: bool,
    /// Events per second and endpoint that reach the ring.
    pub events_per_second: u32,
    /// How long after the datapath is opened the unknown TCP connections of newly
    /// managed endpoints, and answers to what they asked over UDP, are picked up as
    /// replies. A pod that starts later has no older connection.
    pub pickup: Duration,
    /// How programs are attached.
    pub attach: Attach,
    /// The bit of `skb->mark` that says that a hook saw a packet come in; 0: nobody asks.
    pub seen_mark: u32,
    /// The agent is to enter pods' network namespaces, which needs CAP_SYS_ADMIN.
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
    /// What told whose it is.
    pub by: FoundBy,
}

/// What [`Datapath::follow`] did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Followed {
    /// Generation of the world in force.
    pub generation: u64,
    /// Whether the worlds were flipped for it.
    pub flipped: bool,
    /// Since when packets are decided by it: what came after levels the other
    /// world.
    pub at: Instant,
    /// Interfaces that got no slot: pod and error. To be tried again.
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

/// What [`Datapath::apply`] did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Applied {
    /// Generation of the world in force.
    pub generation: u64,
    /// Whether the worlds were flipped for it.
    pub flipped: bool,
    /// Since when packets are decided by it; none where nothing was put in force.
    #[serde(skip)]
    pub in_force_at: Option<Instant>,
    /// Interfaces to which the programs couldn't be attached: pod and error.
    /// To be tried again.
    pub failed: Vec<(PodKey, String)>,
    /// How many other devices have their hooks.
    pub devices: usize,
    /// Other devices that haven't: name and error. To be tried again.
    pub unhooked: Vec<(String, String)>,
    /// Why the tables aren't in force, or something else was left undone; to be
    /// tried again. Programs are attached all the same, and quarantines and closed
    /// endpoints are in force.
    pub error: Option<String>,
    /// Pods that are closed because their policy couldn't be written.
    pub closed: Vec<PodKey>,
}

/// The loaded datapath.
pub struct Datapath {
    maps: Maps,
    links: Links,
    worlds: Worlds,
    endpoints: Endpoints,
    names: Names,
    options: Options,
    events: Option<Events>,
    /// The interfaces of the last call, with those that were retained.
    interfaces: Vec<Interface>,
    /// What discovery said last of devices that are no known pod's.
    others: Others,
    /// Number of the update whose tables were noted last; none before the first
    /// and after tables that came of no update.
    seen: Option<u64>,
    /// The last call succeeded: flows were decided against what it put in force.
    trusted: bool,
    ticks: Ticks,
    /// The tunnels' ports of the last call; none if it failed, or none was made yet.
    tunnels: Option<BTreeSet<u16>>,
    settled: quotas::Settled,
    idle: idle::Idle,
    /// Whether every hook that there was sets the mark by which packets count as seen.
    marked: bool,
    /// Whether packets take unknown addresses for Services'.
    hides_services: bool,
    counters: Arc<Counters>,
    /// End of the pick-up window, nanoseconds of `CLOCK_MONOTONIC`.
    pickup_until: u64,
    /// Whose hooks are still to be taken over.
    predecessors: Predecessors,
    /// Held as long as this process may write the maps.
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
    /// Checks the machine, loads the programs, reuses what is pinned, and puts
    /// the new programs under the links that are there.
    ///
    /// What the pinned world says stays in force until the first
    /// [`Datapath::apply`].
    ///
    /// # Errors
    /// Says what is missing and how to mend it; nothing is attached then.
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
        let worlds = Worlds::open(&maps);
        let mut endpoints = Endpoints::dump(&mut maps)?;
        for predecessor in predecessors.folders() {
            endpoints.carry(&mut maps, predecessor)?;
        }
        links.leave(predecessors.devices()?);
        let events = Some(Events::new(loaded.events, names.shared())?);
        let mut datapath = Self {
            maps,
            links,
            worlds,
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
        if datapath.worlds.generation == 0 {
            // The network plugin may close devices before the first policy is in force:
            // the mode counts from here on.
            let control = datapath.control(0, datapath.worlds.active);
            datapath.maps.set_control(control)?;
        }
        Ok(datapath)
    }

    /// The endpoints that are managed now.
    pub fn endpoints(&self) -> Vec<EndpointState> {
        let (active, audits) = (self.worlds.active, self.options.audit);
        self.endpoints
            .states(&self.links, &self.names, active, audits)
    }

    /// Where everything is pinned: the pin directory of this ABI version.
    pub fn folder(&self) -> PathBuf {
        preflight::place(&self.options.pin_dir)
    }

    /// Says what is known of devices that are no known pod's, for the calls of
    /// [`Datapath::apply_change`] that follow: a closed stranger gets the hooks of a pod's
    /// and no slot, so that nothing passes it.
    pub fn set_others(&mut self, others: Others) {
        self.others = others;
    }

    /// The key under which ids in the maps are hashes. It stays as long as the maps.
    pub fn id_key(&self) -> IdKey {
        self.names.key()
    }

    /// Generation of the world in force; rises with every flip.
    pub fn generation(&self) -> u64 {
        self.worlds.generation
    }

    /// The bit of packets' marks by which they count as seen, 0 if none is, and whether
    /// they are asked for it yet.
    pub const fn seen_mark(&self) -> (u32, bool) {
        (self.options.seen_mark, self.marked)
    }

    /// Denied and audited packets by workload pair, since the maps were made.
    ///
    /// # Errors
    /// If a map can't be read.
    pub fn drops(&self) -> Result<Vec<DropSeries>, DatapathError> {
        self.counters.drops()
    }

    /// The datapath's own counters.
    ///
    /// # Errors
    /// If a map can't be read.
    pub fn stats(&self) -> Result<Stats, DatapathError> {
        self.counters.stats()
    }

    /// How full each policy and flow map is.
    pub fn maps(&self) -> Vec<MapUsage> {
        let mut all = self.written();
        all.extend(self.counters.held());
        all
    }

    /// How full each map is that only the agent writes: known without a look.
    pub fn written(&self) -> Vec<MapUsage> {
        counters::written(self)
    }

    /// What packets write, for readers on other threads.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Addresses of endpoints that are under quarantine in the world in force.
    pub fn quarantined(&self) -> Vec<std::net::IpAddr> {
        self.endpoints.quarantined(self.worlds.active)
    }

    /// Live flows, most recently seen first.
    ///
    /// # Errors
    /// If a map can't be read.
    pub fn flows(&mut self) -> Result<Vec<FlowEntry>, DatapathError> {
        flows::list(self)
    }

    /// The stream of events; only once.
    pub const fn take_events(&mut self) -> Option<Events> {
        self.events.take()
    }
}
