//! Policies as the index keeps them: as text, a tenth of the parsed form's size.
//!
//! Parsed again where a policy selects a pod in scope, and where one is shown.

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
    /// Whether it is the closed form of one that doesn't parse.
    pub(crate) closed: bool,
    /// How many entries it lists: peers, blocks, exceptions and ports.
    pub(crate) weight: u32,
    /// Whether it isolates its pods: ingress, egress.
    pub(crate) isolates: [bool; 2],
    pub(super) uid: Uid,
}

/// A ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredCluster {
    /// What the order of evaluation goes by; policies that tie go by name.
    pub(crate) rank: (Tier, i64),
    /// By the namespace's labels and the pod's.
    pub(crate) subjects: (Selector, Selector),
    spec: Box<str>,
    /// The value of the mode annotation.
    pub(crate) mode: Option<Text>,
    /// Whether it is the closed form of one that doesn't parse.
    pub(crate) closed: bool,
    /// How many entries it lists: peers, blocks and ports.
    pub(crate) weight: u32,
    pub(super) uid: Uid,
}

fn mode(config: &Config, pools: &mut Pools, meta: &Meta) -> Option<Text> {
    let mode = meta.annotations.get(&config.key("mode"))?;
    Some(pools.texts.get(mode.as_str()))
}

/// Types of specs serialize without fail: their maps have text keys.
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

    /// The spec, as a part of a manifest.
    pub(super) fn document(&self) -> serde_json::Value {
        parse(&self.spec).unwrap_or_default()
    }

    /// Bytes that are kept of its spec.
    pub(super) fn bytes(&self) -> usize {
        self.spec.len()
    }

    /// What is kept of a policy whose text has no room: whom it isolates, and a
    /// weight for which there is never room.
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

    /// The spec, as it was written.
    pub(crate) fn spec(&self) -> NetworkPolicySpec {
        // What was written from a spec reads as one; should it ever not, it is closed.
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

    /// The spec, as a part of a manifest.
    pub(super) fn document(&self) -> serde_json::Value {
        parse(&self.spec).unwrap_or_default()
    }

    /// The fields of peers by domain name, of which nobody is found here.
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

    /// The fields of rules that this version doesn't know, and what becomes of each rule.
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

    /// Whether it can be written as it was.
    pub(crate) fn is_read(&self) -> bool {
        self.unread().is_empty()
    }

    /// The spec, as it was written; `None` can't be, and would be closed.
    pub(crate) fn spec(&self) -> Option<ClusterNetworkPolicySpec> {
        parse(&self.spec)
    }
}
