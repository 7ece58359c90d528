//! NetworkPolicies as policies of a group.

use crate::{
    index::{Key, pods::Shape, policies::StoredPolicy},
    intern::Pool,
    model::{Action, IntOrString, NetworkPolicyPort, Peer as PeerSpec, PolicyType, Protocol},
    ports::Ports,
    selector::Selector,
};

use super::{
    peer::Base,
    policy::{Origin, Place, Policy, Rule, RuleName, Who, named_grant},
};

/// A NetworkPolicy with what doesn't depend on its subjects worked out once.
#[derive(Debug)]
pub(crate) struct NetPol {
    origin: Origin,
    staged: bool,
    /// Ports of each rule of a direction, `None` where it has no say; egress
    /// names are in the grants already.
    ingress: Option<Vec<Ingress>>,
    egress: Option<Vec<Rule>>,
}

/// An ingress rule, but for the ports by name: those are the subject's own.
#[derive(Debug)]
struct Ingress {
    from: Vec<Who>,
    ports: Vec<NetworkPolicyPort>,
}

impl NetPol {
    pub(super) fn new(
        texts: &mut Pool<str>,
        (namespace, name): Key,
        stored: &StoredPolicy,
    ) -> Self {
        let spec = stored.spec();
        let mut base = |peer: &PeerSpec| base(texts, &namespace, peer);
        let ingress = spec.isolates(PolicyType::Ingress).then(|| {
            let rules = spec.ingress.iter();
            let rule = rules.map(|rule| Ingress {
                from: everyone(rule.from.iter().map(&mut base).collect()),
                ports: rule.ports.clone(),
            });
            rule.collect()
        });
        let egress = spec.isolates(PolicyType::Egress).then(|| {
            let rules = spec.egress.iter().enumerate();
            let rule = rules.map(|(i, rule)| Rule {
                name: RuleName::Index(PolicyType::Egress, i, None),
                action: Action::Accept,
                grants: egress_grants(rule.to.iter().map(&mut base).collect(), &rule.ports),
            });
            rule.collect()
        });
        Self {
            origin: Origin::NetworkPolicy {
                namespace,
                name,
                closed: stored.closed,
            },
            staged: is_staged(stored.mode.as_deref()),
            ingress,
            egress,
        }
    }

    /// A policy that isn't in force for want of room: it isolates the pods that it
    /// selects, and allows nothing.
    pub(super) fn closed((namespace, name): Key, stored: &StoredPolicy) -> Self {
        let [ingress, egress] = stored.isolates;
        Self {
            origin: Origin::NetworkPolicy {
                namespace,
                name,
                closed: true,
            },
            staged: is_staged(stored.mode.as_deref()),
            ingress: ingress.then(Vec::new),
            egress: egress.then(Vec::new),
        }
    }

    /// As it applies to pods that it selects.
    pub(super) fn under(&self, pods: &Shape) -> Policy {
        let ingress = self.ingress.as_ref().map(|rules| {
            let rules = rules.iter().enumerate();
            let rule = rules.map(|(i, rule)| Rule {
                name: RuleName::Index(PolicyType::Ingress, i, None),
                action: Action::Accept,
                grants: rule.grants(pods),
            });
            rule.collect()
        });
        Policy {
            origin: self.origin.clone(),
            staged: self.staged,
            place: Place::Network { isolates: true },
            ingress,
            egress: self.egress.clone(),
        }
    }
}

/// Whether a mode annotation stages its policy.
pub(super) fn is_staged(mode: Option<&str>) -> bool {
    mode == Some("audit")
}

fn base(texts: &mut Pool<str>, namespace: &str, peer: &PeerSpec) -> Base {
    if let Some(block) = &peer.ip_block {
        return Base::block(block.cidr, &block.except);
    }
    let pods = peer.pod_selector.as_ref();
    let pods = pods.map(|s| Selector::new(texts, s)).unwrap_or_default();
    match &peer.namespace_selector {
        Some(selector) => Base::pods_by(Selector::new(texts, selector), pods),
        None => Base::pods_in(namespace, pods),
    }
}

/// An empty list means anyone.
fn everyone(peers: Vec<Base>) -> Vec<Who> {
    match peers.is_empty() {
        true => vec![Who::Anyone],
        false => peers.into_iter().map(Who::from).collect(),
    }
}

impl Ingress {
    fn grants(&self, subject: &Shape) -> Vec<(Who, Ports)> {
        let mut granted = numbers(&self.ports);
        for (name, protocol) in names(&self.ports) {
            if let Some(number) = subject.named(name, protocol) {
                granted.add(&Ports::one(protocol, number));
            }
        }
        let who = self.from.iter().cloned();
        who.map(|w| (w, granted.clone())).collect()
    }
}

/// Ports are the peer's. A name means another number for each pod, and nothing
/// for an address that is no pod, also where the rule names no peers.
fn egress_grants(to: Vec<Base>, ports: &[NetworkPolicyPort]) -> Vec<(Who, Ports)> {
    let mut by_name = Vec::new();
    let anybody = [Base::any_pod()];
    let bases = if to.is_empty() {
        &anybody
    } else {
        to.as_slice()
    };
    for (name, protocol) in names(ports) {
        by_name.extend(bases.iter().map(|base| named_grant(base, name, protocol)));
    }
    let granted = numbers(ports);
    let who = everyone(to).into_iter();
    let grants = who.map(|w| (w, granted.clone()));
    grants.chain(by_name).collect()
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
            Some(IntOrString::Int(first)) => {
                let last = port.end_port.unwrap_or(*first);
                range(port.protocol, *first, last)
            }
        });
    }
    granted
}

/// Validation has refused what isn't a range; should one slip through, it grants nothing.
pub(super) fn range(protocol: Protocol, first: i64, last: i64) -> Ports {
    match (u16::try_from(first), u16::try_from(last)) {
        (Ok(first), Ok(last)) if first <= last => Ports::range(protocol, first, last),
        _ => Ports::default(),
    }
}

fn names(ports: &[NetworkPolicyPort]) -> impl Iterator<Item = (&str, Protocol)> {
    ports.iter().filter_map(|p| match &p.port {
        Some(IntOrString::String(name)) => Some((name.as_str(), p.protocol)),
        _ => None,
    })
}
