//! From the watches to the index.
//!
//! Watches put what they see into a short queue; a pass empties it into the index.
//! What comes while a pass runs waits for the next one, all together; a queue that
//! is full makes watches wait, and through them the server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use ringfence_policy::index::Index;
use ringfence_policy::model::{Object, ObjectError, Pod};
use tokio::sync::{Notify, mpsc};

use super::Kind;
use super::health::Board;
use super::seen::CLOSED_NAMESPACE;

/// Updates that may wait.
const LENGTH: usize = 1024;

/// What a watch saw.
#[derive(Debug)]
pub struct Update {
    /// Of which kind.
    pub kind: Kind,
    /// What.
    pub what: What,
    /// When.
    pub at: Instant,
}

/// What a watch saw.
#[derive(Debug)]
pub enum What {
    /// An object, new or changed.
    Object(Box<Object>),
    /// One that doesn't parse; for a pod, with its closed form.
    Invalid(Box<ObjectError>, Option<Box<Pod>>),
    /// An object that is gone.
    Gone {
        /// Empty where it has none.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// All objects of the kind have been told.
    Listed,
}

/// Where watches put what they see.
#[derive(Clone, Debug)]
pub struct Outbox {
    sender: mpsc::Sender<Update>,
    wake: Arc<Notify>,
}

impl Outbox {
    /// Waits while the queue is full. What nobody reads any more is lost.
    pub async fn put(&self, kind: Kind, what: What) {
        let at = Instant::now();
        drop(self.sender.send(Update { kind, what, at }).await);
        self.wake.notify_one();
    }
}

/// What was taken out of the queue at once.
#[derive(Debug, Default)]
pub struct Taken {
    /// When the first update of each kind came.
    pub since: BTreeMap<Kind, Instant>,
}

/// The other end, with what must be known beside the index.
#[derive(Debug)]
pub struct Inbox {
    receiver: mpsc::Receiver<Update>,
    board: Board,
    listed: BTreeSet<Kind>,
    /// Objects whose newest form doesn't parse, and why.
    invalid: BTreeMap<(Kind, String, String), String>,
    /// Namespaces that have a valid form.
    spaces: BTreeSet<String>,
    /// Pods that never had one, by namespace and name.
    closed: BTreeSet<(String, String)>,
}

/// A queue. `wake` is told when something is in it.
pub fn queue(board: Board, wake: Arc<Notify>) -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::channel(LENGTH);
    let inbox = Inbox {
        receiver,
        board,
        listed: BTreeSet::new(),
        invalid: BTreeMap::new(),
        spaces: BTreeSet::new(),
        closed: BTreeSet::new(),
    };
    (Outbox { sender, wake }, inbox)
}

impl Inbox {
    /// Empties the queue into an index.
    pub fn drain(&mut self, index: &mut Index) -> Taken {
        let mut taken = Taken::default();
        // No more than fit at once, so that a flood can't hold a pass up for ever.
        for _ in 0..LENGTH {
            let Ok(update) = self.receiver.try_recv() else {
                break;
            };
            taken.since.entry(update.kind).or_insert(update.at);
            self.take(update.kind, update.what, index);
        }
        taken
    }

    /// Tells an index of one update.
    pub fn take(&mut self, kind: Kind, what: What, index: &mut Index) {
        match what {
            What::Object(object) => {
                let meta = object.meta();
                let key = (kind, meta.namespace.clone(), meta.name.clone());
                self.forget(&key);
                if kind == Kind::Namespace {
                    index.delete("NetworkPolicy", &key.2, CLOSED_NAMESPACE);
                    self.spaces.insert(key.2);
                }
                index.apply(*object);
            }
            What::Invalid(error, pod) => self.close(kind, &error, pod, index),
            What::Gone { namespace, name } => {
                index.delete(kind.name(), &namespace, &name);
                if kind == Kind::Namespace {
                    index.delete("NetworkPolicy", &name, CLOSED_NAMESPACE);
                    self.spaces.remove(&name);
                }
                self.forget(&(kind, namespace, name));
            }
            What::Listed => {
                self.listed.insert(kind);
            }
        }
    }

    fn forget(&mut self, key: &(Kind, String, String)) {
        self.invalid.remove(key);
        if key.0 == Kind::Pod && !self.closed.is_empty() {
            self.closed.remove(&(key.1.clone(), key.2.clone()));
        }
    }

    /// The last valid form stays. Without one, policies, pods and Namespaces are
    /// closed; a Service, slice or Node that isn't known only allows less.
    fn close(&mut self, kind: Kind, error: &ObjectError, pod: Option<Box<Pod>>, index: &mut Index) {
        match kind {
            Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => drop(index.apply_closed(error)),
            Kind::Namespace if !self.spaces.contains(&error.name) => {
                index.apply_closed(error);
            }
            Kind::Pod => {
                let key = (error.namespace.clone(), error.name.clone());
                let known = index.pod(&key.0, &key.1).map(|known| known.key().uid);
                // Another pod that had that name lends this one no form.
                let is_new = |pod: &Pod| known.as_ref() != Some(&pod.metadata.uid);
                if let Some(pod) = pod.filter(|pod| self.closed.contains(&key) || is_new(pod)) {
                    self.closed.insert(key);
                    index.apply(Object::Pod(*pod));
                }
            }
            _ => {}
        }
        let text = error.to_string();
        let key = (kind, error.namespace.clone(), error.name.clone());
        if self.invalid.get(&key) != Some(&text) {
            tracing::error!("{text}; its last good form stays in force, else it is closed");
            self.invalid.insert(key, text);
        }
    }

    /// Kinds that haven't been listed in full yet.
    pub fn waits_for(&self) -> Vec<Kind> {
        let mut all = Kind::ALL.to_vec();
        all.retain(|kind| !self.listed.contains(kind));
        all
    }

    /// Objects whose newest form doesn't parse, one a line.
    pub fn invalid(&self) -> Vec<String> {
        self.invalid.values().cloned().collect()
    }

    /// How the watches are doing.
    pub const fn board(&self) -> &Board {
        &self.board
    }
}
