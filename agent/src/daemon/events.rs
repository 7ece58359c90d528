//! The events that wake the loop.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use ringfence_netlink::LinkEvents;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::early::Early;
use super::scheduler::{Event, PERIOD};

/// Everything that the loop listens to. Each remembers that it was notified, once, until it is
/// heard.
pub(super) struct Heard<'a> {
    pub(super) stop: &'a mut Stop,
    pub(super) recorded: &'a Notify,
    pub(super) linked: &'a Notify,
    pub(super) wake: &'a Notify,
    pub(super) told: &'a Notify,
}

impl Heard<'_> {
    /// Returns the next event; none if there is none until this time. Of several, a random one
    /// comes first, so that a stream of one kind doesn't drown another.
    pub(super) async fn before(&mut self, until: Instant) -> Option<Event> {
        tokio::select! {
            () = self.stop.asked() => Some(Event::Stop),
            () = self.recorded.notified() => Some(Event::Recorded),
            () = self.linked.notified() => Some(Event::Device),
            () = self.wake.notified() => Some(Event::Changed),
            () = self.told.notified() => Some(Event::Source),
            () = sleep_until(until.into()) => None,
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
