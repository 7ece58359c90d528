//! Which label allowlists are in force, and their weights.
//!
//! The labels that pods carry are charged to the pods' namespace, wherever they grant something: in
//! the carriers' own egress, and in the ingress of the pods they call. If a namespace's share has
//! no room for them they grant nothing, and no other namespace loses anything.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    index::{Index, held::Unit, pods::PodTraits},
    intern::Text,
    labels::Target,
};

use super::{
    Capacity, allowlist,
    ids::IdKey,
    peer::Base,
    policy::{Facts, Policy, Who},
};

/// How many peers of labels weigh as much as one entry of a policy. Labels add rules, of which
/// there may be at least this many per entry, and no prefixes.
const PEERS: u32 = 4;

const _: () = assert!(Capacity::MAPS.entries * PEERS <= Capacity::MAPS.rules);

/// What labels ask for: the weight for each namespace and each unit that is admitted as one.
pub(super) type Asked = BTreeMap<(Text, Unit), u32>;

/// Returns the label allowlists of a group, without those that have no room.
pub(super) fn in_force(facts: &Facts<'_>, group: &PodTraits) -> Vec<Policy> {
    let mut policies = allowlist::of(facts, group);
    if policies.is_empty() {
        return policies;
    }
    facts.ask_for_room(&group.namespace, &group.service);
    if facts.index.held.labels().next().is_none() {
        return policies;
    }
    let calls = facts.has_room(&group.namespace, &calls(group));
    let callers = callers(group);
    let admits = |who: &Who| {
        let mut sayers = said_by(facts.index, who).into_iter().peekable();
        sayers.peek().is_none() || sayers.any(|space| facts.has_room(space, &callers))
    };
    for policy in &mut policies {
        if !calls {
            policy.egress.iter_mut().for_each(Vec::clear);
        }
        for rule in policy.ingress.iter_mut().flatten() {
            rule.grants.retain(|(who, _)| admits(who));
        }
    }
    policies
}

/// Returns what the label allowlists of a group ask for, whether there is room for it or not: one
/// entry for every [`PEERS`] peers that they name.
pub(super) fn weigh(index: &Index, group: &PodTraits) -> Asked {
    let mut asked = Asked::new();
    let mut add = |space: &Text, unit: Unit, weight: usize| {
        if weight > 0 {
            let sum = asked.entry((Arc::clone(space), unit)).or_default();
            *sum = u32::try_from(weight).map_or(u32::MAX, |weight| sum.saturating_add(weight));
        }
    };
    for policy in allowlist::of(&Facts::new(index), group) {
        let egress = policy.egress.iter().flatten();
        let weight = egress.map(|rule| rule.grants.len()).sum();
        add(&group.namespace, calls(group), weight);
        let ingress = policy.ingress.iter().flatten();
        for (who, _) in ingress.flat_map(|rule| &rule.grants) {
            for space in said_by(index, who) {
                add(space, callers(group), 1);
            }
        }
    }
    for weight in asked.values_mut() {
        *weight = weight.div_ceil(PEERS);
    }
    asked
}

/// Returns a value that is equal for groups of one workload with equal allowlists: those are
/// compiled once.
pub(super) fn signature(index: &Index, key: IdKey, group: &PodTraits) -> u64 {
    let config = &index.config;
    let modes = [config.key("ingress"), config.key("egress")];
    let counts = |label: &str| {
        let is_mode = modes.iter().any(|mode| mode == label);
        let callers = label.strip_prefix(&config.callers_prefix);
        is_mode || callers.is_some() || Target::parse(config, label).is_some()
    };
    let labels = group.labels.iter().filter(|(label, _)| counts(label));
    let labels: Vec<(&str, &str)> = labels.map(|(k, v)| (&**k, &**v)).collect();
    let ports = group.ports.iter();
    let ports = ports.map(|p| (p.name.as_deref(), p.number, p.protocol.iana()));
    key.of(&(labels, group.kind.as_deref(), ports.collect::<Vec<_>>()))
}

/// Returns the namespaces whose pods' labels name a peer; none if it isn't named by callers'
/// labels.
pub(super) fn said_by<'i>(index: &'i Index, who: &'i Who) -> Vec<&'i Text> {
    match who {
        Who::Peer(peer) => carriers(index, &peer.base),
        Who::Anyone => Vec::new(),
    }
}

/// Returns the namespaces whose pods carry the label that a peer is named by.
pub(super) fn carriers<'i>(index: &'i Index, base: &'i Base) -> Vec<&'i Text> {
    match base {
        Base::Label {
            namespace: Some(namespace),
            ..
        } => vec![namespace],
        Base::Label { key, value, .. } => index.spaces.carriers(key, value).collect(),
        _ => Vec::new(),
    }
}

fn calls(group: &PodTraits) -> Unit {
    Unit::Calls(Arc::clone(&group.service))
}

fn callers(group: &PodTraits) -> Unit {
    Unit::Callers(Arc::clone(&group.namespace), Arc::clone(&group.service))
}
