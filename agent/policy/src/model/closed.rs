//! The closed form that replaces a policy that can't be used.
//!
//! Built from the raw document, since any part of it may be invalid.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Action, Closed, ClusterEgressRule, ClusterIngressRule, ClusterNetworkPolicy,
    ClusterNetworkPolicySpec, Kind, LabelSelector, Meta, NetworkPolicy, NetworkPolicySpec,
    PolicyType, Subject, validate, validate_cluster,
};

/// Returns the closed form of a document of a policy kind.
pub(super) fn of(kind: Kind, value: &Value, namespace: &str, name: &str) -> Option<Closed> {
    let spec = &value["spec"];
    let metadata = Meta {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        // A policy that was only staged must not drop packets because it is invalid.
        annotations: read(&value["metadata"]["annotations"]).unwrap_or_default(),
        ..Meta::default()
    };
    match kind {
        Kind::NetworkPolicy => Some(Closed::Namespaced(NetworkPolicy {
            metadata,
            spec: namespaced(spec),
        })),
        Kind::ClusterNetworkPolicy => Some(Closed::Cluster(ClusterNetworkPolicy {
            metadata,
            spec: cluster(spec),
        })),
        _ => None,
    }
}

fn namespaced(spec: &Value) -> NetworkPolicySpec {
    let selector: Option<LabelSelector> =
        read(&spec["podSelector"]).filter(|s| validate::selector(s, "").is_ok());
    let types: Option<Vec<PolicyType>> = read(&spec["policyTypes"]);
    let types = types.filter(|t| !t.is_empty());
    NetworkPolicySpec {
        pod_selector: selector.unwrap_or_default(),
        policy_types: types.unwrap_or_else(|| vec![PolicyType::Ingress, PolicyType::Egress]),
        ..NetworkPolicySpec::default()
    }
}

fn cluster(spec: &Value) -> ClusterNetworkPolicySpec {
    let priorities = 0..=validate_cluster::LAST_PRIORITY;
    let subject: Option<Subject> =
        read(&spec["subject"]).filter(|s| validate_cluster::subject(s, "").is_ok());
    // A value that isn't a list was still meant to be rules.
    let has = |field: &str| match &spec[field] {
        Value::Null => false,
        Value::Array(rules) => !rules.is_empty(),
        _ => true,
    };
    let (ingress, egress) = match (has("ingress"), has("egress")) {
        (false, false) => (true, true),
        named => named,
    };
    let deny_from = ClusterIngressRule {
        name: None,
        action: Action::Deny,
        from: Vec::new(),
        protocols: Vec::new(),
        unread: None,
    };
    let deny_to = ClusterEgressRule {
        name: None,
        action: Action::Deny,
        to: Vec::new(),
        protocols: Vec::new(),
        unread: None,
    };
    ClusterNetworkPolicySpec {
        tier: read(&spec["tier"]).unwrap_or_default(),
        priority: read(&spec["priority"])
            .filter(|p| priorities.contains(p))
            .unwrap_or_default(),
        subject: subject.unwrap_or_else(|| Subject {
            namespaces: Some(LabelSelector::default()),
            pods: None,
        }),
        ingress: ingress.then_some(deny_from).into_iter().collect(),
        egress: egress.then_some(deny_to).into_iter().collect(),
    }
}

fn read<T: DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}
