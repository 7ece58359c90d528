//! Calls to a Service's address, resolved to calls to its backends as DNAT does.

use std::net::IpAddr;

use ringfence_ebpf::abi::Addr;
use serde::Serialize;

use crate::{
    index::{Index, Owner, PodEntry, feed::SERVICE_NAME, groups::PodId, owners::ServiceClaim},
    model::{EndpointSlice, Service, ServicePort},
    ports::PortSpec,
    select,
};

use super::{
    Case, ExplainError, Party, Verdict,
    party::{self, by_address, of_pod},
};

/// The Service through which a call goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Via {
    /// `namespace/name` of the Service.
    pub service: String,
    /// The Service address called.
    pub address: IpAddr,
    /// The Service port called.
    pub port: PortSpec,
    /// The backends that nodes may forward the call to, each with its worst verdict.
    pub backends: Vec<Backend>,
}

/// One backend of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// `namespace/pod`, or an address.
    pub name: String,
    /// The backend's own port, which is the one that policies refer to.
    pub port: PortSpec,
    /// The worst verdict of the calls to it.
    pub verdict: Verdict,
}

/// The callee, and the port called on it.
pub(super) type Callee = (Party, PortSpec);

/// The parties a name refers to, and the Service involved.
pub(super) struct Called {
    /// All parties that may receive the call.
    pub(super) callees: Vec<Callee>,
    /// The Service, if the address and port are a Service's.
    pub(super) via: Option<Via>,
    /// A remark on a Service that shows the address but doesn't receive the call.
    pub(super) note: Option<String>,
}

/// Resolves a name to its callees, through a Service if it is a Service's address.
pub(super) fn find(case: &Case<'_>, text: &str, port: &PortSpec) -> Result<Called, ExplainError> {
    let at = text.parse().ok();
    if let Some(ip) = at
        && let Some((name, service)) = called(case, ip, port)
    {
        let backends = backends(case, service, ip, port);
        if backends.is_empty() {
            return Err(ExplainError::NoBackends(name.to_owned()));
        }
        let via = Via {
            service: name.to_owned(),
            address: ip,
            port: *port,
            backends: Vec::new(),
        };
        return Ok(Called {
            callees: backends,
            via: Some(via),
            note: None,
        });
    }
    let parties = party::find(case, text)?.into_iter();
    Ok(Called {
        callees: parties.map(|party| (party, *port)).collect(),
        via: None,
        note: at.and_then(|ip| note(case, ip, port)),
    })
}

/// Returns the Service called at an address and port: the first one that has the port there. A
/// pod's address is always the pod's, even if a Service shows it; a node's address is the node's
/// on all other ports.
fn called<'c>(case: &'c Case<'_>, ip: IpAddr, port: &PortSpec) -> Option<(&'c str, &'c Service)> {
    let addr = Addr::from(ip);
    if let Some(Owner::Pod(_)) = case.index.owner(&addr) {
        return None;
    }
    let claims = case.index.owners.services(&addr).iter();
    let mut having = claims.filter(|claim| has(claim, port));
    having.find_map(|claim| Some((&*claim.name, object(&case.index, &claim.name)?)))
}

fn has(claim: &ServiceClaim, port: &PortSpec) -> bool {
    let key = (u16::from(port.protocol), port.port);
    claim.ports.binary_search(&key).is_ok()
}

/// Returns a remark on a Service that shows the address although it doesn't receive the call.
fn note(case: &Case<'_>, ip: IpAddr, port: &PortSpec) -> Option<String> {
    let addr = Addr::from(ip);
    let claims = case.index.owners.services(&addr);
    match (
        claims.iter().find(|claim| has(claim, port)),
        case.index.owner(&addr),
    ) {
        (Some(claim), Some(Owner::Pod(_))) => Some(format!(
            "Service {} shows this address of a pod: where a node forwards the call to one of its backends, egress is decided on that too",
            claim.name
        )),
        (None, None) if !claims.is_empty() => claims.first().map(|claim| {
            let name = &claim.name;
            match claim.is_unlisted() {
                true => format!("Service {name} at {ip} isn't listed: egress is decided on the address, and on the backend"),
                false => format!("Service {name} at {ip} has no port {port}: nodes forward nothing there"),
            }
        }),
        (None, _) if case.index.hides_services() => Some(format!(
            "some Services aren't listed (`ringfence status` names them), and {ip} may be an address of theirs: egress is decided on it, and on whoever the call arrives at"
        )),
        _ => None,
    }
}

fn object<'i>(index: &'i Index, name: &str) -> Option<&'i Service> {
    let (namespace, name) = name.split_once('/')?;
    index.services.get(&(namespace.to_owned(), name.to_owned()))
}

fn port_of<'s>(service: &'s Service, port: &PortSpec) -> Option<&'s ServicePort> {
    let mut ports = service.spec.ports.iter();
    ports.find(|p| p.protocol.iana() == port.protocol && p.port == port.port)
}

/// Returns the pods that the selector matches, or without a selector the addresses of
/// EndpointSlices; only those of the address's family and with the port. Includes backends that
/// aren't ready: they may be ready in a moment.
fn backends(case: &Case<'_>, service: &Service, ip: IpAddr, port: &PortSpec) -> Vec<Callee> {
    let Some(called) = port_of(service, port) else {
        return Vec::new();
    };
    let at = |number: u16| PortSpec {
        protocol: port.protocol,
        port: number,
    };
    if service.spec.selector.is_empty() {
        return from_slices(case, service, called)
            .filter(|(to, _)| to.is_ipv4() == ip.is_ipv4())
            .map(|(to, number)| (by_address(case, to), at(number)))
            .collect();
    }
    let pods = select::select(&case.index, |pod| select::selects(service, pod));
    let on_network = pods.into_iter().filter_map(|id| {
        let number = target(called, case.index.entry(id)?)?;
        Some((of_family(case, id, ip), at(number)))
    });
    // A pod in its node's network is called at the node's address.
    let hosted = case
        .index
        .pods()
        .filter(|pod| pod.host_network && !pod.finished && select::selects(service, pod));
    let on_host = hosted.filter_map(|pod| {
        let own = pod.addresses.iter();
        let to = own.copied().find(|own| own.is_ipv4() == ip.is_ipv4())?;
        Some((by_address(case, to), at(target(called, pod)?)))
    });
    on_network.chain(on_host).collect()
}

/// Returns the pod at its address of the called family, if it has one.
fn of_family(case: &Case<'_>, id: PodId, called: IpAddr) -> Party {
    let mut party = of_pod(case, id);
    let own = case.index.addresses_of(id);
    let same = own
        .into_iter()
        .find(|own| own.is_ipv4() == called.is_ipv4());
    if let Some(same) = same {
        party.judged = same;
        party.address = party.address.map(|_| same);
        party.by_address = true;
    }
    party
}

/// Returns the pod's port behind a Service's port; `None` if the pod doesn't declare the port's
/// name.
fn target(port: &ServicePort, pod: &PodEntry) -> Option<u16> {
    port.target(|name| pod.traits.named(name, port.protocol))
}

fn from_slices<'c>(
    case: &'c Case<'_>,
    service: &'c Service,
    called: &'c ServicePort,
) -> impl Iterator<Item = (IpAddr, u16)> + 'c {
    let meta = &service.metadata;
    let own = |slice: &&EndpointSlice| {
        slice.metadata.namespace == meta.namespace
            && !slice.is_left_out()
            && slice.metadata.labels.get(SERVICE_NAME) == Some(&meta.name)
    };
    let slices = case.index.slices.values().filter(own);
    slices.flat_map(|slice| {
        let number = slice.behind(called);
        let addresses = slice.endpoints.iter().flat_map(|e| &e.addresses);
        addresses.filter_map(move |text| Some((text.parse().ok()?, number?)))
    })
}
