//! Kubernetes types, trimmed to the fields in use.
//!
//! Other fields are skipped, except in the spec of a policy: a misspelt field there changes what
//! is allowed, so it is an error.

mod cidr;
mod closed;
mod cluster;
mod core;
mod error;
mod kind;
mod kinds;
mod netpol;
mod parse;
mod service;
mod unread;
mod validate;
mod validate_cluster;
mod wire;
mod workload;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;

pub use self::core::{
    Container, ContainerPort, IntOrString, MIRROR, Meta, Namespace, Node, NodeAddress,
    OwnerReference, Pod, PodSpec, PodStatus,
};
pub use cluster::{
    Action, ClusterEgressRule, ClusterIngressRule, ClusterNetworkPolicy, ClusterNetworkPolicySpec,
    ClusterPeer, NamespacedPods, PortMatch, PortOrRange, PortRange, ProtocolMatch, Subject, Tier,
};
pub use error::{Closed, ObjectError};
pub(crate) use kind::WorkloadKind;
pub use kind::{Kind, ObjectKey, ObjectKind};
pub use kinds::Spelling;
pub use netpol::{
    EgressRule, IngressRule, IpBlock, LabelSelector, NetworkPolicy, NetworkPolicyPort,
    NetworkPolicySpec, Operator, Peer, PolicyType, Protocol, Requirement,
};
pub(crate) use service::Forwarded;
pub use service::{Endpoint, EndpointPort, EndpointSlice, Service, ServicePort, ServiceSpec};
pub use workload::Workload;

pub(crate) use validate::{check_selector, is_dns_label, is_port_name};

/// Reports whether the API server would accept a ClusterNetworkPolicy.
pub(crate) fn is_valid_cluster(spec: &ClusterNetworkPolicySpec) -> bool {
    validate_cluster::spec(spec).is_ok()
}

/// One object of a kind that matters to policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A pod, or a workload that represents its pods ([`Pod::stand_in`]).
    Pod(Pod),
    /// A Namespace.
    Namespace(Namespace),
    /// A NetworkPolicy of networking.k8s.io/v1.
    NetworkPolicy(NetworkPolicy),
    /// A ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2.
    ClusterNetworkPolicy(ClusterNetworkPolicy),
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A Node.
    Node(Node),
}

/// The result of [`Object::from_value`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An object that policy reads.
    Object(Box<Object>),
    /// A kind that policy doesn't read.
    Ignored,
}

impl Object {
    /// Parses one Kubernetes object (not a `List`).
    ///
    /// A Deployment, StatefulSet, DaemonSet or CronJob becomes a pod that represents its pods; so
    /// does a ReplicaSet, Job or ReplicationController without an owner. [`Workload`] reads
    /// workloads of other groups.
    ///
    /// # Errors
    /// The error names object, field and fault. For a NetworkPolicy or ClusterNetworkPolicy it
    /// carries the closed form. Policy kinds that this version doesn't enforce are errors too:
    /// skipping one silently would open the firewall.
    pub fn from_value(value: serde_json::Value) -> Result<Parsed, ObjectError> {
        parse::object(value)
    }

    /// Parses one object of a known kind, as an API server sends it. `json` needs neither kind
    /// nor apiVersion; if present, they are ignored.
    ///
    /// # Errors
    /// See [`Object::from_value`].
    pub fn from_json(kind: Kind, json: &str) -> Result<Self, ObjectError> {
        wire::object(kind, json)
    }

    /// Returns the kind as `kubectl` writes it; for a stand-in, the kind of its workload.
    pub fn kind(&self) -> ObjectKind {
        ObjectKind::Read(match self {
            Self::Pod(pod) => match &pod.stand_in {
                Some(workload) => return ObjectKind::Other(workload.clone()),
                None => Kind::Pod,
            },
            Self::Namespace(_) => Kind::Namespace,
            Self::NetworkPolicy(_) => Kind::NetworkPolicy,
            Self::ClusterNetworkPolicy(_) => Kind::ClusterNetworkPolicy,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Node(_) => Kind::Node,
        })
    }

    /// Returns what identifies the object.
    pub fn key(&self) -> ObjectKey {
        let meta = self.meta();
        ObjectKey::new(self.kind(), &meta.namespace, &meta.name)
    }

    /// Returns the object's metadata.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Pod(o) => &o.metadata,
            Self::Namespace(o) => &o.metadata,
            Self::NetworkPolicy(o) => &o.metadata,
            Self::ClusterNetworkPolicy(o) => &o.metadata,
            Self::Service(o) => &o.metadata,
            Self::EndpointSlice(o) => &o.metadata,
            Self::Node(o) => &o.metadata,
        }
    }
}
