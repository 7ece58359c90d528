//! Watches: the events of one resource, one JSON line each.

use std::collections::VecDeque;
use std::future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::StatusCode;
use hyper::body::Frame;
use serde_json::json;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};

use super::http::{Answer, Body, Query, answer_with, status, status_object};
use super::list::is_of_lists;
use super::resources::{Resource, Target};
use super::store::{Change, Gone};
use super::{FLUSH, Fault, Shared, lock};

/// Between two bookmarks; a real server leaves a minute.
const BOOKMARKS: Duration = Duration::from_secs(1);

/// What a server without the feature says of a watch that asks for a list.
const FORBIDDEN: &str = "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: \
     sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";

pub(super) fn answer(shared: &Arc<Shared>, target: &Target<'_>, query: &Query) -> Answer {
    let initial = query.is_on("sendInitialEvents");
    if initial && !shared.streaming.load(Ordering::SeqCst) {
        return status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", FORBIDDEN);
    }
    let watch = Watch::new(shared, target, query, initial);
    let body = stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((line.map(Frame::data), watch))
    });
    let body = Body::new(StreamBody::new(body));
    answer_with(StatusCode::OK, "application/json", body)
}

/// One open watch.
struct Watch {
    shared: Arc<Shared>,
    resource: &'static Resource,
    namespace: Option<String>,
    changed: Receiver<()>,
    /// Ready to be sent.
    lines: VecDeque<Bytes>,
    /// Events that wait for their turn, or for a second one to change places with.
    pending: VecDeque<Change>,
    /// Objects of the initial list that are still to be told.
    initial: VecDeque<Bytes>,
    half: usize,
    list_fault: Option<Fault>,
    /// The version of the initial list, while its end is still to be told.
    list_version: Option<u64>,
    version: u64,
    bookmarks: bool,
    next_bookmark: Instant,
    end: Option<Instant>,
    cut: u64,
    is_broken: bool,
    is_over: bool,
}

/// What wakes a watch that has nothing to say.
enum Woken {
    Changed,
    Bookmark,
    End,
}

impl Watch {
    fn new(shared: &Arc<Shared>, target: &Target<'_>, query: &Query, initial: bool) -> Self {
        shared.watches.fetch_add(1, Ordering::SeqCst);
        let store = lock(&shared.store);
        let from = query.get("resourceVersion");
        let mut watch = Self {
            shared: Arc::clone(shared),
            resource: target.resource,
            namespace: target.namespace.map(String::from),
            changed: shared.changed.subscribe(),
            lines: VecDeque::new(),
            pending: VecDeque::new(),
            initial: VecDeque::new(),
            half: 0,
            list_fault: None,
            list_version: None,
            version: from.parse().unwrap_or(0),
            bookmarks: query.is_on("allowWatchBookmarks"),
            next_bookmark: Instant::now() + BOOKMARKS,
            end: query
                .get("timeoutSeconds")
                .parse()
                .ok()
                .map(|seconds| Instant::now() + Duration::from_secs(seconds)),
            cut: shared.cut.load(Ordering::SeqCst),
            is_broken: false,
            is_over: false,
        };
        // From nowhere, a watch begins with all that there is.
        if initial || watch.version == 0 {
            let list = store.list(target.resource, target.namespace);
            watch.version = list.version;
            watch.half = list.objects.len() / 2;
            watch.initial = list.objects;
            watch.list_version = initial.then_some(list.version);
            watch.list_fault = shared.strike(target.resource, is_of_lists);
        }
        watch
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(Ok(line));
            }
            if self.is_over {
                return None;
            }
            if self.is_broken || self.cut != self.shared.cut.load(Ordering::SeqCst) {
                self.is_over = true;
                tokio::time::sleep(FLUSH).await;
                return Some(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if self.strikes(&Fault::Silence) {
                self.until_cut().await;
                continue;
            }
            if self.tell_initial().await || self.tell_changes() {
                continue;
            }
            match self.wait().await {
                Woken::Changed => {}
                Woken::Bookmark => self.bookmark(None),
                Woken::End => return None,
            }
        }
    }

    /// Says nothing until connections break.
    async fn until_cut(&self) {
        let mut changed = self.shared.changed.subscribe();
        while self.cut == self.shared.cut.load(Ordering::SeqCst) {
            // The sender lives as long as the server.
            if changed.changed().await.is_err() {
                future::pending::<()>().await;
            }
        }
    }

    fn strikes(&self, fault: &Fault) -> bool {
        self.shared
            .strike(self.resource, |one| one == fault)
            .is_some()
    }

    async fn wait(&mut self) -> Woken {
        let end = async {
            match self.end {
                Some(end) => sleep_until(end).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            _ = self.changed.changed() => Woken::Changed,
            () = sleep_until(self.next_bookmark), if self.bookmarks => Woken::Bookmark,
            () = end => Woken::End,
        }
    }

    /// Readies the next of the initial list; whether there was any.
    async fn tell_initial(&mut self) -> bool {
        if self.initial.len() <= self.half
            && let Some(fault) = self.list_fault.take()
        {
            match fault {
                Fault::SlowList(pause) => tokio::time::sleep(pause).await,
                _ => self.is_broken = true,
            }
            return true;
        }
        if !self.initial.is_empty() {
            let some = self.initial.len().min(100);
            let objects: Vec<_> = self.initial.drain(..some).collect();
            let mut lines = Vec::new();
            for object in &objects {
                lines.extend_from_slice(&line(self.resource, "ADDED", object));
            }
            self.lines.push_back(lines.into());
            return true;
        }
        if let Some(version) = self.list_version.take() {
            self.bookmark(Some(version));
            return true;
        }
        false
    }

    /// Readies what happened since; whether there was anything.
    fn tell_changes(&mut self) -> bool {
        if self.strikes(&Fault::GoneEvent) {
            self.gone();
            return true;
        }
        let namespace = self.namespace.as_deref();
        let changes = lock(&self.shared.store).since(self.resource, namespace, self.version);
        match changes {
            Ok(changes) => self.pending.extend(changes),
            Err(Gone) => {
                self.gone();
                return true;
            }
        }
        if let Some(last) = self.pending.back() {
            self.version = self.version.max(last.version);
        }
        let before = self.lines.len();
        while !self.is_broken && self.tell_next() {}
        self.lines.len() > before
    }

    fn tell_next(&mut self) -> bool {
        let Some(change) = self.pending.front() else {
            return false;
        };
        let text = line(self.resource, change.verb, &change.object);
        let two = self.pending.len() >= 2;
        let fault = self.shared.strike(self.resource, |fault| match fault {
            Fault::ResetMidEvent | Fault::Duplicate | Fault::Garbage(_) => true,
            Fault::Reorder => two,
            _ => false,
        });
        match fault {
            Some(Fault::ResetMidEvent) => {
                self.lines.push_back(text.slice(..text.len() / 2));
                self.is_broken = true;
                return true;
            }
            Some(Fault::Duplicate) => self.lines.extend([text.clone(), text]),
            Some(Fault::Garbage(garbage)) => self.lines.push_back(format!("{garbage}\n").into()),
            Some(Fault::Reorder) => {
                self.pending.swap(0, 1);
                let first = &self.pending[0];
                let first = line(self.resource, first.verb, &first.object);
                self.lines.extend([first, text]);
                self.pending.pop_front();
            }
            _ if self.waits_for_second() => return false,
            _ => self.lines.push_back(text),
        }
        self.pending.pop_front();
        true
    }

    /// An event waits while one is ordered to change places with the next.
    fn waits_for_second(&self) -> bool {
        self.pending.len() == 1
            && lock(&self.shared.faults).is_ordered(self.resource.plural, &Fault::Reorder)
    }

    /// The watch ends, since what it asks for is no longer known.
    fn gone(&mut self) {
        let message = "too old resource version";
        let object = status_object(410, "Expired", message);
        let text = format!("{{\"type\":\"ERROR\",\"object\":{object}}}\n");
        self.lines.push_back(text.into());
        self.is_over = true;
    }

    /// Says how far this watch is; with a version, that its list ends there.
    fn bookmark(&mut self, list_ends: Option<u64>) {
        self.next_bookmark = Instant::now() + BOOKMARKS;
        if list_ends.is_none() && !self.pending.is_empty() {
            return;
        }
        let mut meta = json!({"resourceVersion": self.version.to_string()});
        if list_ends.is_some() {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        } else {
            let store = lock(&self.shared.store);
            let namespace = self.namespace.as_deref();
            // Nothing was told of yet that happened by now, so the store's own
            // version will do.
            if let Ok([]) = store
                .since(self.resource, namespace, self.version)
                .as_deref()
            {
                self.version = store.version();
                meta["resourceVersion"] = self.version.to_string().into();
            }
        }
        let (kind, api) = (self.resource.kind, self.resource.api_version);
        let object = json!({"kind": kind, "apiVersion": api, "metadata": meta});
        // `type` comes first in what a real server sends.
        let text = format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n");
        self.lines.push_back(text.into());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.watches.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One event. An object's text begins with a brace.
fn line(resource: &Resource, verb: &str, object: &Bytes) -> Bytes {
    let (kind, api_version) = (resource.kind, resource.api_version);
    let head =
        format!(r#"{{"type":"{verb}","object":{{"kind":"{kind}","apiVersion":"{api_version}","#);
    let mut line = Vec::with_capacity(head.len() + object.len() + 2);
    line.extend_from_slice(head.as_bytes());
    line.extend_from_slice(&object[1..]);
    line.extend_from_slice(b"}\n");
    line.into()
}
