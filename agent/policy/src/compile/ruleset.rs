//! The combined content of a pod's policies in one direction, before it is known which addresses
//! match which peer.

use std::collections::BTreeMap;

use ringfence_ebpf::abi::EndpointRules;
use serde::{Serialize, Serializer};

use crate::{
    model::{Action, PolicyType, Tier},
    ports::Ports,
};

use super::{
    peer::Peer,
    policy::{Policy, Rank, Rule, Who},
};

/// The content of a ruleset; equal contents share one id.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Content {
    /// From enforced policies; `None` if they don't close this direction.
    pub(crate) enforced: Option<TieredRules>,
    /// From enforced and staged policies together; `None` if none is staged here.
    pub(crate) staged: Option<TieredRules>,
}

/// Rules in the order of evaluation.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct TieredRules {
    /// The first matching step decides; `Pass` leaves the tier.
    pub(crate) admin: Vec<Step>,
    /// What is allowed next, with everything else denied; `None` if nothing isolates there.
    pub(crate) network: Option<Grants>,
    /// Like `admin`, used where nothing isolates; what no step matches is allowed.
    pub(crate) baseline: Vec<Step>,
}

/// One rule of a tier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Step {
    pub(crate) action: Action,
    pub(crate) what: Grants,
}

/// Ports by peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Grants {
    /// To any address.
    pub(crate) anyone: Ports,
    /// A peer with a named port has no ports here: it means the port that it names.
    #[serde(serialize_with = "as_pairs")]
    pub(crate) peers: BTreeMap<Peer, Ports>,
}

/// Serializes as pairs, since JSON allows text keys only.
fn as_pairs<S: Serializer>(peers: &BTreeMap<Peer, Ports>, s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(peers)
}

impl Grants {
    fn add(&mut self, who: &Who, ports: &Ports) {
        match who {
            Who::Peer(peer) if peer.named.is_some() || !ports.is_empty() => {
                self.peers.entry(peer.clone()).or_default().add(ports);
            }
            Who::Anyone => self.anyone.add(ports),
            Who::Peer(_) => {}
        }
    }

    fn extend(&mut self, rule: &Rule) {
        for (who, ports) in &rule.grants {
            self.add(who, ports);
        }
    }
}

impl TieredRules {
    /// Combines these policies; `None` if they don't close the direction.
    fn new<'p>(policies: impl Iterator<Item = &'p Policy>, direction: PolicyType) -> Option<Self> {
        let mut tiers = Self::default();
        let mut grants = Grants::default();
        let mut isolated = false;
        for policy in policies {
            let Some(rules) = policy.rules(direction) else {
                continue;
            };
            match policy.rank {
                Rank::Network { isolates } => {
                    isolated |= isolates;
                    rules.iter().for_each(|rule| grants.extend(rule));
                }
                Rank::Tier(tier) => {
                    let steps = match tier {
                        Tier::Admin => &mut tiers.admin,
                        Tier::Baseline => &mut tiers.baseline,
                    };
                    steps.extend(rules.iter().map(Step::new));
                }
            }
        }
        if isolated {
            tiers.network = Some(grants);
            tiers.baseline.clear();
        }
        let closes = isolated || !tiers.admin.is_empty() || !tiers.baseline.is_empty();
        closes.then_some(tiers)
    }
}

impl Step {
    fn new(rule: &Rule) -> Self {
        let mut what = Grants::default();
        what.extend(rule);
        Self {
            action: rule.action,
            what,
        }
    }
}

impl Content {
    fn new(policies: &[Policy], direction: PolicyType) -> Self {
        let has_say = |p: &&Policy| match p.rank {
            Rank::Network { isolates } => isolates && p.rules(direction).is_some(),
            Rank::Tier(_) => p.rules(direction).is_some(),
        };
        let staged = policies.iter().filter(|p| p.staged).any(|p| has_say(&p));
        let enforced = policies.iter().filter(|p| !p.staged);
        let all = TieredRules::new(policies.iter(), direction);
        Self {
            enforced: TieredRules::new(enforced, direction),
            staged: all.filter(|_| staged),
        }
    }
}

impl Content {
    /// Returns the content for packets that NetworkPolicies and labels don't apply to: these allow
    /// everything, and where they isolate, the Baseline tier isn't evaluated either.
    fn exempt(&self) -> Self {
        let open = |rules: &Option<TieredRules>| {
            let mut rules = rules.clone()?;
            if let Some(network) = &mut rules.network {
                *network = Grants {
                    anyone: Ports::all(),
                    ..Grants::default()
                };
            }
            Some(rules)
        };
        Self {
            enforced: open(&self.enforced),
            staged: open(&self.staged),
        }
    }
}

/// The rules that apply to a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct AppliedRules {
    /// `None` if nothing closes the direction, enforced or staged.
    pub(crate) ingress: Option<Content>,
    pub(crate) egress: Option<Content>,
    /// Bits of [`EndpointRules`] for isolation.
    pub(crate) flags: u32,
    /// The rules of ClusterNetworkPolicies alone for ingress and egress; `None` if there are none.
    pub(crate) tiers: [Option<Content>; 2],
}

impl AppliedRules {
    pub(crate) fn new(policies: &[Policy]) -> Self {
        let mut under = Self::default();
        let [ingress, egress] = [
            (
                PolicyType::Ingress,
                EndpointRules::INGRESS_ISOLATED,
                EndpointRules::INGRESS_STAGED,
            ),
            (
                PolicyType::Egress,
                EndpointRules::EGRESS_ISOLATED,
                EndpointRules::EGRESS_STAGED,
            ),
        ]
        .map(|(direction, isolated, staged)| {
            let content = Content::new(policies, direction);
            if content.enforced.is_some() {
                under.flags |= isolated;
            }
            if content.staged.is_some() {
                under.flags |= staged;
            }
            (content != Content::default()).then_some(content)
        });
        let say = [PolicyType::Ingress, PolicyType::Egress].map(|direction| {
            let mut tiers = policies.iter().filter(|p| matches!(p.rank, Rank::Tier(_)));
            tiers.any(|p| p.rules(direction).is_some())
        });
        let exempt = |content: &Option<Content>, say: bool| {
            let content = content.as_ref().filter(|_| say);
            content.map(Content::exempt)
        };
        under.tiers = [exempt(&ingress, say[0]), exempt(&egress, say[1])];
        Self {
            ingress,
            egress,
            ..under
        }
    }
}

/// Returns what tiered rules grant to one class of addresses; `hit` returns which ports of some
/// grants a packet to or from that class matches.
pub(super) fn resolve<G>(
    admin: &[(Action, G)],
    network: Option<&G>,
    baseline: &[(Action, G)],
    hit: impl Fn(&G) -> Ports,
) -> Ports {
    if let (true, Some(network)) = (admin.is_empty(), network) {
        return hit(network);
    }
    let (mut allowed, mut open) = tier(admin, &hit);
    if let Some(network) = network {
        allowed.add(&hit(network).both(&open));
        return allowed;
    }
    let rest = open.clone();
    let (accepted, passed) = tier(baseline, &hit);
    open = accepted;
    open.add(&passed);
    allowed.add(&open.both(&rest));
    allowed
}

/// Returns what a tier accepts, and what it leaves to the next.
fn tier<G>(steps: &[(Action, G)], hit: &impl Fn(&G) -> Ports) -> (Ports, Ports) {
    let (mut accepted, mut passed, mut open) = (Ports::default(), Ports::default(), Ports::all());
    for (action, grants) in steps {
        let matched = hit(grants).both(&open);
        open.subtract(&matched);
        match action {
            Action::Accept => accepted.add(&matched),
            Action::Pass => passed.add(&matched),
            Action::Deny => {}
        }
    }
    passed.add(&open);
    (accepted, passed)
}
