//! Ringfence's tests that need more than one package: the oracle and its random
//! clusters, the packet table, test networks.

pub mod oracle;
pub mod random;
pub mod testnet;
