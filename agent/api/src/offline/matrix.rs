//! `ringfence matrix -o json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Who can reach whom.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Matrix {
    /// The requested ports, in the order of the characters of a cell.
    pub ports: Vec<String>,
    /// The names of all rows and columns, sorted.
    pub pods: Vec<String>,
    /// What the callees' policies decide.
    pub ingress: Rows,
    /// What the callers' policies decide.
    pub egress: Rows,
    /// What both together decide.
    pub allowed: Rows,
}

/// Cells by caller and callee: one character for each port, `.` for allowed, `X` for denied and `~`
/// for some of both.
pub type Rows = BTreeMap<String, BTreeMap<String, String>>;

/// The calls that a change of manifests opens and closes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Difference {
    /// The requested ports.
    pub ports: Vec<String>,
    /// Calls allowed after the change but not before, sorted by caller and callee.
    pub opens: Vec<Edge>,
    /// Calls allowed before the change but not after, in the same order.
    pub closes: Vec<Edge>,
    /// Rows and columns that exist only after the change.
    pub added: Vec<String>,
    /// Rows and columns that existed only before the change.
    pub removed: Vec<String>,
}

/// A call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Edge {
    /// The caller.
    pub from: String,
    /// The callee.
    pub to: String,
    /// The ports that change.
    pub ports: Vec<String>,
}
