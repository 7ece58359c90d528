//! What few objects are: in a node's network namespace, under quarantine, or faulty.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    config::Config,
    intern::{HashSet, Text},
    labels, problems,
};

use super::{Index, Key, PodEntry, groups::PodId};

/// Objects that are looked for one by one, where there are many others.
#[derive(Clone, Debug, Default)]
pub(super) struct Exceptions {
    /// Pods in a node's network namespace, finished ones too.
    host_network: HashSet<PodId>,
    /// Pods whose labels cut them off.
    quarantined: HashSet<PodId>,
    /// Pods with a label that can't be used as it stands.
    odd_pods: HashSet<PodId>,
    /// NetworkPolicies with a mode that can't.
    odd_modes: BTreeSet<Key>,
}

impl Exceptions {
    pub(super) fn put_pod(&mut self, config: &Config, id: PodId, pod: &PodEntry) {
        if pod.host_network {
            self.host_network.insert(id);
        }
        if labels::is_true(&pod.shape.labels, &config.key("quarantine")) {
            self.quarantined.insert(id);
        }
        if problems::is_odd(config, &pod.shape.labels) {
            self.odd_pods.insert(id);
        }
    }

    pub(super) fn drop_pod(&mut self, id: PodId) {
        self.host_network.remove(&id);
        self.quarantined.remove(&id);
        self.odd_pods.remove(&id);
    }

    /// A policy comes with this mode, or goes.
    pub(super) fn put_policy(&mut self, (namespace, name): (&Text, &Text), mode: Option<&str>) {
        let key = (Arc::clone(namespace), Arc::clone(name));
        match problems::is_odd_mode(mode) {
            true => self.odd_modes.insert(key),
            false => self.odd_modes.remove(&key),
        };
    }
}

impl Index {
    /// Real pods in a node's network namespace, finished ones too, by namespace
    /// and name.
    pub fn pods_on_host_network(&self) -> Vec<&PodEntry> {
        let all = self.exceptions.host_network.iter();
        let all = all.filter_map(|id| self.entry(*id));
        let mut pods: Vec<&PodEntry> = all.filter(|pod| pod.stand_in.is_none()).collect();
        pods.sort_unstable_by_key(|pod| (&pod.shape.namespace, &pod.name));
        pods
    }

    /// The same and workloads whose pods are, as `namespace/name`, sorted.
    pub fn names_on_host_network(&self) -> Vec<String> {
        let all = self.exceptions.host_network.iter();
        let all = all.filter_map(|id| self.entry(*id));
        let mut names: Vec<String> = all.map(|pod| pod.key().to_string()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Pods and stand-ins under quarantine, in no order.
    pub(super) fn cut_off(&self) -> impl Iterator<Item = PodId> {
        self.exceptions.quarantined.iter().copied()
    }

    /// Pods and stand-ins with a label that can't be used as it stands, in no order.
    pub(crate) fn odd_pods(&self) -> impl Iterator<Item = &PodEntry> {
        let all = self.exceptions.odd_pods.iter();
        all.filter_map(|id| self.entry(*id))
    }

    /// Namespaces and names of NetworkPolicies that may have a problem.
    pub(crate) fn odd_policies(&self) -> BTreeSet<(&str, &str)> {
        let modes = self.exceptions.odd_modes.iter();
        let modes = modes.map(|(namespace, name)| (&**namespace, &**name));
        let invalid = self.invalid.keys();
        let invalid = invalid.map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        modes.chain(invalid).collect()
    }
}
