//! The rules that a fix places ahead of a ClusterNetworkPolicy that denies, and the
//! NetworkPolicies that it may extend.

use ipnet::IpNet;

use crate::model::{
    Action, ClusterEgressRule, ClusterIngressRule, ClusterNetworkPolicy, ClusterNetworkPolicySpec,
    ClusterPeer, Meta, NamespacedPods, PolicyType, Subject,
};

use super::{
    Party,
    change::{Change, ClusterRule},
    fix::Call,
    rules::{by_name, everywhere, object_name, way},
};

impl Call<'_, '_> {
    /// Returns an `Accept` rule placed before all other rules of a ClusterNetworkPolicy; `None`
    /// if the policy has rules that can't be written back as they were.
    pub(super) fn by_cluster(&self, direction: PolicyType, policy: &str) -> Option<Change> {
        let stored = self.index().cluster_policies.get(policy);
        stored.filter(|stored| stored.is_read())?;
        let sentence = format!(
            "Accepts it before all other rules of {policy}: {}",
            self.allows()
        );
        Some(Change::ClusterRule {
            policy: policy.to_owned(),
            rule: self.accepting(direction)?,
            sentence,
        })
    }

    /// Returns a new ClusterNetworkPolicy right before the one that denies, for the service's
    /// pods alone; `None` if no priority is left before that one.
    pub(super) fn before_cluster(&self, direction: PolicyType, policy: &str) -> Option<Change> {
        let (subject, peer) = match direction {
            PolicyType::Ingress => (self.to, self.from),
            PolicyType::Egress => (self.from, self.to),
        };
        let (_, pod) = self.pod(subject)?;
        let stored = self.index().cluster_policies.get(policy)?;
        let (tier, priority) = stored.rank;
        let mut spec = ClusterNetworkPolicySpec {
            tier,
            priority: priority.checked_sub(1).filter(|priority| *priority >= 0)?,
            subject: Subject {
                namespaces: None,
                pods: Some(NamespacedPods {
                    namespace_selector: by_name(&pod.traits.namespace),
                    pod_selector: self.selector(pod),
                }),
            },
            ..ClusterNetworkPolicySpec::default()
        };
        match self.accepting(direction)? {
            ClusterRule::Ingress(rule) => spec.ingress.push(rule),
            ClusterRule::Egress(rule) => spec.egress.push(rule),
        }
        let workload = pod.traits.workload();
        let name = format!("allow-{workload}-{}-{}", way(direction), peer.name);
        let is_free = |name: &str| !self.index().cluster_policies.contains_key(name);
        let mode = stored.mode.as_ref();
        let mode = mode.map(|mode| (self.index().config.key("mode"), mode.as_ref().to_owned()));
        let metadata = Meta {
            name: object_name(&name, is_free),
            annotations: mode.into_iter().collect(),
            ..Meta::default()
        };
        Some(Change::Cluster {
            policy: Box::new(ClusterNetworkPolicy { metadata, spec }),
            sentence: format!("Accepts it before {policy}: {}", self.allows()),
        })
    }

    fn accepting(&self, direction: PolicyType) -> Option<ClusterRule> {
        let protocols = self.port.as_match().into_iter().collect();
        let (name, action) = (None, Action::Accept);
        Some(match direction {
            PolicyType::Ingress => ClusterRule::Ingress(ClusterIngressRule {
                from: vec![self.cluster_peer(self.from, direction)?],
                name,
                action,
                protocols,
                unread: None,
            }),
            PolicyType::Egress => ClusterRule::Egress(ClusterEgressRule {
                to: vec![self.cluster_peer(self.to, direction)?],
                name,
                action,
                protocols,
                unread: None,
            }),
        })
    }

    /// Returns the peer for a rule; `None` for addresses, which no ingress peer can name.
    fn cluster_peer(&self, peer: &Party, direction: PolicyType) -> Option<ClusterPeer> {
        if let Some((_, pod)) = self.pod(peer) {
            return Some(ClusterPeer {
                pods: Some(NamespacedPods {
                    namespace_selector: by_name(&pod.traits.namespace),
                    pod_selector: self.selector(pod),
                }),
                ..ClusterPeer::default()
            });
        }
        let networks = match peer.address {
            Some(ip) => vec![IpNet::from(ip)],
            None => everywhere().into(),
        };
        (direction == PolicyType::Egress).then(|| ClusterPeer {
            networks,
            ..ClusterPeer::default()
        })
    }

    /// Reports whether a NetworkPolicy selects only pods of the party's service, so that a rule
    /// added to it opens no other pods.
    pub(super) fn is_own(&self, party: &Party, namespace: &str, name: &str) -> bool {
        let Some(((_, pod), policy)) = self.pod(party).zip(self.index().policy(namespace, name))
        else {
            return false;
        };
        let space = self.index().spaces.get(namespace);
        let mut groups = space.into_iter().flat_map(|space| &space.groups);
        groups.all(|group| {
            let traits = self.index().groups.traits(*group);
            traits.service == pod.traits.service || !policy.subjects.matches(&traits.labels)
        })
    }
}
