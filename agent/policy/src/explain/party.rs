//! The two ends of a call.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringfence_ebpf::abi::Addr;
use serde::Serialize;

use crate::{
    index::{Owner, groups::PodId},
    select::{NameError, PodsName},
};

use super::Case;

/// One end of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Party {
    /// Its kind.
    pub kind: PartyKind,
    /// `namespace/pod`, the node's address, or `outside`.
    pub name: String,
    /// `namespace/service`, `node`, `unknown` or `outside`.
    pub workload: String,
    /// The address used for the verdict; absent if it is made up.
    pub address: Option<IpAddr>,
    /// The pod, if it is one.
    #[serde(skip)]
    pub(super) pod: Option<PodId>,
    /// The address looked up in the tables.
    #[serde(skip)]
    pub(super) judged: IpAddr,
    /// Whether the request named this address, so the pod's other addresses don't count.
    #[serde(skip)]
    pub(super) by_address: bool,
}

/// The kind of one end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PartyKind {
    /// A pod, or a workload that represents its pods.
    Pod,
    /// A node.
    Node,
    /// An address in the cluster's pod ranges without a known pod.
    Unknown,
    /// Any other address.
    Outside,
}

/// Why a call can't be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// A name that isn't known or isn't valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A service without pods.
    #[error("there are no pods to explain it for")]
    NoPods,
    /// A Service's address without backends.
    #[error("Service {0} has no backends: nodes reject the call")]
    NoBackends(String),
}

/// Addresses for documentation (RFC 5737, RFC 3849, RFC 9637). `outside` is the first of a family
/// that the fewest prefixes cover.
const OUTSIDE: [IpAddr; 10] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 77)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77)),
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 200)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 200)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x4d, 0, 0, 0, 0, 0x77)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc8, 0, 0, 0, 0, 0x77)),
    IpAddr::V6(Ipv6Addr::new(0x3fff, 0x4d, 0, 0, 0, 0, 0, 0x77)),
    IpAddr::V6(Ipv6Addr::new(0x3fff, 0xc8, 0, 0, 0, 0, 0, 0x77)),
];

/// Returns the parties a name refers to: a single party, or all pods of a service.
pub(super) fn find(case: &Case<'_>, text: &str) -> Result<Vec<Party>, ExplainError> {
    if text == "outside" {
        return Ok(vec![outside(case, true)]);
    }
    if let Ok(ip) = text.parse() {
        return Ok(vec![by_address(case, ip)]);
    }
    let name = PodsName::parse(text, "ns/pod, ns/service, outside and an address")?;
    let pods = name.pods(&case.index)?.into_iter();
    Ok(pods.map(|id| of_pod(case, id)).collect())
}

pub(super) fn of_pod(case: &Case<'_>, id: PodId) -> Party {
    let judged = case.index.addresses_of(id).first().copied();
    let pod = case.index.entry(id);
    let shown = case.given.entry(id);
    Party {
        kind: PartyKind::Pod,
        name: pod.map(|p| p.key().to_string()).unwrap_or_default(),
        workload: pod.map(|p| p.traits.workload()).unwrap_or_default(),
        address: shown.and_then(|p| p.addresses.first().copied()),
        pod: Some(id),
        // Every pod of this index has an address, made up if necessary.
        judged: judged.unwrap_or(OUTSIDE[0]),
        by_address: false,
    }
}

pub(super) fn by_address(case: &Case<'_>, ip: IpAddr) -> Party {
    let (kind, word) = match case.index.owner(&Addr::from(ip)) {
        Some(Owner::Pod(id)) => {
            let mut party = of_pod(case, id);
            (party.address, party.judged) = (Some(ip), ip);
            party.by_address = true;
            return party;
        }
        Some(Owner::Node(_)) => (PartyKind::Node, "node"),
        None if case.index.is_unknown(&Addr::from(ip)) => (PartyKind::Unknown, "unknown"),
        None => (PartyKind::Outside, "outside"),
    };
    Party {
        kind,
        name: ip.to_string(),
        workload: word.into(),
        address: Some(ip),
        pod: None,
        judged: ip,
        by_address: true,
    }
}

/// Returns an address of a family that no pod or node has and that as few prefixes as possible
/// cover.
fn outside(case: &Case<'_>, is_v4: bool) -> Party {
    let family = || OUTSIDE.into_iter().filter(|ip| ip.is_ipv4() == is_v4);
    let free = family();
    let free = free.filter(|ip| case.index.is_outside(&Addr::from(*ip)));
    let covered = |ip: &IpAddr| {
        let found = crate::prefix::longest(&case.tables.cidrs, &Addr::from(*ip), 128);
        found.map_or(0, |((_, len), _)| *len)
    };
    let found = free.min_by_key(covered).or_else(|| family().next());
    let judged = found.unwrap_or(OUTSIDE[0]);
    Party {
        kind: PartyKind::Outside,
        name: "outside".into(),
        workload: "outside".into(),
        address: None,
        pod: None,
        judged,
        by_address: false,
    }
}

/// Returns the two ends of a call over each address family that both have, since one family may
/// be denied while the other is allowed; `outside` has both families. If one end is an address,
/// the other end uses its own address of that family.
pub(super) fn by_family(case: &Case<'_>, from: &Party, to: &Party) -> Vec<(Party, Party)> {
    let is_outside = |party: &Party| party.pod.is_none() && !party.by_address;
    let is_by_name = |party: &Party| !party.by_address;
    let first = |party: &Party, is_v4| {
        if is_outside(party) {
            return Some(outside(case, is_v4).judged);
        }
        let all = case.addresses(party);
        all.into_iter().find(|ip: &IpAddr| ip.is_ipv4() == is_v4)
    };
    let beside = |party: &Party, other: &Party| {
        let own = first(party, other.judged.is_ipv4());
        own.map_or_else(|| party.clone(), |ip| at(party, ip))
    };
    let families = [true, false].into_iter().filter_map(|is_v4| {
        let (one, other) = (first(from, is_v4)?, first(to, is_v4)?);
        Some((at(from, one), at(to, other)))
    });
    let found: Vec<_> = match (is_by_name(from), is_by_name(to)) {
        (true, true) => families.collect(),
        (true, false) => vec![(beside(from, to), to.clone())],
        (false, true) => vec![(from.clone(), beside(to, from))],
        (false, false) => Vec::new(),
    };
    match found.is_empty() {
        true => vec![(from.clone(), to.clone())],
        false => found,
    }
}

fn at(party: &Party, ip: IpAddr) -> Party {
    Party {
        address: party.address.map(|_| ip),
        judged: ip,
        ..party.clone()
    }
}
