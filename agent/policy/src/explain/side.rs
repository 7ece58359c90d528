//! One direction of a call: what isolates the pod, and what allows the call.

use std::net::IpAddr;

use ringfence_ebpf::{
    abi::{Addr, Direction, EndpointRules},
    verdict,
};
use serde::Serialize;

use crate::{
    compile::{
        peer::{Base, Peer},
        policy::{Origin, Policy, Rank, Rule, Who},
    },
    index::Owner,
    matrix,
    model::PolicyType,
    ports::{PortSpec, Ports},
};

use super::{
    Case, Party, Verdict,
    exempt::{self, exempt},
    trace::{Decision, trace},
};

/// One direction of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// `egress` of the caller or `ingress` of the callee.
    pub direction: &'static str,
    /// The verdict of this side.
    pub verdict: Verdict,
    /// The reason, in one sentence.
    pub reason: String,
    /// The policies that close this direction, by default or for this call.
    pub isolated_by: Vec<Isolation>,
    /// The rules that open it for this call.
    pub allowed_by: Vec<Allowing>,
}

/// A policy that closes a direction of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Isolation {
    /// `NetworkPolicy bank/deny-all`, or the label.
    pub policy: String,
    /// The reason it applies to this pod.
    pub why: String,
    /// Whether it is staged: it only counts and doesn't drop.
    pub staged: bool,
    /// Whether it is a ClusterNetworkPolicy, whose tier decides before or after the union of
    /// policies.
    #[serde(skip)]
    pub by_tier: bool,
}

/// A rule that allows a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allowing {
    /// See [`Isolation::policy`].
    pub policy: String,
    /// The rule's location in the policy.
    pub rule: String,
    /// Whether it is staged: it allows nothing until its policy is enforced.
    pub staged: bool,
}

/// Returns the caller's side and the callee's side.
pub(super) fn both(case: &Case<'_>, call: &Ends<'_>) -> (Side, Side) {
    let (from, to) = (call.from, call.to);
    (
        side(case, (from, to), Direction::Egress, call),
        side(case, (to, from), Direction::Ingress, call),
    )
}

/// The parties of a call, and its port.
#[derive(Clone, Copy)]
pub(super) struct Ends<'c> {
    /// The caller.
    pub(super) from: &'c Party,
    /// The callee.
    pub(super) to: &'c Party,
    /// The callee's own port.
    pub(super) port: &'c PortSpec,
    /// Whether the call goes through a Service.
    pub(super) through: bool,
}

/// Returns the name of a direction in NetworkPolicies.
pub(super) fn policy_type(direction: Direction) -> PolicyType {
    match direction {
        Direction::Ingress => PolicyType::Ingress,
        Direction::Egress => PolicyType::Egress,
    }
}

fn side(
    case: &Case<'_>,
    (subject, peer): (&Party, &Party),
    direction: Direction,
    call: &Ends<'_>,
) -> Side {
    let mut side = Side {
        direction: direction.name(),
        verdict: Verdict::Allowed,
        reason: String::new(),
        isolated_by: Vec::new(),
        allowed_by: Vec::new(),
    };
    let (kind, port) = (policy_type(direction), call.port);
    let exempt = exempt(case, (subject, peer), direction, call.through);
    let policies = case.policies(subject);
    if let Some(exempt) = &exempt
        && (exempt.always || !exempt::has_tiers(&policies, kind))
    {
        side.reason.clone_from(&exempt.reason);
        return side;
    }
    let address = judged(case, peer, subject);
    let hits = |rule: &Rule| allows(case, rule, address, port);
    let network = policies.iter().filter(|_| exempt.is_none());
    for policy in network {
        let (Some(rules), Rank::Network { isolates }) = (policy.rules(kind), policy.rank) else {
            continue;
        };
        if isolates {
            side.isolated_by.push(isolation(policy));
        }
        let allowing = rules.iter().filter(|rule| hits(rule));
        side.allowed_by
            .extend(allowing.map(|r| allowing_rule(policy, r)));
    }
    let enforced = policies.iter().filter(|p| !p.staged);
    let decision = trace(enforced, kind, &hits);
    let what_if = trace(policies.iter(), kind, &hits);
    side.name_tiers(&[&decision, &what_if]);
    side.verdict = decide(case, subject, address, direction, (port, exempt.is_some()));
    let deciding = match side.verdict {
        Verdict::Audited => &what_if,
        Verdict::Allowed | Verdict::Denied => &decision,
    };
    side.reason = match (exempt, deciding) {
        (Some(exempt), Decision::Network | Decision::Default) => exempt.reason,
        _ => side.reason(case, subject, peer, deciding),
    };
    side
}

/// Returns what decides a call in one direction, among some of the subject's policies.
pub(super) fn decision<'p>(
    case: &Case<'_>,
    (subject, peer): (&Party, &Party),
    policies: &[&'p Policy],
    direction: PolicyType,
    port: &PortSpec,
) -> Decision<'p> {
    let address = judged(case, peer, subject);
    let hits = |rule: &Rule| allows(case, rule, address, port);
    trace(policies.iter().copied(), direction, &hits)
}

fn allowing_rule(policy: &Policy, rule: &Rule) -> Allowing {
    Allowing {
        policy: policy.origin.to_string(),
        rule: rule.name.text().into_owned(),
        staged: policy.staged,
    }
}

impl Side {
    /// Adds the deciding rules of tiers.
    fn name_tiers(&mut self, decisions: &[&Decision<'_>]) {
        for decision in decisions {
            match decision {
                Decision::Accepted(policy, rule) => {
                    let allowing = allowing_rule(policy, rule);
                    if !self.allowed_by.contains(&allowing) {
                        self.allowed_by.push(allowing);
                    }
                }
                Decision::Denied(policy, rule) => {
                    let isolation = Isolation {
                        policy: policy.origin.to_string(),
                        why: denies(policy, rule),
                        staged: policy.staged,
                        by_tier: true,
                    };
                    if !self.isolated_by.contains(&isolation) {
                        self.isolated_by.push(isolation);
                    }
                }
                Decision::Network | Decision::Default => {}
            }
        }
    }

    fn reason(
        &self,
        case: &Case<'_>,
        subject: &Party,
        peer: &Party,
        decision: &Decision<'_>,
    ) -> String {
        if quarantined(case, subject) {
            return format!("{} is under quarantine", subject.name);
        }
        let (name, direction) = (&subject.name, self.direction);
        match (self.verdict, decision) {
            (Verdict::Denied, Decision::Denied(policy, rule)) => {
                format!("{} {}", policy.origin, denies(policy, rule))
            }
            (Verdict::Audited, Decision::Denied(policy, rule)) => {
                let policy_name = policy.origin.to_string();
                let rule = rule.name.text();
                format!("passes for now: {rule} of {policy_name} would deny it once enforced")
            }
            (Verdict::Allowed, Decision::Accepted(policy, rule)) => {
                format!("allowed by {}, {}", policy.origin, rule.name.text())
            }
            (Verdict::Allowed, Decision::Default) if self.isolated_by.is_empty() => {
                format!("nothing isolates {name} for {direction}")
            }
            (Verdict::Allowed, Decision::Default) => {
                format!("only staged policies isolate {name} for {direction}")
            }
            _ => self.network_reason(subject, peer),
        }
    }

    /// Returns the reason when the union of policies decides.
    fn network_reason(&self, subject: &Party, peer: &Party) -> String {
        let closed: Vec<&str> = self
            .isolated_by
            .iter()
            .filter(|i| self.verdict == Verdict::Audited || !i.staged)
            .filter(|i| !i.by_tier)
            .map(|i| i.policy.as_str())
            .collect();
        let (name, direction) = (&subject.name, self.direction);
        let allowing = self.allowed_by.iter().find(|a| !a.staged);
        match self.verdict {
            Verdict::Allowed => match allowing.or(self.allowed_by.first()) {
                Some(a) => format!("allowed by {}, {}", a.policy, a.rule),
                None => format!("nothing isolates {name} for {direction}"),
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
}

fn denies(policy: &Policy, rule: &Rule) -> String {
    match &policy.origin {
        Origin::ClusterNetworkPolicy { closed: true, .. } => {
            "doesn't parse, so it denies its pods everything until it is corrected".into()
        }
        _ => format!("denies it by {}", rule.name.text()),
    }
}

fn allows(case: &Case<'_>, rule: &Rule, address: IpAddr, port: &PortSpec) -> bool {
    let mut grants = rule.grants.iter();
    grants.any(|(who, ports)| matches(case, who, ports, address, port))
}

/// Returns the peer's address that a packet between the two would carry.
fn judged(case: &Case<'_>, peer: &Party, subject: &Party) -> IpAddr {
    if peer.pod.is_none() || subject.pod.is_none() {
        return peer.judged;
    }
    let own = case.addresses(subject);
    if own.iter().any(|a| a.is_ipv4() == peer.judged.is_ipv4()) {
        return peer.judged;
    }
    let shared = matrix::address_between(&case.addresses(peer), &own);
    shared.map_or(peer.judged, IpAddr::from)
}

fn decide(
    case: &Case<'_>,
    subject: &Party,
    peer: IpAddr,
    direction: Direction,
    (port, exempt): (&PortSpec, bool),
) -> Verdict {
    let key = case.pod(subject).map(|pod| pod.key());
    let Some(endpoint) = key.and_then(|key| case.tables.endpoints.get(&key)) else {
        return Verdict::Allowed;
    };
    if endpoint.flags & EndpointRules::QUARANTINE != 0 {
        return Verdict::Denied;
    }
    let rules = match exempt {
        true => endpoint.exempt_rules(),
        false => endpoint.rules(),
    };
    let peer = Addr::from(peer);
    match verdict::policy(
        &case.tables,
        0,
        &rules,
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

/// Reports whether a party is quarantined.
pub(super) fn quarantined(case: &Case<'_>, party: &Party) -> bool {
    let key = case.pod(party).map(|pod| pod.key());
    let endpoint = key.and_then(|key| case.tables.endpoints.get(&key));
    endpoint.is_some_and(|e| e.flags & EndpointRules::QUARANTINE != 0)
}

fn matches(case: &Case<'_>, who: &Who, ports: &Ports, address: IpAddr, port: &PortSpec) -> bool {
    let on_port = |ports: &Ports| ports.contains(port.protocol, port.port);
    let Who::Peer(Peer { base, named }) = who else {
        return on_port(ports);
    };
    let owner = case.index.owner(&Addr::from(address));
    let traits = match owner {
        Some(Owner::Pod(id)) => case.index.entry(id).map(|pod| &*pod.traits),
        _ => None,
    };
    let by_base = match base {
        Base::Block(block) => {
            let made_up = case.index.made_up.contains(&Addr::from(address));
            block.contains(address) && (!made_up || block.is_whole())
        }
        Base::Addresses(all) => all.contains(&address),
        Base::Nodes(selector) => {
            let claims = case.index.owners.nodes(&Addr::from(address)).iter();
            let shown = claims.filter(|claim| claim.in_status);
            let mut nodes = shown.filter_map(|claim| case.index.nodes.get(claim.node.as_ref()?));
            nodes.any(|node| selector.matches(&node.labels))
        }
        Base::Outside => case.index.is_outside(&Addr::from(address)),
        Base::AllNodes => matches!(owner, Some(Owner::Node(_))),
        Base::Pods(_) | Base::Service { .. } | Base::Label { .. } => traits
            .is_some_and(|traits| base.names(&case.index.namespace(&traits.namespace), traits)),
    };
    by_base
        && match named {
            None => on_port(ports),
            Some(asked) => {
                let number = traits.and_then(|s| s.named(&asked.name, asked.protocol));
                asked.protocol.iana() == port.protocol && number == Some(port.port)
            }
        }
}

fn isolation(policy: &Policy) -> Isolation {
    let why = match &policy.origin {
        Origin::NetworkPolicy { closed: true, .. } => {
            "it doesn't parse, so its pods are isolated until it is corrected".into()
        }
        Origin::NetworkPolicy { .. } => "its podSelector selects the pod".into(),
        Origin::ClusterNetworkPolicy { .. } => "its subject selects the pod".into(),
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
        policy: policy.origin.to_string(),
        why,
        staged: policy.staged,
        by_tier: matches!(policy.rank, Rank::Tier(_)),
    }
}
