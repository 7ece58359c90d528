//! What the loop wakes for, and how long it waits for what comes with it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ringfence_netlink::LinkEvents;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant as TokioInstant, sleep, sleep_until, timeout_at};

use super::early::Early;
use super::{PERIOD, QUIET};

/// Events that never pause don't hold a pass up for longer.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// How long a record of the pod runtime takes to be written once its file is there.
pub(super) const WRITTEN: Duration = Duration::from_millis(2);

/// Waits for the events that come with the first one; one of the API server's, and a
/// record of the pod runtime's, waits for none.
pub(super) async fn settle(wake: &Notify, told: &Notify, recorded: &Notify) {
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

/// Wakes the loop at every change of a network device of the node, from a thread
/// that ends with the process; new devices are closed there.
pub(super) fn follow_links(wake: Arc<Notify>, early: Option<Arc<Early>>) -> anyhow::Result<()> {
    let events = LinkEvents::open()?;
    let follow = move || loop {
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
        .spawn(follow)
        .context("starting the thread that follows links")?;
    Ok(())
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Stop {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Stop {
    /// Listens from now on; within a runtime.
    ///
    /// # Errors
    /// If the process can't listen for signals.
    pub fn new() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            term: on(SignalKind::terminate())?,
            int: on(SignalKind::interrupt())?,
        })
    }

    /// Returns when one of them comes, or has come.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
