//! The corner cases of NetworkPolicy v1 as real packets show them, over both families,
//! through a running agent. Numbered like the compiler's tests
//! (`agent/policy/src/compile/tests/corners.rs`).
//!
//! Packets can't show the following here:
//! - 10: a host-network pod is its node, which is always allowed, so a selector that
//!   matches it makes no difference to a packet.
//! - 2 and 3, as far as the *egress* of a pod is decided by a Service's address: this
//!   version doesn't know Services. The receiver's side is tested here.
//! - 7, that `endPort` requires a number, and 13, that an API server fills in
//!   `policyTypes`: such objects never affect a packet.
//! - 9, the key by UID: two pods of one name never exist at the same time.
//! - 17, before an interface is attached: without a CNI plugin nothing can act before
//!   the pod does. Tested here is the first packet after attaching.
#![allow(clippy::unwrap_used)]

mod pods;
mod rules;
mod wire;
