//! Turns one file's text into typed objects.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ringfence_policy::model::{
    Object, ObjectError, ObjectKey, ObjectKind, Parsed, Spelling, Workload,
};
use serde_json::Value;

use super::ManifestError;
use super::document::{self, Item};

/// An object that policy may use.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The object's key.
    pub key: ObjectKey,
    /// The number of its document, from 1.
    pub document: usize,
    /// The object.
    pub object: Arc<Object>,
}

/// An object that doesn't parse, with the form that fails closed.
#[derive(Clone, Debug)]
pub struct Invalid {
    /// The object's key, as far as it could be read.
    pub key: ObjectKey,
    /// The error, and the closed form.
    pub error: ObjectError,
}

/// An object that may create pods and isn't read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unread {
    /// A kind in which no pod template was found, and an object.
    Kind(String, String),
    /// An object that was created by another one, which provides its pods.
    Made(ObjectKey, ObjectKey),
    /// A kind that Kubernetes' own group of that name doesn't have, and an object.
    Unknown(String, String),
}

/// The content of a file.
#[derive(Default, Debug)]
pub struct FileRead {
    /// Good objects, each key once.
    pub entries: Vec<Entry>,
    /// Objects that are named but invalid.
    pub invalid: Vec<Invalid>,
    /// Objects in the file that aren't read.
    pub unread: Vec<Unread>,
    /// Everything wrong with the file.
    pub errors: Vec<ManifestError>,
    /// Whether every document was YAML and every object has a name, so that an object that wasn't
    /// found is gone. Otherwise, an earlier object may merely be unreadable.
    pub complete: bool,
}

/// Reads a file's text.
pub fn read(file: &Path, text: &str) -> FileRead {
    let (items, errors) = document::read(text);
    let mut read = FileRead {
        complete: errors.is_empty(),
        ..FileRead::default()
    };
    for error in errors {
        read.errors.push(ManifestError {
            document: Some(error.document),
            item: error.item,
            ..ManifestError::of_file(file, error.message)
        });
    }
    let mut seen = BTreeMap::new();
    // Few files have braces, and the check walks through all values.
    let has_braces = text.contains("{{");
    for item in items {
        match misread(&item.value, has_braces) {
            None => object(file, item, &mut seen, &mut read),
            Some((field, message)) => {
                // The document may be any object that was there before.
                read.complete = false;
                read.errors.push(ManifestError {
                    document: Some(item.document),
                    item: item.item,
                    object: Some(key_of(&item.value).to_string()),
                    field: Some(field),
                    ..ManifestError::of_file(file, message)
                });
            }
        }
    }
    read
}

fn object(file: &Path, item: Item, seen: &mut BTreeMap<ObjectKey, usize>, read: &mut FileRead) {
    let Item {
        document,
        item,
        value,
    } = item;
    let key = key_of(&value);
    let fail = |field: Option<String>, message: String| ManifestError {
        document: Some(document),
        item,
        object: Some(key.to_string()),
        field,
        ..ManifestError::of_file(file, message)
    };
    let mut put = |object: Object, read: &mut FileRead| {
        let key = match &object {
            // A stand-in may have another name than its document.
            Object::Pod(pod) if pod.stand_in.is_some() => object.key(),
            _ => key.clone(),
        };
        if let Some(first) = seen.insert(key.clone(), document) {
            let message = format!("defined twice in this file, first in document {first}");
            read.errors.push(fail(None, message));
        } else {
            read.entries.push(Entry {
                key,
                document,
                object: object.into(),
            });
        }
    };
    match Workload::of(&value) {
        Workload::Pods(pods) => {
            for pod in pods {
                put(Object::Pod(pod), read);
            }
            return;
        }
        Workload::Made(kind, name) => {
            let by = ObjectKey::new(kind.as_str(), &key.namespace, &name);
            read.unread.push(Unread::Made(key, by));
            return;
        }
        Workload::Unread { kind, object } => {
            read.unread.push(Unread::Kind(kind, object));
            return;
        }
        Workload::Other => {}
    }
    let unknown = unknown(&value, &key);
    match Object::from_value(value) {
        Ok(Parsed::Ignored) => read.unread.extend(unknown),
        Ok(Parsed::Object(object)) => put(*object, read),
        Err(error) => {
            let field = (!error.field.is_empty()).then(|| error.field.clone());
            read.errors.push(fail(field, error.message.clone()));
            read.complete &= !key.name.is_empty();
            read.invalid.push(Invalid { key, error });
        }
    }
}

/// Returns the field of a document that is misspelled or a template, and the reason.
fn misread(value: &Value, has_braces: bool) -> Option<(String, String)> {
    let (kind, api) = (value["kind"].as_str(), value["apiVersion"].as_str());
    match Spelling::of(kind.unwrap_or_default(), api) {
        Spelling::Wrong(field, message) => Some((field.to_owned(), message)),
        Spelling::Fine | Spelling::Unknown => {
            let field = has_braces.then(|| template(value, "", false))??;
            Some((field, document::TEMPLATE.to_owned()))
        }
    }
}

/// Returns the first name, label or selector that contains a template's braces: in quotes they are
/// valid YAML, but would match nothing.
fn template(value: &Value, path: &str, is_name: bool) -> Option<String> {
    const NAMES: [&str; 6] = [
        "kind",
        "labels",
        "matchExpressions",
        "matchLabels",
        "metadata",
        "selector",
    ];
    let is_template = |text: &str| is_name && text.contains("{{");
    match value {
        Value::String(text) => is_template(text).then(|| path.to_owned()),
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(n, item)| template(item, &format!("{path}[{n}]"), is_name))
        }
        Value::Object(members) => members.iter().find_map(|(key, value)| {
            let at = match path {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            let is_name = key != "annotations" && (is_name || NAMES.contains(&key.as_str()));
            let own = is_template(key).then(|| at.clone());
            own.or_else(|| template(value, &at, is_name))
        }),
        _ => None,
    }
}

/// Returns an object of a kind that Kubernetes' own group of that name doesn't have.
fn unknown(value: &Value, key: &ObjectKey) -> Option<Unread> {
    let api = value["apiVersion"].as_str()?;
    let object = format!("{}/{}", key.namespace, key.name);
    let is_unknown = Spelling::of(key.kind.as_str(), Some(api)) == Spelling::Unknown;
    is_unknown.then(|| Unread::Unknown(format!("{} of {api}", key.kind), object))
}

/// Kinds that are an error and have no namespace: a `metadata.namespace` on them has no meaning.
const UNENFORCED: [&str; 2] = ["AdminNetworkPolicy", "BaselineAdminNetworkPolicy"];

/// Returns the object's key, read from the untyped value: an object that doesn't parse has a key,
/// too, and it must be the same as when it parsed.
fn key_of(value: &Value) -> ObjectKey {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = ObjectKind::from(text(&value["kind"]).as_str());
    let is_namespaced = match &kind {
        ObjectKind::Read(kind) => kind.is_namespaced(),
        ObjectKind::Other(kind) => !UNENFORCED.contains(&kind.as_str()),
    };
    let namespace = match text(&value["metadata"]["namespace"]) {
        _ if !is_namespaced => String::new(),
        empty if empty.is_empty() => "default".to_owned(),
        namespace => namespace,
    };
    ObjectKey::new(kind, &namespace, &text(&value["metadata"]["name"]))
}
