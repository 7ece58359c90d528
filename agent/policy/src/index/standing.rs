//! The status of a policy: whether its newest form is in effect, and which pods it selects.

use super::{Index, PodEntry, held::CLUSTER, policies::StoredPolicy};

/// The status of a policy's newest form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is no such policy.
    Unknown,
    /// It is in effect.
    Effective,
    /// It isn't in effect: the reason, and what applies instead.
    HeldBack(String),
}

impl Index {
    /// Returns the status of a NetworkPolicy, or of a ClusterNetworkPolicy if the namespace is
    /// empty.
    pub fn standing(&self, namespace: &str, name: &str) -> Standing {
        let closed = match namespace {
            CLUSTER => self.cluster_policies.get(name).map(|policy| policy.closed),
            _ => self.policy(namespace, name).map(|policy| policy.closed),
        };
        let Some(closed) = closed else {
            return Standing::Unknown;
        };
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(error) = self.invalid.get(&key) {
            let instead = match closed {
                true => "its pods are closed",
                false => "its last valid form is in force",
            };
            let (field, message) = (&error.field, &error.message);
            return Standing::HeldBack(format!("{field}: {message}; {instead}"));
        }
        let instead = match namespace {
            CLUSTER if self.held.holds_cluster(name) => Some("it denies its pods everything"),
            CLUSTER => None,
            _ => self.held.form(namespace, name).map(|last| match last {
                Some(_) => "the last form that had room is in force",
                None => "its pods are closed",
            }),
        };
        match instead {
            Some(instead) => Standing::HeldBack(format!(
                "this node's tables have no room for it in the share that it may use; {instead}"
            )),
            None => Standing::Effective,
        }
    }

    /// Reports whether a policy, named as for [`Index::standing`], selects a pod, either by the
    /// form in force or by its newest form.
    pub fn is_selected(&self, namespace: &str, name: &str, pod: &PodEntry) -> bool {
        let traits = &pod.traits;
        if namespace != CLUSTER {
            let by = |policy: &StoredPolicy| policy.subjects.matches(&traits.labels);
            let last = self.held.form(namespace, name).flatten();
            let newest = self.policy(namespace, name);
            return *traits.namespace == *namespace && newest.into_iter().chain(last).any(by);
        }
        let policy = self.cluster_policies.get(name);
        let labels = self.namespace(&traits.namespace);
        policy.is_some_and(|policy| {
            let (namespaces, pods) = &policy.subjects;
            namespaces.matches(&labels) && pods.matches(&traits.labels)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        config::Config,
        model::Object,
        testing::{object, pod},
    };

    fn told(objects: impl IntoIterator<Item = Value>) -> Index {
        let mut index = Index::new(Config::default());
        for value in objects {
            index.apply(object(value));
        }
        index
    }

    fn policies() -> [Value; 2] {
        [
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": "b", "name": "p"},
                "spec": {"podSelector": {"matchLabels": {"app": "x"}}, "policyTypes": ["Ingress"]},
            }),
            json!({
                "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
                "metadata": {"name": "c"},
                "spec": {"tier": "Admin", "priority": 1, "subject": {"pods": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "b"}},
                    "podSelector": {"matchLabels": {"app": "x"}},
                }}},
            }),
        ]
    }

    #[test]
    fn a_policy_selects_by_its_namespace_or_by_labels() {
        let pods = [
            pod("b/x", "10.0.0.1", json!({"app": "x"})),
            pod("b/y", "10.0.0.2", json!({"app": "y"})),
            pod("a/x", "10.0.0.3", json!({"app": "x"})),
        ];
        let index = told(policies().into_iter().chain(pods));
        for (namespace, name) in [("b", "p"), ("", "c")] {
            let selected =
                |ns, pod| index.is_selected(namespace, name, index.pod(ns, pod).expect("told"));
            assert_eq!(
                [selected("b", "x"), selected("b", "y"), selected("a", "x")],
                [true, false, false],
                "{name}"
            );
            assert_eq!(index.standing(namespace, name), Standing::Effective);
        }
        assert_eq!(index.standing("b", "other"), Standing::Unknown);
        assert_eq!(index.standing("", "p"), Standing::Unknown);
    }

    #[test]
    fn a_policy_that_does_not_parse_is_held_back_and_says_by_which_field() {
        let mut index = told(policies());
        let [mut policy, mut cluster] = policies();
        policy["spec"]["ingress"] = json!([{"ports": [{"port": 0}]}]);
        cluster["spec"]["tier"] = json!("Middle");
        for (namespace, name, value, field) in
            [("b", "p", policy, "port"), ("", "c", cluster, "tier")]
        {
            let error = Object::from_value(value).expect_err("unusable");
            index.apply_closed(&error);
            let Standing::HeldBack(why) = index.standing(namespace, name) else {
                panic!("{:?}", index.standing(namespace, name));
            };
            assert!(why.contains(field), "{why}");
            assert!(why.ends_with("its last valid form is in force"), "{why}");
        }
    }
}
