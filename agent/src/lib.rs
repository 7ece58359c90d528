//! The agent and the command line of Ringfence.
//!
//! | module | does |
//! |---|---|
//! | [`cli`], [`settings`] | arguments: parsed, then resolved |
//! | [`kubernetes`] | the API server's watches as objects |
//! | [`manifests`] | a folder of Kubernetes YAML as objects, with the last good state of each |
//! | [`source`] | feeds either of them to the engine |
//! | [`discover`] | resolves a pod's address to its host-side device |
//! | [`datapath`] | everything that talks to eBPF, behind [`dataplane::Dataplane`] |
//! | [`cni`] | installs the network plugin in the node's chain of plugins and removes it |
//! | [`engine`] | one pass: source, compile, discover, apply |
//! | [`questions`] | questions for the next pass to answer |
//! | [`forms`] | earlier forms of policies that are in force, kept on disk |
//! | [`summary`] | reports about all objects, computed off the path of a pass |
//! | [`daemon`] | the loop around passes: triggers, retries, signals |
//! | [`api`], [`client`] | the root-only socket, and the command line's end of it |
//! | [`remote`] | agents of other nodes, reached by exec in their pods |
//! | [`metrics`], [`web`] | contents of `/metrics`, `/healthz` and `/livez`, and who may read them where |
//! | [`files`] | how many open files clients leave for everything else |
//! | [`commands`], [`offline`], [`uninstall`] | the commands a person types |
//!
//! Exit codes: 0 fine, 1 denied or a check that found something, 2 bad usage or input, 3 fault.

// An unwrap that fails in a test reports its location, which is all a test needs.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod cli;
pub mod client;
pub mod cni;
pub mod commands;
pub mod daemon;
pub mod datapath;
pub mod dataplane;
pub mod discover;
pub mod engine;
pub mod failure;
pub mod files;
pub mod forms;
pub mod kubernetes;
pub mod manifests;
pub mod metrics;
pub mod node;
pub mod offline;
pub mod output;
pub mod questions;
pub mod remote;
pub mod runtime;
pub mod settings;
pub mod source;
pub mod state;
pub mod summary;
pub mod uninstall;
pub mod web;

#[cfg(test)]
mod testing;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::failure::Outcome;

/// Runs one invocation and returns its exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        // Prints help and version to stdout with 0, errors to stderr with 2.
        Err(error) => error.exit(),
    };
    let outcome = dispatch(cli);
    ExitCode::from(failure::report(&outcome))
}

fn dispatch(cli: Cli) -> Outcome {
    let Cli { global, command } = cli;
    match command {
        Command::Agent(args) => daemon::run(&args.resolve(&global)?),
        Command::Status(args) => commands::status(&global, &args),
        Command::Endpoints(args) => commands::endpoints(&global, &args),
        Command::Drops(args) => commands::drops(&global, &args),
        Command::Connections(args) => commands::connections(&global, &args),
        Command::Explain(args) => offline::explain::run(&args),
        Command::Matrix(args) => offline::matrix::run(&args),
        Command::Callers(args) => offline::callers::run(&args),
        Command::Wait(args) => commands::wait(&global, &args),
        Command::Uninstall(args) => uninstall::run(&global, &args),
    }
}
