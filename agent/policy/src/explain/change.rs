//! A change to one object: applied to the index, and written out for people.

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    index::{Index, PodEntry, groups::PodId},
    model::{
        self, ClusterEgressRule, ClusterIngressRule, ClusterNetworkPolicy, EgressRule, IngressRule,
        Meta, NetworkPolicy,
    },
};

use super::{Fix, Form};

/// Namespace and name.
pub(super) type Key = (String, String);

/// A change to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Sets a label, or removes it.
    Label {
        id: PodId,
        /// The workload's kind, if the pod is a stand-in.
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
    /// Places a rule in a ClusterNetworkPolicy before the others.
    ClusterRule {
        policy: String,
        rule: ClusterRule,
        sentence: String,
    },
    /// Adds a NetworkPolicy.
    Policy {
        policy: Box<NetworkPolicy>,
        sentence: String,
    },
    /// Adds a ClusterNetworkPolicy.
    Cluster {
        policy: Box<ClusterNetworkPolicy>,
        sentence: String,
    },
}

/// A rule of either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Ingress(IngressRule),
    Egress(EgressRule),
}

/// A rule of a ClusterNetworkPolicy of either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ClusterRule {
    Ingress(ClusterIngressRule),
    Egress(ClusterEgressRule),
}

impl Change {
    /// Changes a label of a pod, or of the template of the workload that it represents.
    pub(super) fn label(
        (id, pod): (PodId, &PodEntry),
        key: String,
        value: Option<String>,
        sentence: String,
    ) -> Self {
        let whose = pod.key();
        Self::Label {
            id,
            kind: pod.stand_in.as_deref().map(str::to_owned),
            pod: (whose.namespace, whose.name),
            key,
            value,
            sentence,
        }
    }

    /// Applies the change.
    pub(super) fn apply(&self, index: &mut Index) {
        match self {
            Self::Label { id, key, value, .. } => index.set_label(*id, key, value.as_deref()),
            Self::Rule { policy, rule, .. } => {
                if let Some(policy) = changed(index, policy, rule) {
                    index.put_policy(&policy, false);
                }
            }
            Self::ClusterRule { policy, rule, .. } => {
                if let Some(policy) = changed_cluster(index, policy, rule) {
                    index.put_cluster_policy(&policy, false);
                }
            }
            Self::Policy { policy, .. } => index.put_policy(policy, false),
            Self::Cluster { policy, .. } => index.put_cluster_policy(policy, false),
        }
    }

    /// Reports whether the API server would accept the result.
    pub(super) fn is_valid(&self, index: &Index) -> bool {
        match self {
            Self::ClusterRule { policy, rule, .. } => {
                let policy = changed_cluster(index, policy, rule);
                policy.is_some_and(|policy| model::is_valid_cluster(&policy.spec))
            }
            Self::Cluster { policy, .. } => model::is_valid_cluster(&policy.spec),
            Self::Label { .. } | Self::Rule { .. } | Self::Policy { .. } => true,
        }
    }

    fn form(&self) -> Form {
        match self {
            Self::Label { .. } | Self::Rule { .. } | Self::ClusterRule { .. } => Form::Patch,
            Self::Policy { .. } | Self::Cluster { .. } => Form::Object,
        }
    }

    fn object(&self) -> String {
        let (kind, (namespace, name)) = match self {
            Self::Label { kind, pod, .. } => (kind.as_deref().unwrap_or("Pod"), pod.clone()),
            Self::Rule { policy, .. } => ("NetworkPolicy", policy.clone()),
            Self::ClusterRule { policy, .. } => return format!("ClusterNetworkPolicy {policy}"),
            Self::Policy { policy, .. } => {
                let meta = &policy.metadata;
                let key = (meta.namespace.clone(), meta.name.clone());
                ("NetworkPolicy", key)
            }
            Self::Cluster { policy, .. } => {
                return format!("ClusterNetworkPolicy {}", policy.metadata.name);
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
            // A merge patch replaces lists, so it includes the existing rules.
            Self::Rule { policy, rule, .. } => {
                let policy = changed(index, policy, rule).unwrap_or_default();
                match rule {
                    Rule::Ingress(_) => json!({"spec": {"ingress": policy.spec.ingress}}),
                    Rule::Egress(_) => json!({"spec": {"egress": policy.spec.egress}}),
                }
            }
            Self::ClusterRule { policy, rule, .. } => {
                let policy = changed_cluster(index, policy, rule).unwrap_or_default();
                match rule {
                    ClusterRule::Ingress(_) => json!({"spec": {"ingress": policy.spec.ingress}}),
                    ClusterRule::Egress(_) => json!({"spec": {"egress": policy.spec.egress}}),
                }
            }
            Self::Policy { policy, .. } => object(
                "networking.k8s.io/v1",
                "NetworkPolicy",
                &policy.metadata,
                &policy.spec,
            ),
            Self::Cluster { policy, .. } => object(
                "policy.networking.k8s.io/v1alpha2",
                "ClusterNetworkPolicy",
                &policy.metadata,
                &policy.spec,
            ),
        }
    }

    fn sentence(&self) -> &str {
        match self {
            Self::Label { sentence, .. }
            | Self::Rule { sentence, .. }
            | Self::ClusterRule { sentence, .. }
            | Self::Policy { sentence, .. }
            | Self::Cluster { sentence, .. } => sentence,
        }
    }
}

/// Returns a new object.
fn object(version: &str, kind: &str, meta: &Meta, spec: &impl Serialize) -> Value {
    let mut metadata = json!({"name": meta.name});
    if !meta.namespace.is_empty() {
        metadata["namespace"] = json!(meta.namespace);
    }
    if !meta.annotations.is_empty() {
        metadata["annotations"] = json!(meta.annotations);
    }
    json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
}

/// Returns a NetworkPolicy with one more rule.
fn changed(index: &Index, (namespace, name): &Key, rule: &Rule) -> Option<NetworkPolicy> {
    let stored = index.policy(namespace, name)?;
    let mut policy = NetworkPolicy {
        metadata: meta(index, namespace, name, stored.mode.as_deref()),
        spec: stored.spec(),
    };
    match rule {
        Rule::Ingress(rule) => policy.spec.ingress.push(rule.clone()),
        Rule::Egress(rule) => policy.spec.egress.push(rule.clone()),
    }
    Some(policy)
}

/// Returns a ClusterNetworkPolicy with one more rule, placed before the others.
fn changed_cluster(index: &Index, name: &str, rule: &ClusterRule) -> Option<ClusterNetworkPolicy> {
    let stored = index.cluster_policies.get(name)?;
    let mut policy = ClusterNetworkPolicy {
        metadata: meta(index, "", name, stored.mode.as_deref()),
        spec: stored.spec()?,
    };
    match rule {
        ClusterRule::Ingress(rule) => policy.spec.ingress.insert(0, rule.clone()),
        ClusterRule::Egress(rule) => policy.spec.egress.insert(0, rule.clone()),
    }
    Some(policy)
}

fn meta(index: &Index, namespace: &str, name: &str, mode: Option<&str>) -> Meta {
    let mode = mode.map(|mode| (index.config.key("mode"), mode.to_owned()));
    Meta {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        annotations: mode.into_iter().collect(),
        ..Meta::default()
    }
}

/// Returns the changes for display: one entry per object.
pub(super) fn write(index: &Index, changes: &[Change]) -> Vec<Fix> {
    let mut merged: Vec<(String, Form, Value, String)> = Vec::new();
    for change in changes {
        let (object, patch) = (change.object(), change.patch(index));
        match merged.iter_mut().find(|m| m.0 == object) {
            Some((_, _, known, sentence)) => {
                merge(known, patch);
                *sentence = format!("{sentence} {}", change.sentence());
            }
            None => merged.push((object, change.form(), patch, change.sentence().to_owned())),
        }
    }
    let fix = |(object, form, patch, sentence): (String, Form, Value, String)| Fix {
        object,
        form,
        patch: yaml(&patch),
        sentence,
    };
    merged.into_iter().map(fix).collect()
}

/// Writes YAML without folded lines. Text that YAML 1.1 reads as something else is quoted: `kubectl`
/// reads that version.
fn yaml(value: &Value) -> String {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    // A value of JSON can always be written. If not, JSON is YAML, too.
    serde_saphyr::to_string_with_options(value, options).unwrap_or_else(|_| format!("{value}\n"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_the_same() {
        let value = json!({
            "metadata": {"labels": {
                "a.b/c": "true", "d": "80", "e": null, "f": "x: y", "": "", "on": "0x10", "g": "1_0",
                "h": "2026-01-02", "i": "~", "j": "1:30", "k": "a #b", "l": "a\nb", "m": " ",
            }},
            "spec": {
                "ingress": [
                    {"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "::/0"}}], "ports": [{"port": 80}]},
                    {},
                ],
                "types": ["Ingress", "no"], "nested": [[1, 2], [], "- z"], "none": [],
                "long": "word ".repeat(40),
            },
        });
        let text = yaml(&value);
        let read: Value = serde_yaml_ng::from_str(&text).expect(&text);
        assert_eq!(read, value, "{text}");
    }

    #[test]
    fn lists_stand_at_the_depth_of_their_key() {
        let rule = json!({"from": [{"podSelector": {}}], "ports": [{"port": 80}]});
        let text = yaml(&json!({"spec": {"ingress": [rule, {}], "policyTypes": ["Ingress"]}}));
        let expected = "spec:\n  ingress:\n  - from:\n    - podSelector: {}\n    ports:\n    - port: 80\n  \
            - {}\n  policyTypes:\n  - Ingress\n";
        assert_eq!(text, expected);
    }
}
