//! Why an object can't be used.

use super::{ClusterNetworkPolicy, NetworkPolicy};

/// An object that can't be used, and which field is at fault.
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
    /// What is wrong with it.
    pub message: String,
    /// For a policy: what stands in for it while it has no valid form.
    pub closed: Option<Box<Closed>>,
}

/// What stands in for a policy that can't be used: it allows nothing. A staged
/// one stays staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// For a NetworkPolicy: isolates the pods that its selector names, all of
    /// its namespace where the selector is what doesn't parse.
    Namespaced(NetworkPolicy),
    /// For a ClusterNetworkPolicy: one `Deny` rule without peers or protocols,
    /// which matches everything, in each direction in which it has rules, in
    /// both if it has none. Tier, priority and subject are its own where they
    /// are valid, else Admin, 0 and all pods.
    Cluster(ClusterNetworkPolicy),
}

impl ObjectError {
    /// `namespace/name`, or what of it is known.
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
