//! Proof that the watches have delivered everything that the API server has accepted, for questions
//! about the server's state rather than about what a watch has shown.
//!
//! Each kind is listed, metadata only, at the server's newest resource version (a list that names
//! none). Its watch has caught up once it has delivered an event from after the list, or knows each
//! object as the list shows it. For objects that change all the time the first page is enough; the
//! other pages are read if nothing changes for a second. Concurrent questions share a list, and
//! each is answered by a list that started after it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::api::{ListParams, ObjectList, Request};
use kube::{Client, Resource as _};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::ledger::{Ledger, Shown};
use super::seen::Seen;
use super::{Access, Kind};
use crate::failure;

/// Objects per page, as in kubectl.
const PAGE: u32 = 500;
/// Interval between two checks of what a watch has delivered.
const LOOK: Duration = Duration::from_millis(20);
/// How long to wait for a watch before the rest of the list is read, or the list is repeated.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait for an answer before the server is reported as silent.
const SILENCE: Duration = Duration::from_secs(5);
/// The report about a watch that hasn't caught up.
const LATE: &str = "its watch hasn't shown all that the API server has accepted";
/// Capacity of the queue of questions to one watch.
const WAITING: usize = 16;

/// What a watch is asked to confirm as delivered.
#[derive(Clone, Debug)]
pub enum Told {
    /// Everything in a list.
    List(Arc<Shown>),
    /// One object in this version or a later one: namespace, name, version.
    Object(String, String, u64),
}

/// A question to a watch.
#[derive(Debug)]
pub struct Asked {
    told: Told,
    answer: oneshot::Sender<bool>,
}

impl Asked {
    /// Answers the question between two events: everything in the ledger is in the queue to the
    /// index by then.
    pub fn answer(self, ledger: &Ledger) {
        let told = match &self.told {
            Told::List(shown) => ledger.has(shown),
            Told::Object(namespace, name, version) => ledger.has_object(namespace, name, *version),
        };
        // The caller may be gone.
        let _ = self.answer.send(told);
    }
}

/// The watches' receiving ends, by kind.
pub type Asks = BTreeMap<Kind, mpsc::Receiver<Asked>>;

/// The sending ends of questions to all watches.
#[derive(Debug)]
pub struct Barrier {
    access: Access,
    watches: BTreeMap<Kind, mpsc::Sender<Asked>>,
    questions: AtomicU64,
    /// The last answered question, and its answer.
    answered: AsyncMutex<(u64, Result<(), String>)>,
    /// What the present question is waiting for, to report on timeout.
    late: Mutex<BTreeMap<Kind, String>>,
}

impl Barrier {
    /// Creates a barrier, and the receiving end for each watch.
    pub fn new(access: Access) -> (Self, Asks) {
        let mut asks = Asks::new();
        let mut watches = BTreeMap::new();
        for kind in Kind::ALL {
            let (sender, receiver) = mpsc::channel(WAITING);
            watches.insert(kind, sender);
            asks.insert(kind, receiver);
        }
        let barrier = Self {
            access,
            watches,
            questions: AtomicU64::new(0),
            answered: AsyncMutex::new((0, Ok(()))),
            late: Mutex::default(),
        };
        (barrier, asks)
    }

    /// Returns once the watches have delivered everything that the server had accepted when this
    /// was called, and it is in the queue to the index.
    ///
    /// # Errors
    /// States why the server couldn't be asked, or which watches are late when the limit is
    /// reached.
    pub async fn reached(self: &Arc<Self>, limit: Duration) -> Result<(), String> {
        let reached = timeout(limit, self.shared());
        reached.await.unwrap_or_else(|_| Err(self.describe_late()))
    }

    /// Like [`Barrier::reached`], for one kind.
    ///
    /// # Errors
    /// States why the server couldn't be asked, or that the watch is late when the limit is
    /// reached.
    pub async fn reached_kind(&self, kind: Kind, limit: Duration) -> Result<(), String> {
        let ask = async {
            let client = self.access.client().await;
            let client = client.map_err(|error| error.to_string())?;
            self.ask_one(kind, client).await
        };
        let late = format!("{kind}: {LATE}");
        timeout(limit, ask).await.unwrap_or(Err(late))
    }

    /// Like [`Barrier::reached`], for one object in a version that the server has shown.
    ///
    /// # Errors
    /// States which watch is late when the limit is reached.
    pub async fn has(&self, kind: Kind, told: Told, limit: Duration) -> Result<(), String> {
        let until = Instant::now() + limit;
        match self.told(kind, told, until).await {
            true => Ok(()),
            false => Err(format!("{kind}: its watch hasn't shown that version yet")),
        }
    }

    /// Asks, unless a question that started after this one has been answered meanwhile.
    async fn shared(self: &Arc<Self>) -> Result<(), String> {
        let mine = self.questions.fetch_add(1, Ordering::SeqCst) + 1;
        let mut answered = self.answered.lock().await;
        if answered.0 < mine {
            let newest = self.questions.load(Ordering::SeqCst);
            *answered = (newest, self.ask().await);
        }
        answered.1.clone()
    }

    async fn ask(self: &Arc<Self>) -> Result<(), String> {
        self.late(|late| late.clear());
        let client = self.access.client().await;
        let client = client.map_err(|error| error.to_string())?;
        let mut kinds = JoinSet::new();
        for kind in Kind::ALL {
            let (barrier, client) = (Arc::clone(self), client.clone());
            self.late(|late| drop(late.insert(kind, "is being listed".into())));
            kinds.spawn(async move { barrier.ask_one(kind, client).await });
        }
        while let Some(answer) = kinds.join_next().await {
            let answer = answer.map_err(|error| error.to_string())?;
            answer?;
        }
        Ok(())
    }

    async fn ask_one(&self, kind: Kind, client: Client) -> Result<(), String> {
        loop {
            let first = page(&client, kind, None).await?;
            // If the cluster doesn't have the kind, none of its objects may stay in force.
            let (mut shown, mut rest) = first.unwrap_or_else(|| (Shown::none(), None));
            self.late(|late| drop(late.insert(kind, LATE.into())));
            let until = Instant::now() + PATIENCE;
            let told = Told::List(Arc::new(shown.clone()));
            if self.told(kind, told, until).await {
                break;
            }
            if rest.is_none() {
                continue;
            }
            while let Some(token) = rest {
                let Some((more, next)) = page(&client, kind, Some(&token)).await? else {
                    break;
                };
                shown.objects.extend(more.objects);
                rest = next;
            }
            shown.whole = true;
            let until = Instant::now() + PATIENCE;
            if self.told(kind, Told::List(shown.into()), until).await {
                break;
            }
        }
        self.late(|late| drop(late.remove(&kind)));
        Ok(())
    }

    /// Reports whether a watch confirms the delivery before the deadline.
    async fn told(&self, kind: Kind, told: Told, until: Instant) -> bool {
        let Some(watch) = self.watches.get(&kind) else {
            return false;
        };
        let asking = async {
            loop {
                let (answer, answered) = oneshot::channel();
                let told = told.clone();
                // A watch that has ended never answers.
                if watch.send(Asked { told, answer }).await.is_err() {
                    return std::future::pending().await;
                }
                if answered.await == Ok(true) {
                    return;
                }
                sleep(LOOK).await;
            }
        };
        tokio::time::timeout_at(until, asking).await.is_ok()
    }

    fn late(&self, change: impl FnOnce(&mut BTreeMap<Kind, String>)) {
        change(&mut self.late.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn describe_late(&self) -> String {
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let each = late.iter().map(|(kind, what)| format!("{kind}: {what}"));
        let each: Vec<String> = each.collect();
        match each.is_empty() {
            true => "the API server doesn't answer".into(),
            false => each.join("; "),
        }
    }
}

/// Returns a page of a kind and the token of the next page; none if the cluster doesn't have the
/// kind. Objects are read as leniently as in watches: no malformed object makes a list unreadable.
async fn page(
    client: &Client,
    kind: Kind,
    token: Option<&str>,
) -> Result<Option<(Shown, Option<String>)>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("listing {kind}s: {error}");
    let mut asked = ListParams::default().limit(PAGE);
    asked.continue_token = token.map(str::to_owned);
    let request = Request::new(Seen::url_path(&kind, None)).list_metadata(&asked);
    let request = request.map_err(|error| failed(&error))?;
    let answer = client.request::<ObjectList<Seen>>(request);
    let list = match timeout(SILENCE, answer).await {
        Ok(Ok(list)) => list,
        Ok(Err(kube::Error::Api(status))) if kind.is_optional() && status.code == 404 => {
            return Ok(None);
        }
        Ok(Err(error)) => return Err(failed(&failure::one_line(&error.into()))),
        Err(_) => return Err(failed(&"the API server doesn't answer")),
    };
    let rest = list.metadata.continue_.filter(|token| !token.is_empty());
    let version = list.metadata.resource_version;
    let object = |seen: &Seen| {
        let (namespace, name) = seen.key();
        (namespace.to_owned(), name.to_owned(), seen.version())
    };
    let shown = Shown {
        version: version.and_then(|text| text.parse().ok()),
        objects: list.items.iter().map(object).collect(),
        whole: rest.is_none(),
    };
    Ok(Some((shown, rest)))
}
