//! The commands that ask agents: the local one over its socket, or those of other nodes.

mod events;
mod health;
mod nodes;
mod status_text;
mod wait;

use std::future::Future;

use anyhow::{Context as _, anyhow};
use serde_json::Value;

use crate::cli::{FollowArgs, Global, ListArgs, Output, PodName, StatusArgs};
use crate::client;
use crate::failure::{Failure, Found, Outcome};
use crate::output::{Paint, field, print, print_json, table};
use crate::state::Status;

use health::{Health, health};
use status_text::status_text;
pub use wait::wait;

/// Runs `ringfence status`.
pub fn status(global: &Global, args: &StatusArgs) -> Outcome {
    if args.nodes.is_remote() {
        return nodes::status(global, args);
    }
    match &args.wait {
        Some(pod) => wait::pod(global, args, pod),
        None => {
            let status: Status = ask(global, "/v1/status")?;
            match args.output {
                Output::Json => print_json(&status)?,
                Output::Table => print(&status_text(&status, Paint::stdout()))?,
            }
            Ok(found(&health(&status)))
        }
    }
}

/// Maps health to an exit code: anything that a person should look into is a finding.
fn found(health: &Health) -> Found {
    match health {
        Health::Healthy => Found::Fine,
        Health::Waiting(_) | Health::Failing(_) => Found::Something,
    }
}

/// Returns the pod's name if it is safe to embed in a request unescaped.
fn wire_name(pod: &PodName) -> Result<String, Failure> {
    let name = args_name(pod);
    let fits = |byte: u8| byte.is_ascii_graphic() && !b"#&%+".contains(&byte);
    match name.bytes().all(fits) {
        true => Ok(name),
        false => Err(Failure::input(anyhow!("not a valid pod name: {name}"))),
    }
}

fn args_name(pod: &PodName) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// How rows of JSON are shown.
struct Listing {
    /// The command that the rows come from.
    command: &'static str,
    /// The fields that are shown as columns.
    names: &'static [&'static str],
    /// Indices of the numeric columns, which are right-aligned.
    right: &'static [usize],
    /// Whether rows are sorted by packets, most first.
    worst_first: bool,
}

const ENDPOINTS: Listing = Listing {
    command: "endpoints",
    names: &[
        "pod",
        "workload",
        "interface",
        "addresses",
        "found_by",
        "ingress",
        "egress",
        "attached",
        "foreign_filters",
        "reason",
    ],
    right: &[],
    worst_first: false,
};

const CONNECTIONS: Listing = Listing {
    command: "connections",
    names: &[
        "pod",
        "opened",
        "protocol",
        "local",
        "local_port",
        "remote",
        "remote_port",
        "peer",
        "state",
        "packets",
        "bytes",
        "age",
        "idle",
    ],
    right: &[4, 6, 9, 10, 11, 12],
    worst_first: false,
};

const DROPS: Listing = Listing {
    command: "drops",
    names: &[
        "source",
        "destination",
        "direction",
        "reason",
        "protocol",
        "audited",
        "packets",
        "bytes",
    ],
    right: &[6, 7],
    worst_first: true,
};

/// Runs `ringfence endpoints`.
pub fn endpoints(global: &Global, args: &ListArgs) -> Outcome {
    if args.nodes.is_remote() {
        return nodes::list(global, &args.nodes, args.output, &ENDPOINTS);
    }
    let mut rows: Vec<Value> = ask(global, "/v1/endpoints")?;
    let status: Status = ask(global, "/v1/status")?;
    for pod in status.not_guarded() {
        rows.push(serde_json::json!({
            "pod": pod.pod, "attached": false, "reason": pod.reason,
        }));
    }
    list(rows, args.output, &ENDPOINTS, &[])
}

/// Runs `ringfence connections`.
pub fn connections(global: &Global, args: &ListArgs) -> Outcome {
    if args.nodes.is_remote() {
        return nodes::list(global, &args.nodes, args.output, &CONNECTIONS);
    }
    let rows: Vec<Value> = ask(global, "/v1/connections")?;
    list(rows, args.output, &CONNECTIONS, &[])
}

/// Runs `ringfence drops`.
pub fn drops(global: &Global, args: &FollowArgs) -> Outcome {
    match (args.follow, args.nodes.is_remote()) {
        (true, true) => return events::follow_nodes(global, &args.nodes, args.output),
        (true, false) => return events::follow(global, args),
        (false, true) => return nodes::list(global, &args.nodes, args.output, &DROPS),
        (false, false) => {}
    }
    let rows: Vec<Value> = ask(global, "/v1/drops")?;
    list(rows, args.output, &DROPS, &[])
}

/// Prints rows; the columns in `first` precede those of the listing.
fn list(mut rows: Vec<Value>, output: Output, listing: &Listing, first: &[&str]) -> Outcome {
    if listing.worst_first {
        rows.sort_by_key(|row| std::cmp::Reverse(row["packets"].as_u64()));
    }
    let columns = [first, listing.names].concat();
    let right: Vec<usize> = listing.right.iter().map(|n| n + first.len()).collect();
    match output {
        Output::Json => print_json(&rows)?,
        Output::Table if rows.is_empty() => eprintln!("none"),
        Output::Table => {
            let cells = |row: &Value| columns.iter().map(|column| field(row, column)).collect();
            print(&table(&columns, rows.iter().map(cells).collect(), &right))?;
        }
    }
    Ok(Found::Fine)
}

fn ask<T: serde::de::DeserializeOwned>(global: &Global, what: &str) -> Result<T, Failure> {
    block_on(client::get(&global.socket, what))?.map_err(Failure::fault)
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
        .map(|runtime| runtime.block_on(future))
        .map_err(Failure::fault)
}
