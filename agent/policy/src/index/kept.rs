//! Forms of policies that are in force in the place of newer ones, over restarts.
//!
//! A policy that doesn't parse any longer keeps its last valid form, and one that no
//! longer has room its last one that had. Who keeps them on disk asks here which there
//! are, and tells the next index before it knows any object.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::{
    intern::Text,
    model::{Closed, Meta, Object, ObjectError, Parsed},
};

use super::{Index, held::CLUSTER, policies::StoredPolicy};

/// A UID, by its hash. API servers choose UIDs, so that nobody makes two of one hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uid(u128);

impl Uid {
    /// Of the text that the API server gives; empty in files.
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

/// A policy's form that is in force in the place of its newest one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptForm {
    /// `NetworkPolicy` or `ClusterNetworkPolicy`.
    pub kind: String,
    /// Empty for a ClusterNetworkPolicy.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Stands for its UID: another object of that name has another.
    pub uid: String,
    /// As a manifest, without what policy doesn't read.
    pub object: Value,
}

/// What is known of an earlier agent's forms, by namespace and name.
pub(super) type Remembered = BTreeMap<(String, String), (String, Object)>;

impl KeptForm {
    /// Kind and name.
    pub fn describe(&self) -> String {
        match self.namespace.as_str() {
            "" => format!("{} {}", self.kind, self.name),
            namespace => format!("{} {namespace}/{}", self.kind, self.name),
        }
    }
}

impl Index {
    /// Takes note of a form that was in force before, for an object with its UID that
    /// turns out to be unusable or to have no room. To be told before any object.
    ///
    /// # Errors
    /// Says why the form can't be used; nothing is remembered then.
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
        let same = object.kind() == form.kind && meta.name == form.name;
        if !is_policy || !same || meta.namespace != form.namespace {
            let name = &meta.name;
            return Err(format!("the form is of {} {name}", object.kind()));
        }
        let key = (form.namespace, form.name);
        self.remembered.insert(key, (form.uid, object));
        Ok(())
    }

    /// Forgets what was remembered: all objects have been told.
    pub fn forget_remembered(&mut self) {
        self.remembered.clear();
    }

    /// Another number whenever [`Index::forms_in_force`] may have changed.
    pub fn forms_changed(&self) -> u64 {
        self.held.changes
    }

    /// Every form that is in force in the place of a newer one.
    pub fn forms_in_force(&self) -> Vec<KeptForm> {
        let network = |(namespace, name): (&str, &str), p: &StoredPolicy| {
            self.kept(
                "NetworkPolicy",
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
                    self.kept("ClusterNetworkPolicy", key, p.document(), p.uid, mode)
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
        kind: &str,
        (namespace, name): (&str, &str),
        spec: Value,
        uid: Uid,
        mode: Option<&Text>,
    ) -> KeptForm {
        let version = match kind {
            "NetworkPolicy" => "networking.k8s.io/v1",
            _ => "policy.networking.k8s.io/v1alpha2",
        };
        let mut object = json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        });
        if let Some(mode) = mode {
            object["metadata"]["annotations"] = json!({self.config.key("mode"): &**mode});
        }
        KeptForm {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.text(),
            object,
        }
    }

    /// Installs the closed form of a policy that doesn't parse, unless a
    /// valid form of it is in place or was in force before a restart: that stays.
    /// Returns whether it did.
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

    /// A policy parses, or is gone.
    pub(super) fn is_valid(&mut self, key: &(String, String)) {
        if self.invalid.remove(key).is_some() {
            self.held.changes += 1;
        }
    }

    /// The form of an object that was in force before, with the object's UID.
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

    /// Of a NetworkPolicy that is new here, the form of before counts as the one that it
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
