//! Attaches programs first on a device's hooks, for both the agent and the network
//! plugin: as pinned tcx links on Linux 6.6 and later, else as filters on clsact
//! qdiscs.
//!
//! Both write the same pins and records below the pin directory of one ABI version:
//!
//! | name | holds |
//! |---|---|
//! | `links/IFINDEX-PROGRAM` | the link of a program on a device |
//! | `clsact/…` | empty folders, each named after one of our filters or qdiscs |
//! | `programs/PROGRAM` | the programs of a pod's hooks, for the plugin |
//!
//! [`AttachLock`] keeps the two from attaching to a device at the same time.

#![allow(unsafe_code)]
// If an unwrap fails in a test, the panic's location is all that is needed.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod clsact;
mod error;
mod hook;
mod pinned;
mod programs;
pub mod query;
pub mod tcx;

pub use clsact::{Attach, Filters, recorded, uninstall};
pub use error::{HookError, chain};
pub use hook::{Hook, PROGRAMS};
pub use pinned::{PROGRAM_PINS, Pinned, missing};
pub use programs::Programs;
pub use tcx::AttachLock;
