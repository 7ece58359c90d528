//! The pods in scope and the rules that apply to them.

use std::{collections::BTreeSet, sync::Arc};

use ringfence_ebpf::abi::{EndpointRules, Tiers};

use crate::{
    index::{
        Index, Key, PodKey, Scope,
        groups::{GroupId, PodId},
        journal::Fact,
    },
    intern::{HashMap, HashSet, Text},
    labels,
    tables::EndpointPolicy,
};

use super::{
    charges::Owners,
    is_local,
    peers::Peers,
    policy::{self, Facts, Origin, Parsed, Policy},
    ruleset::AppliedRules,
    rulesets::{RulesetSlot, Rulesets},
    writer::Writer,
};

/// A group with pods in scope.
#[derive(Debug, Default)]
struct Local {
    pods: u32,
    ingress: Option<RulesetSlot>,
    egress: Option<RulesetSlot>,
    /// The rulesets of both directions for packets that are exempt from NetworkPolicies.
    tiers: [Option<RulesetSlot>; 2],
    /// Bits of [`EndpointRules`].
    flags: u32,
    /// The facts that its policies depend on.
    facts: BTreeSet<Fact>,
    /// Names of the policies that select it: of its namespace, and of the cluster.
    netpols: BTreeSet<Text>,
    clusters: BTreeSet<Text>,
}

impl Local {
    /// Returns every ruleset that it uses, once per use.
    fn slots(&self) -> impl Iterator<Item = RulesetSlot> + use<> {
        let [a, b] = self.tiers;
        [self.ingress, self.egress, a, b].into_iter().flatten()
    }
}

/// The pods in scope.
#[derive(Debug, Default)]
pub(super) struct Locals {
    groups: HashMap<GroupId, Local>,
    /// Groups by the facts that they depend on.
    asking: HashMap<Fact, HashSet<GroupId>>,
    endpoints: HashMap<PodId, (PodKey, GroupId)>,
    parsed: Parsed,
    /// Groups whose last pod in scope is gone.
    emptied: HashSet<GroupId>,
}

impl Locals {
    /// Returns the groups that depend on a fact.
    pub(super) fn asking(&self, fact: &Fact) -> impl Iterator<Item = GroupId> + '_ {
        self.asking.get(fact).into_iter().flatten().copied()
    }

    /// Returns the groups with pods in scope.
    pub(super) fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied()
    }

    /// Returns the namespaces of the pods under each ruleset.
    pub(super) fn owners(&self, index: &Index) -> Owners {
        let mut owners = Owners::new();
        for (group, local) in &self.groups {
            let space = &index.groups.traits(*group).namespace;
            for slot in [local.ingress, local.egress].into_iter().flatten() {
                owners.note(slot, space);
            }
        }
        owners
    }

    /// Adds pods that are in scope now and removes those that aren't; returns the groups that are
    /// new in scope.
    pub(super) fn register(
        &mut self,
        scope: &Scope,
        index: &Index,
        pods: &HashSet<PodId>,
        writer: &mut Writer,
    ) -> HashSet<GroupId> {
        for id in pods {
            if let Some((key, group)) = self.endpoints.remove(id) {
                writer.endpoint(key, None);
                if let Some(local) = self.groups.get_mut(&group) {
                    local.pods -= 1;
                    if local.pods == 0 {
                        self.emptied.insert(group);
                    }
                }
            }
        }
        let mut new = HashSet::default();
        for id in pods {
            let Some(pod) = index.entry(*id) else {
                continue;
            };
            if !is_local(scope, pod) {
                continue;
            }
            let Some(group) = index.group_of(*id) else {
                continue;
            };
            self.endpoints.insert(*id, (pod.key(), group));
            let local = self.groups.entry(group).or_insert_with(|| {
                new.insert(group);
                Local::default()
            });
            local.pods += 1;
            self.emptied.remove(&group);
        }
        new
    }

    /// Returns the groups in scope that a changed policy selects or used to select.
    pub(super) fn under_policies(
        &mut self,
        index: &Index,
        netpols: &HashSet<Key>,
        clusters: &HashSet<Text>,
    ) -> HashSet<GroupId> {
        let mut stale = HashSet::default();
        for key in netpols {
            self.parsed.forget(key);
            let now = index.policy(&key.0, &key.1);
            for (group, local) in &self.groups {
                let traits = index.groups.traits(*group);
                let name = (&*key.0, &*key.1);
                let selects = now.is_some_and(|p| index.form(name, p, &traits.labels).is_some());
                if traits.namespace == key.0 && (selects || local.netpols.contains(&key.1)) {
                    stale.insert(*group);
                }
            }
        }
        for name in clusters {
            self.parsed.forget_cluster(name);
            let now = index.cluster_policies.get(name);
            for (group, local) in &self.groups {
                let traits = index.groups.traits(*group);
                let namespace = index.namespace(&traits.namespace);
                let selects = now.is_some_and(|p| policy::selects(&p.subjects, &namespace, traits));
                if selects || local.clusters.contains(name) {
                    stale.insert(*group);
                }
            }
        }
        stale
    }

    /// Computes the rules of a group and releases the rulesets that it used so far. Does nothing
    /// for groups without pods in scope.
    pub(super) fn work_out(
        &mut self,
        index: &Index,
        group: GroupId,
        rulesets: &mut Rulesets,
        peers: &mut Peers,
    ) {
        if self.emptied.contains(&group) || !self.groups.contains_key(&group) {
            return;
        }
        let facts = Facts::new(index);
        let policies = self.parsed.of(&facts, group);
        let under = AppliedRules::new(&policies);
        let mut acquire = |content| rulesets.acquire(content, peers);
        let new = Local {
            pods: 0,
            ingress: under.ingress.map(&mut acquire),
            egress: under.egress.map(&mut acquire),
            tiers: under.tiers.map(|content| content.map(&mut acquire)),
            flags: under.flags,
            netpols: selecting(&policies, |origin| match origin {
                Origin::NetworkPolicy { name, .. } => Some(name),
                _ => None,
            }),
            clusters: selecting(&policies, |origin| match origin {
                Origin::ClusterNetworkPolicy { name, .. } => Some(name),
                _ => None,
            }),
            facts: facts.asked(),
        };
        self.replace(group, new, rulesets);
    }

    fn replace(&mut self, group: GroupId, new: Local, rulesets: &mut Rulesets) {
        for fact in &new.facts {
            self.asking.entry(fact.clone()).or_default().insert(group);
        }
        let Some(local) = self.groups.get_mut(&group) else {
            return;
        };
        let pods = local.pods;
        let old = std::mem::replace(local, Local { pods, ..new });
        let kept = &local.facts;
        for fact in old.facts.difference(kept) {
            release_fact(&mut self.asking, fact, group);
        }
        for slot in old.slots() {
            rulesets.release(slot);
        }
    }

    /// Drops groups that have no pods left in scope.
    pub(super) fn forget_emptied(&mut self, rulesets: &mut Rulesets) {
        for group in std::mem::take(&mut self.emptied) {
            let Some(local) = self.groups.remove(&group) else {
                continue;
            };
            for fact in &local.facts {
                release_fact(&mut self.asking, fact, group);
            }
            for slot in local.slots() {
                rulesets.release(slot);
            }
        }
    }

    /// Writes the endpoints of the pods in scope among these.
    pub(super) fn write(
        &self,
        index: &Index,
        rulesets: &Rulesets,
        pods: &HashSet<PodId>,
        writer: &mut Writer,
    ) {
        let quarantine = index.config.key("quarantine");
        for id in pods {
            let Some((key, group)) = self.endpoints.get(id) else {
                continue;
            };
            let Some(local) = self.groups.get(group) else {
                continue;
            };
            let traits = index.groups.traits(*group);
            let ruleset = |slot: Option<RulesetSlot>| slot.map_or(0, |slot| rulesets.id(slot));
            let cut_off = match labels::is_true(&traits.labels, &quarantine) {
                true => EndpointRules::QUARANTINE,
                false => 0,
            };
            let policy = EndpointPolicy {
                workload: traits.workload(),
                addresses: index.addresses_of(*id),
                ingress: ruleset(local.ingress),
                egress: ruleset(local.egress),
                flags: local.flags | cut_off,
                tiers: Tiers {
                    ingress: ruleset(local.tiers[0]),
                    egress: ruleset(local.tiers[1]),
                },
            };
            writer.endpoint(key.clone(), Some(policy));
        }
    }
}

fn selecting(policies: &[Policy], name: impl Fn(&Origin) -> Option<&Text>) -> BTreeSet<Text> {
    let origins = policies.iter().map(|policy| &policy.origin);
    origins.filter_map(name).map(Arc::clone).collect()
}

fn release_fact(asking: &mut HashMap<Fact, HashSet<GroupId>>, fact: &Fact, group: GroupId) {
    if let Some(groups) = asking.get_mut(fact) {
        groups.remove(&group);
        if groups.is_empty() {
            asking.remove(fact);
        }
    }
}
