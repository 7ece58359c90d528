//! What the loop, the socket and the metrics page share.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, broadcast, watch};

use crate::api::remote::{Remote, RemoteStatus};
use crate::cni::{self, CniStatus};
use crate::kernel::{Counts, Kernel};
use crate::kubernetes::emit::Emitter;
use crate::kubernetes::health::WatchStatus;
use crate::kubernetes::{Barrier, Board};
use crate::metrics::Metrics;
use crate::questions::Questions;
use crate::web::Admission;

/// Events that a slow `--follow` may lag behind before it loses some.
const FOLLOW_BACKLOG: usize = 1024;
/// The loop makes a pass every few seconds; silent for longer, it is stuck.
const ALIVE: Duration = Duration::from_secs(60);

/// Why a pod that shares the node's namespace isn't guarded: nothing can stand
/// between it and the node.
pub const HOST_NETWORK: &str = "host network: it is the node, and has no interface of its own";

/// How the agent is doing, as `ringfence status -o json` prints it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// This node's name.
    pub node: String,
    /// `enforce` or `audit`.
    pub mode: String,
    /// Where policy comes from.
    pub source: String,
    /// The source could be read in the last pass.
    pub source_connected: bool,
    /// What must be known before the first world is put in force, and isn't yet.
    #[serde(default)]
    pub waits_for: Vec<String>,
    /// How the watches of the API server are doing.
    #[serde(default)]
    pub watches: Vec<WatchStatus>,
    /// Process id of the agent.
    pub pid: u32,
    /// From which other versions it has taken over, and what of theirs goes on; none if
    /// it began anew, or after one of its own version.
    #[serde(default)]
    pub took_over: Option<String>,
    /// Connections that only the pick-up window let through, since the tables were made.
    #[serde(default)]
    pub picked_up: u64,
    /// Passes since the start.
    pub passes: u64,
    /// Passes that failed since the start.
    pub apply_errors: u64,
    /// Why the last pass failed; none if it didn't.
    pub error: Option<String>,
    /// The world's generation.
    pub generation: u64,
    /// Endpoints that are guarded.
    pub endpoints: usize,
    /// Pods of this node that are not and should be, and why.
    pub unguarded: Vec<UnguardedPod>,
    /// Pods of this node that have no network yet, or any more, so that there is nothing
    /// to guard.
    #[serde(default)]
    pub pending: Vec<UnguardedPod>,
    /// Pods that are on the node's own network.
    #[serde(default)]
    pub host_network: Vec<UnguardedPod>,
    /// Pods of this node that are guarded, and closed because their policy couldn't be
    /// put in force: `error` says why.
    #[serde(default)]
    pub closed: Vec<String>,
    /// Devices that lead to pods which nobody knows (yet).
    #[serde(default)]
    pub unknown: Vec<UnknownDevice>,
    /// Other devices of the node that have their hooks.
    pub devices: usize,
    /// Other devices that haven't, and why: there nothing is decided of what pods
    /// send through Services, and no foreign tag is cleared.
    pub unhooked: Vec<UnhookedDevice>,
    /// Addresses of the node's own interfaces: it answers at each of them.
    #[serde(default)]
    pub node_addresses: Vec<IpAddr>,
    /// The cluster's pod ranges, in which an address that nobody is known at is
    /// `unknown`; none before the first pass.
    #[serde(default)]
    pub pod_ranges: Option<Vec<String>>,
    /// UDP ports that nodes unpack, beside those that always count as tunnels'.
    #[serde(default)]
    pub tunnel_ports: Vec<u16>,
    /// The bit of packets' marks by which they count as seen; none with `--seen-mark 0`.
    #[serde(default)]
    pub seen_mark: Option<SeenMark>,
    /// Why there may be more addresses or tunnels: what was known before stays.
    #[serde(default)]
    pub node_faults: Vec<String>,
    /// Manifests that don't parse; the last good state of their objects stays.
    pub invalid: Vec<String>,
    /// Labels and annotations that don't parse, and what each is taken for.
    pub problems: Vec<String>,
    /// The same as object and field, policies that don't parse among them: for
    /// the metric that names them.
    #[serde(skip)]
    pub problem_fields: BTreeSet<(String, String)>,
    /// Namespaces, and records of the pod runtime, that couldn't be looked at.
    pub skipped: Vec<String>,
    /// The network plugin; none where the agent doesn't install it.
    #[serde(default)]
    pub plugin: Option<CniStatus>,
    /// The metrics page; none where it isn't served.
    #[serde(default)]
    pub metrics: Option<Scrapes>,
    /// The read-only API for programs; none where it isn't served.
    #[serde(default)]
    pub api: Option<RemoteStatus>,
}

/// The bit that ingress hooks set in the marks of the packets that they see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeenMark {
    /// The bit.
    pub bit: u32,
    /// Whether packets without it are dropped: from the end of the first pass on.
    pub asked: bool,
}

/// Where the metrics page is, and whether somebody reads it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Scrapes {
    /// Address and port.
    pub address: String,
    /// When it was read last, in seconds since 1970; none if never by this agent.
    pub last: Option<u64>,
}

impl Status {
    /// All pods without a firewall of their own, those that need none among them.
    pub fn not_guarded(&self) -> impl Iterator<Item = &UnguardedPod> {
        let all = self.unguarded.iter().chain(&self.pending);
        all.chain(&self.host_network)
    }

    /// The agent, and whom it has taken over from.
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

/// A device that leads to a pod which nobody knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnknownDevice {
    /// Its name.
    pub device: String,
    /// `namespace/name`, if the pod runtime has a record of the pod.
    pub pod: Option<String>,
    /// Nothing passes; else `--unknown-pods` or `--unknown-exempt` lets it.
    pub closed: bool,
}

/// A device that should have hooks and hasn't.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnhookedDevice {
    /// Its name.
    pub device: String,
    /// Why.
    pub reason: String,
}

/// Whether a pod's policy is in force: the answer to `status --wait`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InForce {
    /// It is, and was compiled from what the source said when asked.
    pub in_force: bool,
    /// Why not.
    pub reason: Option<String>,
    /// The world's generation.
    pub generation: u64,
    /// Manifests that don't parse, so that the policy in force may be older.
    pub invalid: Vec<String>,
}

impl InForce {
    /// It isn't, or nobody knows.
    pub fn not(reason: String) -> Self {
        Self {
            in_force: false,
            reason: Some(reason),
            generation: 0,
            invalid: Vec::new(),
        }
    }
}

/// One for each agent, behind an `Arc`.
pub struct Shared {
    kernel: Mutex<Box<dyn Kernel>>,
    /// What packets count, which nobody has to hold the kernel for.
    pub counters: Arc<dyn Counts>,
    status: Mutex<Status>,
    last_pass: Mutex<Option<Instant>>,
    /// Seconds since 1970; 0 before the first.
    last_scrape: AtomicU64,
    /// Who may read the metrics page.
    pub admission: Arc<Admission>,
    /// Process-wide counters.
    pub metrics: Metrics,
    /// How the watches are doing, where the API server is the source.
    board: Option<Board>,
    /// Tells when the watches have told what the API server has accepted, where that is
    /// the source.
    pub barrier: Option<Arc<Barrier>>,
    /// What the next pass is asked.
    pub questions: Questions,
    /// How the network plugin is installed, where the agent does that.
    pub plugin: Option<cni::Board>,
    /// Where programs are served, if they are.
    pub remote: Option<Remote>,
    /// Gathers what is to be told in Events, where that is asked for.
    pub emitter: Option<Arc<Emitter>>,
    /// Something may have changed: make a pass.
    pub wake: Arc<Notify>,
    /// The pod runtime has recorded something, or a pod waits for its policy: make a pass
    /// at once.
    pub recorded: Arc<Notify>,
    /// Passes that were published.
    published: watch::Sender<u64>,
    requested: AtomicU64,
    completed: watch::Sender<u64>,
    /// Denied and audited packets, one JSON object each.
    pub events: broadcast::Sender<Arc<str>>,
}

impl Shared {
    /// The state of an agent that hasn't made a pass yet.
    pub fn new(kernel: impl Kernel, metrics: Metrics, status: Status) -> Self {
        Self {
            counters: kernel.counters(),
            kernel: Mutex::new(Box::new(kernel)),
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

    /// The same with watches that are to be seen in its status.
    pub fn with_board(mut self, board: Option<Board>) -> Self {
        self.board = board;
        self
    }

    /// How the watches are doing.
    pub const fn board(&self) -> Option<&Board> {
        self.board.as_ref()
    }

    /// The datapath; blocks while a pass applies (some 20 ms).
    pub fn kernel(&self) -> MutexGuard<'_, Box<dyn Kernel>> {
        lock(&self.kernel)
    }

    /// How the agent is doing.
    pub fn status(&self) -> Status {
        let mut status = lock(&self.status).clone();
        // Watches come and go between passes.
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

    /// Notes that somebody has been given the metrics page.
    pub fn scraped(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        self.last_scrape.store(now, Ordering::Relaxed);
    }

    /// Records how a pass ended.
    pub fn set_status(&self, status: Status) {
        *lock(&self.status) = status;
        *lock(&self.last_pass) = Some(Instant::now());
        self.published.send_modify(|passes| *passes += 1);
    }

    /// Tells of each pass that ends from now on.
    pub fn passes(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// The ticket of the newest request, to be read before a pass begins.
    pub fn ticket(&self) -> u64 {
        self.requested.load(Ordering::SeqCst)
    }

    /// Says that a pass which began after this ticket was given is done.
    pub fn complete(&self, ticket: u64) {
        self.completed.send_replace(ticket);
    }

    /// Asks for a pass and waits for its end.
    pub async fn pass(&self) {
        let ticket = self.requested.fetch_add(1, Ordering::SeqCst) + 1;
        self.wake.notify_one();
        let mut completed = self.completed.subscribe();
        // The sender lives in `self`, so this can't fail.
        let _ = completed.wait_for(|done| *done >= ticket).await;
    }

    /// Why no policy of this agent's own is in force yet, or what is isn't well.
    pub fn unready(&self) -> Option<String> {
        let waits = lock(&self.status).waits_for.join(", ");
        let waits = (!waits.is_empty()).then(|| format!("not known yet: {waits}"));
        self.unhealthy().or(waits)
    }

    /// Why the agent isn't healthy, if it isn't.
    pub fn unhealthy(&self) -> Option<String> {
        if lock(&self.last_pass).is_none() {
            return Some("no pass has been made yet".into());
        }
        self.stuck().or_else(|| lock(&self.status).error.clone())
    }

    /// Why only another process would help, if so: an error is tried again, and
    /// a source that can't be reached yet is waited for.
    pub fn stuck(&self) -> Option<String> {
        let since = lock(&self.last_pass).map(|at| at.elapsed());
        since
            .filter(|since| *since > ALIVE)
            .map(|since| format!("the last pass was {} s ago", since.as_secs()))
    }
}

/// A panic elsewhere leaves plain data behind, still worth showing.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
