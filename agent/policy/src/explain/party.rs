//! The two ends of a call.

use std::net::IpAddr;

use ringfence_ebpf::abi::Addr;
use serde::Serialize;

use crate::index::{Owner, PodEntry, groups::PodId};

use super::Case;

/// One end of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Party {
    /// What it is.
    pub kind: PartyKind,
    /// `namespace/pod`, the node's address, or `outside`.
    pub name: String,
    /// `namespace/service`, `node` or `outside`.
    pub workload: String,
    /// The address that was judged; absent where a made-up one stood in.
    pub address: Option<IpAddr>,
    /// Which pod it is.
    #[serde(skip)]
    pub(super) pod: Option<PodId>,
    /// What the tables are asked for.
    #[serde(skip)]
    pub(super) judged: IpAddr,
}

/// What one end of a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PartyKind {
    /// A pod, or a workload that stands for its pods.
    Pod,
    /// A node.
    Node,
    /// Any other address.
    Outside,
}

/// Why a call can't be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// Neither a name nor an address.
    #[error("{0:?} is none of ns/pod, ns/service, outside and an address")]
    Malformed(String),
    /// Nothing of that name.
    #[error("no {what} {name} is known")]
    Unknown {
        /// `pod`, `service`, or `pod or service`.
        what: &'static str,
        /// `namespace/name`.
        name: String,
    },
    /// A pod's name, and a service of other pods.
    #[error("{0} is a pod and a service: write pod:{0} or svc:{0}")]
    Ambiguous(String),
    /// A pod in its node's network namespace has no firewall of its own.
    #[error("{0} is in its node's network: ask for the node's address instead")]
    HostNetwork(String),
    /// A service without pods.
    #[error("there are no pods to explain it for")]
    NoPods,
}

/// Addresses for documentation (RFC 5737); `outside` is the first that least is said of.
const OUTSIDE: [[u8; 4]; 6] = [
    [203, 0, 113, 77],
    [198, 51, 100, 77],
    [192, 0, 2, 77],
    [203, 0, 113, 200],
    [198, 51, 100, 200],
    [192, 0, 2, 200],
];

/// Whom a name means: one party, or all pods of a service.
pub(super) fn find(case: &Case<'_>, text: &str) -> Result<Vec<Party>, ExplainError> {
    if text == "outside" {
        return Ok(vec![outside(case)]);
    }
    if let Ok(ip) = text.parse() {
        return Ok(vec![by_address(case, ip)]);
    }
    let (what, name) = match text.split_once(':') {
        Some(("pod", name)) => ("pod", name),
        Some(("svc", name)) => ("service", name),
        _ => ("pod or service", text),
    };
    let malformed = || ExplainError::Malformed(text.to_owned());
    let (namespace, short) = name.split_once('/').ok_or_else(malformed)?;
    if namespace.is_empty() || short.is_empty() || short.contains('/') {
        return Err(malformed());
    }
    let mut pods = Vec::new();
    if what != "service" {
        let named = |p: &PodEntry| *p.shape.namespace == *namespace && *p.name == *short;
        pods = select(case, named);
    }
    let mut behind = Vec::new();
    if what != "pod" {
        behind = service(case, namespace, short);
    }
    let apart = behind.iter().any(|p| !pods.contains(p));
    match (pods.is_empty(), behind.is_empty()) {
        (false, false) if apart => Err(ExplainError::Ambiguous(name.to_owned())),
        (false, _) => Ok(pods.into_iter().map(|i| of_pod(case, i)).collect()),
        (true, false) => Ok(behind.into_iter().map(|i| of_pod(case, i)).collect()),
        (true, true) if what != "service" && on_host(case, namespace, short) => {
            Err(ExplainError::HostNetwork(name.to_owned()))
        }
        (true, true) => Err(ExplainError::Unknown {
            what,
            name: name.to_owned(),
        }),
    }
}

/// In the order of their keys.
fn select(case: &Case<'_>, wanted: impl Fn(&PodEntry) -> bool) -> Vec<PodId> {
    let wanted = case.index.live().filter(|(_, p)| wanted(p));
    let mut pods: Vec<_> = wanted.map(|(id, p)| (p.key(), id)).collect();
    pods.sort();
    pods.into_iter().map(|(_, id)| id).collect()
}

/// Pods of a service by its name in labels, else those behind the Service object.
fn service(case: &Case<'_>, namespace: &str, name: &str) -> Vec<PodId> {
    let found = select(case, |p| {
        *p.shape.namespace == *namespace && *p.shape.service == *name
    });
    if !found.is_empty() {
        return found;
    }
    let key = (namespace.to_owned(), name.to_owned());
    let object = case.index.services.get(&key);
    let Some(selector) = object.map(|s| &s.spec.selector).filter(|s| !s.is_empty()) else {
        return Vec::new();
    };
    select(case, |p| {
        let labels = &p.shape.labels;
        let has = |(k, v): (&String, &String)| labels.get(k).is_some_and(|l| **l == **v);
        *p.shape.namespace == *namespace && selector.iter().all(has)
    })
}

fn on_host(case: &Case<'_>, namespace: &str, name: &str) -> bool {
    let pod = case.index.pod(namespace, name);
    pod.is_some_and(PodEntry::host_network)
}

fn of_pod(case: &Case<'_>, id: PodId) -> Party {
    let judged = case.index.addresses_of(id).first().copied();
    let pod = case.index.entry(id);
    let shown = case.given.entry(id);
    Party {
        kind: PartyKind::Pod,
        name: pod.map(|p| p.key().to_string()).unwrap_or_default(),
        workload: pod.map(|p| p.shape.workload()).unwrap_or_default(),
        address: shown.and_then(|p| p.addresses.first().copied()),
        pod: Some(id),
        // Every pod of this index has an address, made up if need be.
        judged: judged.unwrap_or(IpAddr::V4(OUTSIDE[0].into())),
    }
}

fn by_address(case: &Case<'_>, ip: IpAddr) -> Party {
    let (kind, word) = match case.index.owner(&Addr::from(ip)) {
        Some(Owner::Pod(id)) => {
            let mut party = of_pod(case, id);
            (party.address, party.judged) = (Some(ip), ip);
            return party;
        }
        Some(Owner::Node(_)) => (PartyKind::Node, "node"),
        None => (PartyKind::Outside, "outside"),
    };
    Party {
        kind,
        name: ip.to_string(),
        workload: word.into(),
        address: Some(ip),
        pod: None,
        judged: ip,
    }
}

/// An address that no pod or node has and that as few prefixes as possible cover.
fn outside(case: &Case<'_>) -> Party {
    let free = OUTSIDE.iter().map(|a| IpAddr::from(*a));
    let free = free.filter(|ip| case.index.owner(&Addr::from(*ip)).is_none());
    let covered = |ip: &IpAddr| {
        let found = crate::prefix::longest(&case.tables.cidrs, &Addr::from(*ip), 128);
        found.map_or(0, |((_, len), _)| *len)
    };
    let judged = free.min_by_key(covered).unwrap_or(OUTSIDE[0].into());
    Party {
        kind: PartyKind::Outside,
        name: "outside".into(),
        workload: "outside".into(),
        address: None,
        pod: None,
        judged,
    }
}
