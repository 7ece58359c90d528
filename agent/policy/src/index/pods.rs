//! Pods as the index stores them: what policy needs, each string once.

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

/// Values shared by many objects, stored once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pools {
    pub(crate) texts: Pool<str>,
    pub(crate) labels: LabelSets,
    ports: Pool<[Port]>,
}

impl Pools {
    /// Interns labels.
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

/// Everything that policy can distinguish about a pod: pods with the same traits form one group,
/// and selectors are evaluated once per group.
///
/// All parts are interned, so traits are compared by the addresses of their parts: only traits of
/// the same index may be compared.
#[derive(Clone, Debug)]
pub(crate) struct PodTraits {
    pub(crate) namespace: Text,
    pub(crate) labels: Labels,
    /// The service's name; together with the namespace it identifies the workload.
    pub(crate) service: Text,
    /// The service's type, by label or by name.
    pub(crate) kind: Option<Text>,
    /// In the order of the containers.
    pub(crate) ports: Arc<[Port]>,
}

impl PartialEq for PodTraits {
    fn eq(&self, other: &Self) -> bool {
        self.places() == other.places()
    }
}

impl Eq for PodTraits {}

impl Hash for PodTraits {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.places().hash(state);
    }
}

impl PodTraits {
    /// Returns the memory addresses of its parts.
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

    /// Creates traits; `fallback` is the service of pods without a label that names one.
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

    /// Returns the number of a named port; the first declared one, as Services resolve it.
    pub(crate) fn named(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let mut ports = self.ports.iter();
        let is = |p: &&Port| p.protocol == protocol && p.name.as_deref() == Some(name);
        ports.find(is).map(|p| p.number)
    }

    /// Returns `namespace/service`.
    pub(crate) fn workload(&self) -> String {
        format!("{}/{}", self.namespace, self.service)
    }
}

/// A pod, or a workload that stands in for its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEntry {
    pub(crate) traits: Arc<PodTraits>,
    pub(crate) name: Text,
    pub(crate) uid: Box<str>,
    /// The UID of a static pod on its node, which differs from that of its object.
    static_uid: Option<Box<str>>,
    /// Creation time, as a comparable number.
    created: u64,
    pub(crate) node: Option<Text>,
    /// Kind and name of the workload that owns it.
    pub(crate) owner: Option<(Text, Text)>,
    /// The workload's kind if this is a stand-in.
    pub(crate) stand_in: Option<Text>,
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) running: bool,
    pub(crate) finished: bool,
    pub(crate) terminating: bool,
    pub(crate) host_network: bool,
    /// The node's pod runtime has a sandbox for it.
    pub(crate) sandboxed: bool,
    /// Its addresses come from its sandbox: its status has none yet.
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
        let traits = PodTraits::new(config, pools, namespace, &meta.labels, fallback, ports);
        let mut optional = |text: &Option<String>| text.as_deref().map(|t| pools.texts.get(t));
        Self {
            traits: Arc::new(traits),
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

    /// Returns the same pod with one label set to a value or removed.
    pub(super) fn relabelled(
        &self,
        config: &Config,
        pools: &mut Pools,
        key: &str,
        value: Option<&str>,
    ) -> Self {
        let labels = self.traits.labels.iter();
        let labels = labels.map(|(k, v)| (k.as_ref().to_owned(), v.as_ref().to_owned()));
        let mut labels: BTreeMap<String, String> = labels.collect();
        match value {
            Some(value) => drop(labels.insert(key.to_owned(), value.to_owned())),
            None => drop(labels.remove(key)),
        }
        let PodTraits {
            namespace, ports, ..
        } = &*self.traits;
        let (namespace, ports) = (Arc::clone(namespace), Arc::clone(ports));
        let own = naming::own(&self.name, self.node(), self.static_uid.is_some());
        let fallback = self.owner.as_ref().map_or(own, |(_, name)| name);
        let traits = PodTraits::new(config, pools, namespace, &labels, fallback, ports);
        Self {
            traits: Arc::new(traits),
            ..self.clone()
        }
    }

    /// Returns its key.
    pub fn key(&self) -> PodKey {
        let uid = self.stand_in.as_deref().unwrap_or(&self.uid);
        PodKey {
            namespace: self.traits.namespace.as_ref().into(),
            name: self.name.as_ref().into(),
            uid: uid.into(),
        }
    }

    /// Returns the UID under which the pod runtime of its node knows it.
    pub fn runtime_uid(&self) -> &str {
        self.static_uid.as_deref().unwrap_or(&self.uid)
    }

    /// Reports whether it is being deleted.
    pub fn terminating(&self) -> bool {
        self.terminating
    }

    /// Returns the node that runs it.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Reports whether it is in the node's network namespace.
    pub fn host_network(&self) -> bool {
        self.host_network
    }

    /// Returns the addresses in its status, or those of its sandbox until the status has some.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Returns the key that orders pods with the same address, best first: with a sandbox on this
    /// node, running, not terminating, newer, then by UID and name.
    pub(super) fn right(&self) -> impl Ord + '_ {
        (
            !self.sandboxed,
            !self.running,
            self.terminating,
            Reverse(self.created),
            &*self.uid,
            (&*self.traits.namespace, &*self.name),
            self.stand_in.as_deref(),
        )
    }
}
