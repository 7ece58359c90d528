//! Ringfence's tests that need more than one package: the oracle and its random
//! clusters, large clusters to measure with, the packet table, test networks,
//! the agent on them, programs that read its API, an attacker's tools, a Kubernetes API
//! server with faults on order.

pub mod agent;
pub mod apiserver;
pub mod attack;
pub mod bench;
pub mod clusters;
pub mod deployed;
pub mod oracle;
pub mod packets;
pub mod programs;
pub mod random;
pub mod storm;
pub mod testnet;
