//! What stands in for a policy that can't be used.
//!
//! Made from the document itself, since what is wrong with it may be anything.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Action, Closed, ClusterEgressRule, ClusterIngressRule, ClusterNetworkPolicy,
    ClusterNetworkPolicySpec, LabelSelector, Meta, NetworkPolicy, NetworkPolicySpec, PolicyType,
    Subject, validate, validate_cluster,
};

/// The closed form of a document of a kind of policy.
pub(super) fn of(kind: &str, value: &Value, namespace: &str, name: &str) -> Option<Closed> {
    let spec = &value["spec"];
    let metadata = Meta {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        // A policy that was only staged mustn't drop anything for being invalid.
        annotations: read(&value["metadata"]["annotations"]).unwrap_or_default(),
        ..Meta::default()
    };
    match kind {
        "NetworkPolicy" => Some(Closed::Namespaced(NetworkPolicy {
            metadata,
            spec: namespaced(spec),
        })),
        "ClusterNetworkPolicy" => Some(Closed::Cluster(ClusterNetworkPolicy {
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
    // Rules that aren't even a list were meant as rules.
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
