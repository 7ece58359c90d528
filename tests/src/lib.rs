//! Ringfence's tests that need more than one package: the oracle and its random
//! clusters, large clusters to measure with, the packet table, test networks,
//! the agent on them, programs that read its API, an attacker's tools, a Kubernetes API
//! server with faults on order.

#[cfg(feature = "nodes")]
pub mod agent;
#[cfg(feature = "nodes")]
pub mod apiserver;
#[cfg(feature = "nodes")]
pub mod attack;
pub mod bench;
pub mod clusters;
#[cfg(feature = "nodes")]
pub mod deployed;
pub mod oracle;
pub mod packets;
pub mod parallel;
#[cfg(feature = "nodes")]
pub mod programs;
pub mod random;
#[cfg(feature = "nodes")]
pub mod storm;
#[cfg(feature = "nodes")]
pub mod testnet;
