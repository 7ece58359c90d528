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
    /// Before or after the NetworkPolicies.
    pub tier: Tier,
    /// 0..=1000; the lower one of a tier is asked first, of equal ones the
    /// policy whose name sorts first.
    pub priority: i64,
    /// The pods under this policy.
    pub subject: Subject,
    /// Rules for packets to the pods, the first match decides. Without any,
    /// the policy has no say in that direction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<ClusterIngressRule>,
    /// Rules for packets from the pods, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<ClusterEgressRule>,
}

impl ClusterNetworkPolicySpec {
    /// How many entries it lists: peers, blocks and ports.
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

/// When a policy is asked, in that order; NetworkPolicies stand between the two.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Tier {
    /// Before NetworkPolicies: they can't override it.
    #[default]
    Admin,
    /// After NetworkPolicies, for pods that none of them isolates.
    Baseline,
}

/// The pods under a policy, host-network pods never among them. Exactly one
/// field is set.
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

/// Pods by their labels and those of their Namespace; both must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespacedPods {
    /// Namespaces, all of them if absent or empty.
    #[serde(default)]
    pub namespace_selector: LabelSelector,
    /// Pods, all of them if empty.
    pub pod_selector: LabelSelector,
}

/// What becomes of a packet that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Allowed; nothing further is asked in this direction.
    Accept,
    /// Denied; nothing further is asked.
    Deny,
    /// The next tier is asked.
    Pass,
}

/// One ingress rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterIngressRule {
    /// Name, for people; at most 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What becomes of what it matches.
    pub action: Action,
    /// From whom. Never empty in a valid policy; in a [closed form](super::Closed)
    /// an empty list means everybody.
    #[serde(default)]
    pub from: Vec<ClusterPeer>,
    /// On which of the subject's ports; empty matches everything, ICMP too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<ProtocolMatch>,
    /// The field that this version doesn't know. A rule that accepts then matches nothing;
    /// any other one denies what it names, and everything where it names nobody.
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
    /// What becomes of what it matches.
    pub action: Action,
    /// To whom. Never empty in a valid policy; in a [closed form](super::Closed)
    /// an empty list means everybody.
    #[serde(default)]
    pub to: Vec<ClusterPeer>,
    /// On which of the peer's ports; empty matches everything, ICMP too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<ProtocolMatch>,
    /// The field that this version doesn't know. A rule that accepts then matches nothing;
    /// any other one denies what it names, and everything where it names nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
}

/// One peer of either direction. Exactly one field is set, in ingress one of
/// the first two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClusterPeer {
    /// All pods of these Namespaces, host-network pods not among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of some Namespaces, host-network pods not among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPods>,
    /// The addresses in the status of these Nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
    /// Blocks of addresses, those of pods too.
    #[serde(
        deserialize_with = "super::cidr::many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub networks: Vec<IpNet>,
    /// DNS names; only in `Accept` rules. This version knows no names, so that
    /// such a peer matches nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domain_names: Vec<String>,
}

/// Ports of one protocol, or a port by name. Exactly one field is set.
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
    /// The port of this name that the destination pod declares, of whichever protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_named_port: Option<String>,
}

/// Ports of a protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PortMatch {
    /// The destination's port; all of the protocol if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<PortOrRange>,
}

/// A port or a range. Exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PortOrRange {
    /// One port; wider than a port so that validation can name what is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    /// Several in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<PortRange>,
}

/// Ports in a row, both ends included; the first is below the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRange {
    /// First port.
    pub start: i64,
    /// Last port.
    pub end: i64,
}
