//! One kind's endless watch.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::client::ClientBuilder;
use kube::runtime::watcher::{self, Event, InitialListStrategy, watcher};
use kube::{Api, Client};
use ringfence_policy::config::Config;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::absence::Absence;
use super::barrier::Asked;
use super::fault::{Fault, describe, status};
use super::framing::Witnessed;
use super::health::Health;
use super::inbox::{Outbox, What};
use super::ledger::{Ledger, News};
use super::pace::Pace;
use super::seen::Seen;
use super::waits::{TOGETHER, Waits};
use super::{Access, Kind};
use crate::failure;

/// How to proceed after a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// The watcher resumes by itself, from where it was.
    Resume,
    /// Reconnect and list again.
    Anew,
    /// Like `Anew`, but at once: the server can't stream lists, which is no fault.
    Pages,
    /// The cluster doesn't have the kind.
    Absent,
    /// The cluster had the kind, and may not have it any more.
    Vanished,
}

/// One kind's watch.
pub struct Follow {
    kind: Kind,
    access: Access,
    config: Config,
    out: Outbox,
    health: Arc<Health>,
    pace: Pace,
    ledger: Ledger,
    /// Questions about what the watch has delivered.
    asked: mpsc::Receiver<Asked>,
    /// Whether to stream the list. The first list is streamed, which costs the server least. Later
    /// ones are read in pages: only those return the newest state whichever of several servers
    /// answers, and a list of an earlier moment would revert what is known.
    streams: bool,
    is_listing: bool,
    waits: Waits,
    absence: Absence,
}

impl Follow {
    /// Creates a watch without running it.
    pub fn new(
        kind: Kind,
        access: Access,
        config: Config,
        out: Outbox,
        health: Arc<Health>,
        asked: mpsc::Receiver<Asked>,
        pace: Pace,
    ) -> Self {
        Self {
            kind,
            access,
            config,
            out,
            health,
            pace,
            ledger: Ledger::default(),
            asked,
            streams: true,
            is_listing: true,
            waits: Waits::new(pace),
            absence: Absence::default(),
        }
    }

    /// Watches until it is dropped.
    pub async fn run(mut self) {
        loop {
            match self.connect().await {
                Ok(client) => self.watch(client).await,
                Err(error) => {
                    self.fault(&failure::one_line(&error), Fault::Answered)
                        .await;
                }
            }
        }
    }

    async fn connect(&self) -> anyhow::Result<Client> {
        let config = self.access.config().await?;
        let witness = Witnessed(Arc::clone(&self.health));
        Ok(ClientBuilder::try_from(config)?
            .with_layer(&witness)
            .build())
    }

    /// Watches until a new connection is needed.
    async fn watch(&mut self, client: Client) {
        let api: Api<Seen> = Api::all_with(client.clone(), &self.kind);
        let mut events = pin!(watcher(api, self.watcher_config()));
        self.is_listing = true;
        self.health.heard();
        loop {
            let event = match self.next_event(&mut events.next()).await {
                Some(Some(event)) => event,
                Some(None) => return,
                None => {
                    let silent = self.pace.stall.as_secs();
                    let error = format!("the list stalled: no data for {silent} s");
                    return self.fault(&error, Fault::Answered).await;
                }
            };
            let next = match event {
                Ok(event) => match self.take(event).await {
                    Ok(()) => continue,
                    Err(error) => {
                        self.fault(&error, Fault::Answered).await;
                        Next::Anew
                    }
                },
                Err(error) => self.judge(&client, &error).await,
            };
            if next != Next::Resume {
                return;
            }
        }
    }

    /// Returns the watcher's configuration. Watches end at different times, so that a server isn't
    /// asked by all at once.
    fn watcher_config(&self) -> watcher::Config {
        let lasts = self.pace.watch.mul_f64(1.0 + fastrand::f64() / 2.0);
        watcher::Config {
            timeout: Some(u32::try_from(lasts.as_secs()).unwrap_or(u32::MAX)),
            initial_list_strategy: match self.streams {
                true => InitialListStrategy::StreamingList,
                false => InitialListStrategy::ListWatch,
            },
            ..watcher::Config::default()
        }
    }

    /// Returns the next event, or none if a list has stalled. Answers questions meanwhile:
    /// everything in the ledger is already in the queue.
    async fn next_event<F: Future + Unpin>(&mut self, next: &mut F) -> Option<F::Output> {
        let (health, stall) = (Arc::clone(&self.health), self.pace.stall);
        let mut event = pin!(patiently(next, self.is_listing, &health, stall));
        loop {
            tokio::select! {
                event = &mut event => return event,
                Some(asked) = self.asked.recv() => asked.answer(&self.ledger),
            }
        }
    }

    async fn take(&mut self, event: Event<Seen>) -> Result<(), String> {
        // A list that has just started has shown nothing yet.
        if !matches!(event, Event::Init) {
            self.absence.is_over();
        }
        match event {
            Event::Init => {
                self.is_listing = true;
                self.health.listing();
                self.ledger.list();
            }
            Event::InitApply(seen) => {
                let (namespace, name) = seen.key();
                if self.ledger.listed(namespace, name, seen.version()) {
                    self.tell(&seen).await;
                }
            }
            Event::InitDone => self.complete().await,
            Event::Apply(seen) => {
                let (namespace, name) = seen.key();
                let news = self.ledger.applied(namespace, name, seen.version());
                if believed(news)? {
                    self.tell(&seen).await;
                }
            }
            Event::Delete(seen) => {
                let (namespace, name) = seen.key();
                let news = self.ledger.deleted(namespace, name, seen.version());
                if believed(news)? {
                    let (namespace, name) = (namespace.to_owned(), name.to_owned());
                    self.out
                        .put(self.kind, What::Gone { namespace, name })
                        .await;
                }
            }
        }
        Ok(())
    }

    async fn tell(&self, seen: &Seen) {
        let what = seen.what(self.kind, &self.config);
        self.out.put(self.kind, what).await;
    }

    async fn complete(&mut self) {
        for (namespace, name) in self.ledger.complete() {
            self.out
                .put(self.kind, What::Gone { namespace, name })
                .await;
        }
        self.is_listing = false;
        self.streams = false;
        self.health.listed();
        self.out.put(self.kind, What::Listed).await;
        tracing::debug!(kind = %self.kind, objects = self.ledger.len(), "listed");
    }

    /// Reports a fault, waits, and returns how to proceed.
    async fn judge(&mut self, client: &Client, error: &watcher::Error) -> Next {
        let mut next = self.next(error);
        if next == Next::Vanished {
            let said = self.absence.ask(client, self.kind).await;
            let is_certain = said.is_some_and(|lasted| lasted >= self.pace.certain);
            if is_certain {
                tracing::warn!(kind = %self.kind, "the cluster doesn't have this kind any more");
                self.ledger.list();
                self.complete().await;
                next = Next::Absent;
            }
        }
        match next {
            Next::Absent => {
                self.health.absent();
                self.out.put(self.kind, What::Listed).await;
                self.recheck().await;
            }
            Next::Vanished => {
                let error = describe(error);
                self.health.failed(&format!(
                    "{error}; its objects stay in force until that is certain"
                ));
                self.recheck().await;
                self.health.heard();
            }
            Next::Pages => self.streams = false,
            Next::Resume | Next::Anew => {
                let fault = Fault::of(error, self.is_listing);
                self.fault(&describe(error), fault).await;
            }
        }
        next
    }

    /// Waits before another check, with jitter: agents don't ask all at once.
    async fn recheck(&mut self) {
        self.rest(sleep(
            self.pace.recheck.mul_f64(0.75 + fastrand::f64() / 4.0),
        ))
        .await;
    }

    /// Waits on purpose, and answers questions about what is known meanwhile.
    async fn rest(&mut self, over: impl Future<Output = ()>) {
        let mut over = pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return,
                Some(asked) = self.asked.recv() => asked.answer(&self.ledger),
            }
        }
    }

    fn next(&self, error: &watcher::Error) -> Next {
        use watcher::Error::{NoResourceVersion, WatchFailed, WatchStartFailed};
        let code = status(error).map(|status| status.code);
        match (error, code) {
            // Whatever occupies the cluster's address may still be starting up.
            (_, Some(404)) if self.kind.is_optional() && self.ledger.is_empty() => Next::Absent,
            // When a definition is deleted, its objects are reported as deleted first, to whoever
            // watches.
            (_, Some(404)) if self.kind.is_optional() => Next::Vanished,
            (WatchStartFailed(_), Some(400 | 422)) if self.streams => Next::Pages,
            // The place in the history is gone, or the credentials have to be read again.
            (_, Some(410 | 401)) => Next::Anew,
            // An event that can't be read is lost. The client takes any JSON for a Status, whose
            // fields may all be absent.
            (WatchFailed(kube::Error::SerdeError(_) | kube::Error::Api(_)), _) => Next::Anew,
            (NoResourceVersion, _) => Next::Anew,
            _ => Next::Resume,
        }
    }

    async fn fault(&mut self, text: &str, fault: Fault) {
        self.health.failed(text);
        let wait = self.waits.after(fault);
        let asked = self.health.take_retry_after();
        let health = Arc::clone(&self.health);
        let over = async move {
            tokio::select! {
                () = sleep(wait.max(asked.unwrap_or_default())) => {}
                // If the server requested a wait, the watch waits that long.
                () = health.server_is_back(), if asked.is_none() && fault.is_the_servers() => {
                    sleep(TOGETHER.min(wait).mul_f64(fastrand::f64())).await;
                }
            }
        };
        self.rest(over).await;
        self.waits.waited();
        // A deliberate wait doesn't count as the server's silence.
        self.health.heard();
    }
}

/// Returns the next event, or none if a list has stalled. The watcher itself handles watches that
/// have stalled.
async fn patiently<F: Future + Unpin>(
    next: &mut F,
    is_listing: bool,
    health: &Health,
    stall: Duration,
) -> Option<F::Output> {
    if !is_listing {
        return Some(next.await);
    }
    loop {
        let left = stall.saturating_sub(health.silent_for());
        tokio::select! {
            event = &mut *next => return Some(event),
            () = sleep(left) => {}
        }
        if health.silent_for() >= stall {
            return None;
        }
    }
}

fn believed(news: News) -> Result<bool, String> {
    match news {
        News::Fresh => Ok(true),
        News::Known => Ok(false),
        News::Disorder => Err("events came out of order".into()),
    }
}
