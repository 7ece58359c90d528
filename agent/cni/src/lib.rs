//! The chained network plugin, and the files by which it and the agent know of each other.
//!
//! | file of the state folder | written by | says |
//! |---|---|---|
//! | `node.json` | agent | where the programs are pinned, and how the node treats pods that it doesn't know: [`Node`] |
//! | `endpoints/CONTAINER-INTERFACE.json` | plugin | which device is which pod's: [`Record`] |
//! | `drop-in` | plugin | this node's runtime reads drop-in folders of network lists |
//!
//! The plugin needs neither a running agent nor the API server: it attaches what is pinned.

// A test that unwraps says where it failed, and that is all it should do.
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
