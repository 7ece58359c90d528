//! One form for everything that restricts a pod.

use std::{borrow::Cow, cell::RefCell, collections::BTreeSet, fmt, sync::Arc};

use crate::{
    config::Config,
    index::{
        Index, Key,
        groups::GroupId,
        held::{Form, Unit},
        journal::Fact,
        pods::PodTraits,
    },
    intern::{HashMap, Pool, Text},
    labels::Decider,
    model::{Action, PolicyType, Protocol, Service, Tier},
    ports::Ports,
    selector::{Labels, Selector},
};

use super::{
    cluster::Cnp,
    dns, labelled,
    netpol::NetPol,
    peer::{Base, Named, Peer},
};

/// A policy as it applies to one group of pods.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) origin: Origin,
    /// Audited only, not enforced.
    pub(crate) staged: bool,
    pub(crate) rank: Rank,
    /// Rules of the directions that it applies to.
    pub(crate) ingress: Option<Vec<Rule>>,
    pub(crate) egress: Option<Vec<Rule>>,
}

/// The position of a policy in the order of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// Among the ordered rules above or below the `Network` ones.
    Tier(Tier),
    /// Among the policies that are combined as a union. Some don't close their directions, and only
    /// add to what others allow there.
    Network { isolates: bool },
}

/// Where a policy is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    NetworkPolicy {
        namespace: Text,
        name: Text,
        /// The closed form of a policy that doesn't parse.
        closed: bool,
    },
    ClusterNetworkPolicy {
        name: Text,
        closed: bool,
    },
    /// The mode label of a direction, and the object that carries it.
    Label {
        key: String,
        on_namespace: bool,
    },
    /// The egress labels of a pod whose mode doesn't enforce them.
    EgressLabels,
}

impl Origin {
    pub(super) fn label(key: String, decider: Decider) -> Self {
        Self::Label {
            key,
            on_namespace: decider == Decider::Namespace,
        }
    }
}

/// Formats the policy's name for people.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkPolicy {
                namespace, name, ..
            } => write!(f, "NetworkPolicy {namespace}/{name}"),
            Self::ClusterNetworkPolicy { name, .. } => write!(f, "ClusterNetworkPolicy {name}"),
            Self::Label {
                key,
                on_namespace: true,
            } => write!(f, "label {key} of the Namespace"),
            Self::Label { key, .. } => write!(f, "label {key}"),
            Self::EgressLabels => f.write_str("the caller's egress labels"),
        }
    }
}

/// A rule: its name, its action and the peers and ports it applies to.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) name: RuleName,
    pub(crate) action: Action,
    /// A grant by named port has no ports here: its peer defines the port.
    pub(crate) grants: Vec<(Who, Ports)>,
}

/// The position of a rule in its policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RuleName {
    /// `spec.ingress[n]` or `spec.egress[n]`, and its optional name.
    Index(PolicyType, usize, Option<String>),
    /// A label of the caller: key and value.
    Caller(String, String),
    /// A label of the callee or its Namespace.
    Callee(String),
    /// The way to cluster DNS.
    Dns,
    /// A label of the callee, and the Service through which other nodes forward calls from outside
    /// to it.
    Door(String, String),
}

/// The peer that a grant applies to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// Any address.
    Anyone,
    Peer(Peer),
}

impl From<Base> for Who {
    fn from(base: Base) -> Self {
        Self::Peer(base.into())
    }
}

impl Policy {
    /// Returns the rules of a direction, if the policy applies to it.
    pub(crate) fn rules(&self, direction: PolicyType) -> Option<&[Rule]> {
        match direction {
            PolicyType::Ingress => self.ingress.as_deref(),
            PolicyType::Egress => self.egress.as_deref(),
        }
    }
}

/// The input of policies. Records which facts about other pods were looked up: when one of them
/// changes, the policies may change too.
pub(crate) struct Facts<'a> {
    pub(crate) index: &'a Index,
    asked: RefCell<BTreeSet<Fact>>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(index: &'a Index) -> Self {
        Self {
            index,
            asked: RefCell::default(),
        }
    }

    /// Returns every fact that was looked up.
    pub(crate) fn asked(self) -> BTreeSet<Fact> {
        self.asked.into_inner()
    }

    fn ask(&self, fact: Fact) {
        self.asked.borrow_mut().insert(fact);
    }

    pub(super) fn config(&self) -> &'a Config {
        &self.index.config
    }

    pub(super) fn namespace(&self, name: &str) -> Labels {
        self.ask(Fact::Namespace(name.into()));
        self.index.namespace(name)
    }

    pub(super) fn declared(&self, namespace: &str, service: &str) -> Ports {
        self.ask(Fact::Declared(namespace.into(), service.into()));
        self.index.spaces.declared(namespace, service)
    }

    pub(super) fn services_of(
        &self,
        namespace: &str,
        kind: &str,
    ) -> impl Iterator<Item = &'a Text> {
        self.ask(Fact::Type(namespace.into(), kind.into()));
        self.index.spaces.services_of(namespace, kind)
    }

    /// Returns the values of an egress label in use in some namespaces (`None`: any), and in which
    /// of them. Values in other namespaces have no effect.
    pub(super) fn egress_values<'n>(
        &self,
        key: &str,
        namespaces: &[Option<&'n str>],
    ) -> Vec<(&'a Text, Vec<Option<&'n str>>)> {
        for namespace in namespaces {
            self.ask(Fact::Values(key.into(), namespace.map(Into::into)));
        }
        let values = self.index.spaces.egress_values(key);
        let found = values.map(|(value, used)| {
            let used: Vec<&Text> = used.collect();
            let here = |n: &&Option<&str>| n.is_none_or(|n| used.iter().any(|u| ***u == *n));
            (value, namespaces.iter().filter(here).copied().collect())
        });
        found
            .filter(|(_, here): &(_, Vec<_>)| !here.is_empty())
            .collect()
    }

    /// Reports whether there is room for the labels about a workload that a namespace's pods carry.
    pub(super) fn has_room(&self, space: &str, unit: &Unit) -> bool {
        !self.index.held.holds_labels(space, unit)
    }

    /// Records a dependency on room for labels about a workload: they grant more once they have
    /// room.
    pub(super) fn ask_for_room(&self, namespace: &str, service: &str) {
        self.ask(Fact::Room(namespace.into(), service.into()));
    }

    /// Returns the Services through which other nodes forward calls from outside to pods.
    pub(super) fn doors<'n>(
        &self,
        namespace: &'n str,
    ) -> impl Iterator<Item = &'a Service> + use<'a, 'n> {
        self.ask(Fact::Doors(namespace.into()));
        self.index.doors(namespace)
    }

    /// Returns the way to cluster DNS.
    pub(super) fn dns(&self) -> &'a [(Who, Ports)] {
        self.ask(Fact::Dns);
        self.index
            .way_to_dns
            .get_or_init(|| dns::grants(self.index))
    }
}

/// The policies that select pods in scope, each parsed once.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    texts: Pool<str>,
    netpols: HashMap<Key, Arc<NetPol>>,
    clusters: HashMap<Text, Arc<Cnp>>,
}

impl Parsed {
    /// Forgets a NetworkPolicy that has changed.
    pub(super) fn forget(&mut self, policy: &Key) {
        self.netpols.remove(policy);
    }

    /// Forgets a ClusterNetworkPolicy that has changed.
    pub(super) fn forget_cluster(&mut self, policy: &Text) {
        self.clusters.remove(policy);
    }

    /// Returns every policy that applies to a group: Admin tier in order, the union of network
    /// policies, Baseline tier in order.
    pub(crate) fn of(&mut self, facts: &Facts<'_>, group: GroupId) -> Vec<Policy> {
        let pods = facts.index.groups.traits(group);
        let mut all = self.network(facts, pods);
        all.extend(labelled::in_force(facts, pods));
        let mut tiers = self.clusters(facts, pods);
        let admin = tiers.partition_point(|p| p.rank == Rank::Tier(Tier::Admin));
        let baseline = tiers.split_off(admin);
        tiers.into_iter().chain(all).chain(baseline).collect()
    }

    fn network(&mut self, facts: &Facts<'_>, pods: &PodTraits) -> Vec<Policy> {
        let here = facts.index.policies.get_key_value(&pods.namespace);
        let Some((namespace, here)) = here else {
            return Vec::new();
        };
        let labels = &pods.labels;
        let forms = here.iter().filter_map(|(name, newest)| {
            let form = facts.index.form((&**namespace, &**name), newest, labels)?;
            Some(((Arc::clone(namespace), Arc::clone(name)), form))
        });
        let mut policies = Vec::new();
        for (key, form) in forms {
            let stored = match form {
                Form::Newest(stored) | Form::Last(stored) => stored,
                Form::Closed(newest) => {
                    policies.push(NetPol::closed(key, newest).under(pods));
                    continue;
                }
            };
            let texts = &mut self.texts;
            let parsed = self.netpols.entry(key.clone());
            let parsed = parsed.or_insert_with(|| Arc::new(NetPol::new(texts, key, stored)));
            policies.push(parsed.under(pods));
        }
        policies
    }

    fn clusters(&mut self, facts: &Facts<'_>, pods: &PodTraits) -> Vec<Policy> {
        let all = &facts.index.cluster_policies;
        if all.is_empty() {
            return Vec::new();
        }
        let namespace = facts.namespace(&pods.namespace);
        let selects = |s: &(_, _)| selects(s, &namespace, pods);
        let selecting = all.iter().filter(|(_, p)| selects(&p.subjects));
        let mut ordered: Vec<_> = selecting.map(|(name, p)| (p.rank, name, p)).collect();
        ordered.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        let mut policies = Vec::new();
        for (_, name, stored) in ordered {
            let texts = &mut self.texts;
            let parsed = self.clusters.entry(Arc::clone(name));
            let parsed = parsed.or_insert_with(|| {
                let name = Arc::clone(name);
                Arc::new(match facts.index.held.holds_cluster(&name) {
                    true => Cnp::closed(name, stored),
                    false => Cnp::new(texts, name, stored),
                })
            });
            policies.push(parsed.under(pods));
        }
        policies
    }
}

/// Reports whether a ClusterNetworkPolicy's subject selects pods.
pub(super) fn selects(
    (namespaces, labels): &(Selector, Selector),
    namespace: &Labels,
    pods: &PodTraits,
) -> bool {
    namespaces.matches(namespace) && labels.matches(&pods.labels)
}

/// Returns a grant of a named port to those pods of `base` that declare it.
pub(super) fn named_grant(base: &Base, name: &str, protocol: Protocol) -> (Who, Ports) {
    let named = Named {
        name: name.into(),
        protocol,
    };
    let peer = Peer {
        base: base.clone(),
        named: Some(named),
    };
    (Who::Peer(peer), Ports::default())
}

impl RuleName {
    /// Returns the text by which people find the rule.
    pub(crate) fn text(&self) -> Cow<'static, str> {
        match self {
            Self::Index(direction, i, name) => {
                let list = match direction {
                    PolicyType::Ingress => "ingress",
                    PolicyType::Egress => "egress",
                };
                match name {
                    Some(name) => format!("spec.{list}[{i}] ({name})").into(),
                    None => format!("spec.{list}[{i}]").into(),
                }
            }
            Self::Caller(key, value) => format!("the caller's label {key}: {value:?}").into(),
            Self::Callee(key) => format!("the label {key}: \"true\"").into(),
            Self::Dns => "cluster DNS".into(),
            Self::Door(key, service) => {
                format!("the label {key}: \"true\", behind Service {service} at other nodes").into()
            }
        }
    }
}
