//! The state shared by the loop, the socket and the metrics page.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ringfence_api::Status;
use tokio::sync::{Notify, broadcast, watch};

use crate::api::remote::Remote;
use crate::cni;
use crate::dataplane::{Counts, Dataplane};
use crate::kubernetes::emit::Emitter;
use crate::kubernetes::{Barrier, Board};
use crate::metrics::Metrics;
use crate::questions::Questions;
use crate::web::Admission;

/// Events that a slow `--follow` may lag behind before it loses some.
const FOLLOW_BACKLOG: usize = 1024;
/// The loop makes a pass every few seconds; without one for this long, it is stuck.
const ALIVE: Duration = Duration::from_secs(60);

/// The shared state; one per agent, behind an `Arc`.
pub struct Shared {
    dataplane: Mutex<Box<dyn Dataplane>>,
    /// The counters that packets write, readable without locking the datapath.
    pub counters: Arc<dyn Counts>,
    status: Mutex<Status>,
    /// The objects and fields of the status' problems, including policies that don't parse, for
    /// the metric that names them.
    problem_fields: Mutex<BTreeSet<(String, String)>>,
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
            problem_fields: Mutex::default(),
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

    /// Returns the objects and fields of the status' problems.
    pub fn problem_fields(&self) -> BTreeSet<(String, String)> {
        lock(&self.problem_fields).clone()
    }

    /// Sets the objects and fields of the status' problems.
    pub fn set_problem_fields(&self, fields: BTreeSet<(String, String)>) {
        *lock(&self.problem_fields) = fields;
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
