//! Metadata, pods, Namespaces and Nodes.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Protocol, workload};

/// Metadata of any object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Name; never empty after parsing.
    pub name: String,
    /// Namespace; `default` where a namespaced object names none, empty for others.
    pub namespace: String,
    /// UID; empty in files.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations; of pods, which have many, only [`MIRROR`].
    pub annotations: BTreeMap<String, String>,
    /// Owners.
    pub owner_references: Vec<OwnerReference>,
    /// When it was created, RFC 3339; absent in files.
    pub creation_timestamp: Option<String>,
    /// Set while the object is terminating.
    pub deletion_timestamp: Option<String>,
}

/// The annotation by which a kubelet notes on the object of a static pod which UID the pod
/// has on its node (`kubernetes/pkg/kubelet/types`, `ConfigMirrorAnnotationKey`).
pub const MIRROR: &str = "kubernetes.io/config.mirror";

impl Meta {
    /// When it was created, so that later is more; 0 where that isn't known.
    pub fn created(&self) -> u64 {
        let text = self.creation_timestamp.as_deref().unwrap_or_default();
        // Servers write whole seconds of UTC: fields of fixed width, the largest first.
        let digits = text.bytes().filter(u8::is_ascii_digit).take(14);
        digits.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
    }
}

/// The owner of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// Group and version of its kind.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Whether it is the managing owner.
    pub controller: bool,
}

impl OwnerReference {
    /// The kind, with its group where that isn't Kubernetes' own.
    pub(crate) fn kind_and_group(&self) -> String {
        workload::qualified(&self.kind, workload::group(&self.api_version))
    }
}

/// A pod, or a workload that stands for its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: PodSpec,
    /// Status.
    pub status: PodStatus,
    /// The workload's kind if this isn't a real pod. Never read from a file.
    #[serde(skip)]
    pub stand_in: Option<String>,
}

/// Spec of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node that runs it.
    pub node_name: Option<String>,
    /// Whether it lives in the node's network namespace.
    pub host_network: bool,
    /// Its containers.
    pub containers: Vec<Container>,
    /// Containers that start before those; sidecars among them go on beside them.
    pub init_containers: Vec<Container>,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Ports that it declares.
    pub ports: Vec<ContainerPort>,
    /// `Always` makes a sidecar of an init container (Kubernetes 1.29).
    pub restart_policy: Option<String>,
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name.
    pub name: Option<String>,
    /// Number.
    pub container_port: u16,
    /// Protocol, TCP if absent.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Status of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// Phase; empty in files without status.
    pub phase: String,
    /// First address.
    #[serde(rename = "podIP", deserialize_with = "address_or_empty")]
    pub pod_ip: Option<IpAddr>,
    /// All addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
}

/// One entry of `status.podIPs`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PodIp {
    /// Address.
    pub ip: IpAddr,
}

fn address_or_empty<'de, D: Deserializer<'de>>(d: D) -> Result<Option<IpAddr>, D::Error> {
    let text = String::deserialize(d)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

impl Pod {
    /// Whether it ran to its end, and so has lost its addresses.
    pub fn finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Its addresses as its status shows them, in that order.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut all = Vec::new();
        let listed = self.status.pod_ips.iter().map(|p| p.ip);
        for ip in self.status.pod_ip.into_iter().chain(listed) {
            if !all.contains(&ip) {
                all.push(ip);
            }
        }
        all
    }

    /// Ports that its containers declare, in their order, and then its sidecars: as
    /// Kubernetes looks for a Service's target port by name.
    pub fn ports(&self) -> impl Iterator<Item = &ContainerPort> {
        let init = self.spec.init_containers.iter();
        let sidecars = init.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let all = self.spec.containers.iter().chain(sidecars);
        all.flat_map(|container| &container.ports)
    }
}

/// A Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Metadata.
    pub metadata: Meta,
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// Number; wider than a port so that validation can name what is wrong.
    Int(i64),
    /// Name.
    String(String),
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    pub metadata: Meta,
    spec: NodeSpec,
    status: NodeStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<IpNet>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<IpNet>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Vec<NodeAddress>,
}

/// One entry of a Node's `status.addresses`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// An address, or a host name.
    pub address: String,
}

/// Where CNIs write further addresses of a node; values may end in a prefix length.
const CNI_ANNOTATIONS: &[&str] = &[
    "projectcalico.org/IPv4Address",
    "projectcalico.org/IPv6Address",
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv6VXLANTunnelAddr",
    "projectcalico.org/IPv4WireguardInterfaceAddr",
    "projectcalico.org/IPv6WireguardInterfaceAddr",
    "flannel.alpha.coreos.com/public-ip",
    "flannel.alpha.coreos.com/public-ipv6",
    "network.cilium.io/ipv4-cilium-host",
    "network.cilium.io/ipv6-cilium-host",
];

impl Node {
    /// The addresses of its status.
    pub fn status_addresses(&self) -> Vec<IpAddr> {
        let status = self.status.addresses.iter();
        status.filter_map(|a| a.address.parse().ok()).collect()
    }

    /// Every address that the node itself may send from: its status, the first
    /// two of each podCIDR (tunnel device and bridge), its CNI's annotations.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut all = self.status_addresses();
        for cidr in self.spec.pod_cidr.iter().chain(&self.spec.pod_cidrs) {
            all.push(cidr.network());
            all.push(match cidr.network() {
                IpAddr::V4(a) => IpAddr::V4((u32::from(a).wrapping_add(1)).into()),
                IpAddr::V6(a) => IpAddr::V6((u128::from(a).wrapping_add(1)).into()),
            });
        }
        for key in CNI_ANNOTATIONS {
            let value = self.metadata.annotations.get(*key);
            all.extend(value.and_then(|v| v.split('/').next()?.parse::<IpAddr>().ok()));
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}
