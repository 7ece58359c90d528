//! Services and EndpointSlices.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Deserialize;

use super::{IntOrString, Meta, Protocol};

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: ServiceSpec,
    status: ServiceStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus {
    load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Vec<LoadBalancerIngress>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LoadBalancerIngress {
    /// Empty where a host name stands instead.
    ip: String,
    ip_mode: String,
}

/// Spec of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Labels of the pods behind it; empty if EndpointSlices alone name them.
    pub selector: BTreeMap<String, String>,
    /// First address, `None` (the word) for a headless Service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// All addresses.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// Addresses from outside that nodes forward as well.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Name.
    pub name: Option<String>,
    /// Port of the Service.
    pub port: u16,
    /// Port of the pod, the Service's own if absent.
    pub target_port: Option<IntOrString>,
    /// Protocol, TCP if absent.
    #[serde(default)]
    pub protocol: Protocol,
}

impl Service {
    /// Its cluster addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let listed = self.spec.cluster_ips.iter();
        parse(std::iter::once(&self.spec.cluster_ip).chain(listed))
    }

    /// Every address at which nodes forward to its backends. None without a
    /// cluster address: kube-proxy passes such a Service over. A balancer of
    /// mode `Proxy` gets its packets itself.
    pub fn forwarded(&self) -> Vec<IpAddr> {
        let spec = &self.spec;
        if spec.kind == "ExternalName" || self.addresses().is_empty() {
            return Vec::new();
        }
        let balancers = self.status.load_balancer.ingress.iter();
        let balancers = balancers.filter(|one| one.ip_mode != "Proxy");
        let all = std::iter::once(&spec.cluster_ip)
            .chain(&spec.cluster_ips)
            .chain(&spec.external_ips);
        parse(all.chain(balancers.map(|one| &one.ip)))
    }
}

/// The addresses among the words, each once.
fn parse<'t>(words: impl Iterator<Item = &'t String>) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for ip in words.filter_map(|word| word.parse().ok()) {
        if !all.contains(&ip) {
            all.push(ip);
        }
    }
    all
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointSlice {
    /// Metadata; the label `kubernetes.io/service-name` names its Service.
    pub metadata: Meta,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Ports of all its endpoints, under the names of the Service's ports.
    pub ports: Vec<EndpointPort>,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// Name; absent and empty are the same.
    pub name: String,
    /// Number; all ports if absent.
    pub port: Option<u16>,
}

/// One endpoint of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// Addresses, or host names in slices of type FQDN.
    pub addresses: Vec<String>,
}
