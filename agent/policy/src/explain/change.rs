//! A change to one object: tried on the index, and written down for people.

use serde_json::{Value, json};

use crate::{
    index::{Index, Key, Stored},
    model::{EgressRule, IngressRule, NetworkPolicy},
    view::PodView,
};

use super::{Fix, yaml};

/// A change to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Sets a label, or removes it.
    Label {
        /// The workload's kind if the pod stands in for one.
        kind: Option<String>,
        pod: Key,
        key: String,
        value: Option<String>,
        sentence: String,
    },
    /// Adds a rule to a NetworkPolicy.
    Rule {
        policy: Key,
        rule: Rule,
        sentence: String,
    },
    /// Adds a NetworkPolicy.
    Policy {
        policy: Box<NetworkPolicy>,
        sentence: String,
    },
}

/// A rule of either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Ingress(IngressRule),
    Egress(EgressRule),
}

impl Change {
    /// A label of a pod, or of the template of the workload that stands for it.
    pub(super) fn label(
        pod: &PodView<'_>,
        key: String,
        value: Option<String>,
        sentence: String,
    ) -> Self {
        Self::Label {
            kind: pod.pod.stand_in.clone(),
            pod: (pod.key.namespace.clone(), pod.key.name.clone()),
            key,
            value,
            sentence,
        }
    }

    /// Makes the change.
    pub(super) fn apply(&self, index: &mut Index) {
        match self {
            Self::Label {
                kind,
                pod,
                key,
                value,
                ..
            } => {
                let pod = match kind {
                    Some(kind) => index.stand_ins.get_mut(&(kind.clone(), pod.clone())),
                    None => index.pods.get_mut(pod),
                };
                let Some(pod) = pod else { return };
                match value {
                    Some(value) => drop(pod.metadata.labels.insert(key.clone(), value.clone())),
                    None => drop(pod.metadata.labels.remove(key)),
                }
            }
            Self::Rule { policy, rule, .. } => {
                if let Some(Stored { policy, .. }) = index.policies.get_mut(policy) {
                    rule.push(policy);
                }
            }
            Self::Policy { policy, .. } => {
                index.apply(crate::model::Object::NetworkPolicy((**policy).clone()));
            }
        }
    }

    fn object(&self) -> String {
        let (kind, (namespace, name)) = match self {
            Self::Label { kind, pod, .. } => (kind.as_deref().unwrap_or("Pod"), pod.clone()),
            Self::Rule { policy, .. } => ("NetworkPolicy", policy.clone()),
            Self::Policy { policy, .. } => {
                let meta = &policy.metadata;
                let key = (meta.namespace.clone(), meta.name.clone());
                ("NetworkPolicy", key)
            }
        };
        format!("{kind} {namespace}/{name}")
    }

    fn patch(&self, index: &Index) -> Value {
        match self {
            Self::Label {
                kind, key, value, ..
            } => {
                let metadata = json!({"metadata": {"labels": {key: value}}});
                match kind {
                    Some(_) => json!({"spec": {"template": metadata}}),
                    None => metadata,
                }
            }
            // Lists are replaced by a merge patch, so the rules that stay are in it.
            Self::Rule { policy, rule, .. } => {
                let stored = index.policies.get(policy).map(|s| s.policy.clone());
                let mut policy = stored.unwrap_or_default();
                rule.push(&mut policy);
                match rule {
                    Rule::Ingress(_) => json!({"spec": {"ingress": policy.spec.ingress}}),
                    Rule::Egress(_) => json!({"spec": {"egress": policy.spec.egress}}),
                }
            }
            Self::Policy { policy, .. } => json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {
                    "name": policy.metadata.name,
                    "namespace": policy.metadata.namespace,
                },
                "spec": policy.spec,
            }),
        }
    }

    fn sentence(&self) -> &str {
        match self {
            Self::Label { sentence, .. }
            | Self::Rule { sentence, .. }
            | Self::Policy { sentence, .. } => sentence,
        }
    }
}

impl Rule {
    fn push(&self, policy: &mut NetworkPolicy) {
        match self {
            Self::Ingress(rule) => policy.spec.ingress.push(rule.clone()),
            Self::Egress(rule) => policy.spec.egress.push(rule.clone()),
        }
    }
}

/// Changes as they are shown: one entry per object.
pub(super) fn write(index: &Index, changes: &[Change]) -> Vec<Fix> {
    let mut merged: Vec<(String, Value, String)> = Vec::new();
    for change in changes {
        let (object, patch) = (change.object(), change.patch(index));
        match merged.iter_mut().find(|m| m.0 == object) {
            Some((_, known, sentence)) => {
                merge(known, patch);
                *sentence = format!("{sentence} {}", change.sentence());
            }
            None => merged.push((object, patch, change.sentence().to_owned())),
        }
    }
    let fix = |(object, patch, sentence): (String, Value, String)| Fix {
        object,
        patch: yaml::write(&patch),
        sentence,
    };
    merged.into_iter().map(fix).collect()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
