//! Services and EndpointSlices.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

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

impl ServicePort {
    /// The pod's port, where the Service says it by number. 0 stands for none at all.
    pub(crate) fn number(&self) -> Option<u16> {
        match &self.target_port {
            None | Some(IntOrString::Int(0)) => Some(self.port),
            Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
            Some(IntOrString::String(_)) => None,
        }
    }
}

impl Service {
    /// Its cluster addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let listed = self.spec.cluster_ips.iter();
        parse(std::iter::once(&self.spec.cluster_ip).chain(listed))
    }

    /// Whether kube-proxy passes it over: it has no address of its own, or a label
    /// leaves it to another proxy. Their values don't matter.
    fn is_left_out(&self) -> bool {
        self.spec.kind == "ExternalName" || left_out(&self.metadata)
    }

    /// Every address at which nodes forward its ports to its backends. Its own ones
    /// come first. Others count in the families in which it has one of its own, as
    /// for kube-proxy. A balancer of mode `Proxy` gets its packets itself.
    pub(crate) fn forwarded(&self) -> Vec<Forwarded> {
        if self.is_left_out() || self.spec.ports.is_empty() {
            return Vec::new();
        }
        let own = self.addresses();
        let balancers = self.status.load_balancer.ingress.iter();
        let balancers = balancers.filter(|one| one.ip_mode != "Proxy");
        let others = parse(
            self.spec
                .external_ips
                .iter()
                .chain(balancers.map(|one| &one.ip)),
        );
        let of_family = |ip: &IpAddr| own.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
        let others = others
            .into_iter()
            .filter(|ip| !own.contains(ip) && of_family(ip));
        let ports = self.ports();
        let forwarded = |own: bool| {
            let ports = Arc::clone(&ports);
            move |address: IpAddr| Forwarded {
                address,
                own,
                ports: Arc::clone(&ports),
            }
        };
        let others: Vec<Forwarded> = others.map(forwarded(false)).collect();
        own.iter()
            .copied()
            .map(forwarded(true))
            .chain(others)
            .collect()
    }

    /// Protocol number and port of each of its ports, sorted, each once.
    fn ports(&self) -> Arc<[(u16, u16)]> {
        let all = self.spec.ports.iter();
        let mut ports: Vec<_> = all
            .map(|p| (u16::from(p.protocol.iana()), p.port))
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports.into()
    }
}

/// An address at which nodes forward a Service's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// The address.
    pub(crate) address: IpAddr,
    /// Whether it is a cluster IP, which the API server gives to one Service alone;
    /// whoever writes a Service may name any other.
    pub(crate) own: bool,
    /// IANA protocol number and port, sorted.
    pub(crate) ports: Arc<[(u16, u16)]>,
}

/// Labels with which kube-proxy watches neither Services nor EndpointSlices.
const LEFT_OUT: [&str; 2] = [
    "service.kubernetes.io/service-proxy-name",
    "service.kubernetes.io/headless",
];

fn left_out(meta: &Meta) -> bool {
    LEFT_OUT
        .iter()
        .any(|label| meta.labels.contains_key(*label))
}

/// The addresses among the words, each once, in their order.
fn parse<'t>(words: impl Iterator<Item = &'t String>) -> Vec<IpAddr> {
    // Whoever writes a Service may name a hundred thousand.
    let mut seen = BTreeSet::new();
    let all = words.filter_map(|word| word.parse().ok());
    all.filter(|ip| seen.insert(*ip)).collect()
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

impl EndpointSlice {
    /// Whether a label leaves it to another proxy than kube-proxy.
    pub(crate) fn is_left_out(&self) -> bool {
        left_out(&self.metadata)
    }

    /// Whether Kubernetes makes it of a Service's selector, so that it names nobody else.
    pub(crate) fn is_of_selector(&self) -> bool {
        let made_by = self.metadata.labels.get(MANAGED_BY);
        made_by.is_some_and(|by| by == BY_SELECTOR)
    }

    /// The port of its endpoints behind a Service's port. One that lists none leaves
    /// it at what the Service says.
    pub(crate) fn behind(&self, called: &ServicePort) -> Option<u16> {
        if self.ports.is_empty() {
            return Some(called.number().unwrap_or(called.port));
        }
        let name = called.name.as_deref().unwrap_or_default();
        let is_it = |port: &&EndpointPort| {
            port.name == name && port.protocol.is_none_or(|p| p == called.protocol)
        };
        let port = self.ports.iter().find(is_it)?;
        Some(port.port.unwrap_or(called.port))
    }
}

/// The label that says who makes an EndpointSlice, and the controller that makes those of
/// Services with a selector (`k8s.io/api/discovery/v1`).
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const BY_SELECTOR: &str = "endpointslice-controller.k8s.io";

/// A port of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// Name; absent and empty are the same.
    pub name: String,
    /// Number; all ports if absent.
    pub port: Option<u16>,
    /// Protocol; servers always say it.
    pub protocol: Option<Protocol>,
}

/// One endpoint of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// Addresses, or host names in slices of type FQDN.
    pub addresses: Vec<String>,
}
