//! Answers that are passed on.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An answer with the fields that this version doesn't know, so that passing it on loses nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Whole<T> {
    /// What this version knows.
    #[serde(flatten)]
    pub known: T,
    /// Fields of a newer agent.
    #[serde(flatten)]
    pub newer: Map<String, Value>,
}

impl<T> From<T> for Whole<T> {
    fn from(known: T) -> Self {
        Self {
            known,
            newer: Map::new(),
        }
    }
}

/// A row of an answer that several agents gave together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OnNode<T> {
    /// The node's name; empty in the answer of a single agent.
    #[serde(default)]
    pub node: String,
    /// The row.
    #[serde(flatten)]
    pub row: T,
}
