//! Workloads of groups other than Kubernetes' own: any object that contains a pod template.

use serde_json::{Map, Value};

use super::kind::{WorkloadKind, group};
use super::{Meta, OwnerReference, Pod, PodStatus};

/// Kubernetes' own groups, apart from those that end in `.k8s.io`.
const OWN_GROUPS: [&str; 6] = ["", "apps", "autoscaling", "batch", "extensions", "policy"];

/// Maximum depth of the search for templates, and maximum number of templates per object.
const DEEPEST: usize = 12;
const MOST: usize = 64;

/// The classification of a document that may create pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    /// A workload of another group: one pod per template, each representing the pods of that
    /// template.
    Pods(Vec<Pod>),
    /// Skipped, because the object that created it represents its pods: kind and name of that
    /// owner.
    Made(String, String),
    /// A kind in which no template was found. It may still create pods.
    Unread {
        /// `Kafka.kafka.strimzi.io`.
        kind: String,
        /// `namespace/name`.
        object: String,
    },
    /// Not a workload.
    Other,
}

impl Workload {
    /// Classifies one document.
    pub fn of(value: &Value) -> Self {
        let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or("");
        let (kind, group) = (text("/kind"), group(text("/apiVersion")));
        let owner = owner(&value["metadata"]["ownerReferences"]);
        let is_known = value.get("apiVersion").is_none() || is_known(kind, group);
        if is_known {
            return match owner {
                Some(by) if may_be_owned(kind) => Self::Made(by.kind_and_group(), by.name),
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

/// Reports whether a kind of a group is one of Kubernetes' own workloads.
fn is_known(kind: &str, group: &str) -> bool {
    WorkloadKind::parse(kind).is_some_and(|known| known.group() == group)
}

fn may_be_owned(kind: &str) -> bool {
    WorkloadKind::parse(kind).is_some_and(WorkloadKind::may_be_owned)
}

/// Returns a kind, with its group unless that is Kubernetes' own.
pub(super) fn qualified(kind: &str, group: &str) -> String {
    match group.is_empty() || is_known(kind, group) {
        true => kind.to_owned(),
        false => format!("{kind}.{group}"),
    }
}

fn is_own(group: &str) -> bool {
    OWN_GROUPS.contains(&group) || group.ends_with(".k8s.io")
}

/// Returns the name of a workload. If the name is generated, returns its prefix.
pub(super) fn name(value: &Value) -> &str {
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or("");
    match text("name") {
        "" => text("generateName").trim_end_matches('-'),
        name => name,
    }
}

/// Returns the owner that manages an object.
fn owner(references: &Value) -> Option<OwnerReference> {
    let all: Vec<OwnerReference> = serde_json::from_value(references.clone()).ok()?;
    let managing = all.iter().position(|owner| owner.controller);
    all.into_iter().nth(managing.unwrap_or(0))
}

/// Collects every pod template under a value, with the name of its part of the workload.
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

/// Returns the text in front of `template` in a field's name. Other similarly named fields hold
/// patterns and patches for pods.
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
    // Only the labels of its metadata are used; other fields may have any type.
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

/// Returns a name for each part of a workload, following the naming scheme operators use for
/// pods.
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
