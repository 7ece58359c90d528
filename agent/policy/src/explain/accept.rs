//! Rules that a fix adds to policies that are there, and to which it may.

use ipnet::IpNet;

use crate::model::{
    Action, ClusterEgressRule, ClusterIngressRule, ClusterPeer, NamespacedPods, PolicyType,
};

use super::{
    Party,
    change::{Change, ClusterRule},
    fix::{Call, by_name, everywhere},
};

impl Call<'_, '_> {
    /// An Accept before all else that a ClusterNetworkPolicy says; none of one with rules
    /// that can't be written as they were.
    pub(super) fn by_cluster(&self, direction: PolicyType, policy: String) -> Option<Change> {
        let stored = self.index().cluster_policies.get(policy.as_str());
        stored.filter(|stored| stored.is_read())?;
        let sentence = format!(
            "Accepts it before all other rules of {policy}: {}",
            self.allows()
        );
        let protocols = self.port.as_match().into_iter().collect();
        let (name, action) = (None, Action::Accept);
        let rule = match direction {
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
        };
        Some(Change::ClusterRule {
            policy,
            rule,
            sentence,
        })
    }

    /// `None` for what no ingress peer can name: addresses.
    fn cluster_peer(&self, peer: &Party, direction: PolicyType) -> Option<ClusterPeer> {
        if let Some((_, pod)) = self.pod(peer) {
            return Some(ClusterPeer {
                pods: Some(NamespacedPods {
                    namespace_selector: by_name(&pod.shape.namespace),
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

    /// Whether a NetworkPolicy selects pods of the party's service only: a rule
    /// in it opens nobody else.
    pub(super) fn is_own(&self, party: &Party, namespace: &str, name: &str) -> bool {
        let Some(((_, pod), policy)) = self.pod(party).zip(self.index().policy(namespace, name))
        else {
            return false;
        };
        let space = self.index().spaces.get(namespace);
        let mut groups = space.into_iter().flat_map(|space| &space.groups);
        groups.all(|group| {
            let shape = self.index().groups.shape(*group);
            shape.service == pod.shape.service || !policy.subjects.matches(&shape.labels)
        })
    }
}
