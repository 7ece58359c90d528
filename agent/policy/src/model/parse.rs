//! JSON documents to objects.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    Closed, ClusterNetworkPolicy, MIRROR, Meta, NetworkPolicy, Object, ObjectError, Parsed, Pod,
    Spelling, closed, unread, validate, validate_cluster,
    workload::{self, KNOWN, MADE},
};

/// Kinds of policy that would restrict or allow traffic if they were enforced.
const UNENFORCED: &[&str] = &["AdminNetworkPolicy", "BaselineAdminNetworkPolicy"];
/// What took their place.
const ENFORCED: &str = "v1alpha2 ClusterNetworkPolicy is";

/// The largest annotation, a copy of the whole object, and of no use here.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(super) fn object(mut value: Value) -> Result<Parsed, ObjectError> {
    if value["kind"] == "Service"
        && let Some(Value::Object(selector)) = value.pointer_mut("/spec/selector")
    {
        // Other kinds' selectors of that name have conditions in them.
        empty_nulls(selector);
    }
    strip_nulls(&mut value);
    let who = Who::of(&value);
    if !value.is_object() {
        return Err(who.error("", "not a Kubernetes object"));
    }
    let Some(kind) = value["kind"].as_str().filter(|k| !k.is_empty()) else {
        return Err(who.error("kind", "missing"));
    };
    if let Spelling::Wrong(field, message) = Spelling::of(kind, value["apiVersion"].as_str()) {
        return Err(who.error(field, &message));
    }
    if UNENFORCED.contains(&kind) {
        let message = format!("not enforced by this version, {ENFORCED}");
        return Err(who.error("kind", &message));
    }
    let kind = kind.to_owned();
    let Some(namespaced) = used(&kind, value["apiVersion"].as_str(), &who)? else {
        return Ok(Parsed::Ignored);
    };
    let mut who = who;
    if namespaced && who.namespace.is_empty() {
        who.namespace = "default".into();
    }
    if !namespaced {
        who.namespace.clear();
    }
    who.closed = closed::of(&kind, &value, &who.namespace, &who.name).map(Box::new);
    if who.name.is_empty() {
        return Err(who.error("metadata.name", "missing"));
    }
    build(&kind, value, &who)
}

/// Whether a kind is read and, if so, whether it is namespaced. Other groups have kinds of the
/// same name (Knative's Service, Calico's NetworkPolicy, Antrea's ClusterNetworkPolicy); those aren't ours.
fn used(kind: &str, api: Option<&str>, who: &Who) -> Result<Option<bool>, ObjectError> {
    let (group, namespaced) = match kind {
        "Pod" | "Service" => ("", true),
        "Namespace" | "Node" => ("", false),
        "NetworkPolicy" => ("networking.k8s.io", true),
        "ClusterNetworkPolicy" => ("policy.networking.k8s.io", false),
        "EndpointSlice" => ("discovery.k8s.io", true),
        workload => match KNOWN.iter().find(|(kind, _)| *kind == workload) {
            Some((_, group)) => (*group, true),
            None => return Ok(None),
        },
    };
    let Some(api) = api else {
        return Ok(Some(namespaced));
    };
    let (found, version) = api.split_once('/').unwrap_or(("", api));
    if kind == "NetworkPolicy" && (found == "extensions" || found == group && version != "v1") {
        let message = format!("{api} is not read by this version, networking.k8s.io/v1 is");
        return Err(who.error("apiVersion", &message));
    }
    if kind == "ClusterNetworkPolicy" && found == group && version != "v1alpha2" {
        let message = format!("{api} is not enforced by this version, {ENFORCED}");
        return Err(who.error("apiVersion", &message));
    }
    Ok((found == group).then_some(namespaced))
}

fn build(kind: &str, value: Value, who: &Who) -> Result<Parsed, ObjectError> {
    let object = match kind {
        "Pod" => {
            let mut pod: Pod = who.read(value)?;
            pod.metadata.annotations.retain(|key, _| key == MIRROR);
            Object::Pod(pod)
        }
        "Namespace" => Object::Namespace(who.read(value)?),
        "Node" => Object::Node(who.read(value)?),
        "Service" => Object::Service(who.read(value)?),
        "EndpointSlice" => Object::EndpointSlice(who.read(value)?),
        "NetworkPolicy" => {
            let policy: NetworkPolicy = who.read(value)?;
            validate::spec(&policy.spec).map_err(|(field, why)| who.error(&field, &why))?;
            Object::NetworkPolicy(policy)
        }
        "ClusterNetworkPolicy" => {
            let mut value = value;
            if let Some(spec) = value.get_mut("spec") {
                unread::mark(spec);
            }
            let policy: ClusterNetworkPolicy = who.read(value)?;
            let checked = validate_cluster::spec(&policy.spec);
            checked.map_err(|(field, why)| who.error(&field, &why))?;
            Object::ClusterNetworkPolicy(policy)
        }
        workload => match stand_in(workload, value, who)? {
            Some(pod) => Object::Pod(pod),
            None => return Ok(Parsed::Ignored),
        },
    };
    let mut object = object;
    let meta = meta_mut(&mut object);
    meta.namespace.clone_from(&who.namespace);
    meta.annotations.remove(LAST_APPLIED);
    Ok(Parsed::Object(Box::new(object)))
}

pub(super) fn meta_mut(object: &mut Object) -> &mut Meta {
    match object {
        Object::Pod(o) => &mut o.metadata,
        Object::Namespace(o) => &mut o.metadata,
        Object::NetworkPolicy(o) => &mut o.metadata,
        Object::ClusterNetworkPolicy(o) => &mut o.metadata,
        Object::Service(o) => &mut o.metadata,
        Object::EndpointSlice(o) => &mut o.metadata,
        Object::Node(o) => &mut o.metadata,
    }
}

/// The pod that stands for a workload's pods: its template under the workload's name.
fn stand_in(kind: &str, mut value: Value, who: &Who) -> Result<Option<Pod>, ObjectError> {
    let owned = value["metadata"]["ownerReferences"].as_array();
    if MADE.contains(&kind) && owned.is_some_and(|o| !o.is_empty()) {
        return Ok(None);
    }
    let uid = value["metadata"]["uid"].as_str().unwrap_or("").to_owned();
    let (place, path) = match kind {
        "CronJob" => (
            "/spec/jobTemplate/spec/template",
            "spec.jobTemplate.spec.template",
        ),
        _ => ("/spec/template", "spec.template"),
    };
    let template = value.pointer_mut(place).map(Value::take);
    let template = template.unwrap_or_else(|| Value::Object(Map::new()));
    let mut pod: Pod = serde_path_to_error::deserialize(template)
        .map_err(|e| who.error(&format!("{path}.{}", e.path()), &e.inner().to_string()))?;
    pod.metadata = Meta {
        name: who.name.clone(),
        namespace: who.namespace.clone(),
        uid,
        labels: std::mem::take(&mut pod.metadata.labels),
        ..Meta::default()
    };
    pod.spec.node_name = None;
    pod.status = super::PodStatus::default();
    pod.stand_in = Some(kind.to_owned());
    Ok(Some(pod))
}

/// Kubernetes takes a `null` member for an absent one, but in a map of strings for an empty
/// string: a selector by `tier: null`, of a template that came out empty, selects pods whose
/// `tier` is empty, not all. A `null` in a list stays, and is an error.
fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, v| !v.is_null());
            for (name, value) in members {
                match value {
                    Value::Object(strings) if STRINGS.contains(&name.as_str()) => {
                        empty_nulls(strings);
                    }
                    other => strip_nulls(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// Members that are maps of strings wherever they are.
const STRINGS: [&str; 3] = ["annotations", "labels", "matchLabels"];

fn empty_nulls(strings: &mut Map<String, Value>) {
    for value in strings.values_mut().filter(|value| value.is_null()) {
        *value = "".into();
    }
}

/// Whose document this is.
struct Who {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    closed: Option<Box<Closed>>,
}

impl Who {
    fn of(value: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let kind = value["kind"].as_str().unwrap_or("");
        let name = match KNOWN.iter().any(|(known, _)| *known == kind) {
            true => workload::name(value).to_owned(),
            false => text(&value["metadata"]["name"]),
        };
        Self {
            kind: text(&value["kind"]),
            namespace: text(&value["metadata"]["namespace"]),
            name,
            uid: text(&value["metadata"]["uid"]),
            closed: None,
        }
    }

    fn error(&self, field: &str, message: &str) -> ObjectError {
        ObjectError {
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            field: field.to_owned(),
            message: message.to_owned(),
            closed: self.closed.clone(),
        }
    }

    fn read<T: DeserializeOwned>(&self, value: Value) -> Result<T, ObjectError> {
        serde_path_to_error::deserialize(value).map_err(|e| {
            let path = e.path().to_string();
            let path = if path == "." { "" } else { &path };
            self.error(path, &e.inner().to_string())
        })
    }
}
