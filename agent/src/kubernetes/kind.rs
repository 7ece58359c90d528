//! The kinds that are watched.

use std::borrow::Cow;
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
    /// Their backends.
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

    /// As `kubectl` writes it.
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

    /// As the API's paths write it.
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

    /// API group; empty for the core.
    pub const fn group(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::Service => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::NetworkPolicy => "networking.k8s.io",
            Self::ClusterNetworkPolicy => "policy.networking.k8s.io",
        }
    }

    /// Version in its group.
    pub const fn version(self) -> &'static str {
        match self {
            Self::ClusterNetworkPolicy => "v1alpha2",
            _ => "v1",
        }
    }

    /// `v1`, or group and version.
    pub fn api_version(self) -> Cow<'static, str> {
        match self.group() {
            "" => self.version().into(),
            group => format!("{group}/{}", self.version()).into(),
        }
    }

    /// A cluster may be without it.
    pub const fn is_optional(self) -> bool {
        matches!(self, Self::ClusterNetworkPolicy)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
