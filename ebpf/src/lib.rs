//! The half of Ringfence's datapath that decides.
//!
//! It is `no_std`, has no dependencies, and compiles for the host and for BPF:
//! the very code that the kernel runs is what unit tests, property tests,
//! `ringfence matrix` and `ringfence explain` run.
//!
//! - [`abi`]: keys and values of every map, with their layout.
//! - [`packet`]: bytes to a packet, or the reason why it can't be accounted for.
//! - [`conntrack`]: what a packet does to a flow, and how long a flow lives.
//! - [`buckets`]: where flows lie.
//! - [`shared`]: memory that other CPUs write at the same time.
//! - [`verdict`]: endpoint, packet and tables to a verdict.
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
