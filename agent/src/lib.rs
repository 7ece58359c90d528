//! The agent and the command line of Ringfence.
//!
//! | module | does |
//! |---|---|
//! | [`cli`], [`settings`] | arguments, parsed first and resolved second |
//! | [`kubernetes`] | the API server's watches into objects |
//! | [`manifests`] | a folder of Kubernetes YAML into objects, with the last good state of each |
//! | [`source`] | either of them, to the engine |
//! | [`discover`] | from a pod's address to its host-side device |
//! | [`datapath`] | everything that speaks to eBPF, behind [`kernel::Kernel`] |
//! | [`cni`] | the network plugin into the node's chain of plugins, and out of it |
//! | [`engine`] | one pass: source, compile, discover, apply |
//! | [`questions`] | what somebody asks of the next pass |
//! | [`forms`] | earlier forms of policies that are in force, kept on disk |
//! | [`summary`] | what is said of all objects, off that path |
//! | [`daemon`] | the loop around it: what triggers a pass, retries, signals |
//! | [`api`], [`client`] | the root-only socket, and the command line's end of it |
//! | [`remote`] | agents of other nodes, by exec in their pods |
//! | [`metrics`], [`web`] | what `/metrics`, `/healthz` and `/livez` say, where, and to whom |
//! | [`files`] | how many open files clients leave to the rest |
//! | [`commands`], [`offline`], [`uninstall`] | what a person types |
//!
//! Exit codes: 0 fine, 1 denied or a check that found something, 2 bad usage or
//! input, 3 fault.

// A test that unwraps says where it failed, and that is all it should do.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod cli;
pub mod client;
pub mod cni;
pub mod commands;
pub mod daemon;
pub mod datapath;
pub mod discover;
pub mod engine;
pub mod failure;
pub mod files;
pub mod forms;
pub mod kernel;
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

/// Runs one invocation and says how it ended.
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
        Command::Flows(args) => commands::flows(&global, &args),
        Command::Explain(args) => offline::explain::run(&args),
        Command::Matrix(args) => offline::matrix::run(&args),
        Command::Callers(args) => offline::callers::run(&args),
        Command::Wait(args) => commands::wait(&global, &args),
        Command::Uninstall(args) => uninstall::run(&global, &args),
    }
}
