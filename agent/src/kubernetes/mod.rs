//! The Kubernetes API server as a source of policy. Read-only, except for [`emit`].
//!
//! | module | does |
//! |---|---|
//! | [`kind`] | the watched kinds, and their paths in the API |
//! | [`credentials`] | turns a kubeconfig or a pod's service account into a client |
//! | [`seen`] | one object as it was sent, and its meaning for policy |
//! | [`ledger`] | the known objects of a kind: a new list removes only what is gone, and events that are repeated or out of order are detected |
//! | [`watch`] | one kind's endless watch: lists, events, faults |
//! | [`pace`] | time limits of a watch |
//! | [`barrier`] | proof that the watches have delivered what the server has accepted |
//! | `absence` | detects that a kind is gone |
//! | [`backoff`] | waits after faults |
//! | [`emit`] | Events on callers' pods, if enabled |
//! | `fault` | faults of a watch, and what they imply about the server |
//! | [`framing`] | detects truncated events |
//! | [`inbox`] | the queue from the watches to the index |
//! | [`health`] | the state of each watch |
//! | [`list`] | lists everything once, for a command-line question |
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
pub use ringfence_policy::model::Kind;
