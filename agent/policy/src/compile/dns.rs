//! The way to cluster DNS, which callers don't have to list.
//!
//! It covers port 53, UDP and TCP, of the Services' own addresses and of the nodes' DNS caches, and
//! the target ports on the backends of a Service: pods by its selector, including those in their
//! node's network, and addresses from EndpointSlices.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    config::DNS_LABEL,
    index::Index,
    model::{IntOrString, Protocol, Service, ServicePort},
    ports::Ports,
    selector::Selector,
};

use super::{
    peer::Base,
    policy::{Who, named_grant},
};

/// The port of DNS resolvers, over UDP and TCP.
const PORT: u16 = 53;

/// Addresses by the ports that are open there: one peer for each port set, so that thousands of
/// nodes with a DNS pod each are one class.
type At = BTreeMap<Ports, BTreeSet<IpAddr>>;

/// Returns what every caller with closed egress may reach.
pub(super) fn grants(index: &Index) -> Vec<(Who, Ports)> {
    let services: Vec<&Service> = index.dns_services().collect();
    let mut grants = Vec::new();
    let mut at = At::new();
    for ip in &index.config.dns_addresses {
        at.entry(port_53()).or_default().insert(*ip);
    }
    if services.is_empty() {
        // Plain manifests often contain the pods without the Service.
        let (key, value) = DNS_LABEL;
        let selector = || Selector::equal([(key.into(), value.into())]);
        let spaces: BTreeSet<&str> = index.config.dns().map(|(space, _)| space).collect();
        let pods = spaces.into_iter();
        let pods = pods.map(|space| (Base::pods_in(space, selector()).into(), port_53()));
        grants.extend(pods);
    }
    for service in services {
        to_service(index, service, &mut grants, &mut at);
    }
    let addresses = at.into_iter();
    grants.extend(addresses.map(|(ports, all)| (Base::Addresses(Arc::new(all)).into(), ports)));
    grants
}

fn port_53() -> Ports {
    let mut ports = Ports::one(Protocol::Udp, PORT);
    ports.add(&Ports::one(Protocol::Tcp, PORT));
    ports
}

fn to_service(index: &Index, service: &Service, grants: &mut Vec<(Who, Ports)>, at: &mut At) {
    let all = &service.spec.ports;
    let dns: Vec<&ServicePort> = all
        .iter()
        .filter(|p| p.port == PORT && p.protocol != Protocol::Sctp)
        .collect();
    if dns.is_empty() && !all.is_empty() {
        // A Service next to it, for metrics for example.
        return;
    }
    let mut own = Ports::default();
    for port in &dns {
        own.add(&Ports::one(port.protocol, port.port));
    }
    let addresses = service.addresses().into_iter().map(|ip| (ip, own.clone()));
    let addresses = addresses.chain(index.dns_in_slices(service, &dns));
    for (ip, ports) in addresses.filter(|(_, ports)| !ports.is_empty()) {
        at.entry(ports).or_default().insert(ip);
    }
    if !service.spec.selector.is_empty() {
        to_pods(service, &dns, grants);
        to_hosts(index, service, &dns, at);
    }
}

/// Adds pods with a network of their own. Port 53 is allowed on them as well, wherever the
/// Service's ports lead.
fn to_pods(service: &Service, dns: &[&ServicePort], grants: &mut Vec<(Who, Ports)>) {
    let labels = service.spec.selector.iter();
    let selector = labels.map(|(k, v)| (k.as_str().into(), v.as_str().into()));
    let base = Base::pods_in(&service.metadata.namespace, Selector::equal(selector));
    let mut ports = port_53();
    for port in dns {
        match &port.target_port {
            Some(IntOrString::String(name)) => {
                grants.push(named_grant(&base, name, port.protocol));
            }
            _ => ports.add(&number(port, port.number())),
        }
    }
    grants.push((base.into(), ports));
}

/// Adds pods in their node's network, at the node's addresses.
fn to_hosts(index: &Index, service: &Service, dns: &[&ServicePort], at: &mut At) {
    for pod in index.dns_hosts(service) {
        let mut ports = port_53();
        for port in dns {
            let found = match &port.target_port {
                Some(IntOrString::String(name)) => pod.traits.named(name, port.protocol),
                _ => port.number(),
            };
            ports.add(&number(port, found));
        }
        at.entry(ports).or_default().extend(&*pod.addresses);
    }
}

fn number(port: &ServicePort, number: Option<u16>) -> Ports {
    number.map_or_else(Ports::default, |n| Ports::one(port.protocol, n))
}
