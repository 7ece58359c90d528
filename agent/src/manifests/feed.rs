//! From the store to an index that lives on: only what differs is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringfence_policy::index::Index;
use ringfence_policy::model::{Object, ObjectError};

use super::{ObjectKey, Store};

/// What an index has been told.
#[derive(Default, Debug)]
pub struct Feed {
    told: BTreeMap<ObjectKey, Said>,
}

/// What the files say of one object.
#[derive(Default, PartialEq, Eq, Debug)]
struct Said {
    /// Its last good form.
    object: Option<Arc<Object>>,
    /// Newer forms that can't be used.
    invalid: Vec<ObjectError>,
}

impl Feed {
    /// Brings an index to what a store holds. The index has been told nothing
    /// by anybody else.
    pub fn tell(&mut self, store: &Store, index: &mut Index) {
        let mut now: BTreeMap<ObjectKey, Said> = BTreeMap::new();
        for (key, object) in store.objects() {
            now.entry(key.clone()).or_default().object = Some(Arc::clone(object));
        }
        for (key, error) in store.invalid() {
            let said = now.entry(key.clone()).or_default();
            said.invalid.push(error.clone());
        }
        for key in self.told.keys().filter(|key| !now.contains_key(key)) {
            index.delete(&key.kind, &key.namespace, &key.name);
        }
        for (key, said) in &now {
            let before = self.told.get(key);
            if before == Some(said) {
                continue;
            }
            // A form that is no longer held must not stay as the last valid one.
            let had = before.is_some_and(|before| before.object.is_some());
            match &said.object {
                Some(object) => index.apply(Object::clone(object)),
                None if had => index.delete(&key.kind, &key.namespace, &key.name),
                None => {}
            }
            for error in &said.invalid {
                index.apply_closed(error);
            }
        }
        self.told = now;
    }
}
