//! One form for all that restricts a pod.

use std::{borrow::Cow, cell::RefCell, collections::BTreeSet, fmt, sync::Arc};

use crate::{
    config::Config,
    index::{
        Index, Key,
        groups::GroupId,
        held::{Form, Unit},
        journal::Fact,
        pods::Shape,
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
    /// Only counted, not enforced.
    pub(crate) staged: bool,
    pub(crate) place: Place,
    /// Rules of the directions that it has a say in.
    pub(crate) ingress: Option<Vec<Rule>>,
    pub(crate) egress: Option<Vec<Rule>>,
}

/// Where in the order of evaluation a policy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Among the ordered rules above or below the others.
    Tier(Tier),
    /// Among those whose union counts. Some don't close their directions, and
    /// only add to what others allow there.
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
    /// The mode label of a direction, and whose it is.
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

/// What people call a policy.
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

/// What one rule says of whom, and what it is called.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) name: RuleName,
    pub(crate) action: Action,
    /// A named port needs no ports here: its peer says which.
    pub(crate) grants: Vec<(Who, Ports)>,
}

/// Where in its policy a rule is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RuleName {
    /// `spec.ingress[n]` or `spec.egress[n]`, and the name it may have.
    Index(PolicyType, usize, Option<String>),
    /// A label of the caller: key and value.
    Caller(String, String),
    /// A label of the callee or its Namespace.
    Callee(String),
    /// The way to cluster DNS.
    Dns,
    /// A label of the callee, and the Service through which other nodes send it calls
    /// from outside.
    Door(String, String),
}

/// Whom a grant is for.
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
    /// The rules of a direction that it has a say in.
    pub(crate) fn rules(&self, direction: PolicyType) -> Option<&[Rule]> {
        match direction {
            PolicyType::Ingress => self.ingress.as_deref(),
            PolicyType::Egress => self.egress.as_deref(),
        }
    }
}

/// What policies are worked out from. Remembers which facts about other pods
/// were asked for: when one of them changes, so may the policies.
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

    /// Every fact that was asked for.
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

    /// Values of an egress label in use in some namespaces (`None`: any), and in
    /// which of them. What others write there concerns nobody.
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

    /// Whether there is room for labels about a workload, which a namespace's pods carry.
    pub(super) fn has_room(&self, space: &str, unit: &Unit) -> bool {
        !self.index.held.holds_labels(space, unit)
    }

    /// Labels about a workload grant something else once they have room.
    pub(super) fn ask_for_room(&self, namespace: &str, service: &str) {
        self.ask(Fact::Room(namespace.into(), service.into()));
    }

    /// The Services through which other nodes send calls from outside on to pods.
    pub(super) fn doors<'n>(
        &self,
        namespace: &'n str,
    ) -> impl Iterator<Item = &'a Service> + use<'a, 'n> {
        self.ask(Fact::Doors(namespace.into()));
        self.index.doors(namespace)
    }

    /// The way to cluster DNS.
    pub(super) fn dns(&self) -> &'a [(Who, Ports)] {
        self.ask(Fact::Dns);
        self.index
            .way_to_dns
            .get_or_init(|| dns::grants(self.index))
    }
}

/// Policies that select somebody in scope, parsed once.
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

    /// Every policy that applies to a group: Admin tier in order, those whose
    /// union counts, Baseline tier in order.
    pub(crate) fn of(&mut self, facts: &Facts<'_>, group: GroupId) -> Vec<Policy> {
        let pods = facts.index.groups.shape(group);
        let mut all = self.network(facts, pods);
        all.extend(labelled::in_force(facts, pods));
        let mut tiers = self.clusters(facts, pods);
        let admin = tiers.partition_point(|p| p.place == Place::Tier(Tier::Admin));
        let baseline = tiers.split_off(admin);
        tiers.into_iter().chain(all).chain(baseline).collect()
    }

    fn network(&mut self, facts: &Facts<'_>, pods: &Shape) -> Vec<Policy> {
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

    fn clusters(&mut self, facts: &Facts<'_>, pods: &Shape) -> Vec<Policy> {
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

/// Whether a ClusterNetworkPolicy's subject selects pods.
pub(super) fn selects(
    (namespaces, labels): &(Selector, Selector),
    namespace: &Labels,
    pods: &Shape,
) -> bool {
    namespaces.matches(namespace) && labels.matches(&pods.labels)
}

/// A grant of a port by name to those of `base` who declare it.
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
    /// How people find it.
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
