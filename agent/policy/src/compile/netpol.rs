//! NetworkPolicies as policies of a group.

use std::collections::BTreeMap;

use crate::{
    index::Stored,
    model::{IntOrString, NetworkPolicyPort, Peer as PeerSpec, PolicyType, Protocol},
    ports::Ports,
    selector::Selector,
    view::{Group, View},
};

use super::{
    peer::{Base, Namespaces},
    policy::{Origin, Policy, Rule, RuleName, Who, named_grants},
};

/// NetworkPolicies by namespace, their selectors canonical.
pub(crate) type Prepared<'a> = BTreeMap<&'a str, Vec<NetPol<'a>>>;

/// A NetworkPolicy with what doesn't depend on its subjects worked out once.
pub(crate) struct NetPol<'a> {
    stored: &'a Stored,
    subjects: Selector,
    staged: bool,
    /// Peers of each rule; `None` means anyone.
    from: Vec<Option<Vec<Base>>>,
    to: Vec<Option<Vec<Base>>>,
}

/// Works out peers and subjects of all NetworkPolicies.
pub(crate) fn prepare<'a>(view: &View<'a>) -> Prepared<'a> {
    let mode = view.config().key("mode");
    let mut all = Prepared::new();
    for ((namespace, _), stored) in &view.index.policies {
        let spec = &stored.policy.spec;
        let annotation = stored.policy.metadata.annotations.get(&mode);
        let from = spec.ingress.iter().map(|r| peers(namespace, &r.from));
        let to = spec.egress.iter().map(|r| peers(namespace, &r.to));
        all.entry(namespace.as_str()).or_default().push(NetPol {
            stored,
            subjects: Selector::from(&spec.pod_selector),
            staged: annotation.is_some_and(|v| v == "audit"),
            from: from.collect(),
            to: to.collect(),
        });
    }
    all
}

fn peers(namespace: &str, peers: &[PeerSpec]) -> Option<Vec<Base>> {
    let base = |peer: &PeerSpec| {
        if let Some(block) = &peer.ip_block {
            return Base::block(block.cidr, &block.except);
        }
        let pods = peer.pod_selector.as_ref().map(Selector::from);
        let namespaces = match &peer.namespace_selector {
            Some(selector) => Namespaces::Selected(selector.into()),
            None => Namespaces::Name(namespace.to_owned()),
        };
        Base::Pods((namespaces, pods.unwrap_or_default()).into())
    };
    (!peers.is_empty()).then(|| peers.iter().map(base).collect())
}

/// The NetworkPolicies that select a group.
pub(crate) fn of(view: &View<'_>, all: &Prepared<'_>, group: &Group<'_>) -> Vec<Policy> {
    let here = all.get(group.namespace).into_iter().flatten();
    let selecting = here.filter(|p| p.subjects.matches(group.labels));
    selecting.map(|p| p.under(view, group)).collect()
}

impl NetPol<'_> {
    fn under(&self, view: &View<'_>, group: &Group<'_>) -> Policy {
        let meta = &self.stored.policy.metadata;
        let spec = &self.stored.policy.spec;
        let ingress = spec.isolates(PolicyType::Ingress).then(|| {
            let rules = self.from.iter().zip(&spec.ingress).enumerate();
            let rule = |(i, (from, rule)): (_, (&Option<_>, &crate::model::IngressRule))| Rule {
                name: RuleName::Index(PolicyType::Ingress, i),
                grants: ingress_grants(from.as_deref(), &rule.ports, group),
            };
            rules.map(rule).collect()
        });
        let egress = spec.isolates(PolicyType::Egress).then(|| {
            let rules = self.to.iter().zip(&spec.egress).enumerate();
            let rule = |(i, (to, rule)): (_, (&Option<_>, &crate::model::EgressRule))| Rule {
                name: RuleName::Index(PolicyType::Egress, i),
                grants: egress_grants(view, to.as_deref(), &rule.ports),
            };
            rules.map(rule).collect()
        });
        Policy {
            origin: Origin::NetworkPolicy {
                namespace: meta.namespace.clone(),
                name: meta.name.clone(),
                closed: self.stored.closed,
            },
            staged: self.staged,
            isolates: true,
            ingress,
            egress,
        }
    }
}

fn everyone(peers: Option<&[Base]>) -> Vec<Who> {
    match peers {
        None => vec![Who::Anyone],
        Some(peers) => peers.iter().cloned().map(Who::from).collect(),
    }
}

/// Ports are the subject's own, names too.
fn ingress_grants(
    from: Option<&[Base]>,
    ports: &[NetworkPolicyPort],
    subject: &Group<'_>,
) -> Vec<(Who, Ports)> {
    let mut granted = numbers(ports);
    for (name, protocol) in names(ports) {
        if let Some(number) = subject.named(name, protocol) {
            granted.add(&Ports::one(protocol, number));
        }
    }
    let who = everyone(from).into_iter();
    who.map(|w| (w, granted.clone())).collect()
}

/// Ports are the peer's. A name means another number for each pod, and nothing
/// for an address that is no pod, also where the rule names no peers.
fn egress_grants(
    view: &View<'_>,
    to: Option<&[Base]>,
    ports: &[NetworkPolicyPort],
) -> Vec<(Who, Ports)> {
    let granted = numbers(ports);
    let who = everyone(to).into_iter();
    let mut grants: Vec<_> = who.map(|w| (w, granted.clone())).collect();
    let pods = [Base::any_pod()];
    for (name, protocol) in names(ports) {
        for base in to.unwrap_or(&pods) {
            grants.extend(named_grants(view, base, name, protocol));
        }
    }
    grants
}

/// What a list of ports grants apart from names. No list grants everything;
/// no port grants all ports of the protocol.
fn numbers(ports: &[NetworkPolicyPort]) -> Ports {
    if ports.is_empty() {
        return Ports::all();
    }
    let mut granted = Ports::default();
    for port in ports {
        granted.add(&match &port.port {
            None => Ports::whole(port.protocol),
            Some(IntOrString::String(_)) => Ports::default(),
            Some(IntOrString::Int(first)) => match range(*first, port.end_port) {
                Some((first, last)) => Ports::range(port.protocol, first, last),
                None => Ports::default(),
            },
        });
    }
    granted
}

/// Validation has refused what isn't a range; should one slip through, it grants nothing.
fn range(first: i64, last: Option<i64>) -> Option<(u16, u16)> {
    let (first, last) = (first, last.unwrap_or(first));
    let range = (u16::try_from(first).ok()?, u16::try_from(last).ok()?);
    (range.0 <= range.1).then_some(range)
}

fn names(ports: &[NetworkPolicyPort]) -> impl Iterator<Item = (&str, Protocol)> {
    ports.iter().filter_map(|p| match &p.port {
        Some(IntOrString::String(name)) => Some((name.as_str(), p.protocol)),
        _ => None,
    })
}
