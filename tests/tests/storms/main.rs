//! Storms: as many denied packets as one core can send, policy that changes
//! continuously, revocations in mid-stream, a flood of connections, a pod that tries to
//! reach all others.
//!
//! Each lasts a few seconds; in `soak`, RINGFENCE_STORM_SECONDS sets the duration.
#![allow(clippy::unwrap_used)]

mod drops;
mod flips;
mod flood;
mod names;
#[path = "../packets/mod.rs"]
mod packets;
mod revocation;
mod unanswered;
mod witness;
