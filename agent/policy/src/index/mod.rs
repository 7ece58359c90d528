//! The currently known objects, and the data derived from them.
//!
//! It is fed by whatever watches files or the API server. It keeps what policy needs of each
//! object, with strings and label sets stored once; aggregates data over many pods as they are
//! added and removed; and records changes for the next update of the compiler.

mod addresses;
mod copy;
mod dns;
mod exceptions;
pub(crate) mod feed;
pub(crate) mod groups;
pub(crate) mod held;
pub(crate) mod journal;
mod kept;
mod listed;
pub(crate) mod memory;
mod naming;
mod own;
pub(crate) mod owners;
pub(crate) mod pods;
pub(crate) mod policies;
pub(crate) mod ranges;
mod room;
mod sandboxes;
mod shown;
pub(crate) mod spaces;
mod standing;

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::OnceLock};

use ipnet::IpNet;
use ringfence_ebpf::abi::Addr;
use serde::{Serialize, Serializer};

use crate::{
    compile::{Compiler, policy::Who},
    config::Config,
    intern::{HashMap, HashSet, Text},
    model::{EndpointSlice, Kind, Object, ObjectError, ObjectKey, ObjectKind, Service},
    ports::Ports,
    prefix::Prefix,
    problems::{self, Problem},
    selector::Labels,
    tables::Tables,
};

use exceptions::Exceptions;
use groups::{GroupId, Groups, PodId};
use held::Held;
use journal::Journal;
pub use kept::KeptForm;
use kept::Remembered;
use memory::Memory;
use owners::{NodeClaim, Owners};
pub use pods::PodEntry;
use pods::Pools;
use policies::{StoredCluster, StoredPolicy};
use ranges::Ranges;
pub use sandboxes::Sandbox;
use sandboxes::Sandboxes;
use shown::Shares;
use spaces::Spaces;
pub use standing::Standing;

/// Namespace and name.
pub(crate) type Key = (Text, Text);

/// Identifies one pod; a pod recreated under its name has another key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; empty in files. For a stand-in it is the kind of its workload.
    pub uid: String,
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

/// Which pods are compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The pods of one node, seen from it.
    Node(String),
    /// All pods; no node is "this" one.
    Everything,
}

/// In [`Index::group_of`]: a pod without a group.
const NO_GROUP: GroupId = GroupId::MAX;

/// The owner of an address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'a> {
    /// The pod with the best right to it.
    Pod(PodId),
    /// A node, with its claims; never empty.
    Node(&'a [NodeClaim]),
}

/// The parts of a Node that policy uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredNode {
    pub(crate) labels: Labels,
    /// Every address that it claims, and the basis of each claim.
    claims: Vec<(Addr, NodeClaim)>,
    /// The ranges of its pods.
    ranges: Vec<Prefix>,
    /// Blocks that it declares as pod ranges but that can't be.
    pub(crate) refused: Vec<IpNet>,
}

/// The currently known objects.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pub(crate) config: Config,
    pools: Pools,
    /// `None` marks a free slot.
    slots: Vec<Option<PodEntry>>,
    free: Vec<PodId>,
    /// The group of each live pod, by pod.
    group_of: Vec<GroupId>,
    /// Real pods by namespace and name.
    by_name: HashMap<Text, HashMap<Text, PodId>>,
    /// By kind, namespace and name.
    stand_ins: BTreeMap<(Text, Text, Text), PodId>,
    /// How many live real pods each workload (kind, namespace, name) owns.
    owned: BTreeMap<(Text, Text, Text), u32>,
    pub(crate) groups: Groups,
    pub(crate) spaces: Spaces,
    pub(crate) owners: Owners,
    pub(crate) policies: BTreeMap<Text, BTreeMap<Text, StoredPolicy>>,
    pub(crate) cluster_policies: BTreeMap<Text, StoredCluster>,
    /// The units whose newest form isn't in force.
    pub(crate) held: Held,
    /// The forms that were in force before this index knew any object.
    remembered: Remembered,
    pub(crate) services: BTreeMap<(String, String), Service>,
    shares: Shares,
    memory: Memory,
    pub(crate) slices: BTreeMap<(String, String), EndpointSlice>,
    /// The way to cluster DNS, computed on first use and cleared when it changes.
    pub(crate) way_to_dns: OnceLock<Vec<(Who, Ports)>>,
    pub(crate) nodes: BTreeMap<Text, StoredNode>,
    pub(crate) ranges: Ranges,
    /// Addresses of the node's own interfaces, as its kernel reports them.
    own: own::Addresses,
    /// The sandboxes that the node's pod runtime reports.
    sandboxes: Sandboxes,
    /// Errors of policies whose newest form is invalid; the namespace is empty for cluster
    /// policies.
    pub(crate) invalid: BTreeMap<(String, String), ObjectError>,
    /// Objects with rare properties, to avoid iterating over all objects.
    exceptions: Exceptions,
    pub(crate) journal: Journal,
    /// In copies: addresses that stand in for those of pods without any.
    pub(crate) made_up: HashSet<Addr>,
}

impl Index {
    /// Creates an index without objects.
    pub fn new(config: Config) -> Self {
        let mut index = Self {
            config,
            ..Self::default()
        };
        for ip in index.config.node_addresses.clone() {
            let claim = NodeClaim {
                node: None,
                in_status: false,
            };
            index.owners.add_node(ip.into(), claim);
        }
        index.take_given_ranges();
        index
    }

    /// Adds an object, or replaces the one of its kind and name.
    pub fn apply(&mut self, object: Object) {
        let meta = object.meta();
        let key = (meta.namespace.clone(), meta.name.clone());
        match object {
            Object::Pod(pod) => self.put_pod(&pod),
            Object::Namespace(o) => self.put_namespace(&key.1, Some(&o.metadata.labels)),
            Object::NetworkPolicy(policy) => {
                self.is_valid(&key);
                self.put_policy(&policy, false);
            }
            Object::ClusterNetworkPolicy(policy) => {
                self.is_valid(&(String::new(), key.1));
                self.put_cluster_policy(&policy, false);
            }
            Object::Service(o) => self.put_service(&key, o),
            Object::EndpointSlice(mut o) => {
                o.metadata.annotations.clear();
                self.note_slice(&o);
                if let Some(old) = self.keep_slice(key, Some(o)) {
                    self.note_slice(&old);
                }
            }
            Object::Node(node) => self.put_node(&node),
        }
    }

    /// Removes an object; `kind` is the value of [`Object::kind`].
    pub fn delete(&mut self, key: &ObjectKey) {
        let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
        let kind = match &key.kind {
            ObjectKind::Read(kind) => kind,
            ObjectKind::Other(workload) => {
                return self.delete_stand_in(workload, namespace, name);
            }
        };
        let pair = || (namespace.to_owned(), name.to_owned());
        match kind {
            Kind::Pod => self.delete_pod(namespace, name),
            Kind::Namespace => self.put_namespace(name, None),
            Kind::NetworkPolicy => {
                self.is_valid(&pair());
                self.delete_policy(namespace, name);
            }
            Kind::ClusterNetworkPolicy => {
                self.is_valid(&(String::new(), name.to_owned()));
                if let Some((name, _)) = self.cluster_policies.remove_entry(name) {
                    self.held.delete_cluster(&name);
                    self.journal.note(|j| &mut j.cluster_policies, name);
                }
            }
            Kind::Service => self.delete_service(&pair()),
            Kind::EndpointSlice => {
                if let Some(old) = self.keep_slice(pair(), None) {
                    self.note_slice(&old);
                }
            }
            Kind::Node => self.delete_node(name),
        }
    }

    /// Returns its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns real pods, including finished ones, by namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = &PodEntry> {
        let ids = self.by_name.values().flat_map(HashMap::values);
        let mut pods: Vec<&PodEntry> = ids.filter_map(|id| self.entry(*id)).collect();
        pods.sort_unstable_by_key(|pod| (&pod.traits.namespace, &pod.name));
        pods.into_iter()
    }

    /// Returns a real pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&PodEntry> {
        self.entry(*self.by_name.get(namespace)?.get(name)?)
    }

    /// Returns the pod that owns an address, if any.
    pub fn pod_at(&self, address: IpAddr) -> Option<&PodEntry> {
        match self.owner(&Addr::from(address))? {
            Owner::Pod(id) => self.entry(id),
            Owner::Node(_) => None,
        }
    }

    /// Returns names and labels of Namespaces that have an object, by name.
    pub(crate) fn namespaces(&self) -> BTreeMap<&Text, &Labels> {
        let known = self.spaces.iter().filter(|(_, space)| space.has_object);
        known.map(|(name, space)| (name, &space.labels)).collect()
    }

    /// Returns everything invalid in the objects, in a stable order.
    pub fn problems(&self) -> Vec<Problem> {
        problems::of(self)
    }

    /// Compiles the index into tables, from scratch.
    pub fn compile(&self, scope: &Scope) -> Tables {
        let mut compiler = Compiler::new(scope.clone());
        compiler.rebuild(self);
        compiler.into_tables()
    }

    /// Returns a pod by its index.
    pub(crate) fn entry(&self, id: PodId) -> Option<&PodEntry> {
        self.slots.get(id as usize)?.as_ref()
    }

    /// Returns the group of a live pod with a network of its own.
    pub(crate) fn group_of(&self, id: PodId) -> Option<GroupId> {
        let group = *self.group_of.get(id as usize)?;
        (group != NO_GROUP).then_some(group)
    }

    /// Returns every pod that is alive, has a network of its own and isn't a stand-in replaced by
    /// real pods.
    pub(crate) fn live(&self) -> impl Iterator<Item = (PodId, &PodEntry)> {
        let ids = self.groups.alive().flat_map(|id| &self.groups.get(id).pods);
        ids.filter_map(|id| Some((*id, self.entry(*id)?)))
    }

    /// Reports whether a pod is alive, has a network of its own and isn't a stand-in replaced by
    /// real pods.
    pub(crate) fn is_live(&self, pod: &PodEntry) -> bool {
        if pod.finished || pod.host_network {
            return false;
        }
        pod.stand_in.as_ref().is_none_or(|kind| {
            let key = (kind.clone(), pod.traits.namespace.clone(), pod.name.clone());
            !self.owned.contains_key(&key)
        })
    }

    /// Returns the owner of an address. A pod's address belongs to the pod, even if a node's
    /// podCIDR claims it; of two pods the one with the better right owns it.
    pub(crate) fn owner(&self, addr: &Addr) -> Option<Owner<'_>> {
        let pods = self.owners.pods(addr).iter();
        let entries = pods.filter_map(|id| Some((*id, self.entry(*id)?)));
        let best = entries.min_by(|a, b| a.1.right().cmp(&b.1.right()));
        if let Some((id, _)) = best {
            return Some(Owner::Pod(id));
        }
        let claims = self.owners.nodes(addr);
        (!claims.is_empty()).then_some(Owner::Node(claims))
    }

    /// Returns the addresses of a pod, except those that another pod has a better right to.
    pub(crate) fn addresses_of(&self, id: PodId) -> Vec<IpAddr> {
        let Some(pod) = self.entry(id) else {
            return Vec::new();
        };
        let own = |ip: &&IpAddr| matches!(self.owner(&Addr::from(**ip)), Some(Owner::Pod(owner)) if owner == id);
        pod.addresses.iter().filter(own).copied().collect()
    }

    /// Returns the Services of a namespace whose packets nodes forward with their own source
    /// address.
    pub(crate) fn doors(&self, namespace: &str) -> impl Iterator<Item = &Service> {
        let from = (namespace.to_owned(), String::new());
        let own = self.services.range(from..);
        let own = own.take_while(move |(key, _)| key.0 == *namespace);
        own.map(|(_, service)| service)
            .filter(|service| service.is_masqueraded())
    }

    /// Returns a NetworkPolicy.
    pub(crate) fn policy(&self, namespace: &str, name: &str) -> Option<&StoredPolicy> {
        self.policies.get(namespace)?.get(name)
    }

    /// Returns the labels of a Namespace; they include its name if it has pods or an object.
    pub(crate) fn namespace(&self, name: &str) -> Labels {
        let space = self.spaces.get(name);
        space.map_or_else(Labels::default, |s| s.labels.clone())
    }
}
