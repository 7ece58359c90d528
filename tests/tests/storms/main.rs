//! Storms: as many denied packets as a core can send, policy that never stands
//! still, revocations in mid-stream, a flood of connections, a pod that tries everybody.
//!
//! Each lasts a few seconds; RINGFENCE_STORM_SECONDS says how many in `soak`.
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
