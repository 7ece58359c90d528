//! The decision logic of Ringfence's datapath.
//!
//! It is `no_std`, has no dependencies, and compiles for the host and for BPF: unit tests,
//! property tests, `ringfence matrix` and `ringfence explain` run the same code as the kernel.
//!
//! - [`abi`]: keys and values of all maps, with their layout.
//! - [`packet`]: parses a frame into a packet, or gives the reason why it can't be accounted for.
//! - [`conntrack`]: how packets change a connection, and how long connections live.
//! - [`buckets`]: where connections are stored.
//! - [`shared`]: memory that several CPUs access concurrently.
//! - [`spoof`]: what no endpoint may send or receive.
//! - [`verdict`]: decides on a packet, given its endpoint and the tables.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod buckets;
pub mod conntrack;
pub mod packet;
pub mod shared;
pub mod spoof;
pub mod verdict;

#[cfg(test)]
mod abi_tests;
