//! Objects got and written over HTTP.

use hyper::StatusCode;
use serde_json::Value;

use super::http::{Answer, json_answer, status};
use super::resources::Target;
use super::{Shared, lock};

pub(super) fn get(shared: &Shared, target: &Target<'_>) -> Answer {
    let (namespace, name) = names(target);
    let found = lock(&shared.store).get(target.resource, namespace, name);
    found.map_or_else(|| not_found(target), |o| json_answer(StatusCode::OK, &o))
}

/// `create`, `update` or `delete`.
pub(super) fn answer(shared: &Shared, target: &Target<'_>, verb: &str, body: &[u8]) -> Answer {
    let (namespace, name) = names(target);
    if verb == "delete" {
        let gone = lock(&shared.store).remove(target.resource, namespace, name);
        shared.wake();
        return gone.map_or_else(|| not_found(target), |o| json_answer(StatusCode::OK, &o));
    }
    let Ok(mut object) = serde_json::from_slice::<Value>(body) else {
        return status(StatusCode::BAD_REQUEST, "BadRequest", "no JSON");
    };
    if !object["metadata"].is_object() {
        return status(StatusCode::BAD_REQUEST, "BadRequest", "no metadata");
    }
    object["kind"] = target.resource.kind.into();
    object["apiVersion"] = target.resource.api_version.into();
    if let Some(namespace) = target.namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    let name = match (verb, object["metadata"]["name"].as_str()) {
        ("create", Some(name)) => name.to_owned(),
        _ => name.to_owned(),
    };
    put(shared, target, verb, object, &name)
}

fn put(shared: &Shared, target: &Target<'_>, verb: &str, object: Value, name: &str) -> Answer {
    let namespace = target.namespace.unwrap_or_default();
    let mut store = lock(&shared.store);
    let known = store.get(target.resource, namespace, name).is_some();
    if verb == "create" && known {
        return status(StatusCode::CONFLICT, "AlreadyExists", "already exists");
    }
    if verb == "update" && !known {
        return not_found(target);
    }
    let put = store.put(object);
    let written = store.get(target.resource, namespace, name);
    drop(store);
    shared.wake();
    match (put, written) {
        (Ok(_), Some(object)) => {
            let code = if verb == "create" {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            json_answer(code, &object)
        }
        (Err(error), _) => status(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            &format!("{error:#}"),
        ),
        // Its body named another object than the path.
        (Ok(_), None) => status(StatusCode::BAD_REQUEST, "BadRequest", "another name"),
    }
}

fn names<'t>(target: &Target<'t>) -> (&'t str, &'t str) {
    (
        target.namespace.unwrap_or_default(),
        target.name.unwrap_or_default(),
    )
}

fn not_found(target: &Target<'_>) -> Answer {
    let (namespace, name) = names(target);
    let message = format!("{} {namespace}/{name} not found", target.resource.plural);
    status(StatusCode::NOT_FOUND, "NotFound", &message)
}
