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
    /// Empty if a host name is given instead.
    ip: String,
    ip_mode: String,
}

/// Spec of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Labels of the pods behind it; empty if only EndpointSlices name them.
    pub selector: BTreeMap<String, String>,
    /// First address; the word `None` for a headless Service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// All addresses.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// External addresses that nodes forward as well.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `Cluster` or `Local`; if it applies and is absent, it means `Cluster`.
    pub external_traffic_policy: String,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Name.
    pub name: Option<String>,
    /// Port of the Service.
    pub port: u16,
    /// Port of the pod; the Service's own port if absent.
    pub target_port: Option<IntOrString>,
    /// Protocol, TCP if absent.
    #[serde(default)]
    pub protocol: Protocol,
}

impl ServicePort {
    /// Returns the pod's port if the Service gives it by number. A target port of 0 counts as
    /// absent.
    pub(crate) fn number(&self) -> Option<u16> {
        match &self.target_port {
            None | Some(IntOrString::Int(0)) => Some(self.port),
            Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
            Some(IntOrString::String(_)) => None,
        }
    }

    /// Returns the port of a backend pod, resolving a named port with `named`; `None` if the pod
    /// doesn't declare the name.
    pub(crate) fn target(&self, named: impl FnOnce(&str) -> Option<u16>) -> Option<u16> {
        match &self.target_port {
            Some(IntOrString::String(name)) => named(name),
            _ => self.number(),
        }
    }
}

impl Service {
    /// Returns its cluster addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let listed = self.spec.cluster_ips.iter();
        parse(std::iter::once(&self.spec.cluster_ip).chain(listed))
    }

    /// Returns its approximate size in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let balancers = &self.status.load_balancer.ingress;
        let spec = &self.spec;
        let texts = spec.cluster_ips.iter().chain(&spec.external_ips);
        let balancers = balancers.iter().flat_map(|one| [&one.ip, &one.ip_mode]);
        let ports = spec.ports.iter().map(|port| {
            let name = port.name.as_deref().map_or(0, bytes_of);
            let target = port.target_port.as_ref().map_or(0, |_| bytes_of(""));
            size_of::<ServicePort>() + name + target
        });
        let texts = texts.chain(balancers).map(|text| bytes_of(text));
        size_of::<Self>()
            + bytes_of_meta(&self.metadata)
            + bytes_of_map(&spec.selector)
            + texts.chain(ports).sum::<usize>()
    }

    /// Reports whether kube-proxy ignores the Service: it has no address of its own, or a label
    /// assigns it to another proxy. The label's value doesn't matter.
    fn is_left_out(&self) -> bool {
        self.spec.kind == "ExternalName" || left_out(&self.metadata)
    }

    /// Reports whether a node that receives its packets from outside forwards them to remote
    /// backends with the node's own source address: kube-proxy masquerades packets to a node
    /// port, a load balancer address or an external address, unless `externalTrafficPolicy` is
    /// `Local`.
    pub(crate) fn is_masqueraded(&self) -> bool {
        let spec = &self.spec;
        let has_door = matches!(spec.kind.as_str(), "NodePort" | "LoadBalancer");
        (has_door || !spec.external_ips.is_empty())
            && spec.external_traffic_policy != "Local"
            && spec.cluster_ip != "None"
            && !self.is_left_out()
    }

    /// Returns the addresses of its load balancers, including those that receive their packets
    /// themselves.
    pub(crate) fn balancers(&self) -> Vec<IpAddr> {
        let all = self.status.load_balancer.ingress.iter();
        parse(all.map(|one| &one.ip))
    }

    /// Returns every address at which nodes forward its ports to its backends, its own addresses
    /// first. As in kube-proxy, other addresses count only in families in which it has an address
    /// of its own. A load balancer of mode `Proxy` receives its packets itself.
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

    /// Returns the protocol number and port of each of its ports, sorted and without duplicates.
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
    /// Whether it is a cluster IP, which the API server assigns to a single Service. Any other
    /// address may be named by anyone who can write a Service.
    pub(crate) own: bool,
    /// IANA protocol number and port, sorted.
    pub(crate) ports: Arc<[(u16, u16)]>,
}

/// Labels that exclude Services and EndpointSlices from what kube-proxy watches.
const LEFT_OUT: [&str; 2] = [
    "service.kubernetes.io/service-proxy-name",
    "service.kubernetes.io/headless",
];

fn left_out(meta: &Meta) -> bool {
    LEFT_OUT
        .iter()
        .any(|label| meta.labels.contains_key(*label))
}

/// Returns the size of a text, its slot and the allocator's overhead.
const fn bytes_of(text: &str) -> usize {
    size_of::<String>() + text.len() + 16
}

fn bytes_of_map(map: &BTreeMap<String, String>) -> usize {
    map.iter().map(|(k, v)| bytes_of(k) + bytes_of(v)).sum()
}

fn bytes_of_meta(meta: &Meta) -> usize {
    let maps = bytes_of_map(&meta.labels) + bytes_of_map(&meta.annotations);
    maps + bytes_of(&meta.namespace) + bytes_of(&meta.name)
}

/// Parses the addresses among the words, in order and without duplicates.
fn parse<'t>(words: impl Iterator<Item = &'t String>) -> Vec<IpAddr> {
    // A Service may list a hundred thousand addresses.
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
    /// Returns its approximate size in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let endpoints = self.endpoints.iter().map(|one| {
            let addresses = one.addresses.iter().map(|text| bytes_of(text));
            size_of::<Endpoint>() + addresses.sum::<usize>()
        });
        let ports = self.ports.iter().map(|port| bytes_of(&port.name) + 8);
        size_of::<Self>() + bytes_of_meta(&self.metadata) + endpoints.chain(ports).sum::<usize>()
    }

    /// Reports whether a label assigns it to a proxy other than kube-proxy.
    pub(crate) fn is_left_out(&self) -> bool {
        left_out(&self.metadata)
    }

    /// Reports whether Kubernetes derives it from a Service's selector, so that it names only
    /// selected pods.
    pub(crate) fn is_of_selector(&self) -> bool {
        let made_by = self.metadata.labels.get(MANAGED_BY);
        made_by.is_some_and(|by| by == BY_SELECTOR)
    }

    /// Returns its endpoints' port behind a Service's port. If the slice lists no ports, the
    /// Service's own port applies.
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

/// The label that names the manager of an EndpointSlice, and its value for slices of Services
/// with a selector (`k8s.io/api/discovery/v1`).
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const BY_SELECTOR: &str = "endpointslice-controller.k8s.io";

/// A port of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// Name; absent and empty are equivalent.
    pub name: String,
    /// Number; all ports if absent.
    pub port: Option<u16>,
    /// Protocol; servers always set it.
    pub protocol: Option<Protocol>,
}

/// One endpoint of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// Addresses, or host names in slices of type FQDN.
    pub addresses: Vec<String>,
}
