//! ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2.
//!
//! Fields and limits follow the API's own types
//! (kubernetes-sigs/network-policy-api, `apis/v1alpha2/clusternetworkpolicy_types.go`).

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{LabelSelector, Meta};

/// A ClusterNetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ClusterNetworkPolicy {
    /// Metadata; the namespace is empty.
    #[serde(default)]
    pub metadata: Meta,
    /// Spec.
    pub spec: ClusterNetworkPolicySpec,
}

/// Spec of a ClusterNetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterNetworkPolicySpec {
    /// Whether it applies before or after the NetworkPolicies.
    pub tier: Tier,
    /// 0..=1000. Within a tier the lowest priority is evaluated first; among equals, the policy
    /// whose name sorts first.
    pub priority: i64,
    /// The pods under this policy.
    pub subject: Subject,
    /// Rules for packets to the pods; the first match decides. If empty, the policy has no effect
    /// in that direction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<ClusterIngressRule>,
    /// Rules for packets from the pods, evaluated the same way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<ClusterEgressRule>,
}

impl ClusterNetworkPolicySpec {
    /// Returns the number of entries listed: peers, blocks and ports.
    pub(crate) fn weight(&self) -> u32 {
        let ingress = self
            .ingress
            .iter()
            .map(|rule| (&rule.from, &rule.protocols));
        let egress = self.egress.iter().map(|rule| (&rule.to, &rule.protocols));
        let rules = ingress.chain(egress).map(|(peers, protocols)| {
            let blocks: usize = peers.iter().map(|peer| peer.networks.len()).sum();
            peers.len() + blocks + protocols.len()
        });
        u32::try_from(rules.sum::<usize>()).unwrap_or(u32::MAX)
    }
}

/// The order in which policies are evaluated; NetworkPolicies come between the two tiers.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Tier {
    /// Before NetworkPolicies, which can't override it.
    #[default]
    Admin,
    /// After NetworkPolicies, for pods that no NetworkPolicy isolates.
    Baseline,
}

/// The pods under a policy, never including host-network pods. Exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Subject {
    /// All pods of these Namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of some Namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPods>,
}

/// Pods selected by their labels and those of their Namespace; both must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespacedPods {
    /// Selects Namespaces; all of them if absent or empty.
    #[serde(default)]
    pub namespace_selector: LabelSelector,
    /// Selects pods; all of them if empty.
    pub pod_selector: LabelSelector,
}

/// The verdict on a packet that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Allow; evaluation in this direction ends.
    Accept,
    /// Deny; evaluation ends.
    Deny,
    /// Continue with the next tier.
    Pass,
}

/// One ingress rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterIngressRule {
    /// Name, for people; at most 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The action for matching packets.
    pub action: Action,
    /// The sources. Never empty in a valid policy; in a [closed form](super::Closed) an empty
    /// list means any source.
    #[serde(default)]
    pub from: Vec<ClusterPeer>,
    /// The subject's ports; empty matches everything, including ICMP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<ProtocolMatch>,
    /// The field that this version doesn't know. If set, an `Accept` rule matches nothing; any
    /// other rule denies the peers it names, or everything if it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
}

/// One egress rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterEgressRule {
    /// Name, for people; at most 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The action for matching packets.
    pub action: Action,
    /// The destinations. Never empty in a valid policy; in a [closed form](super::Closed) an
    /// empty list means any destination.
    #[serde(default)]
    pub to: Vec<ClusterPeer>,
    /// The peer's ports; empty matches everything, including ICMP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<ProtocolMatch>,
    /// The field that this version doesn't know. If set, an `Accept` rule matches nothing; any
    /// other rule denies the peers it names, or everything if it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
}

/// One peer of either direction. Exactly one field is set; for ingress, one of the first two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClusterPeer {
    /// All pods of these Namespaces, excluding host-network pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of some Namespaces, excluding host-network pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPods>,
    /// The addresses in the status of these Nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
    /// Blocks of addresses, which may include pod addresses.
    #[serde(
        deserialize_with = "super::cidr::many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub networks: Vec<IpNet>,
    /// DNS names; only in `Accept` rules. This version resolves no names, so such a peer matches
    /// nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domain_names: Vec<String>,
}

/// Ports of one protocol, or a named port. Exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProtocolMatch {
    /// TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<PortMatch>,
    /// UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<PortMatch>,
    /// SCTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sctp: Option<PortMatch>,
    /// A port that the destination pod declares under this name, for any protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_named_port: Option<String>,
}

/// Ports of a protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PortMatch {
    /// The destination's port; all ports of the protocol if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<PortOrRange>,
}

/// A port or a range. Exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PortOrRange {
    /// One port; wider than a port so that validation can report an invalid value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    /// A range of ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<PortRange>,
}

/// A range of ports, both ends included; `start` is below `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRange {
    /// First port.
    pub start: i64,
    /// Last port.
    pub end: i64,
}
