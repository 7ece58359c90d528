//! ClusterNetworkPolicies as policies of a group.

use std::sync::Arc;

use crate::{
    index::{pods::PodTraits, policies::StoredCluster},
    intern::{Pool, Text},
    model::{
        Action, ClusterPeer, NamespacedPods, PolicyType, PortMatch, Protocol, ProtocolMatch, Tier,
    },
    ports::Ports,
    selector::Selector,
};

use super::{
    netpol::{is_staged, range},
    peer::Base,
    policy::{Origin, Policy, Rank, Rule, RuleName, Who, named_grant},
};

/// A ClusterNetworkPolicy with everything that doesn't depend on its subjects precomputed.
#[derive(Debug)]
pub(crate) struct Cnp {
    name: Text,
    tier: Tier,
    closed: bool,
    staged: bool,
    /// `None` if it has no rules and therefore no effect on the direction.
    ingress: Option<Vec<Ingress>>,
    egress: Option<Vec<Rule>>,
}

/// An ingress rule without its named ports resolved: those depend on the subject.
#[derive(Debug)]
struct Ingress {
    name: RuleName,
    action: Action,
    from: Vec<Who>,
    protocols: Vec<ProtocolMatch>,
}

impl Cnp {
    pub(super) fn new(texts: &mut Pool<str>, name: Text, stored: &StoredCluster) -> Self {
        let mut cnp = Self {
            name,
            tier: stored.rank.0,
            closed: stored.closed,
            staged: is_staged(stored.mode.as_deref()),
            ingress: None,
            egress: None,
        };
        let Some(spec) = stored.spec() else {
            cnp.close([true; 2]);
            return cnp;
        };
        let ingress = spec.ingress.into_iter().enumerate();
        let ingress: Vec<Ingress> = ingress
            .map(|(i, rule)| Ingress {
                name: RuleName::Index(PolicyType::Ingress, i, rule.name),
                action: closed_side(rule.action, rule.unread.is_some()),
                from: match matches_nothing(rule.action, rule.unread.is_some()) {
                    true => Vec::new(),
                    false => everyone(texts, &rule.from),
                },
                protocols: rule.protocols,
            })
            .collect();
        cnp.ingress = Some(ingress).filter(|rules| !rules.is_empty());
        let egress = spec.egress.into_iter().enumerate();
        let egress: Vec<Rule> = egress
            .map(|(i, rule)| Rule {
                name: RuleName::Index(PolicyType::Egress, i, rule.name),
                action: closed_side(rule.action, rule.unread.is_some()),
                grants: match matches_nothing(rule.action, rule.unread.is_some()) {
                    true => Vec::new(),
                    false => egress_grants(everyone(texts, &rule.to), &rule.protocols),
                },
            })
            .collect();
        cnp.egress = Some(egress).filter(|rules| !rules.is_empty());
        cnp
    }

    /// Returns the form of a policy that isn't in force for lack of room: it denies its pods
    /// everything in its tier, in the directions in which it has rules.
    pub(super) fn closed(name: Text, stored: &StoredCluster) -> Self {
        let mut cnp = Self {
            name,
            tier: stored.rank.0,
            closed: true,
            staged: is_staged(stored.mode.as_deref()),
            ingress: None,
            egress: None,
        };
        let spec = stored.spec();
        cnp.close(spec.map_or([true; 2], |spec| {
            [!spec.ingress.is_empty(), !spec.egress.is_empty()]
        }));
        cnp
    }

    /// Denies everything in these directions.
    fn close(&mut self, [ingress, egress]: [bool; 2]) {
        let deny_from = || Ingress {
            name: RuleName::Index(PolicyType::Ingress, 0, None),
            action: Action::Deny,
            from: vec![Who::Anyone],
            protocols: Vec::new(),
        };
        let deny_to = || Rule {
            name: RuleName::Index(PolicyType::Egress, 0, None),
            action: Action::Deny,
            grants: vec![(Who::Anyone, Ports::all())],
        };
        self.ingress = ingress.then(|| vec![deny_from()]);
        self.egress = egress.then(|| vec![deny_to()]);
    }

    /// Returns the policy as it applies to pods that it selects.
    pub(super) fn under(&self, pods: &PodTraits) -> Policy {
        let rule = |rule: &Ingress| Rule {
            name: rule.name.clone(),
            action: rule.action,
            grants: rule.grants(pods),
        };
        let ingress = self.ingress.as_ref();
        Policy {
            origin: Origin::ClusterNetworkPolicy {
                name: Arc::clone(&self.name),
                closed: self.closed,
            },
            staged: self.staged,
            rank: Rank::Tier(self.tier),
            ingress: ingress.map(|rules| rules.iter().map(rule).collect()),
            egress: self.egress.clone(),
        }
    }
}

/// Reports whether a rule accepts something that can't be parsed.
fn matches_nothing(action: Action, unread: bool) -> bool {
    unread && action == Action::Accept
}

/// Turns Pass into Deny for rules that can't be parsed: nothing may pass through them.
fn closed_side(action: Action, unread: bool) -> Action {
    match action {
        Action::Pass if unread => Action::Deny,
        action => action,
    }
}

/// Returns the peers of a rule. Closed forms and rules that can't be parsed list none and mean
/// everybody.
fn everyone(texts: &mut Pool<str>, peers: &[ClusterPeer]) -> Vec<Who> {
    if peers.is_empty() {
        return vec![Who::Anyone];
    }
    let bases = peers.iter().flat_map(|peer| bases(texts, peer));
    bases.map(Who::from).collect()
}

/// Returns the bases of a peer. Domain names match nothing: no version of this program resolves
/// them.
fn bases(texts: &mut Pool<str>, peer: &ClusterPeer) -> Vec<Base> {
    let mut selector = |s| Selector::new(texts, s);
    if let Some(namespaces) = &peer.namespaces {
        return vec![Base::pods_by(selector(namespaces), Selector::default())];
    }
    if let Some(NamespacedPods {
        namespace_selector,
        pod_selector,
    }) = &peer.pods
    {
        let namespaces = selector(namespace_selector);
        return vec![Base::pods_by(namespaces, selector(pod_selector))];
    }
    if let Some(nodes) = &peer.nodes {
        return vec![Base::Nodes(Arc::new(selector(nodes)))];
    }
    let networks = peer.networks.iter();
    networks.map(|cidr| Base::block(*cidr, &[])).collect()
}

impl Ingress {
    fn grants(&self, subject: &PodTraits) -> Vec<(Who, Ports)> {
        let mut granted = numbers(&self.protocols);
        for name in names(&self.protocols) {
            for protocol in Protocol::ALL {
                if let Some(number) = subject.named(name, protocol) {
                    granted.add(&Ports::one(protocol, number));
                }
            }
        }
        let who = self.from.iter().cloned();
        who.map(|w| (w, granted.clone())).collect()
    }
}

/// Returns the grants of an egress rule. A name means a different number on each destination, for
/// whichever protocol the destination declares it.
fn egress_grants(to: Vec<Who>, protocols: &[ProtocolMatch]) -> Vec<(Who, Ports)> {
    let granted = numbers(protocols);
    let mut by_name = Vec::new();
    for name in names(protocols) {
        for who in &to {
            let Who::Peer(peer) = who else { continue };
            let one = |protocol| named_grant(&peer.base, name, protocol);
            by_name.extend(Protocol::ALL.map(one));
        }
    }
    let grants = to.into_iter().map(|who| (who, granted.clone()));
    grants.chain(by_name).collect()
}

/// Returns what a list of protocols grants apart from names. No list means everything, including
/// ICMP.
fn numbers(protocols: &[ProtocolMatch]) -> Ports {
    if protocols.is_empty() {
        return Ports::all();
    }
    let mut granted = Ports::default();
    for entry in protocols {
        let of = [
            (Protocol::Tcp, &entry.tcp),
            (Protocol::Udp, &entry.udp),
            (Protocol::Sctp, &entry.sctp),
        ];
        for (protocol, ports) in of {
            if let Some(ports) = ports {
                granted.add(&matched(protocol, ports));
            }
        }
    }
    granted
}

fn matched(protocol: Protocol, ports: &PortMatch) -> Ports {
    let Some(port) = &ports.destination_port else {
        return Ports::whole(protocol);
    };
    match (port.number, &port.range) {
        (Some(number), _) => range(protocol, number, number),
        (None, Some(both)) => range(protocol, both.start, both.end),
        (None, None) => Ports::default(),
    }
}

fn names(protocols: &[ProtocolMatch]) -> impl Iterator<Item = &str> {
    let names = protocols.iter();
    names.filter_map(|p| p.destination_named_port.as_deref())
}
