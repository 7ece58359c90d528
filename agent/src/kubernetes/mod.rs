//! The Kubernetes API server as a source of policy. Read only, but for [`emit`].
//!
//! | module | does |
//! |---|---|
//! | [`kind`] | what is watched, and where it is in the API |
//! | [`credentials`] | a kubeconfig or a pod's service account into a client |
//! | [`seen`] | one object as it was sent, and what it is to policy |
//! | [`ledger`] | what is known of a kind, so that a new list removes only what is gone, and no event is believed twice or out of order |
//! | [`watch`] | one kind's watch, for ever: lists, events, faults |
//! | [`pace`] | how patient a watch is |
//! | [`barrier`] | proof that the watches have told what the server has accepted |
//! | `absence` | whether a kind that was there is gone |
//! | [`backoff`] | how long to wait after a fault |
//! | [`emit`] | Events on callers' pods, if asked for |
//! | `fault` | what went wrong with a watch, and what that says of the server |
//! | [`framing`] | events that were cut off, told from whole ones |
//! | [`inbox`] | from the watches to the index |
//! | [`health`] | how each watch is doing |
//! | [`list`] | everything once, for a person's question |
//!
//! Only `credentials`, `watch`, `absence`, `barrier`, `list` and `emit` do I/O.

mod absence;
pub mod backoff;
pub mod barrier;
pub mod credentials;
pub mod emit;
mod fault;
pub mod framing;
pub mod health;
pub mod inbox;
pub mod kind;
pub mod ledger;
pub mod list;
pub mod pace;
pub mod seen;
mod waits;
pub mod watch;

pub use barrier::Barrier;
pub use credentials::Access;
pub use health::Board;
pub use inbox::{Inbox, Outbox};
pub use kind::Kind;
