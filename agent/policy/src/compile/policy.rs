//! One form for all that restricts a pod.

use std::{borrow::Cow, collections::BTreeSet};

use crate::{
    labels::Decider,
    model::{PolicyType, Protocol},
    ports::Ports,
    view::View,
};

use super::{
    allowlist,
    netpol::{self, Prepared},
    peer::{Base, Named, Peer},
};

/// A policy as it applies to one group of pods.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) origin: Origin,
    /// Only counted, not enforced.
    pub(crate) staged: bool,
    /// Whether it closes its directions, or only adds to what other policies allow there.
    pub(crate) isolates: bool,
    /// Rules of the directions that it has a say in.
    pub(crate) ingress: Option<Vec<Rule>>,
    pub(crate) egress: Option<Vec<Rule>>,
}

/// Where a policy is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    NetworkPolicy {
        namespace: String,
        name: String,
        /// The closed form of a policy that doesn't parse.
        closed: bool,
    },
    /// The mode label of a direction, and whose it is.
    Label { key: String, on_namespace: bool },
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

/// What one rule grants, and what it is called.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) name: RuleName,
    pub(crate) grants: Vec<(Who, Ports)>,
}

/// Where in its policy a rule is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RuleName {
    /// `spec.ingress[n]` or `spec.egress[n]`.
    Index(PolicyType, usize),
    /// A label of the caller: key and value.
    Caller(String, String),
    /// A label of the callee or its Namespace.
    Callee(String),
    /// The way to cluster DNS.
    Dns,
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

/// NetworkPolicies, as far as they can be worked out once for all pods.
pub(crate) type Netpols<'a> = Prepared<'a>;

/// Works out all NetworkPolicies.
pub(crate) fn netpols<'a>(view: &View<'a>) -> Netpols<'a> {
    netpol::prepare(view)
}

/// Every policy that applies to a group.
pub(crate) fn of(view: &View<'_>, netpols: &Netpols<'_>, group: usize) -> Vec<Policy> {
    let group = &view.groups[group];
    let mut all = netpol::of(view, netpols, group);
    all.extend(allowlist::of(view, group));
    all
}

/// Grants of a port by name to those of `base` who declare it: one for each
/// number that the name stands for among them.
pub(super) fn named_grants(
    view: &View<'_>,
    base: &Base,
    name: &str,
    protocol: Protocol,
) -> Vec<(Who, Ports)> {
    let by_address = matches!(base, Base::Block(_));
    let groups = view
        .groups
        .iter()
        .filter(|g| by_address || base.names(view, g));
    let numbers: BTreeSet<u16> = groups.filter_map(|g| g.named(name, protocol)).collect();
    let grant = |number| {
        let named = Named {
            name: name.to_owned(),
            protocol,
            number,
        };
        let peer = Peer {
            base: base.clone(),
            named: Some(named),
        };
        (Who::Peer(peer), Ports::one(protocol, number))
    };
    numbers.into_iter().map(grant).collect()
}

impl RuleName {
    /// How people find it.
    pub(crate) fn text(&self) -> Cow<'static, str> {
        match self {
            Self::Index(PolicyType::Ingress, i) => format!("spec.ingress[{i}]").into(),
            Self::Index(PolicyType::Egress, i) => format!("spec.egress[{i}]").into(),
            Self::Caller(key, value) => format!("the caller's label {key}: {value:?}").into(),
            Self::Callee(key) => format!("the label {key}: \"true\"").into(),
            Self::Dns => "cluster DNS".into(),
        }
    }
}
