//! Sets of objects with rare properties: in a node's network namespace, under quarantine, or
//! faulty.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    config::Config,
    intern::{HashSet, Text},
    labels, problems,
};

use super::{Index, Key, PodEntry, groups::PodId};

/// Rare objects, indexed so that nothing has to iterate over all objects.
#[derive(Clone, Debug, Default)]
pub(super) struct Exceptions {
    /// Pods in a node's network namespace, including finished ones.
    host_network: HashSet<PodId>,
    /// Pods whose labels put them under quarantine.
    quarantined: HashSet<PodId>,
    /// Pods with an invalid label.
    odd_pods: HashSet<PodId>,
    /// NetworkPolicies with an invalid mode.
    odd_modes: BTreeSet<Key>,
}

impl Exceptions {
    pub(super) fn put_pod(&mut self, config: &Config, id: PodId, pod: &PodEntry) {
        if pod.host_network {
            self.host_network.insert(id);
        }
        if labels::is_true(&pod.traits.labels, &config.key("quarantine")) {
            self.quarantined.insert(id);
        }
        if problems::is_odd(config, &pod.traits.labels) {
            self.odd_pods.insert(id);
        }
    }

    pub(super) fn drop_pod(&mut self, id: PodId) {
        self.host_network.remove(&id);
        self.quarantined.remove(&id);
        self.odd_pods.remove(&id);
    }

    /// Records the mode of a policy; `None` for a deleted one.
    pub(super) fn put_policy(&mut self, (namespace, name): (&Text, &Text), mode: Option<&str>) {
        let key = (Arc::clone(namespace), Arc::clone(name));
        match problems::is_odd_mode(mode) {
            true => self.odd_modes.insert(key),
            false => self.odd_modes.remove(&key),
        };
    }
}

impl Index {
    /// Returns real pods in a node's network namespace, including finished ones, sorted by
    /// namespace and name.
    pub fn pods_on_host_network(&self) -> Vec<&PodEntry> {
        let all = self.exceptions.host_network.iter();
        let all = all.filter_map(|id| self.entry(*id));
        let mut pods: Vec<&PodEntry> = all.filter(|pod| pod.stand_in.is_none()).collect();
        pods.sort_unstable_by_key(|pod| (&pod.traits.namespace, &pod.name));
        pods
    }

    /// Returns the same pods and the workloads whose pods are in a node's network namespace, as
    /// `namespace/name`, sorted.
    pub fn names_on_host_network(&self) -> Vec<String> {
        let all = self.exceptions.host_network.iter();
        let all = all.filter_map(|id| self.entry(*id));
        let mut names: Vec<String> = all.map(|pod| pod.key().to_string()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Returns pods and stand-ins under quarantine, in no order.
    pub(super) fn cut_off(&self) -> impl Iterator<Item = PodId> {
        self.exceptions.quarantined.iter().copied()
    }

    /// Returns pods and stand-ins with an invalid label, in no order.
    pub(crate) fn odd_pods(&self) -> impl Iterator<Item = &PodEntry> {
        let all = self.exceptions.odd_pods.iter();
        all.filter_map(|id| self.entry(*id))
    }

    /// Returns the namespaces and names of NetworkPolicies that may have a problem.
    pub(crate) fn odd_policies(&self) -> BTreeSet<(&str, &str)> {
        let modes = self.exceptions.odd_modes.iter();
        let modes = modes.map(|(namespace, name)| (&**namespace, &**name));
        let invalid = self.invalid.keys();
        let invalid = invalid.map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        modes.chain(invalid).collect()
    }
}
