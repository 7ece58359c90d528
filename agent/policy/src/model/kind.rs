//! The kinds of objects that policy reads. No other module knows them by name.

use std::fmt;

/// A kind of object that policy depends on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Labels of Namespaces.
    Namespace,
    /// Addresses of Nodes.
    Node,
    /// Pods.
    Pod,
    /// Services.
    Service,
    /// The backends of Services.
    EndpointSlice,
    /// NetworkPolicies.
    NetworkPolicy,
    /// ClusterNetworkPolicies, where the cluster has them.
    ClusterNetworkPolicy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
    ];

    /// Returns the kind as `kubectl` writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }

    /// Parses the kind as `kubectl` writes it.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns the resource as the API's paths write it.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::NetworkPolicy => "networkpolicies",
            Self::ClusterNetworkPolicy => "clusternetworkpolicies",
        }
    }

    /// Returns `v1`, or group and version.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::Service => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
        }
    }

    /// Returns the API group; empty for the core group.
    pub fn group(self) -> &'static str {
        group(self.api_version())
    }

    /// Returns the version within the group.
    pub fn version(self) -> &'static str {
        let version = self.api_version();
        version
            .split_once('/')
            .map_or(version, |(_, version)| version)
    }

    /// Reports whether objects of the kind are in a namespace.
    pub const fn is_namespaced(self) -> bool {
        !matches!(
            self,
            Self::Namespace | Self::Node | Self::ClusterNetworkPolicy
        )
    }

    /// Reports whether a cluster may lack the kind.
    pub const fn is_optional(self) -> bool {
        matches!(self, Self::ClusterNetworkPolicy)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A kind of Kubernetes' own workloads. Objects of it have a pod template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WorkloadKind {
    Deployment,
    StatefulSet,
    DaemonSet,
    ReplicaSet,
    Job,
    CronJob,
    ReplicationController,
}

impl WorkloadKind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::ReplicaSet,
        Self::Job,
        Self::CronJob,
        Self::ReplicationController,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::ReplicaSet => "ReplicaSet",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
            Self::ReplicationController => "ReplicationController",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns `v1`, or group and version.
    pub(crate) const fn api_version(self) -> &'static str {
        match self {
            Self::Deployment | Self::StatefulSet | Self::DaemonSet | Self::ReplicaSet => "apps/v1",
            Self::Job | Self::CronJob => "batch/v1",
            Self::ReplicationController => "v1",
        }
    }

    /// Returns the API group; empty for the core group.
    pub(crate) fn group(self) -> &'static str {
        group(self.api_version())
    }

    /// Reports whether other workloads may create objects of this kind. If so, the owner's
    /// template represents the pods.
    pub(crate) const fn may_be_owned(self) -> bool {
        matches!(
            self,
            Self::ReplicaSet | Self::Job | Self::ReplicationController
        )
    }

    /// Returns the JSON pointer of the pod template.
    pub(crate) const fn template(self) -> &'static str {
        match self {
            Self::CronJob => "/spec/jobTemplate/spec/template",
            _ => "/spec/template",
        }
    }
}

/// Returns the group of an `apiVersion`; empty for the core group.
pub(super) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// The kind of an object that an index or a manifest names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ObjectKind {
    /// A kind that policy reads.
    Read(Kind),
    /// Any other kind. An index holds objects of it only if they are workloads, whose pod
    /// templates represent their pods.
    Other(String),
}

impl ObjectKind {
    /// Returns the kind as `kubectl` writes it, with the group of a foreign workload.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Read(kind) => kind.name(),
            Self::Other(kind) => kind,
        }
    }
}

impl From<Kind> for ObjectKind {
    fn from(kind: Kind) -> Self {
        Self::Read(kind)
    }
}

impl From<&str> for ObjectKind {
    fn from(name: &str) -> Self {
        Kind::parse(name).map_or_else(|| Self::Other(name.to_owned()), Self::Read)
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The identity of an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectKey {
    /// Kind.
    pub kind: ObjectKind,
    /// Namespace; empty for kinds that have none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// Creates the key of an object; `namespace` is empty for kinds that have none.
    pub fn new(kind: impl Into<ObjectKind>, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.into(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, ObjectKey, ObjectKind, WorkloadKind};

    #[test]
    fn every_kind_is_parsed_from_its_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.name()), Some(kind));
            assert_eq!(ObjectKind::from(kind.name()), ObjectKind::Read(kind));
        }
        for kind in WorkloadKind::ALL {
            assert_eq!(WorkloadKind::parse(kind.name()), Some(kind));
            assert_eq!(Kind::parse(kind.name()), None, "{}", kind.name());
        }
    }

    #[test]
    fn a_key_is_written_with_its_namespace_if_it_has_one() {
        let pod = ObjectKey::new(Kind::Pod, "shop", "web");
        assert_eq!(pod.to_string(), "Pod shop/web");
        let node = ObjectKey::new("Node", "", "n1");
        assert_eq!(node, ObjectKey::new(Kind::Node, "", "n1"));
        assert_eq!(node.to_string(), "Node n1");
        let foreign = ObjectKey::new("Kafka.kafka.strimzi.io", "shop", "events");
        assert_eq!(foreign.to_string(), "Kafka.kafka.strimzi.io shop/events");
    }
}
