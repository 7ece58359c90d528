//! The objects, their history, and the lists that are being read page by page.
//!
//! Every object is kept as the text that it is sent as, so that a list of 100,000
//! is put together without making any of it anew.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::resources::{self, RESOURCES, Resource};

/// Events that one resource remembers, as a real server's watch cache does.
const HISTORY: usize = 20_000;
/// The first resource version: not 0, which has a meaning of its own.
const FIRST: u64 = 1000;

/// Namespace and name.
type Key = (String, String);

/// All objects.
pub(super) struct Store {
    version: u64,
    kinds: BTreeMap<&'static str, Collection>,
    pages: BTreeMap<u64, Listing>,
    next_page: u64,
}

#[derive(Default)]
struct Collection {
    /// Without kind and apiVersion: the items of lists don't repeat them.
    objects: BTreeMap<Key, Bytes>,
    history: VecDeque<Change>,
    /// Changes up to this version are forgotten.
    forgotten: u64,
}

/// One change, to be told to watches.
#[derive(Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(super) verb: &'static str,
    pub(super) namespace: String,
    pub(super) object: Bytes,
}

/// Objects of one moment.
#[derive(Clone)]
pub(super) struct Listing {
    pub(super) version: u64,
    pub(super) objects: VecDeque<Bytes>,
}

/// What a watch asks for is no longer known.
#[derive(Debug)]
pub(super) struct Gone;

impl Store {
    pub(super) fn new() -> Self {
        let kinds = RESOURCES.iter().map(|r| (r.plural, Collection::default()));
        Self {
            version: FIRST,
            kinds: kinds.collect(),
            pages: BTreeMap::new(),
            next_page: 1,
        }
    }

    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    fn of(&self, resource: &Resource) -> &Collection {
        &self.kinds[resource.plural]
    }

    /// Adds an object or replaces the one of its name.
    pub(super) fn put(&mut self, mut object: Value) -> Result<u64> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, api_version) = (text(&object["kind"]), text(&object["apiVersion"]));
        let resource = resources::of_kind(&kind, &api_version)
            .with_context(|| format!("{api_version} {kind}: no such kind here"))?;
        self.version += 1;
        let version = self.version;
        let fields = object.as_object_mut().context("no object")?;
        fields.remove("kind");
        fields.remove("apiVersion");
        let meta = fields.entry("metadata").or_insert_with(|| json!({}));
        let meta = meta.as_object_mut().context("metadata: no object")?;
        let key = name(resource, meta)?;
        meta.insert("resourceVersion".into(), version.to_string().into());
        let known = self.get(resource, &key.0, &key.1);
        let uid = known.as_ref().map(|known| known["metadata"]["uid"].clone());
        let uid = uid.unwrap_or_else(|| format!("uid-{version}").into());
        meta.entry("uid").or_insert(uid);
        let text = Bytes::from(serde_json::to_vec(&object)?);
        let verb = if known.is_some() { "MODIFIED" } else { "ADDED" };
        self.note(resource, verb, &key, text.clone());
        self.collection(resource).objects.insert(key, text);
        Ok(version)
    }

    /// Removes an object; its last form, as a watch is told it.
    pub(super) fn remove(
        &mut self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Option<Value> {
        let key = (namespace.to_owned(), name.to_owned());
        let text = self.collection(resource).objects.remove(&key)?;
        self.version += 1;
        let mut object: Value = serde_json::from_slice(&text).ok()?;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let text = Bytes::from(object.to_string());
        self.note(resource, "DELETED", &key, text);
        Some(object)
    }

    fn collection(&mut self, resource: &Resource) -> &mut Collection {
        self.kinds.entry(resource.plural).or_default()
    }

    fn note(&mut self, resource: &Resource, verb: &'static str, key: &Key, object: Bytes) {
        let version = self.version;
        let collection = self.collection(resource);
        collection.history.push_back(Change {
            version,
            verb,
            namespace: key.0.clone(),
            object,
        });
        if collection.history.len() > HISTORY
            && let Some(oldest) = collection.history.pop_front()
        {
            collection.forgotten = oldest.version;
        }
    }

    pub(super) fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Value> {
        let key = (namespace.to_owned(), name.to_owned());
        complete(resource, self.of(resource).objects.get(&key)?)
    }

    pub(super) fn all(&self, resource: &Resource) -> Vec<Value> {
        let objects = self.of(resource).objects.values();
        objects
            .filter_map(|text| complete(resource, text))
            .collect()
    }

    /// All objects of a resource, or of one namespace.
    pub(super) fn list(&self, resource: &Resource, namespace: Option<&str>) -> Listing {
        let objects = &self.of(resource).objects;
        let objects = match namespace {
            None => objects.values().cloned().collect(),
            Some(namespace) => {
                let from = Bound::Included((namespace.to_owned(), String::new()));
                let range = objects.range((from, Bound::Unbounded));
                let own = range.take_while(|(key, _)| key.0 == namespace);
                own.map(|(_, text)| text.clone()).collect()
            }
        };
        Listing {
            version: self.version,
            objects,
        }
    }

    /// Keeps the rest of a list; returns the token to ask for it with.
    pub(super) fn keep(&mut self, rest: Listing) -> u64 {
        let token = self.next_page;
        self.next_page += 1;
        self.pages.insert(token, rest);
        token
    }

    /// The rest of a list. Pages can be read again.
    pub(super) fn rest(&self, token: u64) -> Result<Listing, Gone> {
        self.pages.get(&token).cloned().ok_or(Gone)
    }

    /// Changes of a resource after a version.
    pub(super) fn since(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        version: u64,
    ) -> Result<Vec<Change>, Gone> {
        let collection = self.of(resource);
        if version < collection.forgotten {
            return Err(Gone);
        }
        let from = collection.history.partition_point(|c| c.version <= version);
        let changes = collection.history.range(from..);
        let own = changes.filter(|c| namespace.is_none_or(|namespace| c.namespace == namespace));
        Ok(own.cloned().collect())
    }

    /// Forgets what was before now.
    pub(super) fn compact(&mut self) {
        self.pages.clear();
        // What is compacted away is older than anything that happens from now on.
        self.version += 1;
        for collection in self.kinds.values_mut() {
            collection.history.clear();
            collection.forgotten = self.version;
        }
    }
}

/// Fills in and reads the name of an object.
fn name(resource: &Resource, meta: &mut Map<String, Value>) -> Result<Key> {
    if resource.namespaced {
        meta.entry("namespace").or_insert_with(|| "default".into());
    } else {
        meta.remove("namespace");
    }
    let text = |field: &str| meta.get(field).and_then(Value::as_str).unwrap_or_default();
    if text("name").is_empty() {
        bail!("{}: metadata.name: missing", resource.kind);
    }
    Ok((text("namespace").to_owned(), text("name").to_owned()))
}

/// An object with what its list says of all.
fn complete(resource: &Resource, text: &Bytes) -> Option<Value> {
    let mut object: Value = serde_json::from_slice(text).ok()?;
    object["kind"] = resource.kind.into();
    object["apiVersion"] = resource.api_version.into();
    Some(object)
}

/// The objects of YAML documents, those of Lists one by one.
pub(super) fn read_yaml(yaml: &str) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(yaml) {
        let value = Value::deserialize(document)?;
        match value["kind"].as_str() {
            None if value.is_null() => {}
            Some("List") => {
                objects.extend(value["items"].as_array().into_iter().flatten().cloned());
            }
            _ => objects.push(value),
        }
    }
    Ok(objects)
}
