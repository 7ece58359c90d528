//! Metadata, pods, Namespaces and Nodes.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Protocol, kind, workload};

/// Metadata of any object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Name; never empty after parsing.
    pub name: String,
    /// Namespace; `default` if a namespaced object states none, empty for other kinds.
    pub namespace: String,
    /// UID; empty in files.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations. Pods have many, so only [`MIRROR`] is kept for them.
    pub annotations: BTreeMap<String, String>,
    /// Owners.
    pub owner_references: Vec<OwnerReference>,
    /// Creation time in RFC 3339; absent in files.
    pub creation_timestamp: Option<String>,
    /// Set while the object is terminating.
    pub deletion_timestamp: Option<String>,
}

/// The annotation in which the kubelet records, on the API object of a static pod, the pod's UID
/// on its node (`kubernetes/pkg/kubelet/types`, `ConfigMirrorAnnotationKey`).
pub const MIRROR: &str = "kubernetes.io/config.mirror";

impl Meta {
    /// Returns the creation time as a number that grows with time; 0 if unknown.
    pub fn created(&self) -> u64 {
        let text = self.creation_timestamp.as_deref().unwrap_or_default();
        // Servers write whole seconds in UTC: fixed-width fields, most significant first.
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
    /// Returns the kind, with its group unless that is Kubernetes' own.
    pub(crate) fn kind_and_group(&self) -> String {
        workload::qualified(&self.kind, kind::group(&self.api_version))
    }
}

/// A pod, or a workload that represents its pods.
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
    /// Whether it runs in the node's network namespace.
    pub host_network: bool,
    /// Its containers.
    pub containers: Vec<Container>,
    /// Containers that start before the others; sidecars among them keep running alongside.
    pub init_containers: Vec<Container>,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Declared ports.
    pub ports: Vec<ContainerPort>,
    /// `Always` makes an init container a sidecar (Kubernetes 1.29).
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
    /// Reports whether the pod ran to completion and so has lost its addresses.
    pub fn finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Returns the addresses in its status, in the same order.
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

    /// Returns the ports declared by its containers, in order, followed by those of its sidecars.
    /// Kubernetes resolves a Service's named target port in this order.
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
    /// Number; wider than a port so that validation can report an invalid value.
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

/// Annotations in which CNIs record further node addresses; values may end in a prefix length.
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
    /// Returns the addresses in its status.
    pub fn status_addresses(&self) -> Vec<IpAddr> {
        let status = self.status.addresses.iter();
        status.filter_map(|a| a.address.parse().ok()).collect()
    }

    /// Returns its podCIDRs, without duplicates.
    pub fn pod_cidrs(&self) -> Vec<IpNet> {
        let all = self.spec.pod_cidr.iter().chain(&self.spec.pod_cidrs);
        let mut all: Vec<IpNet> = all.map(IpNet::trunc).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Returns every address that the node itself may send from: its status, the first two
    /// addresses of each podCIDR (tunnel device and bridge), and its CNI's annotations.
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
