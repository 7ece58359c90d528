//! Policies as the index stores them: as text, a tenth of the size of the parsed form.
//!
//! They are parsed again if they select a pod in scope, and when they are displayed.

use std::collections::BTreeSet;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    config::Config,
    intern::Text,
    model::{
        Action, ClusterNetworkPolicy, ClusterNetworkPolicySpec, LabelSelector, Meta, NetworkPolicy,
        NetworkPolicySpec, PolicyType, Tier,
    },
    selector::Selector,
};

use super::{kept::Uid, pods::Pools};

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredPolicy {
    pub(crate) subjects: Selector,
    spec: Box<str>,
    /// The value of the mode annotation.
    pub(crate) mode: Option<Text>,
    /// Whether this is the closed form of a policy that doesn't parse.
    pub(crate) closed: bool,
    /// Number of listed entries: peers, blocks, exceptions and ports.
    pub(crate) weight: u32,
    /// Whether it isolates its pods: ingress, egress.
    pub(crate) isolates: [bool; 2],
    pub(super) uid: Uid,
}

/// A ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredCluster {
    /// The order of evaluation; ties are resolved by name.
    pub(crate) rank: (Tier, i64),
    /// Selectors for the namespace's labels and the pod's.
    pub(crate) subjects: (Selector, Selector),
    spec: Box<str>,
    /// The value of the mode annotation.
    pub(crate) mode: Option<Text>,
    /// Whether this is the closed form of a policy that doesn't parse.
    pub(crate) closed: bool,
    /// Number of listed entries: peers, blocks and ports.
    pub(crate) weight: u32,
    pub(super) uid: Uid,
}

fn mode(config: &Config, pools: &mut Pools, meta: &Meta) -> Option<Text> {
    let mode = meta.annotations.get(&config.key("mode"))?;
    Some(pools.texts.get(mode.as_str()))
}

/// Serializes a spec. This can't fail: the maps in specs have text keys.
fn text<T: Serialize>(spec: &T) -> Box<str> {
    serde_json::to_string(spec).unwrap_or_default().into()
}

fn parse<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

impl StoredPolicy {
    pub(super) fn new(
        config: &Config,
        pools: &mut Pools,
        policy: &NetworkPolicy,
        closed: bool,
    ) -> Self {
        Self {
            subjects: Selector::new(&mut pools.texts, &policy.spec.pod_selector),
            spec: text(&policy.spec),
            mode: mode(config, pools, &policy.metadata),
            closed,
            weight: policy.spec.weight(),
            isolates: [PolicyType::Ingress, PolicyType::Egress].map(|d| policy.spec.isolates(d)),
            uid: Uid::of(&policy.metadata.uid),
        }
    }

    /// Returns the spec as a part of a manifest.
    pub(super) fn document(&self) -> serde_json::Value {
        parse(&self.spec).unwrap_or_default()
    }

    /// Returns the number of bytes stored for its spec.
    pub(super) fn bytes(&self) -> usize {
        self.spec.len()
    }

    /// Returns the form that is kept of a policy whose text has no room: its subjects and
    /// directions, and a weight that never fits.
    pub(super) fn without_rules(self, policy: &NetworkPolicy) -> Self {
        let types = [PolicyType::Ingress, PolicyType::Egress].into_iter();
        let types = types.zip(self.isolates).filter(|(_, isolates)| *isolates);
        let spec = NetworkPolicySpec {
            pod_selector: policy.spec.pod_selector.clone(),
            policy_types: types.map(|(direction, _)| direction).collect(),
            ..NetworkPolicySpec::default()
        };
        Self {
            spec: text(&spec),
            weight: u32::MAX,
            ..self
        }
    }

    /// Returns the original spec.
    pub(crate) fn spec(&self) -> NetworkPolicySpec {
        // The text was written from a spec, so it parses; if it ever doesn't, the policy is closed.
        parse(&self.spec).unwrap_or_else(|| NetworkPolicySpec {
            policy_types: vec![PolicyType::Ingress, PolicyType::Egress],
            ..NetworkPolicySpec::default()
        })
    }
}

impl StoredCluster {
    pub(super) fn new(
        config: &Config,
        pools: &mut Pools,
        policy: &ClusterNetworkPolicy,
        closed: bool,
    ) -> Self {
        let spec = &policy.spec;
        let everything = LabelSelector::default();
        let (namespaces, pods) = match (&spec.subject.namespaces, &spec.subject.pods) {
            (_, Some(both)) => (&both.namespace_selector, &both.pod_selector),
            (Some(namespaces), None) => (namespaces, &everything),
            (None, None) => (&everything, &everything),
        };
        let texts = &mut pools.texts;
        let subjects = (Selector::new(texts, namespaces), Selector::new(texts, pods));
        Self {
            rank: (spec.tier, spec.priority),
            subjects,
            spec: text(spec),
            mode: mode(config, pools, &policy.metadata),
            closed,
            weight: spec.weight(),
            uid: Uid::of(&policy.metadata.uid),
        }
    }

    /// Returns the spec as a part of a manifest.
    pub(super) fn document(&self) -> serde_json::Value {
        parse(&self.spec).unwrap_or_default()
    }

    /// Returns the fields of peers by domain name, which match nothing.
    pub(crate) fn domain_names(&self) -> Vec<String> {
        let spec = self.spec().unwrap_or_default();
        let rules = spec.egress.iter().enumerate();
        let peers = rules.flat_map(|(i, rule)| {
            let peers = rule.to.iter().enumerate();
            peers.map(move |(j, peer)| (i, j, peer))
        });
        let named = peers.filter(|(.., peer)| !peer.domain_names.is_empty());
        named
            .map(|(i, j, _)| format!("spec.egress[{i}].to[{j}].domainNames"))
            .collect()
    }

    /// Returns the fields of rules that this version doesn't know, and the effect on each rule.
    pub(crate) fn unread(&self) -> BTreeSet<(String, &'static str)> {
        let spec = self.spec().unwrap_or_default();
        let ingress = spec.ingress.into_iter();
        let ingress = ingress.map(|rule| (rule.unread, rule.action, rule.from.is_empty()));
        let egress = spec.egress.into_iter();
        let egress = egress.map(|rule| (rule.unread, rule.action, rule.to.is_empty()));
        let unread = ingress.chain(egress).filter_map(|(field, action, whole)| {
            let becomes = match (action, whole) {
                (Action::Accept, _) => "the rule matches nothing",
                (_, true) => "the rule denies everything",
                (_, false) => "the rule is about every pod, and passes nothing on",
            };
            Some((field?, becomes))
        });
        unread.collect()
    }

    /// Reports whether it can be reproduced as it was written.
    pub(crate) fn is_read(&self) -> bool {
        self.unread().is_empty()
    }

    /// Returns the original spec; `None` if it doesn't parse and has to be closed.
    pub(crate) fn spec(&self) -> Option<ClusterNetworkPolicySpec> {
        parse(&self.spec)
    }
}
