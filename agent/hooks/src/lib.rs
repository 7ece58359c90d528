//! Attaching the programs first on a device's hooks, by the agent and by the network
//! plugin alike: as pinned tcx links from Linux 6.6 on, as filters on clsact qdiscs
//! before.
//!
//! Both write the same pins and records below the pin directory of one ABI version:
//!
//! | name | holds |
//! |---|---|
//! | `links/IFINDEX-PROGRAM` | the link of a program on a device |
//! | `clsact/…` | empty folders, each named by a filter or qdisc of ours |
//! | `programs/PROGRAM` | the programs of a pod's hooks, for the plugin |
//!
//! [`Turn`] keeps the two from attaching to one device at the same time.

#![allow(unsafe_code)]
// A test that unwraps says where it failed, and that is all it should do.
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
pub use tcx::Turn;
