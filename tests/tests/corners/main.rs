//! The corners of NetworkPolicy v1 as real packets show them, over both
//! families, through a running agent. Numbered as the compiler's tests are
//! (`agent/policy/src/compile/tests/corners.rs`).
//!
//! What no packet can show here:
//! - 10: a host-network pod is its node, which is always allowed, so nothing
//!   that a selector says of it makes a difference to a packet.
//! - 2 and 3, as far as a Service's address is what a pod's own *egress* is
//!   judged by: this version doesn't know Services. The receiver's half is here.
//! - 7, that `endPort` needs a number, and 13, that an API server fills in
//!   `policyTypes`: such objects never get as far as a packet.
//! - 9, the key by UID: two pods of one name are never there at once.
//! - 17, before an interface is attached: without a CNI plugin nobody can be
//!   earlier than the pod. Here the first packet after attaching.
#![allow(clippy::unwrap_used)]

mod pods;
mod rules;
mod wire;
