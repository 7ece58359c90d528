//! The chained network plugin, and the files through which it and the agent communicate.
//!
//! | file of the state folder | written by | contents |
//! |---|---|---|
//! | `node.json` | agent | where programs are pinned, how unknown pods are treated: [`Node`] |
//! | `endpoints/CONTAINER-INTERFACE.json` | plugin | an interface's pod and device: [`Record`] |
//! | `drop-in` | plugin | this node's runtime reads drop-in folders of network lists |
//!
//! The plugin needs neither a running agent nor the API server: it attaches pinned programs.

// If an unwrap fails in a test, the panic's location is all that is needed.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod agent;
mod device;
mod entry;
mod node;
mod plugin;
mod protocol;
mod record;
mod remove;

pub use entry::{Entry, OnTimeout, Via};
pub use node::{Mode, Node, Unknown};
pub use plugin::run;
pub use protocol::{Environment, Made, PLUGIN, Refusal, VERSIONS};
pub use record::{ENDPOINTS, Record};
pub use remove::remove_state;

/// The file whose presence proves that the runtime reads drop-in folders.
pub const DROP_IN: &str = "drop-in";
