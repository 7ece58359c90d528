//! The state shared by the loop, the socket and the metrics page.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, broadcast, watch};

use crate::api::remote::{Remote, RemoteStatus};
use crate::cni::{self, CniStatus};
use crate::dataplane::{Counts, Dataplane};
use crate::kubernetes::emit::Emitter;
use crate::kubernetes::health::WatchStatus;
use crate::kubernetes::{Barrier, Board};
use crate::metrics::Metrics;
use crate::questions::Questions;
use crate::web::Admission;

/// Events that a slow `--follow` may lag behind before it loses some.
const FOLLOW_BACKLOG: usize = 1024;
/// The loop makes a pass every few seconds; without one for this long, it is stuck.
const ALIVE: Duration = Duration::from_secs(60);

/// Status of the agent, as printed by `ringfence status -o json`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// This node's name.
    pub node: String,
    /// `enforce` or `audit`.
    pub mode: String,
    /// The source of policy.
    pub source: String,
    /// Whether the source could be read in the last pass.
    pub source_connected: bool,
    /// What must be known before the first tables are put in force, and isn't yet.
    #[serde(default)]
    pub waits_for: Vec<String>,
    /// Status of the watches of the API server.
    #[serde(default)]
    pub watches: Vec<WatchStatus>,
    /// Process id of the agent.
    pub pid: u32,
    /// The other versions that it has taken over from, and what was kept; none if it started from
    /// scratch, or after an agent of its own version.
    #[serde(default)]
    pub took_over: Option<String>,
    /// Connections that only the pick-up window allowed, since the tables were created.
    #[serde(default)]
    pub picked_up: u64,
    /// Number of passes since the start.
    pub passes: u64,
    /// Number of failed passes since the start.
    pub apply_errors: u64,
    /// Why the last pass failed, if it did.
    pub error: Option<String>,
    /// Generation of the active buffer.
    pub generation: u64,
    /// Number of guarded endpoints.
    pub endpoints: usize,
    /// Pods of this node that should be guarded and aren't, and why.
    pub unguarded: Vec<UnguardedPod>,
    /// Pods of this node that have no network yet, or no longer, so that there is nothing to
    /// guard.
    #[serde(default)]
    pub pending: Vec<UnguardedPod>,
    /// Pods that use the node's own network.
    #[serde(default)]
    pub host_network: Vec<UnguardedPod>,
    /// Pods of this node that are guarded, and closed because their policy couldn't be put in
    /// force: `error` says why.
    #[serde(default)]
    pub closed: Vec<String>,
    /// Devices that lead to unknown pods.
    #[serde(default)]
    pub unknown: Vec<UnknownDevice>,
    /// Number of other devices of the node that have their hooks.
    pub devices: usize,
    /// Other devices that lack their hooks, and why: traffic of pods to Services isn't checked
    /// there, and foreign tags aren't cleared.
    pub unhooked: Vec<UnhookedDevice>,
    /// Addresses of the node's own interfaces, at each of which it answers.
    #[serde(default)]
    pub node_addresses: Vec<IpAddr>,
    /// The cluster's pod ranges, in which an address without a known owner counts as `unknown`;
    /// none before the first pass.
    #[serde(default)]
    pub pod_ranges: Option<Vec<String>>,
    /// UDP ports that nodes decapsulate, in addition to those always treated as tunnels'.
    #[serde(default)]
    pub tunnel_ports: Vec<u16>,
    /// The mark bit of seen packets; none with `--seen-mark 0`.
    #[serde(default)]
    pub seen_mark: Option<SeenMark>,
    /// Why there may be more addresses or tunnels: those already known stay in use.
    #[serde(default)]
    pub node_faults: Vec<String>,
    /// Manifests that don't parse; the last good state of their objects stays in force.
    pub invalid: Vec<String>,
    /// Labels and annotations that don't parse, and how each is interpreted.
    pub problems: Vec<String>,
    /// The objects and fields of these problems, including policies that don't parse, for the
    /// metric that names them.
    #[serde(skip)]
    pub problem_fields: BTreeSet<(String, String)>,
    /// Namespaces, and records of the pod runtime, that couldn't be read.
    pub skipped: Vec<String>,
    /// Status of the network plugin; none if the agent doesn't install it.
    #[serde(default)]
    pub plugin: Option<CniStatus>,
    /// Status of the metrics page; none if it isn't served.
    #[serde(default)]
    pub metrics: Option<Scrapes>,
    /// Status of the read-only API for programs; none if it isn't served.
    #[serde(default)]
    pub api: Option<RemoteStatus>,
}

/// The bit that ingress hooks set in the marks of the packets they see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeenMark {
    /// The bit.
    pub bit: u32,
    /// Whether packets without it are dropped, which starts at the end of the first pass.
    pub asked: bool,
}

/// Address of the metrics page, and whether it is being read.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Scrapes {
    /// Address and port.
    pub address: String,
    /// When it was last read, in seconds since 1970; none if not since this agent started.
    pub last: Option<u64>,
}

impl Status {
    /// Returns all pods without a firewall of their own, including those that need none.
    pub fn not_guarded(&self) -> impl Iterator<Item = &UnguardedPod> {
        let all = self.unguarded.iter().chain(&self.pending);
        all.chain(&self.host_network)
    }

    /// Describes the agent, and what it has taken over from.
    pub fn agent(&self) -> String {
        let mut text = format!("{}, pid {}", self.version, self.pid);
        if let Some(from) = &self.took_over {
            text.push_str(&format!("\ntook over   from {from}"));
        }
        if self.picked_up > 0 {
            text.push_str(&format!(
                "\npicked up   {} open connections",
                self.picked_up
            ));
        }
        text
    }
}

/// A pod of this node that isn't guarded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnguardedPod {
    /// `namespace/name`.
    pub pod: String,
    /// Why.
    pub reason: String,
}

/// A device that leads to an unknown pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnknownDevice {
    /// Name of the device.
    pub device: String,
    /// `namespace/name`, if the pod runtime has a record of the pod.
    pub pod: Option<String>,
    /// Whether all traffic is dropped; otherwise `--unknown-pods` or `--unknown-exempt` allows it.
    pub closed: bool,
}

/// A device that should have hooks and doesn't.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnhookedDevice {
    /// Name of the device.
    pub device: String,
    /// Why.
    pub reason: String,
}

/// Whether a pod's policy is in force: the answer to `status --wait`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InForce {
    /// Whether the policy is in force, compiled from the state of the source at the time of the
    /// request.
    pub in_force: bool,
    /// Why it isn't.
    pub reason: Option<String>,
    /// Generation of the active buffer.
    pub generation: u64,
    /// Manifests that don't parse, so that the policy in force may be older.
    pub invalid: Vec<String>,
}

impl InForce {
    /// Returns the answer that it isn't in force, or that this is unknown.
    pub fn not(reason: String) -> Self {
        Self {
            in_force: false,
            reason: Some(reason),
            generation: 0,
            invalid: Vec::new(),
        }
    }
}

/// The shared state; one per agent, behind an `Arc`.
pub struct Shared {
    dataplane: Mutex<Box<dyn Dataplane>>,
    /// The counters that packets write, readable without locking the datapath.
    pub counters: Arc<dyn Counts>,
    status: Mutex<Status>,
    last_pass: Mutex<Option<Instant>>,
    /// Seconds since 1970; 0 before the first scrape.
    last_scrape: AtomicU64,
    /// Who may read the metrics page.
    pub admission: Arc<Admission>,
    /// Process-wide counters.
    pub metrics: Metrics,
    /// Status of the watches, if the API server is the source.
    board: Option<Board>,
    /// Reports when the watches have delivered what the API server has accepted, if that is the
    /// source.
    pub barrier: Option<Arc<Barrier>>,
    /// Questions for the next pass.
    pub questions: Questions,
    /// Status of the network plugin's installation, if the agent installs it.
    pub plugin: Option<cni::Board>,
    /// The API for programs, if it is served.
    pub remote: Option<Remote>,
    /// Collects what is to be reported in Events, if that is enabled.
    pub emitter: Option<Arc<Emitter>>,
    /// Something may have changed: make a pass.
    pub wake: Arc<Notify>,
    /// The pod runtime has recorded something, or a pod waits for its policy: make a pass at once.
    pub recorded: Arc<Notify>,
    /// Number of passes that were published.
    published: watch::Sender<u64>,
    requested: AtomicU64,
    completed: watch::Sender<u64>,
    /// Denied and audited packets, one JSON object each.
    pub events: broadcast::Sender<Arc<str>>,
}

impl Shared {
    /// Creates the state of an agent that hasn't made a pass yet.
    pub fn new(dataplane: impl Dataplane, metrics: Metrics, status: Status) -> Self {
        Self {
            counters: dataplane.counters(),
            dataplane: Mutex::new(Box::new(dataplane)),
            status: Mutex::new(status),
            last_pass: Mutex::new(None),
            last_scrape: AtomicU64::new(0),
            admission: Arc::default(),
            metrics,
            board: None,
            barrier: None,
            questions: Questions::default(),
            plugin: None,
            remote: None,
            emitter: None,
            wake: Arc::new(Notify::new()),
            recorded: Arc::new(Notify::new()),
            published: watch::Sender::new(0),
            requested: AtomicU64::new(0),
            completed: watch::Sender::new(0),
            events: broadcast::Sender::new(FOLLOW_BACKLOG),
        }
    }

    /// Adds the board of the watches, which is then shown in the status.
    pub fn with_board(mut self, board: Option<Board>) -> Self {
        self.board = board;
        self
    }

    /// Returns the status of the watches.
    pub const fn board(&self) -> Option<&Board> {
        self.board.as_ref()
    }

    /// Locks the datapath; blocks while a pass applies (some 20 ms).
    pub fn dataplane(&self) -> MutexGuard<'_, Box<dyn Dataplane>> {
        lock(&self.dataplane)
    }

    /// Returns the status of the agent.
    pub fn status(&self) -> Status {
        let mut status = lock(&self.status).clone();
        // Watches connect and disconnect between passes.
        if let Some(board) = &self.board {
            status.source_connected = board.is_connected();
            status.watches = board.rows();
        }
        status.plugin = self.plugin.as_ref().map(cni::Board::read);
        status.api = self.remote.as_ref().map(Remote::status);
        if let Some(scrapes) = &mut status.metrics {
            let last = self.last_scrape.load(Ordering::Relaxed);
            scrapes.last = (last != 0).then_some(last);
        }
        status
    }

    /// Records that the metrics page has been read.
    pub fn scraped(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        self.last_scrape.store(now, Ordering::Relaxed);
    }

    /// Records the result of a pass.
    pub fn set_status(&self, status: Status) {
        *lock(&self.status) = status;
        *lock(&self.last_pass) = Some(Instant::now());
        self.published.send_modify(|passes| *passes += 1);
    }

    /// Returns a receiver that is notified of each pass that ends from now on.
    pub fn passes(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// Returns the ticket of the newest request; to be read before a pass starts.
    pub fn ticket(&self) -> u64 {
        self.requested.load(Ordering::SeqCst)
    }

    /// Records that a pass that started after this ticket was issued is done.
    pub fn complete(&self, ticket: u64) {
        self.completed.send_replace(ticket);
    }

    /// Requests a pass and waits for its end.
    pub async fn pass(&self) {
        let ticket = self.requested.fetch_add(1, Ordering::SeqCst) + 1;
        self.wake.notify_one();
        let mut completed = self.completed.subscribe();
        // The sender lives in `self`, so this can't fail.
        let _ = completed.wait_for(|done| *done >= ticket).await;
    }

    /// Returns why this agent's own policy isn't in force yet or the agent isn't healthy, if so.
    pub fn unready(&self) -> Option<String> {
        let waits = lock(&self.status).waits_for.join(", ");
        let waits = (!waits.is_empty()).then(|| format!("not known yet: {waits}"));
        self.unhealthy().or(waits)
    }

    /// Returns why the agent isn't healthy, if so.
    pub fn unhealthy(&self) -> Option<String> {
        if lock(&self.last_pass).is_none() {
            return Some("no pass has been made yet".into());
        }
        self.stuck().or_else(|| lock(&self.status).error.clone())
    }

    /// Returns why only restarting the process would help, if so: errors are retried, and a source
    /// that can't be reached yet is waited for.
    pub fn stuck(&self) -> Option<String> {
        let since = lock(&self.last_pass).map(|at| at.elapsed());
        since
            .filter(|since| *since > ALIVE)
            .map(|since| format!("the last pass was {} s ago", since.as_secs()))
    }
}

/// A panic elsewhere leaves plain data behind, which is still worth showing.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
