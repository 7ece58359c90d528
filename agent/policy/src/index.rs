//! The objects that are known now.
//!
//! Fed by whatever watches files or the API server; compiles on demand.

use std::{collections::BTreeMap, fmt};

use serde::{Serialize, Serializer};

use crate::{
    compile,
    config::Config,
    model::{EndpointSlice, Namespace, NetworkPolicy, Node, Object, ObjectError, Pod, Service},
    problems::{self, Problem},
    tables::Tables,
    view::View,
};

/// Namespace and name.
pub(crate) type Key = (String, String);

/// Identifies one pod; a pod created anew under its name is another.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; empty in files. For a stand-in it is its workload's kind.
    pub uid: String,
}

impl PodKey {
    /// The key of a pod.
    pub fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: match &pod.stand_in {
                Some(kind) => kind.clone(),
                None => pod.metadata.uid.clone(),
            },
        }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for PodKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Whose pods are compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The pods of one node, seen from it.
    Node(String),
    /// All pods; no node is "this" one.
    Everything,
}

/// The objects that are known now.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pub(crate) config: Config,
    pub(crate) pods: BTreeMap<Key, Pod>,
    /// By kind, namespace and name.
    pub(crate) stand_ins: BTreeMap<(String, Key), Pod>,
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    pub(crate) policies: BTreeMap<Key, Stored>,
    pub(crate) services: BTreeMap<Key, Service>,
    pub(crate) slices: BTreeMap<Key, EndpointSlice>,
    pub(crate) nodes: BTreeMap<String, Node>,
    /// The faults of policies whose newest form can't be used.
    pub(crate) invalid: BTreeMap<Key, ObjectError>,
}

/// A NetworkPolicy, and whether it is the closed form of one that doesn't parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) policy: NetworkPolicy,
    pub(crate) closed: bool,
}

impl Index {
    /// An index without objects.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// Adds an object, or replaces the one of its kind and name.
    pub fn apply(&mut self, object: Object) {
        let meta = object.meta();
        let key = (meta.namespace.clone(), meta.name.clone());
        match object {
            Object::Pod(pod) => match pod.stand_in.clone() {
                Some(kind) => drop(self.stand_ins.insert((kind, key), pod)),
                None => drop(self.pods.insert(key, pod)),
            },
            Object::Namespace(o) => drop(self.namespaces.insert(key.1, o)),
            Object::NetworkPolicy(policy) => {
                self.invalid.remove(&key);
                let closed = false;
                self.policies.insert(key, Stored { policy, closed });
            }
            Object::Service(o) => drop(self.services.insert(key, o)),
            Object::EndpointSlice(o) => drop(self.slices.insert(key, o)),
            Object::Node(o) => drop(self.nodes.insert(key.1, o)),
        }
    }

    /// Installs the closed form of a NetworkPolicy that doesn't parse, unless a
    /// valid form of it is in place, which then stays. Returns whether it did.
    pub fn apply_closed(&mut self, error: &ObjectError) -> bool {
        let Some(policy) = &error.closed else {
            return false;
        };
        let key = (error.namespace.clone(), error.name.clone());
        self.invalid.insert(key.clone(), error.clone());
        if self.policies.get(&key).is_some_and(|p| !p.closed) {
            return false;
        }
        let policy = (**policy).clone();
        let stored = Stored {
            policy,
            closed: true,
        };
        self.policies.insert(key, stored);
        true
    }

    /// Forgets an object; `kind` as [`Object::kind`] gives it.
    pub fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        match kind {
            "Pod" => drop(self.pods.remove(&key)),
            "Namespace" => drop(self.namespaces.remove(name)),
            "NetworkPolicy" => {
                self.invalid.remove(&key);
                self.policies.remove(&key);
            }
            "Service" => drop(self.services.remove(&key)),
            "EndpointSlice" => drop(self.slices.remove(&key)),
            "Node" => drop(self.nodes.remove(name)),
            workload => drop(self.stand_ins.remove(&(workload.to_owned(), key))),
        }
    }

    /// Replaces all objects of a kind; objects of other kinds in `objects` are applied as well.
    ///
    /// Closed forms whose policy isn't among `objects` go too: call
    /// [`Index::apply_closed`] afterwards for what the same listing had invalid.
    pub fn reset(&mut self, kind: &str, objects: Vec<Object>) {
        match kind {
            "Pod" => self.pods.clear(),
            "Namespace" => self.namespaces.clear(),
            "NetworkPolicy" => {
                self.invalid.clear();
                self.policies.clear();
            }
            "Service" => self.services.clear(),
            "EndpointSlice" => self.slices.clear(),
            "Node" => self.nodes.clear(),
            workload => self.stand_ins.retain(|(k, _), _| k != workload),
        }
        for object in objects {
            self.apply(object);
        }
    }

    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Real pods, finished ones too, by namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = (PodKey, &Pod)> {
        self.pods.values().map(|p| (PodKey::of(p), p))
    }

    /// One real pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Namespaces that have an object, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, &Namespace)> {
        self.namespaces.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// What in the objects can't be used as it stands, in a stable order.
    pub fn problems(&self) -> Vec<Problem> {
        problems::of(self)
    }

    /// Compiles what is known into tables.
    pub fn compile(&self, scope: &Scope) -> Tables {
        compile::compile(&View::new(self, scope))
    }
}
