//! Kubernetes objects in, ordered eBPF map entries out.
//!
//! Pure: no I/O, no clock, no kernel, no API client. The same objects in any
//! order give equal [`tables::Tables`]. What feeds what:
//!
//! ```text
//! JSON ─► model::Object ─► index::Index ─► compile::Compiler ─► tables::Tables, diff::Change
//!                               │                                  │
//!                               └── matrix, callers, explain ──────┘
//! ```
//!
//! - Pods, Namespaces and Nodes feed subjects, peers and names of addresses.
//! - NetworkPolicies, ClusterNetworkPolicies and the labels of pods and Namespaces feed rulesets.
//! - Services say at which addresses and ports nodes forward packets; with
//!   EndpointSlices they feed the way to cluster DNS and what `explain` says of calls.

// Errors are rare here and each is shown to a person: a box would only be in their way.
#![allow(clippy::result_large_err)]

pub mod callers;
pub mod clients;
pub mod config;
pub mod delta;
pub mod diff;
pub mod explain;
pub mod index;
pub mod matrix;
pub mod model;
pub mod ports;
pub mod problems;
pub mod select;
pub mod tables;

pub mod compile;
mod intern;
mod labels;
mod prefix;
mod selector;
mod snapshot;

#[cfg(test)]
mod testing;
