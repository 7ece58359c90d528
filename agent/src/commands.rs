//! The commands that ask agents: the local one over its socket, or those of other nodes.

mod events;
mod health;
mod nodes;
mod rows;
mod status_text;
mod wait;

use std::cmp::Reverse;
use std::future::Future;

use anyhow::{Context as _, anyhow};
use ringfence_api::{Connection, DropSeries, Endpoint, EndpointRow, NotGuarded, Status, Whole};

use crate::cli::{FollowArgs, Global, ListArgs, Output, PodName, StatusArgs};
use crate::client;
use crate::failure::{Failure, Found, Outcome};
use crate::output::{Paint, print, print_json, table};

use health::{Health, health};
use rows::Row;
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

/// Runs `ringfence endpoints`.
pub fn endpoints(global: &Global, args: &ListArgs) -> Outcome {
    if args.nodes.is_remote() {
        return nodes::list::<EndpointRow>(global, &args.nodes, args.output);
    }
    let endpoints: Vec<Whole<Endpoint>> = ask(global, "/v1/endpoints")?;
    let status: Status = ask(global, "/v1/status")?;
    let others = status.not_guarded().map(NotGuarded::from).map(Whole::from);
    let guarded = endpoints.into_iter().map(EndpointRow::Endpoint);
    let rows = guarded.chain(others.map(EndpointRow::NotGuarded)).collect();
    list(rows, args.output)
}

/// Runs `ringfence connections`.
pub fn connections(global: &Global, args: &ListArgs) -> Outcome {
    if args.nodes.is_remote() {
        return nodes::list::<Whole<Connection>>(global, &args.nodes, args.output);
    }
    let rows: Vec<Whole<Connection>> = ask(global, "/v1/connections")?;
    list(rows, args.output)
}

/// Runs `ringfence drops`.
pub fn drops(global: &Global, args: &FollowArgs) -> Outcome {
    match (args.follow, args.nodes.is_remote()) {
        (true, true) => return events::follow_nodes(global, &args.nodes, args.output),
        (true, false) => return events::follow(global, args),
        (false, true) => {
            return nodes::list::<Whole<DropSeries>>(global, &args.nodes, args.output);
        }
        (false, false) => {}
    }
    let rows: Vec<Whole<DropSeries>> = ask(global, "/v1/drops")?;
    list(rows, args.output)
}

/// Prints rows, in their order.
fn list<T: Row>(mut rows: Vec<T>, output: Output) -> Outcome {
    // Stable: rows without a rank stay as they are.
    rows.sort_by_key(|row| Reverse(row.rank()));
    match output {
        Output::Json => print_json(&rows)?,
        Output::Table if rows.is_empty() => eprintln!("none"),
        Output::Table => print(&table(&T::columns(), &rows))?,
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
