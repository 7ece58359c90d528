//! The index as the compiler sees it: live pods in groups, services with the
//! ports that they declare, and who owns each address.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use ringfence_ebpf::abi::Addr;

use crate::{
    config::Config,
    index::{Index, PodKey, Scope},
    labels::{PortRef, Target},
    model::{ContainerPort, Pod, Protocol},
    ports::Ports,
    selector::Labels,
};

/// The name that every Namespace carries as a label.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// The characters of a ReplicaSet's hash (`k8s.io/apimachinery/pkg/util/rand`).
const HASH_ALPHABET: &str = "bcdfghjklmnpqrstvwxz2456789";

/// Pods that no selector can tell apart: same namespace, labels, service and ports.
///
/// Selectors are evaluated once per group, not once per pod.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Group<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) labels: &'a Labels,
    pub(crate) service: String,
    pub(crate) kind: Option<String>,
    pub(crate) ports: Vec<&'a ContainerPort>,
}

impl Group<'_> {
    /// The number of a named port; the first declared one, as Services resolve it.
    pub(crate) fn named(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let matches =
            |p: &&&ContainerPort| p.protocol == protocol && p.name.as_deref() == Some(name);
        self.ports.iter().find(matches).map(|p| p.container_port)
    }

    /// `namespace/service`.
    pub(crate) fn workload(&self) -> String {
        format!("{}/{}", self.namespace, self.service)
    }
}

/// A live pod that has a network namespace of its own.
#[derive(Debug)]
pub(crate) struct PodView<'a> {
    pub(crate) key: PodKey,
    pub(crate) pod: &'a Pod,
    pub(crate) group: usize,
    /// Without those that another pod shows with better right.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) in_scope: bool,
}

/// Who owns an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Index into [`View::pods`].
    Pod(usize),
    /// A node, and whether it is the one compiled for.
    Node { this: bool },
}

/// The index as the compiler sees it.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) index: &'a Index,
    /// Sorted by key.
    pub(crate) pods: Vec<PodView<'a>>,
    pub(crate) groups: Vec<Group<'a>>,
    pub(crate) owners: BTreeMap<Addr, Owner>,
    /// Ports that the pods of a service declare; empty if they declare none.
    declared: BTreeMap<(&'a str, String), Ports>,
    /// Services by namespace and type.
    types: BTreeMap<(String, String), BTreeSet<String>>,
    /// Values in use of each egress label.
    egress_values: BTreeMap<&'a str, BTreeSet<&'a str>>,
    namespaces: BTreeMap<&'a str, Labels>,
    this_node: Option<String>,
}

impl<'a> View<'a> {
    /// The index from one node's point of view, or nobody's.
    pub(crate) fn new(index: &'a Index, scope: &Scope) -> Self {
        let mut view = Self {
            index,
            pods: Vec::new(),
            groups: Vec::new(),
            owners: BTreeMap::new(),
            declared: BTreeMap::new(),
            types: BTreeMap::new(),
            egress_values: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            this_node: match scope {
                Scope::Node(name) => Some(name.clone()),
                Scope::Everything => None,
            },
        };
        view.add_pods();
        view.add_namespaces();
        view.add_services();
        view.add_owners();
        view
    }

    /// As [`View::new`] for all pods, with made-up addresses for pods that have none.
    pub(crate) fn with_made_up_addresses(index: &'a Index) -> Self {
        let mut view = Self::new(index, &Scope::Everything);
        let mut next = u32::from(Ipv4Addr::new(240, 0, 0, 0));
        for i in 0..view.pods.len() {
            while view.pods[i].addresses.is_empty() {
                next += 1;
                let ip = IpAddr::V4(next.into());
                let addr = Addr::from(ip);
                if let std::collections::btree_map::Entry::Vacant(free) = view.owners.entry(addr) {
                    free.insert(Owner::Pod(i));
                    view.pods[i].addresses.push(ip);
                }
            }
        }
        view
    }

    pub(crate) fn config(&self) -> &'a Config {
        &self.index.config
    }

    /// Labels of a Namespace, `kubernetes.io/metadata.name` always among them.
    pub(crate) fn namespace(&self, name: &str) -> &Labels {
        static NONE: Labels = Labels::new();
        self.namespaces.get(name).unwrap_or(&NONE)
    }

    /// What `"true"` means for a service: the ports that its pods declare, else everything.
    pub(crate) fn declared(&self, namespace: &str, service: &str) -> Ports {
        match self.declared.get(&(namespace, service.to_owned())) {
            Some(ports) if !ports.is_empty() => ports.clone(),
            _ => Ports::all(),
        }
    }

    /// The ports that a service's pods declare, one by one.
    pub(crate) fn declared_list(&self, namespace: &str, service: &str) -> Vec<PortRef> {
        let of_service = |g: &&Group<'_>| g.namespace == namespace && g.service == service;
        let ports = self.groups.iter().filter(of_service).flat_map(|g| &g.ports);
        let unique: BTreeSet<_> = ports.map(|p| (p.protocol, p.container_port)).collect();
        let number = |(protocol, port)| PortRef::Number(protocol, port);
        unique.into_iter().map(number).collect()
    }

    /// Services of a type.
    pub(crate) fn services_of(&self, namespace: &str, kind: &str) -> impl Iterator<Item = &String> {
        let services = self.types.get(&(namespace.to_owned(), kind.to_owned()));
        services.into_iter().flatten()
    }

    /// Values in use of an egress label, cluster-wide.
    pub(crate) fn egress_values(&self, key: &str) -> impl Iterator<Item = &'a str> + '_ {
        self.egress_values.get(key).into_iter().flatten().copied()
    }

    fn add_pods(&mut self) {
        let index = self.index;
        let real = index.pods.values().filter(|p| !p.finished());
        let replaced: BTreeSet<_> = real.clone().filter_map(workload_of).collect();
        let stand_ins = index.stand_ins.iter().filter(|((kind, (ns, name)), _)| {
            !replaced.contains(&(kind.as_str(), ns.as_str(), name.as_str()))
        });
        let mut pods: Vec<&Pod> = real.chain(stand_ins.map(|(_, pod)| pod)).collect();
        pods.retain(|p| !p.spec.host_network);
        pods.sort_by_cached_key(|p| PodKey::of(p));
        let mut seen: HashMap<Group<'a>, usize> = HashMap::new();
        for pod in pods {
            let next = seen.len();
            let group = *seen.entry(group_of(&index.config, pod)).or_insert(next);
            let in_scope = match &self.this_node {
                None => true,
                Some(node) => pod.spec.node_name.as_ref() == Some(node),
            };
            self.pods.push(PodView {
                key: PodKey::of(pod),
                pod,
                group,
                addresses: pod.addresses(),
                in_scope,
            });
        }
        let mut groups: Vec<_> = seen.into_iter().collect();
        groups.sort_unstable_by_key(|(_, i)| *i);
        self.groups = groups.into_iter().map(|(group, _)| group).collect();
    }

    fn add_namespaces(&mut self) {
        let index = self.index;
        let policies = index.policies.keys().map(|(ns, _)| ns.as_str());
        let pods = self.groups.iter().map(|g| g.namespace);
        let known = index.namespaces.keys().map(String::as_str);
        for name in known.chain(policies).chain(pods).collect::<BTreeSet<_>>() {
            let object = index.namespaces.get(name);
            let mut labels = object.map_or_else(Labels::new, |n| n.metadata.labels.clone());
            labels.insert(NAMESPACE_NAME.to_owned(), name.to_owned());
            self.namespaces.insert(name, labels);
        }
    }

    fn add_services(&mut self) {
        for group in &self.groups {
            let key = (group.namespace, group.service.clone());
            let declared = self.declared.entry(key).or_default();
            for port in &group.ports {
                declared.add(&Ports::one(port.protocol, port.container_port));
            }
            if let Some(kind) = &group.kind {
                let of_type = self.types.entry((group.namespace.to_owned(), kind.clone()));
                of_type.or_default().insert(group.service.clone());
            }
            for (key, value) in group.labels {
                if Target::parse(&self.index.config, key).is_some() {
                    self.egress_values.entry(key).or_default().insert(value);
                }
            }
        }
    }

    /// A pod's address is the pod's, whatever a node's podCIDR might say of it;
    /// of two pods the one with the better right has it.
    fn add_owners(&mut self) {
        let mut by_right: Vec<usize> = (0..self.pods.len()).collect();
        by_right.sort_by_key(|i| right(&self.pods[*i]));
        for i in by_right {
            let owners = &mut self.owners;
            self.pods[i].addresses.retain(|ip| {
                *owners.entry(Addr::from(*ip)).or_insert(Owner::Pod(i)) == Owner::Pod(i)
            });
        }
        for (node, ip) in self.node_addresses() {
            let this = node.is_some() && node == self.this_node.as_deref();
            let owner = self.owners.entry(Addr::from(ip));
            let owner = owner.or_insert(Owner::Node { this });
            if let (Owner::Node { this: known }, true) = (owner, this) {
                *known = true;
            }
        }
    }

    /// Addresses of nodes: their own, those that pods in their network show, and configured ones.
    fn node_addresses(&self) -> Vec<(Option<&'a str>, IpAddr)> {
        let mut all = Vec::new();
        for (name, node) in &self.index.nodes {
            all.extend(
                node.addresses()
                    .into_iter()
                    .map(|ip| (Some(name.as_str()), ip)),
            );
        }
        let live = self.index.pods.values().filter(|p| !p.finished());
        for pod in live.filter(|p| p.spec.host_network) {
            let node = pod.spec.node_name.as_deref();
            all.extend(pod.addresses().into_iter().map(|ip| (node, ip)));
        }
        all.extend(self.config().node_addresses.iter().map(|ip| (None, *ip)));
        all
    }
}

/// Orders pods that show the same address: running, not terminating, smaller UID.
fn right<'p>(view: &'p PodView<'_>) -> (bool, bool, &'p str, &'p PodKey) {
    let pod = view.pod;
    (
        pod.status.phase != "Running",
        pod.metadata.deletion_timestamp.is_some(),
        &pod.metadata.uid,
        &view.key,
    )
}

fn group_of<'a>(config: &Config, pod: &'a Pod) -> Group<'a> {
    let labels = &pod.metadata.labels;
    let value = |key: &String| labels.get(key).filter(|s| !s.is_empty());
    let service = match config.service_labels.iter().find_map(value) {
        Some(service) => service.clone(),
        None => workload_of(pod)
            .map_or(&*pod.metadata.name, |w| w.2)
            .to_owned(),
    };
    let kind = match labels.get(&config.key("service-type")) {
        Some(kind) => Some(kind.clone()),
        None => config.type_of_name(&service).map(str::to_owned),
    };
    Group {
        namespace: &pod.metadata.namespace,
        labels,
        service,
        kind,
        ports: pod.ports().collect(),
    }
}

/// Kind, namespace and name of the workload that owns a pod; a Deployment's
/// pods are owned by a ReplicaSet whose name ends in a hash.
fn workload_of(pod: &Pod) -> Option<(&str, &str, &str)> {
    let meta = &pod.metadata;
    let controller = meta.owner_references.iter().find(|o| o.controller);
    let owner = controller.or(meta.owner_references.first())?;
    if owner.kind == "ReplicaSet"
        && let Some((name, hash)) = owner.name.rsplit_once('-')
    {
        let labelled = meta.labels.get("pod-template-hash");
        let is_hash = match labelled {
            Some(label) => label == hash,
            None => {
                (6..=10).contains(&hash.len()) && hash.chars().all(|c| HASH_ALPHABET.contains(c))
            }
        };
        if is_hash {
            return Some(("Deployment", &meta.namespace, name));
        }
    }
    Some((&owner.kind, &meta.namespace, &owner.name))
}
