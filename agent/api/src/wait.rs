//! Answers about what is in force: `/v1/wait`, `/v1/policy` and `/v1/bound`.

use serde::{Deserialize, Serialize};

/// Whether a pod's policy is in force: the answer to `status --wait`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InForce {
    /// Whether the policy is in force, compiled from the state of the source at the time of the
    /// request.
    pub in_force: bool,
    /// Why it isn't.
    pub reason: Option<String>,
    /// Generation of the active buffer.
    pub generation: u64,
    /// Manifests that don't parse, so that the policy in force may be older.
    pub invalid: Vec<String>,
}

impl InForce {
    /// Returns the answer that it isn't in force, or that this is unknown.
    pub fn not(reason: String) -> Self {
        Self {
            in_force: false,
            reason: Some(reason),
            generation: 0,
            invalid: Vec::new(),
        }
    }
}

/// Whether a policy is in force on a node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PolicyInForce {
    /// Whether it is in force for all pods of this node that it selects.
    pub in_force: bool,
    /// How many pods of this node it selects.
    pub pods: usize,
    /// Why it isn't in force.
    pub reason: Option<String>,
    /// The generation of the active buffer.
    pub generation: u64,
}

impl PolicyInForce {
    /// Returns a negative answer.
    pub fn not(reason: impl Into<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            ..Self::default()
        }
    }
}

/// Whether a pod's policy is in force on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bound {
    /// Whether it is in force.
    pub in_force: bool,
}
