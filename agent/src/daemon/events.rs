//! The events that wake the loop, and debouncing them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ringfence_netlink::LinkEvents;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant as TokioInstant, sleep, sleep_until, timeout_at};

use super::early::Early;
use super::{PERIOD, QUIET};

/// Maximum time that a continuous stream of events delays a pass.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// How long it takes to write a record of the pod runtime once its file exists.
pub(super) const WRITTEN: Duration = Duration::from_millis(2);

/// Waits for events related to the first one, unless the API server sends an event or the pod
/// runtime writes a record: these end the wait.
pub(super) async fn debounce(wake: &Notify, told: &Notify, recorded: &Notify) {
    let deadline = TokioInstant::now() + PATIENCE;
    loop {
        let quiet = (TokioInstant::now() + QUIET).min(deadline);
        tokio::select! {
            () = told.notified() => return,
            () = recorded.notified() => {
                sleep(WRITTEN).await;
                return;
            }
            more = timeout_at(quiet, wake.notified()) => if more.is_err() {
                return;
            },
        }
        if TokioInstant::now() >= deadline {
            sleep_until(deadline).await;
            return;
        }
    }
}

/// Wakes the loop at every change of a network device of the node, from a thread that ends with
/// the process. The thread also closes new devices.
pub(super) fn watch_links(wake: Arc<Notify>, early: Option<Arc<Early>>) -> anyhow::Result<()> {
    let events = LinkEvents::open()?;
    let watch = move || loop {
        match events.wait() {
            Ok(new) => {
                wake.notify_one();
                if let (Some(early), Some(ifindex)) = (&early, new) {
                    early.close(ifindex);
                }
            }
            Err(error) => {
                tracing::warn!(
                    "{error}; new devices are found every {} s",
                    PERIOD.as_secs()
                );
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("links".into())
        .spawn(watch)
        .context("starting the thread that watches network devices")?;
    Ok(())
}

/// The signals SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Stop {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Stop {
    /// Starts listening; must be called within a runtime.
    ///
    /// # Errors
    /// Fails if the process can't listen for signals.
    pub fn new() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            term: on(SignalKind::terminate())?,
            int: on(SignalKind::interrupt())?,
        })
    }

    /// Returns once one of them has been received.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
