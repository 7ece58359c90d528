//! Keeps forms of policies that are in force in place of newer ones across restarts.
//!
//! A policy that has become invalid keeps its last valid form, and one that has lost its room keeps
//! the last form that had room. The code that saves them to disk reads them here, and passes them
//! to the next index before any object.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::{
    intern::Text,
    model::{Closed, Kind, Meta, Object, ObjectError, Parsed},
};

use super::{Index, held::CLUSTER, policies::StoredPolicy};

/// The hash of a UID. API servers choose UIDs, so nobody can construct a collision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uid(u128);

impl Uid {
    /// Hashes a UID as the API server reports it; it is empty in files.
    pub(crate) fn of(uid: &str) -> Self {
        use std::hash::Hasher as _;
        let mut hasher = SipHasher13::new();
        hasher.write(uid.as_bytes());
        Self(hasher.finish128().as_u128())
    }

    fn text(self) -> String {
        format!("{:032x}", self.0)
    }
}

/// The form of a policy that is in force in place of its newest one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptForm {
    /// `NetworkPolicy` or `ClusterNetworkPolicy`.
    pub kind: String,
    /// Empty for a ClusterNetworkPolicy.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A hash that identifies its UID: another object of the same name has another one.
    pub uid: String,
    /// The manifest, without the fields that policy doesn't use.
    pub object: Value,
}

/// Forms of an earlier agent, by namespace and name.
pub(super) type Remembered = BTreeMap<(String, String), (String, Object)>;

impl KeptForm {
    /// Returns kind and name.
    pub fn describe(&self) -> String {
        match self.namespace.as_str() {
            "" => format!("{} {}", self.kind, self.name),
            namespace => format!("{} {namespace}/{}", self.kind, self.name),
        }
    }
}

impl Index {
    /// Remembers a form that was in force before a restart. It applies to the object with its UID
    /// if that object turns out to be invalid or to have no room. Call this before applying any
    /// object.
    ///
    /// # Errors
    /// Returns why the form can't be used; nothing is remembered then.
    pub fn remember(&mut self, form: KeptForm) -> Result<(), String> {
        let object = match Object::from_value(form.object) {
            Ok(Parsed::Object(object)) => *object,
            Ok(Parsed::Ignored) => return Err("of a kind that isn't read".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        let is_policy = matches!(
            object,
            Object::NetworkPolicy(_) | Object::ClusterNetworkPolicy(_)
        );
        let meta = object.meta();
        let same = object.kind().as_str() == form.kind && meta.name == form.name;
        if !is_policy || !same || meta.namespace != form.namespace {
            let name = &meta.name;
            return Err(format!("the form is of {} {name}", object.kind()));
        }
        let key = (form.namespace, form.name);
        self.remembered.insert(key, (form.uid, object));
        Ok(())
    }

    /// Forgets the remembered forms; call it once all objects have been applied.
    pub fn forget_remembered(&mut self) {
        self.remembered.clear();
    }

    /// Returns a number that changes whenever [`Index::forms_in_force`] may have changed.
    pub fn forms_changed(&self) -> u64 {
        self.held.changes
    }

    /// Returns every form that is in force in place of a newer one.
    pub fn forms_in_force(&self) -> Vec<KeptForm> {
        let network = |(namespace, name): (&str, &str), p: &StoredPolicy| {
            self.kept(
                Kind::NetworkPolicy,
                (namespace, name),
                p.document(),
                p.uid,
                p.mode.as_ref(),
            )
        };
        let held = self.held.last_forms();
        let mut all: Vec<KeptForm> = held.map(|(ns, name, p)| network((ns, name), p)).collect();
        for (namespace, name) in self.invalid.keys() {
            let key = (namespace.as_str(), name.as_str());
            if namespace == CLUSTER {
                let known = self.cluster_policies.get(name.as_str());
                all.extend(known.filter(|p| !p.closed).map(|p| {
                    let mode = p.mode.as_ref();
                    self.kept(Kind::ClusterNetworkPolicy, key, p.document(), p.uid, mode)
                }));
            } else if !self.held.is_form_held(namespace, name) {
                let known = self.policy(namespace, name);
                all.extend(known.filter(|p| !p.closed).map(|p| network(key, p)));
            }
        }
        all
    }

    fn kept(
        &self,
        kind: Kind,
        (namespace, name): (&str, &str),
        spec: Value,
        uid: Uid,
        mode: Option<&Text>,
    ) -> KeptForm {
        let mut object = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.name(),
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        });
        if let Some(mode) = mode {
            object["metadata"]["annotations"] = json!({self.config.key("mode"): &**mode});
        }
        KeptForm {
            kind: kind.name().to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.text(),
            object,
        }
    }

    /// Installs the closed form of a policy that doesn't parse, unless a valid form of it is in
    /// place or was in force before a restart; that form stays. Returns whether the closed form was
    /// installed.
    pub fn apply_closed(&mut self, error: &ObjectError) -> bool {
        let Some(form) = error.closed.as_deref() else {
            return false;
        };
        let key = (error.namespace.clone(), error.name.clone());
        let before = self.invalid.insert(key.clone(), error.clone());
        if before.as_ref() != Some(error) {
            self.held.changes += 1;
        }
        let known = match form {
            Closed::Namespaced(_) => self.policy(&key.0, &key.1).map(|p| p.closed),
            Closed::Cluster(_) => {
                let known = self.cluster_policies.get(key.1.as_str());
                known.map(|p| p.closed)
            }
        };
        if known == Some(false) {
            return false;
        }
        let kept = self.remembered(&key, &error.uid);
        match (form, kept) {
            (Closed::Namespaced(_), Some(Object::NetworkPolicy(kept))) => {
                self.put_policy(&kept, false);
                false
            }
            (Closed::Cluster(_), Some(Object::ClusterNetworkPolicy(kept))) => {
                self.put_cluster_policy(&kept, false);
                false
            }
            (Closed::Namespaced(policy), _) => {
                self.put_policy(policy, true);
                true
            }
            (Closed::Cluster(policy), _) => {
                self.put_cluster_policy(policy, true);
                true
            }
        }
    }

    /// Clears the error of a policy that parses or was deleted.
    pub(super) fn is_valid(&mut self, key: &(String, String)) {
        if self.invalid.remove(key).is_some() {
            self.held.changes += 1;
        }
    }

    /// Returns the remembered form of an object with this UID.
    fn remembered(&self, key: &(String, String), uid: &str) -> Option<Object> {
        let (kept, object) = self.remembered.get(key)?;
        let mut object = object.clone();
        if *kept != Uid::of(uid).text() {
            return None;
        }
        match &mut object {
            Object::NetworkPolicy(policy) => uid.clone_into(&mut policy.metadata.uid),
            Object::ClusterNetworkPolicy(policy) => uid.clone_into(&mut policy.metadata.uid),
            _ => return None,
        }
        Some(object)
    }

    /// If a NetworkPolicy is new to this index, treats its remembered form as the one that it
    /// replaces.
    pub(super) fn recall(&mut self, namespace: &Text, name: &Text, new: &Meta) {
        if self.remembered.is_empty() || self.policy(namespace, name).is_some() {
            return;
        }
        let key = (namespace.to_string(), name.to_string());
        if let Some(Object::NetworkPolicy(kept)) = self.remembered(&key, &new.uid) {
            let stored = StoredPolicy::new(&self.config, &mut self.pools, &kept, false);
            let key = (Text::clone(namespace), Text::clone(name));
            self.held.recall(&key, stored);
        }
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
