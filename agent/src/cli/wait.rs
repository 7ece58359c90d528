//! `ringfence wait`.

use clap::{Args, Subcommand};

use super::{NodeArgs, Output};
use crate::questions::PolicyName;

/// Arguments of `ringfence wait`.
#[derive(Args, Debug)]
pub struct WaitArgs {
    /// What to wait for.
    #[command(subcommand)]
    pub what: WaitFor,
}

/// What can be waited for.
#[derive(Subcommand, Debug)]
pub enum WaitFor {
    /// Wait until POLICY is in force on this node, or with --all-nodes on every node that needs it
    ///
    /// POLICY is NAMESPACE/NAME of a NetworkPolicy, or NAME of a ClusterNetworkPolicy. The command
    /// waits for the version that the API server has accepted when it starts. Exits 1 if that takes
    /// longer than --timeout, and prints where it isn't in force yet and why.
    Policy(WaitPolicyArgs),
}

/// Arguments of `ringfence wait policy`.
#[derive(Args, Debug)]
pub struct WaitPolicyArgs {
    /// NAMESPACE/NAME, or NAME of a ClusterNetworkPolicy
    pub policy: PolicyName,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub timeout: u64,
    /// The policy's resource version, which the API server then isn't asked for
    #[arg(long, value_name = "VERSION", hide = true)]
    pub at: Option<u64>,
    /// The agents to ask.
    #[command(flatten)]
    pub nodes: NodeArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}
