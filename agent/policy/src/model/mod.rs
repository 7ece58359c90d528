//! Kubernetes types, trimmed to the fields that are used.
//!
//! Fields that don't matter are skipped, except in the spec of a policy: a
//! misspelt field there changes what is allowed, so it is an error.

mod cidr;
mod closed;
mod cluster;
mod core;
mod error;
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
pub use kinds::Spelling;
pub use netpol::{
    EgressRule, IngressRule, IpBlock, LabelSelector, NetworkPolicy, NetworkPolicyPort,
    NetworkPolicySpec, Operator, Peer, PolicyType, Protocol, Requirement,
};
pub(crate) use service::Forwarded;
pub use service::{Endpoint, EndpointPort, EndpointSlice, Service, ServicePort, ServiceSpec};
pub use workload::Workload;

pub(crate) use validate::{check_selector, is_dns_label, is_port_name};

/// Whether the API server would take a ClusterNetworkPolicy.
pub(crate) fn is_valid_cluster(spec: &ClusterNetworkPolicySpec) -> bool {
    validate_cluster::spec(spec).is_ok()
}

/// One object of a kind that matters to policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A pod, or a workload that stands for its pods ([`Pod::stand_in`]).
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

/// What [`Object::from_value`] made of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An object that matters.
    Object(Box<Object>),
    /// A kind that policy doesn't read.
    Ignored,
}

impl Object {
    /// Reads one Kubernetes object (not a `List`).
    ///
    /// A Deployment, StatefulSet, DaemonSet or CronJob becomes a pod that stands for its
    /// pods, and so does a ReplicaSet, Job or ReplicationController without owner.
    /// [`Workload`] reads those of other groups.
    ///
    /// # Errors
    /// Names object, field and fault. For a NetworkPolicy or ClusterNetworkPolicy
    /// it carries the closed form. Kinds of policy that this version doesn't enforce are errors too:
    /// to skip one silently would open the firewall.
    pub fn from_value(value: serde_json::Value) -> Result<Parsed, ObjectError> {
        parse::object(value)
    }

    /// Reads one object of a kind that is known, as an API server sends it: `json`
    /// needs to say neither kind nor apiVersion, and what it says of them counts
    /// for nothing.
    ///
    /// # Errors
    /// As [`Object::from_value`].
    pub fn from_json(kind: &str, api_version: &str, json: &str) -> Result<Self, ObjectError> {
        wire::object(kind, api_version, json)
    }

    /// The kind as `kubectl` writes it; for a stand-in that of its workload.
    pub fn kind(&self) -> &str {
        match self {
            Self::Pod(pod) => pod.stand_in.as_deref().unwrap_or("Pod"),
            Self::Namespace(_) => "Namespace",
            Self::NetworkPolicy(_) => "NetworkPolicy",
            Self::ClusterNetworkPolicy(_) => "ClusterNetworkPolicy",
            Self::Service(_) => "Service",
            Self::EndpointSlice(_) => "EndpointSlice",
            Self::Node(_) => "Node",
        }
    }

    /// Its metadata.
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
