//! `ringfence wait`.

use clap::{Args, Subcommand};

use super::{NodeArgs, Output};
use crate::questions::PolicyName;

/// `ringfence wait`.
#[derive(Args, Debug)]
pub struct WaitArgs {
    /// For what
    #[command(subcommand)]
    pub what: WaitFor,
}

/// What can be waited for.
#[derive(Subcommand, Debug)]
pub enum WaitFor {
    /// Return when POLICY is in force on this node, or with --all-nodes on all that need it
    ///
    /// POLICY is NAMESPACE/NAME of a NetworkPolicy, or NAME of a ClusterNetworkPolicy. Its
    /// form counts that the API server has accepted when the command begins. Exits 1, with
    /// where it isn't in force yet and why, if that takes longer than --timeout.
    Policy(WaitPolicyArgs),
}

/// `ringfence wait policy`.
#[derive(Args, Debug)]
pub struct WaitPolicyArgs {
    /// NAMESPACE/NAME, or NAME of a ClusterNetworkPolicy
    pub policy: PolicyName,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub timeout: u64,
    /// The policy's resource version, which then isn't asked for
    #[arg(long, value_name = "VERSION", hide = true)]
    pub at: Option<u64>,
    /// Which agents are asked
    #[command(flatten)]
    pub nodes: NodeArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}
