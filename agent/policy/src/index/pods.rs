//! Pods as the index keeps them: what policy needs, each string once.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    config::Config,
    intern::{LabelSets, Pool, Text},
    model::{self, Protocol},
    selector::Labels,
};

use super::{PodKey, naming};

/// Every value that many objects share, stored once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pools {
    pub(crate) texts: Pool<str>,
    pub(crate) labels: LabelSets,
    ports: Pool<[Port]>,
}

impl Pools {
    /// Interned labels.
    pub(crate) fn labels(&mut self, labels: &BTreeMap<String, String>) -> Labels {
        Labels::new(&mut self.texts, &mut self.labels, labels)
    }
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Port {
    pub(crate) name: Option<Text>,
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
}

/// All that policy can tell of a pod: pods of one shape are one group, and
/// selectors are evaluated once per group.
///
/// Everything in it is stored once, so shapes are compared by where their parts
/// are: only those of one index may be.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) namespace: Text,
    pub(crate) labels: Labels,
    /// The service's name; with the namespace it is the workload.
    pub(crate) service: Text,
    /// The service's type, by label or by name.
    pub(crate) kind: Option<Text>,
    /// In the order of the containers.
    pub(crate) ports: Arc<[Port]>,
}

impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        self.places() == other.places()
    }
}

impl Eq for Shape {}

impl Hash for Shape {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.places().hash(state);
    }
}

impl Shape {
    /// Where its parts are.
    fn places(&self) -> [usize; 5] {
        let text = |text: &Text| text.as_ptr().addr();
        [
            text(&self.namespace),
            self.labels.place(),
            text(&self.service),
            self.kind.as_ref().map_or(0, text),
            self.ports.as_ptr().addr(),
        ]
    }

    /// `fallback` is the service of pods without a label that names it.
    fn new(
        config: &Config,
        pools: &mut Pools,
        namespace: Text,
        labels: &BTreeMap<String, String>,
        fallback: &str,
        ports: Arc<[Port]>,
    ) -> Self {
        let labels = pools.labels(labels);
        let named = config.service_labels.iter();
        let mut named = named.filter_map(|key| labels.get(key));
        let service = match named.find(|value| !value.is_empty()) {
            Some(service) => Arc::clone(service),
            None => pools.texts.get(fallback),
        };
        let kind = match labels.get(&config.key("service-type")) {
            Some(kind) => Some(Arc::clone(kind)),
            None => config
                .type_of_name(&service)
                .map(|kind| pools.texts.get(kind)),
        };
        Self {
            namespace,
            labels,
            service,
            kind,
            ports,
        }
    }

    /// The number of a named port; the first declared one, as Services resolve it.
    pub(crate) fn named(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let mut ports = self.ports.iter();
        let is = |p: &&Port| p.protocol == protocol && p.name.as_deref() == Some(name);
        ports.find(is).map(|p| p.number)
    }

    /// `namespace/service`.
    pub(crate) fn workload(&self) -> String {
        format!("{}/{}", self.namespace, self.service)
    }
}

/// A pod, or a workload that stands for its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEntry {
    pub(crate) shape: Arc<Shape>,
    pub(crate) name: Text,
    pub(crate) uid: Box<str>,
    /// A static pod's UID on its node, which isn't that of its object.
    static_uid: Option<Box<str>>,
    /// When it was created, comparable.
    created: u64,
    pub(crate) node: Option<Text>,
    /// Kind and name of the workload that owns it.
    pub(crate) owner: Option<(Text, Text)>,
    /// The workload's kind if this isn't a real pod.
    pub(crate) stand_in: Option<Text>,
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) running: bool,
    pub(crate) finished: bool,
    pub(crate) terminating: bool,
    pub(crate) host_network: bool,
    /// The node's pod runtime has a sandbox of it.
    pub(crate) sandboxed: bool,
    /// Its addresses are those of its sandbox: its status shows none yet.
    pub(crate) borrowed: bool,
}

impl PodEntry {
    pub(super) fn new(config: &Config, pools: &mut Pools, pod: &model::Pod) -> Self {
        let meta = &pod.metadata;
        let owner = naming::owner(pod);
        let owner = owner.map(|(kind, name)| (pools.texts.get(&*kind), pools.texts.get(name)));
        let ports: Vec<Port> = pod
            .ports()
            .map(|p| Port {
                name: p.name.as_deref().map(|name| pools.texts.get(name)),
                number: p.container_port,
                protocol: p.protocol,
            })
            .collect();
        let ports = pools.ports.get(ports.as_slice());
        let namespace = pools.texts.get(meta.namespace.as_str());
        let is_static = meta.annotations.contains_key(model::MIRROR);
        let own = naming::own(&meta.name, pod.spec.node_name.as_deref(), is_static);
        let fallback = owner.as_ref().map_or(own, |(_, name)| name);
        let shape = Shape::new(config, pools, namespace, &meta.labels, fallback, ports);
        let mut optional = |text: &Option<String>| text.as_deref().map(|t| pools.texts.get(t));
        Self {
            shape: Arc::new(shape),
            name: meta.name.as_str().into(),
            uid: meta.uid.as_str().into(),
            static_uid: meta
                .annotations
                .get(model::MIRROR)
                .map(|uid| uid.as_str().into()),
            created: meta.created(),
            node: optional(&pod.spec.node_name),
            stand_in: optional(&pod.stand_in),
            owner,
            addresses: pod.addresses().into(),
            running: pod.status.phase == "Running",
            finished: pod.finished(),
            terminating: meta.deletion_timestamp.is_some(),
            host_network: pod.spec.host_network,
            sandboxed: false,
            borrowed: false,
        }
    }

    /// The same pod with one label set to a value, or without it.
    pub(super) fn relabelled(
        &self,
        config: &Config,
        pools: &mut Pools,
        key: &str,
        value: Option<&str>,
    ) -> Self {
        let labels = self.shape.labels.iter();
        let labels = labels.map(|(k, v)| (k.as_ref().to_owned(), v.as_ref().to_owned()));
        let mut labels: BTreeMap<String, String> = labels.collect();
        match value {
            Some(value) => drop(labels.insert(key.to_owned(), value.to_owned())),
            None => drop(labels.remove(key)),
        }
        let Shape {
            namespace, ports, ..
        } = &*self.shape;
        let (namespace, ports) = (Arc::clone(namespace), Arc::clone(ports));
        let own = naming::own(&self.name, self.node(), self.static_uid.is_some());
        let fallback = self.owner.as_ref().map_or(own, |(_, name)| name);
        let shape = Shape::new(config, pools, namespace, &labels, fallback, ports);
        Self {
            shape: Arc::new(shape),
            ..self.clone()
        }
    }

    /// Its key.
    pub fn key(&self) -> PodKey {
        let uid = self.stand_in.as_deref().unwrap_or(&self.uid);
        PodKey {
            namespace: self.shape.namespace.as_ref().into(),
            name: self.name.as_ref().into(),
            uid: uid.into(),
        }
    }

    /// The UID under which its node's pod runtime knows it.
    pub fn runtime_uid(&self) -> &str {
        self.static_uid.as_deref().unwrap_or(&self.uid)
    }

    /// Whether it is being deleted.
    pub fn terminating(&self) -> bool {
        self.terminating
    }

    /// The node that runs it.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Whether it lives in the node's network namespace.
    pub fn host_network(&self) -> bool {
        self.host_network
    }

    /// Its addresses as its status shows them; before it does, those of its sandbox.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Orders pods that show the same address: with a sandbox on this node, running, not
    /// terminating, newer, then by UID and name.
    pub(super) fn right(&self) -> impl Ord + '_ {
        (
            !self.sandboxed,
            !self.running,
            self.terminating,
            Reverse(self.created),
            &*self.uid,
            (&*self.shape.namespace, &*self.name),
            self.stand_in.as_deref(),
        )
    }
}
