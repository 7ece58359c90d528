//! Parsing of objects as an API server sends them: their kind is known and they are almost always
//! valid. They are deserialized directly into their types, without building a JSON tree. Only an
//! object that fails takes the slow path, which handles nulls, reports faults and builds closed
//! forms.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Kind, MIRROR, Object, ObjectError, Parsed, parse, validate, validate_cluster};

pub(super) fn object(kind: Kind, json: &str) -> Result<Object, ObjectError> {
    match straight(kind, json) {
        Some(object) => Ok(object),
        None => long_way(kind, json),
    }
}

fn straight(kind: Kind, json: &str) -> Option<Object> {
    let mut object = match kind {
        Kind::Pod => Object::Pod(read(json)?),
        Kind::Namespace => Object::Namespace(read(json)?),
        Kind::Node => Object::Node(read(json)?),
        Kind::Service => Object::Service(read(json)?),
        Kind::EndpointSlice => Object::EndpointSlice(read(json)?),
        Kind::NetworkPolicy => Object::NetworkPolicy(read(json)?),
        Kind::ClusterNetworkPolicy => Object::ClusterNetworkPolicy(read(json)?),
    };
    match &object {
        Object::NetworkPolicy(policy) => validate::spec(&policy.spec).ok()?,
        Object::ClusterNetworkPolicy(policy) => validate_cluster::spec(&policy.spec).ok()?,
        _ => {}
    }
    let meta = parse::meta_mut(&mut object);
    // An invalid name or namespace takes the slow path.
    if meta.name.is_empty() || meta.namespace.is_empty() == kind.is_namespaced() {
        return None;
    }
    match kind {
        Kind::Pod => meta.annotations.retain(|key, _| key == MIRROR),
        _ => drop(meta.annotations.remove(parse::LAST_APPLIED)),
    }
    Some(object)
}

fn read<T: DeserializeOwned>(json: &str) -> Option<T> {
    serde_json::from_str(json).ok()
}

/// Parses with the slow path. The items of a list omit the fields that the list states for all of
/// them.
fn long_way(kind: Kind, json: &str) -> Result<Object, ObjectError> {
    let fault = |message: String| ObjectError {
        kind: kind.name().to_owned(),
        namespace: String::new(),
        name: String::new(),
        uid: String::new(),
        field: String::new(),
        message,
        closed: None,
    };
    let mut value: Value = serde_json::from_str(json).map_err(|e| fault(e.to_string()))?;
    if let Value::Object(fields) = &mut value {
        fields.insert("kind".into(), kind.name().into());
        fields.insert("apiVersion".into(), kind.api_version().into());
    }
    match parse::object(value)? {
        Parsed::Object(object) => Ok(*object),
        Parsed::Ignored => Err(fault(format!(
            "{}: a kind that isn't read",
            kind.api_version()
        ))),
    }
}
