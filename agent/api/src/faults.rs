//! Answers with a status code other than 200.

use serde::{Deserialize, Serialize};

/// Why the agent could not answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// The message, on one line.
    pub error: String,
}
