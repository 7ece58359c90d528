//! The commands that ask the local agent.

mod status_text;
mod wait;

use std::future::Future;
use std::io::Write as _;

use anyhow::{Context as _, anyhow};
use serde_json::Value;

use crate::cli::{FollowArgs, Global, Output, StatusArgs};
use crate::client;
use crate::failure::{Failure, Found, Outcome};
use crate::output::{Paint, field, print, print_json, table};
use crate::state::Status;

use status_text::status_text;
pub use wait::wait;

/// `ringfence status`.
pub fn status(global: &Global, args: &StatusArgs) -> Outcome {
    match &args.wait {
        Some(pod) => wait::pod(global, args, pod),
        None => {
            let status: Status = ask(global, "/v1/status")?;
            match args.output {
                Output::Json => print_json(&status)?,
                Output::Table => print(&status_text(&status, Paint::stdout()))?,
            }
            Ok(Found::Fine)
        }
    }
}

/// `ringfence endpoints`.
pub fn endpoints(global: &Global, output: Output) -> Outcome {
    let mut rows: Vec<Value> = ask(global, "/v1/endpoints")?;
    let status: Status = ask(global, "/v1/status")?;
    for pod in status.unguarded {
        rows.push(serde_json::json!({
            "pod": pod.pod, "attached": false, "reason": pod.reason,
        }));
    }
    let columns = [
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
    ];
    list(&rows, output, &columns, &[])
}

/// `ringfence flows`.
pub fn flows(global: &Global, output: Output) -> Outcome {
    let rows: Vec<Value> = ask(global, "/v1/flows")?;
    let columns = [
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
    ];
    list(&rows, output, &columns, &[4, 6, 9, 10, 11, 12])
}

/// `ringfence drops`.
pub fn drops(global: &Global, args: &FollowArgs) -> Outcome {
    if args.follow {
        return follow(global, args.output);
    }
    let mut rows: Vec<Value> = ask(global, "/v1/drops")?;
    rows.sort_by_key(|row| std::cmp::Reverse(row["packets"].as_u64()));
    let columns = [
        "source",
        "destination",
        "direction",
        "reason",
        "protocol",
        "audited",
        "packets",
        "bytes",
    ];
    list(&rows, args.output, &columns, &[6, 7])
}

fn follow(global: &Global, output: Output) -> Outcome {
    let paint = Paint::stdout();
    block_on(client::follow(&global.socket, "/v1/events", |line| {
        let mut out = std::io::stdout().lock();
        match (output, serde_json::from_slice::<Value>(line)) {
            (Output::Table, Ok(event)) => writeln!(out, "{}", event_line(&event, paint))?,
            _ => {
                out.write_all(line)?;
                out.write_all(b"\n")?;
            }
        }
        out.flush()
    }))?
    .map_err(Failure::fault)?;
    Err(Failure::fault(anyhow!("the agent stopped")))
}

/// One packet on one line, in the words of `tcpdump`.
fn event_line(event: &Value, paint: Paint) -> String {
    if let Some(lost) = event["lost"].as_u64() {
        return paint.yellow(&format!(
            "{lost} events lost: this terminal reads too slowly"
        ));
    }
    let verdict = if event["audited"] == true {
        paint.yellow("AUDITED")
    } else {
        paint.red("DROPPED")
    };
    let end = |which: &str| {
        let address = field(event, &format!("{which}_address"));
        let address = match event[format!("{which}_port")].as_u64() {
            None | Some(0) => address,
            Some(port) if address.contains(':') => format!("[{address}]:{port}"),
            Some(port) => format!("{address}:{port}"),
        };
        format!("{} ({address})", field(event, which))
    };
    format!(
        "{verdict} {} > {} {} {} {}, {} bytes",
        end("source"),
        end("destination"),
        field(event, "protocol"),
        field(event, "direction"),
        field(event, "reason"),
        field(event, "len"),
    )
}

fn list(rows: &[Value], output: Output, columns: &[&str], right: &[usize]) -> Outcome {
    match output {
        Output::Json => print_json(&rows)?,
        Output::Table if rows.is_empty() => eprintln!("none"),
        Output::Table => {
            let cells = |row: &Value| columns.iter().map(|column| field(row, column)).collect();
            print(&table(columns, rows.iter().map(cells).collect(), right))?;
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

#[cfg(test)]
#[path = "commands_tests.rs"]
mod tests;
