//! The reasons why an object can't be used.

use super::{ClusterNetworkPolicy, NetworkPolicy};

/// An object that can't be used, and the invalid field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {}: {}{message}", self.object(), self.at())]
pub struct ObjectError {
    /// Kind, empty if the document has none.
    pub kind: String,
    /// Namespace, empty for objects that have none.
    pub namespace: String,
    /// Name, empty if the document has none.
    pub name: String,
    /// UID, empty if the document has none.
    pub uid: String,
    /// Path of the field, e.g. `spec.ingress[0].from[1].ipBlock.cidr`; may be empty.
    pub field: String,
    /// What is wrong with the field.
    pub message: String,
    /// For a policy: the closed form that replaces it while it has no valid form.
    pub closed: Option<Box<Closed>>,
}

/// The closed form of a policy that can't be used: it allows nothing. A staged policy stays
/// staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// For a NetworkPolicy: isolates the pods that its selector selects, or all pods of its
    /// namespace if the selector doesn't parse.
    Namespaced(NetworkPolicy),
    /// For a ClusterNetworkPolicy: one `Deny` rule without peers or protocols, which matches
    /// everything, in each direction that has rules, or in both if there are none. Keeps the
    /// policy's tier, priority and subject if valid; the defaults are Admin, 0 and all pods.
    Cluster(ClusterNetworkPolicy),
}

impl ObjectError {
    /// Returns `namespace/name`, or the known part of it.
    pub fn object(&self) -> String {
        match (self.namespace.as_str(), self.name.as_str()) {
            ("", "") => "without a name".into(),
            ("", name) => name.into(),
            (namespace, "") => format!("{namespace}/?"),
            (namespace, name) => format!("{namespace}/{name}"),
        }
    }

    fn at(&self) -> String {
        match self.field.as_str() {
            "" => String::new(),
            field => format!("{field}: "),
        }
    }
}
