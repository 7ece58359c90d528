//! Compiles Kubernetes objects into ordered eBPF map entries.
//!
//! Pure: no I/O, no clock, no kernel, no API client. The same objects in any order give equal
//! [`tables::Tables`]. Data flow:
//!
//! ```text
//! JSON ─► model::Object ─► index::Index ─► compile::Compiler ─► tables::Tables, diff::Change
//!                               │                                  │
//!                               └── matrix, callers, explain ──────┘
//! ```
//!
//! - Pods, Namespaces and Nodes determine subjects, peers and the names of addresses.
//! - NetworkPolicies, ClusterNetworkPolicies and the labels of pods and Namespaces determine
//!   rulesets.
//! - Services determine the addresses and ports at which nodes forward packets. Together with
//!   EndpointSlices they determine the path to cluster DNS and what `explain` reports about
//!   calls.

// Errors are rare here and each one is shown to a person, so boxing them gains nothing.
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
