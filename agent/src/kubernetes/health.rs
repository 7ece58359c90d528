//! The health of each watch, for `status`, for metrics, and for the next attempt.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use ringfence_api::{WatchState, WatchStatus};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Kind;

/// A watch without data for this long counts as dead. Servers send a bookmark every minute.
const SILENCE: Duration = Duration::from_secs(90);
/// The longest wait that a server may request.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// State shared by all watches of one server.
#[derive(Debug, Default)]
struct Server {
    /// Notified when one of the watches has got an answer.
    back: Notify,
    outage: Mutex<Outage>,
}

/// The time in which some watch is disconnected.
#[derive(Debug, Default)]
struct Outage {
    /// The disconnected watches.
    down: BTreeSet<Kind>,
    since: Option<Instant>,
    faults: u64,
}

impl Server {
    fn outage(&self) -> MutexGuard<'_, Outage> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outage {
    /// Counts a fault; returns whether it is the first of the outage.
    fn fault(&mut self, kind: Kind) -> bool {
        let is_first = self.down.is_empty();
        self.down.insert(kind);
        self.faults += 1;
        if is_first {
            self.since = Some(Instant::now());
        }
        is_first
    }

    /// Records that a watch is connected or no longer needed. If that ends the outage, returns its
    /// duration and number of faults.
    fn over(&mut self, kind: Kind) -> Option<(Duration, u64)> {
        if !self.down.remove(&kind) || !self.down.is_empty() {
            return None;
        }
        let faults = std::mem::take(&mut self.faults);
        let since = self.since.take()?;
        Some((since.elapsed(), faults))
    }
}

/// The health of one watch.
#[derive(Debug)]
pub struct Health {
    kind: Kind,
    server: Arc<Server>,
    state: Mutex<State>,
    errors: AtomicU64,
    lists: AtomicU64,
}

#[derive(Debug)]
struct State {
    link: WatchState,
    since: SystemTime,
    is_listed: bool,
    error: Option<String>,
    heard: Instant,
    retry_after: Option<Duration>,
}

impl Health {
    fn new(kind: Kind, server: Arc<Server>) -> Self {
        Self {
            kind,
            server,
            state: Mutex::new(State {
                link: WatchState::Disconnected,
                since: SystemTime::now(),
                is_listed: false,
                error: None,
                heard: Instant::now(),
                retry_after: None,
            }),
            errors: AtomicU64::new(0),
            lists: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the server started to answer.
    pub fn answered(&self, status: StatusCode, headers: &HeaderMap) {
        let mut state = self.state();
        state.heard = Instant::now();
        if status.is_success() {
            state.turn(WatchState::Connected);
            drop(state);
            self.over();
            self.server.back.notify_waiters();
            return;
        }
        let seconds = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok());
        let seconds = seconds.and_then(|text| text.parse().ok());
        state.retry_after = seconds.map(|s| Duration::from_secs(s).min(LONGEST_WAIT));
    }

    /// Records that data arrived.
    pub fn heard(&self) {
        self.state().heard = Instant::now();
    }

    /// Returns for how long no data has arrived.
    pub fn silent_for(&self) -> Duration {
        self.state().heard.elapsed()
    }

    /// Records that the watcher gave up a watch before its end.
    pub fn let_go(&self) {
        let silent = self.silent_for();
        if silent >= SILENCE {
            self.failed(&format!("no data for {} s", silent.as_secs()));
        }
    }

    /// Returns once any watch of the same server has got an answer.
    pub async fn server_is_back(&self) {
        self.server.back.notified().await;
    }

    /// Logs once that all watches are connected again.
    fn over(&self) {
        if let Some((lasted, faults)) = self.server.outage().over(self.kind) {
            let seconds = lasted.as_secs_f64();
            tracing::info!("all watches are connected again after {seconds:.1} s, {faults} faults");
        }
    }

    /// Records a fault. The first fault of an outage is logged; `status` and metrics show each.
    pub fn failed(&self, error: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        match self.server.outage().fault(self.kind) {
            true => tracing::warn!(kind = %self.kind, "{error}; what is in force stays"),
            false => tracing::debug!(kind = %self.kind, "{error}"),
        }
        let mut state = self.state();
        state.error = Some(error.to_owned());
        state.turn(WatchState::Disconnected);
    }

    /// Records the start of a list.
    pub fn listing(&self) {
        self.lists.fetch_add(1, Ordering::Relaxed);
    }

    /// Records the completion of a list.
    pub fn listed(&self) {
        self.state().is_listed = true;
    }

    /// Records that the cluster doesn't have the kind.
    pub fn absent(&self) {
        let mut state = self.state();
        state.is_listed = true;
        state.turn(WatchState::Absent);
        drop(state);
        self.over();
    }

    /// Takes the wait that the server requested, if any.
    pub fn take_retry_after(&self) -> Option<Duration> {
        self.state().retry_after.take()
    }

    /// Returns the row for `status`.
    pub fn status(&self) -> WatchStatus {
        let state = self.state();
        let since = state.since.duration_since(UNIX_EPOCH);
        WatchStatus {
            kind: self.kind.name().to_owned(),
            state: state.link.clone(),
            since: since.map_or(0, |since| since.as_secs()),
            listed: state.is_listed,
            error: state.error.clone(),
            errors: self.errors.load(Ordering::Relaxed),
            lists: self.lists.load(Ordering::Relaxed),
        }
    }
}

impl State {
    fn turn(&mut self, link: WatchState) {
        if self.link != link {
            self.link = link;
            self.since = SystemTime::now();
        }
    }
}

/// The health of all watches.
#[derive(Clone, Debug)]
pub struct Board(Arc<[Arc<Health>]>);

impl Default for Board {
    fn default() -> Self {
        let server: Arc<Server> = Arc::default();
        let each = Kind::ALL.map(|kind| Arc::new(Health::new(kind, Arc::clone(&server))));
        Self(each.into())
    }
}

impl Board {
    /// Returns the health of one kind's watch.
    pub fn of(&self, kind: Kind) -> Arc<Health> {
        // All kinds are present, in their order.
        Arc::clone(&self.0[kind as usize])
    }

    /// Returns one row per watch.
    pub fn rows(&self) -> Vec<WatchStatus> {
        self.0.iter().map(|health| health.status()).collect()
    }

    /// Reports whether no watch is disconnected.
    pub fn is_connected(&self) -> bool {
        self.0
            .iter()
            .all(|health| health.state().link != WatchState::Disconnected)
    }

    /// Adds the metrics to a page.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["kind"])?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &["kind"])?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let connected = gauge(
            "ringfence_watch_connected",
            "1 if the watch of a kind is connected, or the cluster has no such kind.",
        )?;
        let silent = gauge(
            "ringfence_watch_silent_seconds",
            "Seconds without data on the watch of a kind; servers send a bookmark every minute.",
        )?;
        let errors = counter(
            "ringfence_watch_errors_total",
            "Faults of the watch of a kind; the agent recovers from each.",
        )?;
        let lists = counter(
            "ringfence_watch_lists_total",
            "Lists of a kind; each after the first because a watch lost its place.",
        )?;
        for health in self.0.iter() {
            let row = health.status();
            let labels = [&*row.kind];
            let up = i64::from(row.state != WatchState::Disconnected);
            connected.with_label_values(&labels).set(up);
            let quiet = match row.state {
                WatchState::Absent => 0,
                _ => i64::try_from(health.silent_for().as_secs()).unwrap_or(i64::MAX),
            };
            silent.with_label_values(&labels).set(quiet);
            errors.with_label_values(&labels).inc_by(row.errors);
            lists.with_label_values(&labels).inc_by(row.lists);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_with_the_first_fault_and_ends_with_the_last_watch() {
        let mut outage = Outage::default();
        assert!(outage.fault(Kind::Pod));
        assert!(!outage.fault(Kind::Pod));
        assert!(!outage.fault(Kind::Node));
        assert_eq!(outage.over(Kind::Service), None, "never lost");
        assert_eq!(outage.over(Kind::Pod), None);
        let (_, faults) = outage.over(Kind::Node).unwrap();
        assert_eq!(faults, 3);
        assert_eq!(outage.over(Kind::Node), None, "said once");
        assert!(outage.fault(Kind::Node), "another one");
    }
}
