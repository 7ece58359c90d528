//! `ringfence drops --follow`: packets as they are dropped, here or on several nodes.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use anyhow::anyhow;
use ringfence_api::{EventLine, Lost, OnNode};
use tokio::sync::oneshot;

use super::{block_on, nodes};
use crate::cli::{FollowArgs, Global, NodeArgs, Output};
use crate::client;
use crate::failure::{Failure, Found, Outcome};
use crate::output::{Paint, cell, width};
use crate::remote::{Fleet, MOST_FOLLOWED};

/// Follows the local agent's events.
pub(super) fn follow(global: &Global, args: &FollowArgs) -> Outcome {
    let (output, paint) = (args.output, Paint::stdout());
    let print = |line: &[u8]| {
        let mut out = io::stdout().lock();
        match (output, serde_json::from_slice::<EventLine>(line)) {
            (Output::Table, Ok(event)) => writeln!(out, "{}", event_line(&event, paint))?,
            _ => {
                out.write_all(line)?;
                out.write_all(b"\n")?;
            }
        }
        out.flush()
    };
    block_on(async {
        let follow = client::follow(&global.socket, "/v1/events", print);
        tokio::select! {
            () = stdin_closes(), if args.until_stdin_closes => Ok(Found::Fine),
            followed = follow => {
                followed.map_err(Failure::fault)?;
                Err(Failure::fault(anyhow!("the agent stopped")))
            }
        }
    })?
}

/// Returns when the other end of stdin is closed.
async fn stdin_closes() {
    let (closed, closes) = oneshot::channel();
    // A dedicated thread that nothing joins: the runtime would wait for one of its own.
    std::thread::spawn(move || {
        let ended = io::copy(&mut io::stdin().lock(), &mut io::sink());
        // A read error counts as closed, too.
        drop(ended);
        let _ = closed.send(());
    });
    // The sender isn't dropped without sending.
    let _ = closes.await;
}

/// Follows the events of several agents, and prefixes each line with its node.
pub(super) fn follow_nodes(global: &Global, args: &NodeArgs, output: Output) -> Outcome {
    let paint = Paint::stdout();
    block_on(async {
        let fleet = Fleet::find(global, args).await?;
        let count = fleet.nodes().len();
        if count > MOST_FOLLOWED {
            return Err(Failure::input(anyhow!(
                "--all-nodes: {count} nodes are too many to follow, at one connection each; \
                 choose up to {MOST_FOLLOWED} with --node"
            )));
        }
        let wide = width(fleet.nodes());
        let print = |node: &str, event: EventLine| {
            let mut out = io::stdout().lock();
            match output {
                Output::Table => writeln!(out, "{node:wide$}  {}", event_line(&event, paint))?,
                Output::Json => {
                    let node = node.to_owned();
                    let line = serde_json::to_string(&OnNode { node, row: event })?;
                    writeln!(out, "{line}")?;
                }
            }
            out.flush()
        };
        let args = ["drops", "--follow", "-o", "json"];
        fleet
            .follow_all(&args, print, nodes::complain)
            .await
            .map_err(Failure::fault)?;
        Err(Failure::fault(anyhow!("no agent is left to follow")))
    })?
}

/// Formats one packet as one line, in the style of `tcpdump`.
fn event_line(line: &EventLine, paint: Paint) -> String {
    let event = match line {
        EventLine::Packet(event) => &event.known,
        EventLine::Lost(Lost { lost }) => {
            return paint.yellow(&format!(
                "{lost} events lost: this terminal reads too slowly"
            ));
        }
    };
    let verdict = if event.audited {
        paint.yellow("AUDITED")
    } else {
        paint.red("DROPPED")
    };
    let source = end(&event.source, event.source_address, event.source_port);
    let (address, port) = (event.destination_address, event.destination_port);
    let destination = end(&event.destination, address, port);
    format!(
        "{verdict} {source} > {destination} {} {} {}, {} bytes",
        cell(event.protocol.as_str()),
        cell(event.direction.as_str()),
        cell(event.reason.as_str()),
        event.len,
    )
}

/// Formats one end of a packet; port 0 stands for none.
fn end(name: &str, address: IpAddr, port: u16) -> String {
    let address = match port {
        0 => address.to_string(),
        port => SocketAddr::new(address, port).to_string(),
    };
    format!("{} ({address})", cell(name))
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
