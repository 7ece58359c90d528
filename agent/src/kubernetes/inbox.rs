//! The queue from the watches to the index.
//!
//! Watches put updates into a short queue, and a pass drains it into the index. Updates that arrive
//! during a pass are left for the next one, all together. A full queue makes the watches wait, and
//! through them the server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use ringfence_policy::index::Index;
use ringfence_policy::model::{Object, ObjectError, ObjectKey, Pod};
use tokio::sync::{Notify, mpsc};

use super::Kind;
use super::health::Board;
use super::seen::CLOSED_NAMESPACE;

/// Capacity of the queue.
const LENGTH: usize = 1024;

/// An update from a watch.
#[derive(Debug)]
pub struct Update {
    /// The object's kind.
    pub kind: Kind,
    /// The change.
    pub what: What,
    /// When the watch saw it.
    pub at: Instant,
}

/// A change that a watch saw.
#[derive(Debug)]
pub enum What {
    /// A new or changed object.
    Object(Box<Object>),
    /// An object that doesn't parse; for a pod, with its closed form.
    Invalid(Box<ObjectError>, Option<Box<Pod>>),
    /// A deleted object.
    Gone {
        /// The namespace, or empty if the object has none.
        namespace: String,
        /// The object's name.
        name: String,
    },
    /// All objects of the kind have been delivered.
    Listed,
}

/// The sending end, for watches.
#[derive(Clone, Debug)]
pub struct Outbox {
    sender: mpsc::Sender<Update>,
    wake: Arc<Notify>,
}

impl Outbox {
    /// Puts an update into the queue, and waits while it is full. An update that has no reader is
    /// lost.
    pub async fn put(&self, kind: Kind, what: What) {
        let at = Instant::now();
        drop(self.sender.send(Update { kind, what, at }).await);
        self.wake.notify_one();
    }
}

/// The updates that were drained together.
#[derive(Debug, Default)]
pub struct Taken {
    /// When the first update of each kind came.
    pub since: BTreeMap<Kind, Instant>,
}

/// The receiving end, with the state that the index doesn't keep.
#[derive(Debug)]
pub struct Inbox {
    receiver: mpsc::Receiver<Update>,
    board: Board,
    listed: BTreeSet<Kind>,
    /// Objects whose newest form doesn't parse, and the error.
    invalid: BTreeMap<(Kind, String, String), String>,
    /// Namespaces that have a valid form.
    spaces: BTreeSet<String>,
    /// Pods that never had a valid form, by namespace and name.
    closed: BTreeSet<(String, String)>,
}

/// Creates a queue. `wake` is notified of each update.
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

/// Returns the key of the policy that closes a namespace whose object doesn't parse.
fn closed_key(namespace: &str) -> ObjectKey {
    ObjectKey::new(Kind::NetworkPolicy, namespace, CLOSED_NAMESPACE)
}

impl Inbox {
    /// Drains the queue into an index.
    pub fn drain(&mut self, index: &mut Index) -> Taken {
        let mut taken = Taken::default();
        // At most one queue length, so that a flood can't delay a pass forever.
        for _ in 0..LENGTH {
            let Ok(update) = self.receiver.try_recv() else {
                break;
            };
            taken.since.entry(update.kind).or_insert(update.at);
            self.take(update.kind, update.what, index);
        }
        taken
    }

    /// Applies one update to an index.
    pub fn take(&mut self, kind: Kind, what: What, index: &mut Index) {
        match what {
            What::Object(object) => {
                let meta = object.meta();
                let key = (kind, meta.namespace.clone(), meta.name.clone());
                self.forget(&key);
                if kind == Kind::Namespace {
                    index.delete(&closed_key(&key.2));
                    self.spaces.insert(key.2);
                }
                index.apply(*object);
            }
            What::Invalid(error, pod) => self.close(kind, &error, pod, index),
            What::Gone { namespace, name } => {
                index.delete(&ObjectKey::new(kind, &namespace, &name));
                if kind == Kind::Namespace {
                    index.delete(&closed_key(&name));
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

    /// Keeps the last valid form in force. Without one, policies, pods and Namespaces are closed;
    /// an unknown Service, slice or Node only allows less.
    fn close(&mut self, kind: Kind, error: &ObjectError, pod: Option<Box<Pod>>, index: &mut Index) {
        match kind {
            Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => drop(index.apply_closed(error)),
            Kind::Namespace if !self.spaces.contains(&error.name) => {
                index.apply_closed(error);
            }
            Kind::Pod => {
                let key = (error.namespace.clone(), error.name.clone());
                let known = index.pod(&key.0, &key.1).map(|known| known.key().uid);
                // The form of an earlier pod of the same name doesn't apply to this one.
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
            tracing::error!("{text}; its last good form stays in force, or it is closed");
            self.invalid.insert(key, text);
        }
    }

    /// Lists the kinds that haven't been listed in full yet.
    pub fn waits_for(&self) -> Vec<Kind> {
        let mut all = Kind::ALL.to_vec();
        all.retain(|kind| !self.listed.contains(kind));
        all
    }

    /// Lists the objects whose newest form doesn't parse, one per line.
    pub fn invalid(&self) -> Vec<String> {
        self.invalid.values().cloned().collect()
    }

    /// Returns the health of the watches.
    pub const fn board(&self) -> &Board {
        &self.board
    }
}
