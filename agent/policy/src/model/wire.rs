//! Objects as an API server sends them: of a kind that is known beforehand, and
//! almost always good. Read straight into their types, without the document's
//! tree in between; only what fails there is read again the long way, which
//! knows nulls, names faults and makes closed forms.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{MIRROR, Object, ObjectError, Parsed, parse, validate, validate_cluster};

pub(super) fn object(kind: &str, api_version: &str, json: &str) -> Result<Object, ObjectError> {
    match straight(kind, json) {
        Some(object) => Ok(object),
        None => long_way(kind, api_version, json),
    }
}

fn straight(kind: &str, json: &str) -> Option<Object> {
    let mut object = match kind {
        "Pod" => Object::Pod(read(json)?),
        "Namespace" => Object::Namespace(read(json)?),
        "Node" => Object::Node(read(json)?),
        "Service" => Object::Service(read(json)?),
        "EndpointSlice" => Object::EndpointSlice(read(json)?),
        "NetworkPolicy" => Object::NetworkPolicy(read(json)?),
        "ClusterNetworkPolicy" => Object::ClusterNetworkPolicy(read(json)?),
        _ => return None,
    };
    match &object {
        Object::NetworkPolicy(policy) => validate::spec(&policy.spec).ok()?,
        Object::ClusterNetworkPolicy(policy) => validate_cluster::spec(&policy.spec).ok()?,
        _ => {}
    }
    let namespaced = !matches!(kind, "Namespace" | "Node" | "ClusterNetworkPolicy");
    let meta = parse::meta_mut(&mut object);
    // A name or namespace that isn't as it should be is for the long way to judge.
    if meta.name.is_empty() || meta.namespace.is_empty() == namespaced {
        return None;
    }
    match kind {
        "Pod" => meta.annotations.retain(|key, _| key == MIRROR),
        _ => drop(meta.annotations.remove(parse::LAST_APPLIED)),
    }
    Some(object)
}

fn read<T: DeserializeOwned>(json: &str) -> Option<T> {
    serde_json::from_str(json).ok()
}

/// The items of a list don't say what the list says of all of them.
fn long_way(kind: &str, api_version: &str, json: &str) -> Result<Object, ObjectError> {
    let fault = |message: String| ObjectError {
        kind: kind.to_owned(),
        namespace: String::new(),
        name: String::new(),
        uid: String::new(),
        field: String::new(),
        message,
        closed: None,
    };
    let mut value: Value = serde_json::from_str(json).map_err(|e| fault(e.to_string()))?;
    if let Value::Object(fields) = &mut value {
        fields.insert("kind".into(), kind.into());
        fields.insert("apiVersion".into(), api_version.into());
    }
    match parse::object(value)? {
        Parsed::Object(object) => Ok(*object),
        Parsed::Ignored => Err(fault(format!("{api_version}: a kind that isn't read"))),
    }
}
