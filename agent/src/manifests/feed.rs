//! Feeds changes of the store to a long-lived index.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringfence_policy::index::Index;
use ringfence_policy::model::{Object, ObjectError, ObjectKey};

use super::Store;

/// What an index has been given.
#[derive(Default, Debug)]
pub struct Feed {
    told: BTreeMap<ObjectKey, Said>,
}

/// The state of one object in the files.
#[derive(Default, PartialEq, Eq, Debug)]
struct Said {
    /// The object's last good form.
    object: Option<Arc<Object>>,
    /// Newer forms that can't be used.
    invalid: Vec<ObjectError>,
}

impl Feed {
    /// Brings an index up to date with a store. Nobody else may have fed the index.
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
            index.delete(key);
        }
        for (key, said) in &now {
            let before = self.told.get(key);
            if before == Some(said) {
                continue;
            }
            // A form that the store no longer has must not remain as the last valid one.
            let had = before.is_some_and(|before| before.object.is_some());
            match &said.object {
                Some(object) => index.apply(Object::clone(object)),
                None if had => index.delete(key),
                None => {}
            }
            for error in &said.invalid {
                index.apply_closed(error);
            }
        }
        self.told = now;
    }
}
