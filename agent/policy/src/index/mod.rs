//! The objects that are known now, and what follows from them for everybody.
//!
//! Fed by whatever watches files or the API server. Keeps what policy needs of each
//! object, strings and label sets once; sums up what depends on many pods as they
//! come and go; and notes what changed for the compiler that looks next.

mod addresses;
mod copy;
mod dns;
mod exceptions;
pub(crate) mod feed;
pub(crate) mod groups;
pub(crate) mod held;
pub(crate) mod journal;
mod kept;
mod naming;
mod own;
pub(crate) mod owners;
pub(crate) mod pods;
pub(crate) mod policies;
mod sandboxes;
mod shown;
pub(crate) mod spaces;
mod standing;

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::OnceLock};

use ringfence_ebpf::abi::Addr;
use serde::{Serialize, Serializer};

use crate::{
    compile::{Compiler, policy::Who},
    config::Config,
    intern::{HashMap, HashSet, Text},
    model::{EndpointSlice, Object, ObjectError, Service},
    ports::Ports,
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
use owners::{NodeClaim, Owners};
pub use pods::PodEntry;
use pods::Pools;
use policies::{StoredCluster, StoredPolicy};
pub use sandboxes::Sandbox;
use sandboxes::Sandboxes;
use shown::Shares;
use spaces::Spaces;
pub use standing::Standing;

/// Namespace and name.
pub(crate) type Key = (Text, Text);

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

/// In [`Index::group_of`]: a pod that is in no group.
const NO_GROUP: GroupId = GroupId::MAX;

/// Who owns an address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'a> {
    /// The pod that shows it with the best right.
    Pod(PodId),
    /// A node, by these claims: never empty.
    Node(&'a [NodeClaim]),
}

/// A Node, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredNode {
    pub(crate) labels: Labels,
    /// Every address that it claims, and how.
    claims: Vec<(Addr, NodeClaim)>,
}

/// The objects that are known now.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pub(crate) config: Config,
    pools: Pools,
    /// `None` is free.
    slots: Vec<Option<PodEntry>>,
    free: Vec<PodId>,
    /// The group of each pod that is alive, by pod.
    group_of: Vec<GroupId>,
    /// Real pods by namespace and name.
    by_name: HashMap<Text, HashMap<Text, PodId>>,
    /// By kind, namespace and name.
    stand_ins: BTreeMap<(Text, Text, Text), PodId>,
    /// How many living real pods each workload (kind, namespace, name) owns.
    owned: BTreeMap<(Text, Text, Text), u32>,
    pub(crate) groups: Groups,
    pub(crate) spaces: Spaces,
    pub(crate) owners: Owners,
    pub(crate) policies: BTreeMap<Text, BTreeMap<Text, StoredPolicy>>,
    pub(crate) cluster_policies: BTreeMap<Text, StoredCluster>,
    /// What isn't in force in its newest form.
    pub(crate) held: Held,
    /// What was in force before this index knew any object.
    remembered: Remembered,
    pub(crate) services: BTreeMap<(String, String), Service>,
    shares: Shares,
    pub(crate) slices: BTreeMap<(String, String), EndpointSlice>,
    /// The way to cluster DNS, once somebody has asked and until it is another.
    pub(crate) way_to_dns: OnceLock<Vec<(Who, Ports)>>,
    pub(crate) nodes: BTreeMap<Text, StoredNode>,
    /// Addresses of the node's own interfaces, as the node's kernel says.
    own: own::Addresses,
    /// What the node's pod runtime says.
    sandboxes: Sandboxes,
    /// Faults of policies whose newest form can't be used; namespace empty for cluster ones.
    pub(crate) invalid: BTreeMap<(String, String), ObjectError>,
    /// What few objects are, so that nobody has to go through all.
    exceptions: Exceptions,
    pub(crate) journal: Journal,
    /// Addresses that stand in for those of pods which have none, in copies.
    pub(crate) made_up: HashSet<Addr>,
}

impl Index {
    /// An index without objects.
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
            Object::EndpointSlice(o) => {
                self.note_slice(&o);
                if let Some(old) = self.slices.insert(key, o) {
                    self.note_slice(&old);
                }
            }
            Object::Node(node) => self.put_node(&node),
        }
    }

    /// Forgets an object; `kind` as [`Object::kind`] gives it.
    pub fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        let key = || (namespace.to_owned(), name.to_owned());
        match kind {
            "Pod" => self.delete_pod(namespace, name),
            "Namespace" => self.put_namespace(name, None),
            "NetworkPolicy" => {
                self.is_valid(&key());
                self.delete_policy(namespace, name);
            }
            "ClusterNetworkPolicy" => {
                self.is_valid(&(String::new(), name.to_owned()));
                if let Some((name, _)) = self.cluster_policies.remove_entry(name) {
                    self.held.delete_cluster(&name);
                    self.journal.note(|j| &mut j.cluster_policies, name);
                }
            }
            "Service" => self.delete_service(&key()),
            "EndpointSlice" => {
                if let Some(old) = self.slices.remove(&key()) {
                    self.note_slice(&old);
                }
            }
            "Node" => self.delete_node(name),
            workload => self.delete_stand_in(workload, namespace, name),
        }
    }

    /// Replaces all objects of a kind; objects of other kinds in `objects` are applied as well.
    ///
    /// Closed forms whose policy isn't among `objects` go too: call
    /// [`Index::apply_closed`] afterwards for what the same listing had invalid.
    pub fn reset(&mut self, kind: &str, objects: Vec<Object>) {
        let of_kind = objects.iter().filter(|o| o.kind() == kind);
        let name = |o: &Object| (o.meta().namespace.clone(), o.meta().name.clone());
        let there: HashSet<_> = of_kind.map(name).collect();
        let mut gone = self.names(kind);
        gone.retain(|key| !there.contains(key));
        for (namespace, name) in gone {
            self.delete(kind, &namespace, &name);
        }
        for object in objects {
            self.apply(object);
        }
    }

    /// Namespace and name of every object of a kind, in no order.
    fn names(&self, kind: &str) -> Vec<(String, String)> {
        let cluster = |name: &Text| (String::new(), name.as_ref().to_owned());
        let both = |ns: &Text, name: &Text| (ns.as_ref().to_owned(), name.as_ref().to_owned());
        match kind {
            "Pod" => {
                let all = self.by_name.iter();
                all.flat_map(|(ns, pods)| pods.keys().map(move |n| both(ns, n)))
                    .collect()
            }
            "Namespace" => {
                let all = self.spaces.iter().filter(|(_, s)| s.has_object);
                all.map(|(name, _)| cluster(name)).collect()
            }
            "NetworkPolicy" => {
                let all = self.policies.iter();
                all.flat_map(|(ns, own)| own.keys().map(move |n| both(ns, n)))
                    .collect()
            }
            "ClusterNetworkPolicy" => self.cluster_policies.keys().map(cluster).collect(),
            "Service" => self.services.keys().cloned().collect(),
            "EndpointSlice" => self.slices.keys().cloned().collect(),
            "Node" => self.nodes.keys().map(cluster).collect(),
            workload => {
                let all = self.stand_ins.keys();
                all.filter(|(kind, ..)| **kind == *workload)
                    .map(|(_, ns, name)| both(ns, name))
                    .collect()
            }
        }
    }

    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Real pods, finished ones too, by namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = &PodEntry> {
        let ids = self.by_name.values().flat_map(HashMap::values);
        let mut pods: Vec<&PodEntry> = ids.filter_map(|id| self.entry(*id)).collect();
        pods.sort_unstable_by_key(|pod| (&pod.shape.namespace, &pod.name));
        pods.into_iter()
    }

    /// One real pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&PodEntry> {
        self.entry(*self.by_name.get(namespace)?.get(name)?)
    }

    /// The pod that owns an address, if one does.
    pub fn pod_at(&self, address: IpAddr) -> Option<&PodEntry> {
        match self.owner(&Addr::from(address))? {
            Owner::Pod(id) => self.entry(id),
            Owner::Node(_) => None,
        }
    }

    /// Names and labels of Namespaces that have an object, by name.
    pub(crate) fn namespaces(&self) -> BTreeMap<&Text, &Labels> {
        let known = self.spaces.iter().filter(|(_, space)| space.has_object);
        known.map(|(name, space)| (name, &space.labels)).collect()
    }

    /// What in the objects can't be used as it stands, in a stable order.
    pub fn problems(&self) -> Vec<Problem> {
        problems::of(self)
    }

    /// Compiles what is known into tables, from scratch.
    pub fn compile(&self, scope: &Scope) -> Tables {
        let mut compiler = Compiler::new(scope.clone());
        compiler.rebuild(self);
        compiler.into_tables()
    }

    /// A pod by its index.
    pub(crate) fn entry(&self, id: PodId) -> Option<&PodEntry> {
        self.slots.get(id as usize)?.as_ref()
    }

    /// The group of a pod that is alive and has a network of its own.
    pub(crate) fn group_of(&self, id: PodId) -> Option<GroupId> {
        let group = *self.group_of.get(id as usize)?;
        (group != NO_GROUP).then_some(group)
    }

    /// Every pod that is alive, has a network of its own and isn't replaced.
    pub(crate) fn live(&self) -> impl Iterator<Item = (PodId, &PodEntry)> {
        let ids = self.groups.alive().flat_map(|id| &self.groups.get(id).pods);
        ids.filter_map(|id| Some((*id, self.entry(*id)?)))
    }

    /// Whether a pod is alive, has a network of its own and isn't replaced.
    pub(crate) fn is_live(&self, pod: &PodEntry) -> bool {
        if pod.finished || pod.host_network {
            return false;
        }
        pod.stand_in.as_ref().is_none_or(|kind| {
            let key = (kind.clone(), pod.shape.namespace.clone(), pod.name.clone());
            !self.owned.contains_key(&key)
        })
    }

    /// Who owns an address. A pod's address is the pod's, whatever a node's
    /// podCIDR might say of it; of two pods the one with the better right has it.
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

    /// The addresses of a pod without those that another shows with better right.
    pub(crate) fn addresses_of(&self, id: PodId) -> Vec<IpAddr> {
        let Some(pod) = self.entry(id) else {
            return Vec::new();
        };
        let own = |ip: &&IpAddr| matches!(self.owner(&Addr::from(**ip)), Some(Owner::Pod(owner)) if owner == id);
        pod.addresses.iter().filter(own).copied().collect()
    }

    /// A NetworkPolicy.
    pub(crate) fn policy(&self, namespace: &str, name: &str) -> Option<&StoredPolicy> {
        self.policies.get(namespace)?.get(name)
    }

    /// Labels of a Namespace; its name is always among them if it has pods or an object.
    pub(crate) fn namespace(&self, name: &str) -> Labels {
        let space = self.spaces.get(name);
        space.map_or_else(Labels::default, |s| s.labels.clone())
    }
}
