//! Applies added, changed and deleted objects.

use std::{collections::BTreeMap, sync::Arc};

use ringfence_ebpf::abi::Addr;

use crate::{
    config::Config,
    intern::Text,
    model::{self, ClusterNetworkPolicy, NetworkPolicy},
};

use super::{
    Index, NO_GROUP, StoredNode,
    groups::PodId,
    journal::Fact,
    owners::NodeClaim,
    pods::{PodEntry, Pools},
    policies::{StoredCluster, StoredPolicy},
};

/// The label that names an EndpointSlice's Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl Index {
    pub(super) fn put_pod(&mut self, pod: &model::Pod) {
        let mut entry = PodEntry::new(&self.config, &mut self.pools, pod);
        self.lend(&mut entry);
        match self.find(&entry) {
            // Most updates of a pod change nothing relevant to policy.
            Some(id) if self.entry(id) == Some(&entry) => {}
            Some(id) => {
                self.retire(id);
                self.slots[id as usize] = Some(entry);
                self.add_up(id);
            }
            None => {
                let id = self.place(entry);
                self.add_up(id);
            }
        }
    }

    fn find(&self, entry: &PodEntry) -> Option<PodId> {
        match &entry.stand_in {
            Some(kind) => {
                let namespace = Arc::clone(&entry.traits.namespace);
                let key = (Arc::clone(kind), namespace, Arc::clone(&entry.name));
                self.stand_ins.get(&key).copied()
            }
            None => {
                let pods = self.by_name.get(&entry.traits.namespace)?;
                pods.get(&entry.name).copied()
            }
        }
    }

    fn place(&mut self, entry: PodEntry) -> PodId {
        let namespace = Arc::clone(&entry.traits.namespace);
        let name = Arc::clone(&entry.name);
        let kind = entry.stand_in.clone();
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = Some(entry);
                id
            }
            None => {
                self.slots.push(Some(entry));
                PodId::try_from(self.slots.len() - 1).unwrap_or(PodId::MAX)
            }
        };
        match kind {
            Some(kind) => drop(self.stand_ins.insert((kind, namespace, name), id)),
            None => {
                self.by_name.entry(namespace).or_default().insert(name, id);
            }
        }
        id
    }

    pub(super) fn delete_pod(&mut self, namespace: &str, name: &str) {
        let Some(pods) = self.by_name.get_mut(namespace) else {
            return;
        };
        let Some(id) = pods.remove(name) else { return };
        if pods.is_empty() {
            self.by_name.remove(namespace);
        }
        self.vacate(id);
    }

    pub(super) fn delete_stand_in(&mut self, kind: &str, namespace: &str, name: &str) {
        let key = (kind.into(), namespace.into(), name.into());
        if let Some(id) = self.stand_ins.remove(&key) {
            self.vacate(id);
        }
    }

    fn vacate(&mut self, id: PodId) {
        self.retire(id);
        self.slots[id as usize] = None;
        self.free.push(id);
    }

    /// Changes a pod in place.
    pub(super) fn change_pod(
        &mut self,
        id: PodId,
        change: impl FnOnce(&mut PodEntry, &Config, &mut Pools),
    ) {
        self.retire(id);
        if let Some(Some(pod)) = self.slots.get_mut(id as usize) {
            change(pod, &self.config, &mut self.pools);
        }
        self.add_up(id);
    }

    /// Adds a pod to all derived data.
    fn add_up(&mut self, id: PodId) {
        // Taken out of its slot in the meantime to avoid a copy.
        let Some(pod) = self.slots[id as usize].take() else {
            return;
        };
        if !pod.finished && pod.stand_in.is_none() {
            self.count_owned(&pod, true);
        }
        if !pod.finished && pod.host_network && pod.stand_in.is_none() {
            for ip in &pod.addresses {
                self.claim(Addr::from(*ip), pod.node.clone(), false);
            }
            self.note_dns_host(&pod);
        }
        if self.is_live(&pod) {
            self.admit(id, &pod);
        }
        self.exceptions.put_pod(&self.config, id, &pod);
        self.slots[id as usize] = Some(pod);
    }

    /// Removes a pod from all derived data.
    fn retire(&mut self, id: PodId) {
        let Some(pod) = self.slots[id as usize].take() else {
            return;
        };
        self.exceptions.drop_pod(id);
        if self.is_live(&pod) {
            self.expel(id, &pod);
        }
        if !pod.finished && pod.host_network && pod.stand_in.is_none() {
            for ip in &pod.addresses {
                self.unclaim(&Addr::from(*ip), pod.node.clone(), false);
            }
            self.note_dns_host(&pod);
        }
        if !pod.finished && pod.stand_in.is_none() {
            self.count_owned(&pod, false);
        }
        self.slots[id as usize] = Some(pod);
    }

    /// Counts the real pods of a workload; its stand-in is live only while there are none.
    fn count_owned(&mut self, pod: &PodEntry, more: bool) {
        let Some((kind, name)) = &pod.owner else {
            return;
        };
        let namespace = Arc::clone(&pod.traits.namespace);
        let key = (Arc::clone(kind), namespace, Arc::clone(name));
        let before = self.owned.get(&key).copied().unwrap_or(0);
        let now = if more {
            before + 1
        } else {
            before.saturating_sub(1)
        };
        let stand_in = self.stand_ins.get(&key).copied();
        let entry = stand_in.and_then(|id| Some((id, self.entry(id)?.clone())));
        let turned = (before == 0) != (now == 0);
        let entry = entry.filter(|(_, e)| turned && !e.host_network);
        if let (Some((id, stand_in)), true) = (&entry, now > 0) {
            self.expel(*id, stand_in);
        }
        match now {
            0 => drop(self.owned.remove(&key)),
            now => drop(self.owned.insert(key, now)),
        }
        if let (Some((id, stand_in)), 0) = (&entry, now) {
            self.admit(*id, stand_in);
        }
    }

    fn admit(&mut self, id: PodId, pod: &PodEntry) {
        let (group, new) = self.groups.enter(&pod.traits, id);
        let slots = self.slots.len();
        self.group_of.resize(slots, NO_GROUP);
        self.group_of[id as usize] = group;
        let journal = &mut self.journal;
        if new {
            journal.note(|j| &mut j.groups, group);
            let mut changed = |fact| journal.note(|j| &mut j.facts, fact);
            let (config, pools) = (&self.config, &mut self.pools);
            self.spaces
                .add_group(config, pools, group, &pod.traits, &mut changed);
        }
        self.journal.note(|j| &mut j.pods, id);
        for ip in &pod.addresses {
            self.owners.add_pod(Addr::from(*ip), id);
            self.note_address(Addr::from(*ip));
        }
    }

    fn expel(&mut self, id: PodId, pod: &PodEntry) {
        for ip in &pod.addresses {
            self.note_address(Addr::from(*ip));
            self.owners.remove_pod(&Addr::from(*ip), id);
        }
        self.journal.note(|j| &mut j.pods, id);
        let Some(group) = self.group_of(id) else {
            return;
        };
        self.group_of[id as usize] = NO_GROUP;
        let gone = self.groups.leave(group, id);
        let journal = &mut self.journal;
        if gone {
            journal.note(|j| &mut j.groups, group);
            let mut changed = |fact| journal.note(|j| &mut j.facts, fact);
            self.spaces.remove_group(group, &pod.traits, &mut changed);
        }
        if self.journal.idle {
            self.groups.collect();
        }
    }

    /// Records that the owner of an address changes; this affects all pods that claim it.
    fn note_address(&mut self, addr: Addr) {
        self.journal.note(|j| &mut j.addresses, addr);
        for pod in self.owners.pods(&addr) {
            self.journal.note(|j| &mut j.pods, *pod);
        }
    }

    pub(super) fn claim(&mut self, addr: Addr, node: Option<Text>, in_status: bool) {
        self.owners.add_node(addr, NodeClaim { node, in_status });
        self.journal.note(|j| &mut j.addresses, addr);
    }

    pub(super) fn unclaim(&mut self, addr: &Addr, node: Option<Text>, in_status: bool) {
        self.owners
            .remove_node(addr, &NodeClaim { node, in_status });
        self.journal.note(|j| &mut j.addresses, *addr);
    }

    pub(super) fn put_node(&mut self, node: &model::Node) {
        let name = self.pools.texts.get(node.metadata.name.as_str());
        let labels = self.pools.labels(&node.metadata.labels);
        let in_status = node.status_addresses();
        let claims = node.addresses().into_iter().map(|ip| {
            let claim = NodeClaim {
                node: Some(Arc::clone(&name)),
                in_status: in_status.contains(&ip),
            };
            (Addr::from(ip), claim)
        });
        let claims = claims.collect();
        let (ranges, refused) = self.ranges_of(node);
        let stored = StoredNode {
            labels,
            claims,
            ranges,
            refused,
        };
        if self.nodes.get(&name) == Some(&stored) {
            return;
        }
        // Add ranges before removing the old ones, so that kept ranges aren't removed and added
        // again.
        for range in stored.ranges.clone() {
            self.add_range(range);
        }
        self.delete_node(&name);
        for (addr, claim) in &stored.claims {
            self.claim(*addr, claim.node.clone(), claim.in_status);
        }
        self.nodes.insert(name, stored);
    }

    pub(super) fn delete_node(&mut self, name: &str) {
        let Some(node) = self.nodes.remove(name) else {
            return;
        };
        for (addr, claim) in &node.claims {
            self.unclaim(addr, claim.node.clone(), claim.in_status);
        }
        for range in node.ranges {
            self.remove_range(range);
        }
    }

    pub(super) fn put_namespace(&mut self, name: &str, labels: Option<&BTreeMap<String, String>>) {
        let changed = self.spaces.set_labels(&mut self.pools, name, labels);
        if changed {
            let fact = Fact::Namespace(name.into());
            self.journal.note(|j| &mut j.facts, fact);
        }
    }

    /// Adds a NetworkPolicy, or its closed form.
    pub(crate) fn put_policy(&mut self, policy: &NetworkPolicy, closed: bool) {
        let meta = &policy.metadata;
        let stored = StoredPolicy::new(&self.config, &mut self.pools, policy, closed);
        let namespace = self.pools.texts.get(meta.namespace.as_str());
        let name: Text = meta.name.as_str().into();
        if !closed {
            self.recall(&namespace, &name, meta);
        }
        let own = self.policies.entry(namespace.clone()).or_default();
        if own.get(&name) != Some(&stored) {
            self.exceptions
                .put_policy((&namespace, &name), stored.mode.as_deref());
            let key = (namespace, name);
            let old = own.remove(&key.1);
            let stored = match self.held.keeps(&key, &stored, old.as_ref()) {
                true => stored,
                false => stored.without_rules(policy),
            };
            self.held.put(&key, &stored, old);
            own.insert(Text::clone(&key.1), stored);
            self.journal.note(|j| &mut j.policies, key);
        }
    }

    pub(super) fn delete_policy(&mut self, namespace: &str, name: &str) {
        let Some((namespace, _)) = self.policies.get_key_value(namespace) else {
            return;
        };
        let namespace = Arc::clone(namespace);
        let Some(own) = self.policies.get_mut(&namespace) else {
            return;
        };
        let Some((name, old)) = own.remove_entry(name) else {
            return;
        };
        if own.is_empty() {
            self.policies.remove(&namespace);
        }
        self.exceptions.put_policy((&namespace, &name), None);
        let key = (namespace, name);
        self.held.delete(&key, &old);
        self.journal.note(|j| &mut j.policies, key);
    }

    pub(crate) fn put_cluster_policy(&mut self, policy: &ClusterNetworkPolicy, closed: bool) {
        let name: Text = policy.metadata.name.as_str().into();
        let stored = StoredCluster::new(&self.config, &mut self.pools, policy, closed);
        if self.cluster_policies.get(&name) != Some(&stored) {
            self.cluster_policies.insert(Arc::clone(&name), stored);
            self.journal.note(|j| &mut j.cluster_policies, name);
        }
    }

    pub(super) fn put_service(&mut self, key: &(String, String), mut service: model::Service) {
        service.metadata.annotations.clear();
        self.note_dns(key, Some(&service));
        self.note_door(key, Some(&service));
        self.show_service(key, Some(service));
    }

    pub(super) fn delete_service(&mut self, key: &(String, String)) {
        self.note_dns(key, None);
        self.note_door(key, None);
        self.show_service(key, None);
    }

    /// Records a change of a Service that can be called at nodes: the pods behind it are open to
    /// nodes.
    fn note_door(&mut self, key: &(String, String), now: Option<&model::Service>) {
        let known = [self.services.get(key), now].into_iter().flatten();
        if known.into_iter().any(model::Service::is_masqueraded) {
            let fact = Fact::Doors(key.0.as_str().into());
            self.journal.note(|j| &mut j.facts, fact);
        }
    }
}
