//! What the agent says on its socket, as types for both of its ends: the agent serializes them,
//! the command line and other programs parse them.
//!
//! | path or command | answers |
//! |---|---|
//! | `/v1/status` | [`Status`] |
//! | `/v1/endpoints` | a list of [`Endpoint`] |
//! | `ringfence endpoints -o json` | a list of [`EndpointRow`]: also the pods that aren't guarded |
//! | `/v1/connections` | a list of [`Connection`] |
//! | `/v1/drops` | a list of [`DropSeries`] |
//! | `/v1/events` | one [`EventLine`] per line |
//! | `/v1/wait` | [`InForce`] |
//! | `/v1/policy` | [`PolicyInForce`] |
//! | `/v1/bound` | [`Bound`] |
//! | any, with a status code other than 200 | [`Fault`] |
//!
//! What `explain`, `matrix` and `callers` say is in [`offline`].
//!
//! With `--node` or `--all-nodes`, each row is an [`OnNode`]; a [`Status`] names its node itself.
//!
//! Names of fields and values are stable. An agent may be newer or older than its reader:
//!
//! - A reader ignores fields that it doesn't know. [`Whole`] keeps them, for a reader that passes
//!   an answer on.
//! - Fields that older agents lack have a default, as in [`Status`].
//! - Each enum of words ([`Reason`], [`Protocol`] and so on) has a variant `Other`, which holds a
//!   word that this version doesn't know, and serializes to that word.
//!
//! The crate does no I/O, and depends on nothing that does.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod connections;
mod drops;
mod endpoints;
mod events;
mod faults;
mod node;
pub mod offline;
mod status;
mod wait;
mod whole;
mod words;

pub use connections::{Connection, ConnectionState};
pub use drops::DropSeries;
pub use endpoints::{Endpoint, EndpointRow, Enforcement, FoundBy, NotGuarded};
pub use events::{Event, EventLine, Lost};
pub use faults::Fault;
pub use node::{
    CniStatus, RemoteStatus, Scrapes, SeenMark, UnhookedDevice, UnknownDevice, WatchState,
    WatchStatus, Way,
};
pub use status::{Mode, Status, UnguardedPod};
pub use wait::{Bound, InForce, PolicyInForce};
pub use whole::{OnNode, Whole};
pub use words::{Direction, Protocol, Reason};

#[cfg(test)]
mod tests;
