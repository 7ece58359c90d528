//! Workloads of other groups than Kubernetes' own: whatever has a pod template in it.

use serde_json::{Map, Value};

use super::{Meta, OwnerReference, Pod, PodStatus};

/// Kinds of Kubernetes' own whose objects stand for their pods, and their groups.
pub(super) const KNOWN: [(&str, &str); 7] = [
    ("Deployment", "apps"),
    ("StatefulSet", "apps"),
    ("DaemonSet", "apps"),
    ("ReplicaSet", "apps"),
    ("Job", "batch"),
    ("CronJob", "batch"),
    ("ReplicationController", ""),
];

/// Those of them which other workloads make: these stand for the pods then.
pub(super) const MADE: [&str; 3] = ["ReplicaSet", "Job", "ReplicationController"];

/// Groups of Kubernetes' own, beside those that end in `.k8s.io`.
const OWN_GROUPS: [&str; 6] = ["", "apps", "autoscaling", "batch", "extensions", "policy"];

/// So deep templates are looked for, and so many in one object.
const DEEPEST: usize = 12;
const MOST: usize = 64;

/// What a document is that may make pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Of another group: a pod that stands for its pods, for each template in it.
    Pods(Vec<Pod>),
    /// Left out, since another object made it, which stands for its pods: that one's
    /// kind and name.
    Made(String, String),
    /// Of a kind in which no template was found. It may make pods all the same.
    Unread {
        /// `Kafka.kafka.strimzi.io`.
        kind: String,
        /// `namespace/name`.
        object: String,
    },
    /// Nothing of that kind.
    Other,
}

impl Workload {
    /// Looks at one document.
    pub fn of(value: &Value) -> Self {
        let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or("");
        let (kind, group) = (text("/kind"), group(text("/apiVersion")));
        let owner = owner(&value["metadata"]["ownerReferences"]);
        let is_known = value.get("apiVersion").is_none() || KNOWN.contains(&(kind, group));
        if is_known {
            return match owner {
                Some(by) if MADE.contains(&kind) => Self::Made(by.kind_and_group(), by.name),
                _ => Self::Other,
            };
        }
        let kind = qualified(kind, group);
        let mut found = Vec::new();
        find(&value["spec"], "", DEEPEST, &mut found);
        let space = match text("/metadata/namespace") {
            "" => "default",
            space => space,
        };
        let name = name(value);
        match found.as_slice() {
            [] if is_own(group) || owner.is_some() || name.is_empty() => Self::Other,
            [] => Self::Unread {
                kind,
                object: format!("{space}/{name}"),
            },
            _ if name.is_empty() => Self::Other,
            [(_, pod)] => Self::Pods(vec![standing(pod, &kind, space, name)]),
            several => {
                let named = names(name, several).into_iter().zip(several);
                let pods = named.map(|(name, (_, pod))| standing(pod, &kind, space, &name));
                Self::Pods(pods.collect())
            }
        }
    }
}

/// The group of an `apiVersion`; empty for the core's.
pub(super) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// A kind with its group, where that isn't Kubernetes' own.
pub(super) fn qualified(kind: &str, group: &str) -> String {
    match group.is_empty() || KNOWN.contains(&(kind, group)) {
        true => kind.to_owned(),
        false => format!("{kind}.{group}"),
    }
}

fn is_own(group: &str) -> bool {
    OWN_GROUPS.contains(&group) || group.ends_with(".k8s.io")
}

/// The name of a workload; what is created under a generated one goes by what that
/// begins with.
pub(super) fn name(value: &Value) -> &str {
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or("");
    match text("name") {
        "" => text("generateName").trim_end_matches('-'),
        name => name,
    }
}

/// The object that manages another.
fn owner(references: &Value) -> Option<OwnerReference> {
    let all: Vec<OwnerReference> = serde_json::from_value(references.clone()).ok()?;
    let managing = all.iter().position(|owner| owner.controller);
    all.into_iter().nth(managing.unwrap_or(0))
}

/// Every pod template under a value, and the part that its pods have in the workload.
fn find(value: &Value, part: &str, depth: usize, found: &mut Vec<(String, Pod)>) {
    if depth == 0 || found.len() >= MOST {
        return;
    }
    match value {
        Value::Array(items) => {
            for item in items {
                let named = ["name", "groupName"]
                    .iter()
                    .find_map(|key| item[*key].as_str());
                find(item, named.unwrap_or(part), depth - 1, found);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                let stem = template_of(key);
                let part = match (stem, key.as_str()) {
                    (Some(""), _) | (None, "spec") => part,
                    (Some(stem), _) => stem,
                    (None, key) => key,
                };
                match stem.and_then(|_| pod(value)) {
                    Some(pod) => found.push((part.to_owned(), pod)),
                    None => find(value, part, depth - 1, found),
                }
            }
        }
        _ => {}
    }
}

/// What stands before `template` in a field's name: other fields that look alike are
/// patterns and patches of pods.
fn template_of(key: &str) -> Option<&str> {
    match key {
        "template" => Some(""),
        key => key.strip_suffix("Template"),
    }
}

fn pod(template: &Value) -> Option<Pod> {
    let containers = template["spec"]["containers"].as_array()?;
    if containers.is_empty() {
        return None;
    }
    let mut template = template.clone();
    // Of its metadata only labels count, and others may be anything.
    let labels = template["metadata"]["labels"].take();
    let mut metadata = Map::new();
    if labels.is_object() {
        metadata.insert("labels".into(), labels);
    }
    template["metadata"] = metadata.into();
    serde_json::from_value(template).ok()
}

fn standing(template: &Pod, kind: &str, namespace: &str, name: &str) -> Pod {
    let mut pod = template.clone();
    pod.metadata = Meta {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        labels: pod.metadata.labels,
        ..Meta::default()
    };
    pod.spec.node_name = None;
    pod.status = PodStatus::default();
    pod.stand_in = Some(kind.to_owned());
    pod
}

/// A name for each part of a workload, as their operators call their pods.
fn names(name: &str, parts: &[(String, Pod)]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (part, _) in parts {
        let mut called = format!("{name}-{}", part.to_lowercase());
        if part.is_empty() || names.contains(&called) {
            called = format!("{name}-{}", names.len());
        }
        names.push(called);
    }
    names
}
