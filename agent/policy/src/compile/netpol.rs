//! NetworkPolicies as policies of a group.

use crate::{
    index::{Key, pods::PodTraits, policies::StoredPolicy},
    intern::Pool,
    model::{Action, IntOrString, NetworkPolicyPort, Peer as PeerSpec, PolicyType, Protocol},
    ports::Ports,
    selector::Selector,
};

use super::{
    peer::Base,
    policy::{Origin, Policy, Rank, Rule, RuleName, Who, named_grant},
};

/// A NetworkPolicy with everything that doesn't depend on its subjects precomputed.
#[derive(Debug)]
pub(crate) struct NetPol {
    origin: Origin,
    staged: bool,
    /// The rules of a direction, `None` if the policy doesn't apply to it. Named ports of egress
    /// rules are already in the grants.
    ingress: Option<Vec<Ingress>>,
    egress: Option<Vec<Rule>>,
}

/// An ingress rule without its named ports resolved: those depend on the subject.
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

    /// Returns the form of a policy that isn't in force for lack of room: it isolates the pods that
    /// it selects, and allows nothing.
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

    /// Returns the policy as it applies to pods that it selects.
    pub(super) fn under(&self, pods: &PodTraits) -> Policy {
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
            rank: Rank::Network { isolates: true },
            ingress,
            egress: self.egress.clone(),
        }
    }
}

/// Reports whether a mode annotation stages its policy.
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

/// Returns the peers of a rule; an empty list means anyone.
fn everyone(peers: Vec<Base>) -> Vec<Who> {
    match peers.is_empty() {
        true => vec![Who::Anyone],
        false => peers.into_iter().map(Who::from).collect(),
    }
}

impl Ingress {
    fn grants(&self, subject: &PodTraits) -> Vec<(Who, Ports)> {
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

/// Ports are the peer's. A name means a different number for each pod, and nothing for an address
/// that isn't a pod, even if the rule lists no peers.
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

/// Returns what a list of ports grants apart from names. An empty list grants everything; an entry
/// without a port grants all ports of the protocol.
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

/// Returns a range of ports. Validation has rejected invalid ranges; one that slips through grants
/// nothing.
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
