//! Conversion of JSON documents to objects.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    Closed, ClusterNetworkPolicy, Kind, MIRROR, Meta, NetworkPolicy, Object, ObjectError, Parsed,
    Pod, Spelling, WorkloadKind, closed, unread, validate, validate_cluster, workload,
};

/// Policy kinds that would restrict or allow traffic if they were enforced.
const UNENFORCED: &[&str] = &["AdminNetworkPolicy", "BaselineAdminNetworkPolicy"];
/// Their enforced replacement, as it appears in error messages.
const ENFORCED: &str = "v1alpha2 ClusterNetworkPolicy is";

/// The largest annotation: a copy of the whole object, not needed here.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(super) fn object(mut value: Value) -> Result<Parsed, ObjectError> {
    if value["kind"] == Kind::Service.name()
        && let Some(Value::Object(selector)) = value.pointer_mut("/spec/selector")
    {
        // The selectors of other kinds contain conditions.
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
    let Some(kind) = read_as(kind, value["apiVersion"].as_str(), &who)? else {
        return Ok(Parsed::Ignored);
    };
    let mut who = who;
    if !kind.is_namespaced() {
        who.namespace.clear();
    } else if who.namespace.is_empty() {
        who.namespace = "default".into();
    }
    if let ReadAs::Itself(kind) = kind {
        who.closed = closed::of(kind, &value, &who.namespace, &who.name).map(Box::new);
    }
    if who.name.is_empty() {
        return Err(who.error("metadata.name", "missing"));
    }
    build(kind, value, &who)
}

/// How a document is read.
#[derive(Clone, Copy)]
enum ReadAs {
    Itself(Kind),
    /// As a pod that represents the workload's pods.
    Workload(WorkloadKind),
}

impl ReadAs {
    fn is_namespaced(self) -> bool {
        match self {
            Self::Itself(kind) => kind.is_namespaced(),
            Self::Workload(_) => true,
        }
    }
}

/// Returns how a kind is read; `None` if it isn't read. Kinds of the same name in other groups
/// (Knative's Service, Calico's NetworkPolicy, Antrea's ClusterNetworkPolicy) aren't.
fn read_as(kind: &str, api: Option<&str>, who: &Who) -> Result<Option<ReadAs>, ObjectError> {
    let (group, read_as) = match (Kind::parse(kind), WorkloadKind::parse(kind)) {
        (Some(kind), _) => (kind.group(), ReadAs::Itself(kind)),
        (None, Some(kind)) => (kind.group(), ReadAs::Workload(kind)),
        (None, None) => return Ok(None),
    };
    let Some(api) = api else {
        return Ok(Some(read_as));
    };
    let (found, version) = api.split_once('/').unwrap_or(("", api));
    match read_as {
        ReadAs::Itself(own @ Kind::NetworkPolicy)
            if found == "extensions" || found == group && version != own.version() =>
        {
            let read = own.api_version();
            let message = format!("{api} is not read by this version, {read} is");
            Err(who.error("apiVersion", &message))
        }
        ReadAs::Itself(own @ Kind::ClusterNetworkPolicy)
            if found == group && version != own.version() =>
        {
            let message = format!("{api} is not enforced by this version, {ENFORCED}");
            Err(who.error("apiVersion", &message))
        }
        _ => Ok((found == group).then_some(read_as)),
    }
}

fn build(read_as: ReadAs, value: Value, who: &Who) -> Result<Parsed, ObjectError> {
    let kind = match read_as {
        ReadAs::Itself(kind) => kind,
        ReadAs::Workload(kind) => {
            let pod = stand_in(kind, value, who)?;
            return Ok(pod.map_or(Parsed::Ignored, |pod| named(Object::Pod(pod), who)));
        }
    };
    let object = match kind {
        Kind::Pod => {
            let mut pod: Pod = who.read(value)?;
            pod.metadata.annotations.retain(|key, _| key == MIRROR);
            Object::Pod(pod)
        }
        Kind::Namespace => Object::Namespace(who.read(value)?),
        Kind::Node => Object::Node(who.read(value)?),
        Kind::Service => Object::Service(who.read(value)?),
        Kind::EndpointSlice => Object::EndpointSlice(who.read(value)?),
        Kind::NetworkPolicy => {
            let policy: NetworkPolicy = who.read(value)?;
            validate::spec(&policy.spec).map_err(|(field, why)| who.error(&field, &why))?;
            Object::NetworkPolicy(policy)
        }
        Kind::ClusterNetworkPolicy => {
            let mut value = value;
            if let Some(spec) = value.get_mut("spec") {
                unread::mark(spec);
            }
            let policy: ClusterNetworkPolicy = who.read(value)?;
            let checked = validate_cluster::spec(&policy.spec);
            checked.map_err(|(field, why)| who.error(&field, &why))?;
            Object::ClusterNetworkPolicy(policy)
        }
    };
    Ok(named(object, who))
}

/// Completes a parsed object.
fn named(mut object: Object, who: &Who) -> Parsed {
    let meta = meta_mut(&mut object);
    meta.namespace.clone_from(&who.namespace);
    meta.annotations.remove(LAST_APPLIED);
    Parsed::Object(Box::new(object))
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

/// Returns the pod that represents a workload's pods: its template under the workload's name.
fn stand_in(kind: WorkloadKind, mut value: Value, who: &Who) -> Result<Option<Pod>, ObjectError> {
    let owned = value["metadata"]["ownerReferences"].as_array();
    if kind.may_be_owned() && owned.is_some_and(|o| !o.is_empty()) {
        return Ok(None);
    }
    let uid = value["metadata"]["uid"].as_str().unwrap_or("").to_owned();
    let (pointer, path) = (kind.template(), kind.template()[1..].replace('/', "."));
    let template = value.pointer_mut(pointer).map(Value::take);
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
    pod.stand_in = Some(kind.name().to_owned());
    Ok(Some(pod))
}

/// Removes `null` members as Kubernetes does, which treats a `null` member as absent, except in a
/// map of strings, where it counts as an empty string: a selector with `tier: null`, from a
/// template that rendered empty, selects pods whose `tier` is empty, not all pods. A `null` in a
/// list stays and is an error.
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

/// Members that are maps of strings wherever they occur.
const STRINGS: [&str; 3] = ["annotations", "labels", "matchLabels"];

fn empty_nulls(strings: &mut Map<String, Value>) {
    for value in strings.values_mut().filter(|value| value.is_null()) {
        *value = "".into();
    }
}

/// Identification of the document's object.
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
        let name = match WorkloadKind::parse(kind).is_some() {
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
