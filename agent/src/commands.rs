//! The commands that ask the local agent, and `uninstall`.

use std::fmt::Write as _;
use std::future::Future;
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};
use serde_json::Value;

use crate::api;
use crate::cli::{FollowArgs, Global, Output, PodName, StatusArgs};
use crate::client::{self, ClientError};
use crate::datapath;
use crate::failure::{Failure, Found, Outcome};
use crate::forms::Forms;
use crate::kubernetes::health::WatchStatus;
use crate::output::{Paint, field, print, print_json, table};
use crate::state::{InForce, Scrapes, Status, UnknownDevice};

/// Between two questions of `status --wait`.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// `ringfence status`.
pub fn status(global: &Global, args: &StatusArgs) -> Outcome {
    match &args.wait {
        Some(pod) => wait(global, args, pod),
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

fn wait(global: &Global, args: &StatusArgs, pod: &PodName) -> Outcome {
    let path = format!("/v1/wait?pod={}/{}", pod.namespace, pod.name);
    if !path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"#&%+".contains(&byte))
    {
        return Err(Failure::input(anyhow!(
            "no pod has such a name: {}",
            args_name(pod)
        )));
    }
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let mut last = String::from("the agent gave no answer");
    let answer = block_on(async {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let asked = tokio::time::timeout(left, client::get::<InForce>(&global.socket, &path));
            match asked.await {
                Ok(Ok(answer)) if answer.in_force => return Ok(Some(answer)),
                Ok(Ok(answer)) => last = answer.reason.unwrap_or_default(),
                // The agent may be starting.
                Ok(Err(error @ ClientError::Connect { .. })) => last = error.to_string(),
                Ok(Err(error)) => return Err(Failure::fault(error)),
                Err(_) => return Ok(None),
            }
            if Instant::now() + ASK_AGAIN >= deadline {
                return Ok(None);
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    })??;
    let Some(answer) = answer else {
        eprintln!(
            "ringfence: {} is not in force after {} s: {last}",
            args_name(pod),
            args.timeout
        );
        return Ok(Found::Something);
    };
    for invalid in &answer.invalid {
        eprintln!("ringfence: warning: {invalid}");
    }
    match args.output {
        Output::Json => print_json(&answer)?,
        Output::Table => {
            let pod = args_name(pod);
            print(&format!(
                "{pod} is in force (generation {})\n",
                answer.generation
            ))?;
        }
    }
    Ok(Found::Fine)
}

fn args_name(pod: &PodName) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn status_text(status: &Status, paint: Paint) -> String {
    let verdict = match (&status.error, status.passes) {
        (Some(error), _) => format!("{}: {error}", paint.red("failing")),
        (None, 0) => paint.yellow("starting"),
        (None, _) if !status.waits_for.is_empty() => paint.yellow("waiting for the first lists"),
        (None, _) if !status.source_connected => {
            paint.yellow("running on what was last known: the source can't be read")
        }
        (None, _) if !status.invalid.is_empty() => paint.yellow("running on older policy"),
        (None, _) => paint.green("well"),
    };
    let Status {
        node,
        mode,
        source,
        generation,
        endpoints,
        devices,
        ..
    } = status;
    let mut text = format!(
        "{verdict}\nnode        {node}\nmode        {mode}\nsource      {source}\nagent       {}\n\
         generation  {generation}\nendpoints   {endpoints} guarded, {} not\ndevices     {devices} hooked, {} not\n\
         addresses   {} of the node's interfaces\ntunnels     {}\n",
        status.agent(),
        status.unguarded.len(),
        status.unhooked.len(),
        status.node_addresses.len(),
        tunnels(&status.tunnel_ports),
    );
    text.push_str(&scrapes(status));
    sections(status, paint, &mut text);
    text
}

/// The node's own tunnels, or that only those count which always do.
fn tunnels(ports: &[u16]) -> String {
    if ports.is_empty() {
        return "on the usual ports".to_owned();
    }
    let ports: Vec<String> = ports.iter().map(|port| format!("UDP/{port}")).collect();
    format!("on the usual ports and {}", ports.join(", "))
}

/// Whether somebody reads the metrics, and so would see an alert.
fn scrapes(status: &Status) -> String {
    let Some(Scrapes { address, last }) = &status.metrics else {
        return "metrics     not served (--metrics-addr none)\n".to_owned();
    };
    let last = last.map_or_else(
        || "never".to_owned(),
        |at| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            ago(now.map_or(0, |now| now.as_secs().saturating_sub(at)))
        },
    );
    format!("metrics     {address}, last scrape: {last}\n")
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// What a person should look into; nothing if all is well.
fn sections(status: &Status, paint: Paint, text: &mut String) {
    let pods: Vec<String> = status
        .unguarded
        .iter()
        .map(|pod| format!("{}: {}", pod.pod, pod.reason))
        .collect();
    let devices: Vec<String> = status
        .unhooked
        .iter()
        .map(|one| format!("{}: {}", one.device, one.reason))
        .collect();
    let unknown: Vec<String> = status.unknown.iter().map(unknown).collect();
    let watches: Vec<String> = status.watches.iter().filter_map(watch).collect();
    let sections = [
        (
            "not known yet (what was in force before this agent stays until it is)",
            &status.waits_for,
        ),
        ("watches of the API server with faults", &watches),
        ("not guarded", &pods),
        (
            "closed (their policy can't be put in force)",
            &status.closed,
        ),
        ("devices of pods that nobody knows", &unknown),
        (
            "devices without hooks (calls through Services aren't decided there)",
            &devices,
        ),
        (
            "the node's own network (what was known of it before stays)",
            &status.node_faults,
        ),
        (
            "objects that don't parse (their last good form is in force)",
            &status.invalid,
        ),
        (
            "what in objects can't be used as it stands",
            &status.problems,
        ),
        (
            "namespaces and records of pods that couldn't be looked at",
            &status.skipped,
        ),
    ];
    for (title, lines) in sections {
        if !lines.is_empty() {
            // Writing to a String can't fail.
            let _ = write!(text, "\n{}\n  {}\n", paint.bold(title), lines.join("\n  "));
        }
    }
}

/// A device of an unknown pod, in words.
fn unknown(one: &UnknownDevice) -> String {
    let whose = one.pod.as_ref().map_or_else(
        || "the pod runtime has no record of it".to_owned(),
        |pod| format!("{pod}, which the API server doesn't show"),
    );
    let what = if one.closed { "closed" } else { "open" };
    format!("{}, {what}: {whose}", one.device)
}

/// A watch that isn't connected, or lately wasn't, in words.
fn watch(row: &WatchStatus) -> Option<String> {
    let WatchStatus { kind, state, .. } = row;
    let error = row.error.as_ref()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = now.map_or(0, |now| now.as_secs().saturating_sub(row.since));
    Some(format!(
        "{kind}: {state} for {since} s; {} faults, the last: {error}",
        row.errors
    ))
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

/// `ringfence uninstall`: refuses while an agent would put everything back.
pub fn uninstall(global: &Global) -> Outcome {
    api::refuse_second_agent(&global.socket).map_err(Failure::fault)?;
    let removed = datapath::uninstall(&global.pin_dir).map_err(Failure::fault)?;
    let kept = Forms::beside(&global.socket);
    kept.remove().map_err(Failure::fault)?;
    print(&format!(
        "removed {} programs and {} maps below {}\n",
        removed.links + removed.filters,
        removed.maps,
        global.pin_dir.display()
    ))?;
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
