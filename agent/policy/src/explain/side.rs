//! One direction of a call: what isolates, and what allows.

use std::net::IpAddr;

use ringfence_ebpf::{
    abi::{Addr, Direction, EndpointWorld},
    verdict,
};
use serde::Serialize;

use crate::{
    compile::{
        peer::{Base, Peer},
        policy::{self, Origin, Policy, Rule, Who},
    },
    model::PolicyType,
    ports::PortSpec,
    view::{Owner, View},
};

use super::{Case, Party, Verdict, party::PartyKind};

/// One direction of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// `egress` of the caller or `ingress` of the callee.
    pub direction: &'static str,
    /// What this side says.
    pub verdict: Verdict,
    /// Why, in one sentence.
    pub reason: String,
    /// What closes this direction, by default or for this call.
    pub isolated_by: Vec<Isolation>,
    /// What opens it for this call.
    pub allowed_by: Vec<Allowing>,
}

/// A policy that closes a direction of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Isolation {
    /// `NetworkPolicy bank/deny-all`, or the label.
    pub policy: String,
    /// Why it applies to this pod.
    pub why: String,
    /// Only counts, doesn't drop.
    pub staged: bool,
}

/// A rule that allows a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allowing {
    /// As in [`Isolation::policy`].
    pub policy: String,
    /// Where in it.
    pub rule: String,
    /// Only counts: it allows nothing before its policy is enforced.
    pub staged: bool,
}

/// The caller's side and the callee's.
pub(super) fn both(case: &Case<'_>, from: &Party, to: &Party, port: &PortSpec) -> (Side, Side) {
    (
        side(case, from, to, Direction::Egress, port),
        side(case, to, from, Direction::Ingress, port),
    )
}

/// The policies of a pod.
pub(super) fn policies(case: &Case<'_>, party: &Party) -> Vec<Policy> {
    let pod = party.pod.map(|i| &case.view.pods[i]);
    pod.map_or_else(Vec::new, |p| policy::of(&case.view, &case.netpols, p.group))
}

/// The name of a direction in NetworkPolicies.
pub(super) fn policy_type(direction: Direction) -> PolicyType {
    match direction {
        Direction::Ingress => PolicyType::Ingress,
        Direction::Egress => PolicyType::Egress,
    }
}

fn side(
    case: &Case<'_>,
    subject: &Party,
    peer: &Party,
    direction: Direction,
    port: &PortSpec,
) -> Side {
    let mut side = Side {
        direction: direction.name(),
        verdict: Verdict::Allowed,
        reason: String::new(),
        isolated_by: Vec::new(),
        allowed_by: Vec::new(),
    };
    if let Some(reason) = always(case, subject, peer) {
        side.reason = reason;
        return side;
    }
    let kind = policy_type(direction);
    let address = judged(case, peer, subject);
    for policy in policies(case, subject) {
        let Some(rules) = policy.rules(kind) else {
            continue;
        };
        if policy.isolates {
            side.isolated_by.push(isolation(&policy));
        }
        let allowing = rules.iter().filter(|r| allows(case, r, address, port));
        side.allowed_by.extend(allowing.map(|rule| Allowing {
            policy: origin(&policy.origin),
            rule: rule.name.text().into_owned(),
            staged: policy.staged,
        }));
    }
    side.verdict = decide(case, subject, address, direction, port);
    side.reason = reason(case, subject, peer, &side);
    side
}

fn allows(case: &Case<'_>, rule: &Rule, address: IpAddr, port: &PortSpec) -> bool {
    let grants = rule.grants.iter();
    let mut on_port = grants.filter(|(_, ports)| ports.contains(port.protocol, port.port));
    on_port.any(|(who, _)| matches(&case.view, who, address))
}

/// What no policy has a say in.
fn always(case: &Case<'_>, subject: &Party, peer: &Party) -> Option<String> {
    let Some(pod) = subject.pod.map(|i| &case.view.pods[i]) else {
        let what = match subject.kind {
            PartyKind::Node => "a node has no firewall of its own",
            _ => "what is outside the cluster has no firewall here",
        };
        return Some(what.into());
    };
    if subject.pod == peer.pod {
        return Some("a pod always reaches itself".into());
    }
    let node = pod
        .pod
        .spec
        .node_name
        .as_ref()
        .and_then(|n| case.view.index.nodes.get(n));
    let own = node.is_some_and(|n| n.addresses().contains(&peer.judged));
    (peer.kind == PartyKind::Node && own)
        .then(|| "a pod and the node that runs it always reach each other".into())
}

/// The peer's address that such a packet would carry.
fn judged(case: &Case<'_>, peer: &Party, subject: &Party) -> IpAddr {
    let pod = |p: &Party| p.pod.map(|i| &case.view.pods[i]);
    match (pod(peer), pod(subject)) {
        (Some(_), Some(s))
            if s.addresses
                .iter()
                .any(|a| a.is_ipv4() == peer.judged.is_ipv4()) =>
        {
            peer.judged
        }
        (Some(p), Some(s)) => {
            crate::matrix::address_between(p, s).map_or(peer.judged, IpAddr::from)
        }
        _ => peer.judged,
    }
}

fn decide(
    case: &Case<'_>,
    subject: &Party,
    peer: IpAddr,
    direction: Direction,
    port: &PortSpec,
) -> Verdict {
    let pod = subject.pod.map(|i| &case.view.pods[i].key);
    let Some(endpoint) = pod.and_then(|key| case.tables.endpoints.get(key)) else {
        return Verdict::Allowed;
    };
    if endpoint.flags & EndpointWorld::QUARANTINE != 0 {
        return Verdict::Denied;
    }
    let half = endpoint.half();
    let peer = Addr::from(peer);
    match verdict::policy(
        &case.tables,
        0,
        &half,
        direction,
        &peer,
        port.protocol,
        port.port,
    ) {
        verdict::Policy::Allow => Verdict::Allowed,
        verdict::Policy::Audit => Verdict::Audited,
        verdict::Policy::Deny => Verdict::Denied,
    }
}

fn reason(case: &Case<'_>, subject: &Party, peer: &Party, side: &Side) -> String {
    if quarantined(case, subject) {
        return format!("{} is under quarantine", subject.name);
    }
    let closed: Vec<&str> = side
        .isolated_by
        .iter()
        .filter(|i| i.staged == (side.verdict == Verdict::Audited))
        .map(|i| i.policy.as_str())
        .collect();
    let (name, direction) = (&subject.name, side.direction);
    let allowing = side.allowed_by.iter().find(|a| !a.staged);
    match side.verdict {
        Verdict::Allowed if side.isolated_by.is_empty() => {
            format!("nothing isolates {name} for {direction}")
        }
        Verdict::Allowed => match allowing.or(side.allowed_by.first()) {
            Some(a) => format!("allowed by {}, {}", a.policy, a.rule),
            None => format!("only staged policies isolate {name} for {direction}"),
        },
        Verdict::Audited => format!(
            "passes for now: {} would deny {} once enforced",
            closed.join(" and "),
            peer.name
        ),
        Verdict::Denied => format!(
            "{} {direction} of {name}, and nothing allows {}",
            match closed.as_slice() {
                [one] => format!("{one} closes"),
                all => format!("{} close", all.join(" and ")),
            },
            peer.name
        ),
    }
}

/// Whether a party is cut off.
pub(super) fn quarantined(case: &Case<'_>, party: &Party) -> bool {
    let pod = party.pod.map(|i| &case.view.pods[i].key);
    let endpoint = pod.and_then(|key| case.tables.endpoints.get(key));
    endpoint.is_some_and(|e| e.flags & EndpointWorld::QUARANTINE != 0)
}

fn matches(view: &View<'_>, who: &Who, address: IpAddr) -> bool {
    let Who::Peer(Peer { base, named }) = who else {
        return true;
    };
    let owner = view.owners.get(&Addr::from(address));
    let group = match owner {
        Some(Owner::Pod(i)) => Some(&view.groups[view.pods[*i].group]),
        _ => None,
    };
    let by_base = match base {
        Base::Block(block) => {
            block.cidr.contains(&address) && !block.except.iter().any(|e| e.contains(&address))
        }
        Base::Outside => owner.is_none(),
        Base::AllNodes => matches!(owner, Some(Owner::Node { .. })),
        _ => group.is_some_and(|g| base.names(view, g)),
    };
    let by_name = named
        .as_ref()
        .is_none_or(|n| group.and_then(|g| g.named(&n.name, n.protocol)) == Some(n.number));
    by_base && by_name
}

/// What people call a policy.
pub(super) fn origin(origin: &Origin) -> String {
    match origin {
        Origin::NetworkPolicy {
            namespace, name, ..
        } => format!("NetworkPolicy {namespace}/{name}"),
        Origin::Label { key, on_namespace } => match on_namespace {
            true => format!("label {key} of the Namespace"),
            false => format!("label {key}"),
        },
        Origin::EgressLabels => "the caller's egress labels".into(),
    }
}

fn isolation(policy: &Policy) -> Isolation {
    let why = match &policy.origin {
        Origin::NetworkPolicy { closed: true, .. } => {
            "it doesn't parse, so its pods are isolated until it is corrected".into()
        }
        Origin::NetworkPolicy { .. } => "its podSelector selects the pod".into(),
        Origin::Label { key, on_namespace } => {
            let whose = if *on_namespace {
                "its Namespace"
            } else {
                "the pod"
            };
            format!("{whose} carries {key}")
        }
        Origin::EgressLabels => "the pod carries them".into(),
    };
    Isolation {
        policy: origin(&policy.origin),
        why,
        staged: policy.staged,
    }
}
