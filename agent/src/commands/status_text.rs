//! The text of `ringfence status` for people.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use ringfence_api::{
    CniStatus, Mode, RemoteStatus, Scrapes, SeenMark, Status, UnknownDevice, WatchState,
    WatchStatus,
};

use super::health::{Health, health};
use crate::cni::by;
use crate::output::Paint;

/// Returns the output of `ringfence status`.
pub(super) fn status_text(status: &Status, paint: Paint) -> String {
    let verdict = verdict(status, paint);
    let Status {
        node,
        mode,
        source,
        generation,
        devices,
        ..
    } = status;
    let mut text = format!(
        "{verdict}\nnode        {node}\nmode        {mode}\nsource      {source}\nagent       {}\n\
         generation  {generation}\nendpoints   {}\ndevices     {devices} hooked, {} not\n\
         addresses   {} of the node's interfaces\ntunnels     {}\nmark        {}\n",
        agent(status),
        counts(status),
        status.unhooked.len(),
        status.node_addresses.len(),
        tunnels(&status.tunnel_ports),
        mark(status.seen_mark.as_ref()),
    );
    text.push_str(&ranges(status.pod_ranges.as_deref()));
    text.push_str(&absent(status));
    text.push_str(&scrapes(status));
    if let Some(api) = &status.api {
        let _ = writeln!(text, "api         {}", programs(api));
    }
    if let Some(plugin) = &status.plugin {
        let _ = writeln!(text, "plugin      {}", installed(plugin));
    }
    sections(status, paint, &mut text);
    text
}

/// Returns the agent's health, or its most severe ailment.
pub(super) fn verdict(status: &Status, paint: Paint) -> String {
    match health(status) {
        Health::Failing(error) => format!("{}: {error}", paint.red("failing")),
        Health::Waiting(why) => paint.yellow(&why),
        Health::Healthy => paint.green("healthy"),
    }
}

/// Describes the agent, and what it has taken over from.
fn agent(status: &Status) -> String {
    let mut text = format!("{}, pid {}", status.version, status.pid);
    if let Some(from) = &status.took_over {
        let _ = write!(text, "\ntook over   from {from}");
    }
    if status.picked_up > 0 {
        let _ = write!(text, "\npicked up   {} open connections", status.picked_up);
    }
    text
}

/// Describes how the network plugin is installed.
fn installed(plugin: &CniStatus) -> String {
    let mut text = match (&plugin.list, &plugin.way) {
        (Some(list), Some(way)) => format!("in {} {}", list.display(), by(way)),
        (None, None) if plugin.error.is_none() => {
            "not installed: no network is configured yet".to_owned()
        }
        _ => "not installed".to_owned(),
    };
    if plugin.rewrites > 0 {
        let _ = write!(text, ", put back {} times", plugin.rewrites);
    }
    text
}

/// Counts the guarded pods, and the others by reason.
fn counts(status: &Status) -> String {
    let mut text = format!(
        "{} guarded, {} not",
        status.endpoints,
        status.unguarded.len()
    );
    for (count, what) in [
        (status.pending.len(), "starting or ending"),
        (status.host_network.len(), "on the host network"),
    ] {
        if count > 0 {
            let _ = write!(text, "; {count} {what}");
        }
    }
    text
}

/// Lists the cluster's pod ranges, or states that none is known.
fn ranges(ranges: Option<&[String]>) -> String {
    match ranges {
        None => String::new(),
        Some([]) => "pod ranges  none known (--pod-cidrs): a pod that isn't known yet counts \
                     as outside\n"
            .to_owned(),
        Some(few) if few.len() <= 4 => format!("pod ranges  {}\n", few.join(", ")),
        Some(many) => format!("pod ranges  {}, … ({})\n", many[..4].join(", "), many.len()),
    }
}

/// Lists the kinds that the API server doesn't have, if there are any.
fn absent(status: &Status) -> String {
    let watches = status.watches.iter();
    let absent = watches.filter(|watch| watch.state == WatchState::Absent);
    let kinds: Vec<&str> = absent.map(|watch| watch.kind.as_str()).collect();
    match kinds.is_empty() {
        true => String::new(),
        false => format!("kinds       the cluster has no {}\n", kinds.join(", ")),
    }
}

/// Lists the node's own tunnel ports besides the usual ones.
fn tunnels(ports: &[u16]) -> String {
    if ports.is_empty() {
        return "on the usual ports".to_owned();
    }
    let ports: Vec<String> = ports.iter().map(|port| format!("UDP/{port}")).collect();
    format!("on the usual ports and {}", ports.join(", "))
}

/// Describes the bit that marks packets as seen, and whether it is required.
fn mark(mark: Option<&SeenMark>) -> String {
    match mark {
        None => "not required (--seen-mark 0)".to_owned(),
        Some(SeenMark { bit, asked: true }) => format!("{bit:#x}, packets without it are dropped"),
        Some(SeenMark { bit, asked: false }) => {
            format!("{bit:#x}, not required before the first pass")
        }
    }
}

/// Describes the last scrape of the metrics: without one, nobody would see an alert.
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

/// Describes where programs are served, and how long the certificate is valid.
fn programs(api: &RemoteStatus) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs().try_into().unwrap_or(i64::MAX));
    let left = api.certificate_expires.saturating_sub(now);
    let certificate = if left > 0 {
        format!("expires in {}", span(left.unsigned_abs()))
    } else {
        format!("expired {}: clients reject it", ago(left.unsigned_abs()))
    };
    format!("{}, certificate {certificate}", api.address)
}

fn ago(seconds: u64) -> String {
    format!("{} ago", span(seconds))
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Appends the sections for a person to look into; none if the agent is healthy.
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
    let audits = status.mode == Mode::Audit;
    let unknown = status.unknown.iter().map(|one| unknown(one, audits));
    let unknown: Vec<String> = unknown.collect();
    let plugin = status.plugin.iter().flat_map(CniStatus::problems);
    let plugin: Vec<String> = plugin.cloned().collect();
    let certificate = status.api.iter();
    let certificate: Vec<String> = certificate
        .filter_map(|api| api.certificate_error.clone())
        .collect();
    let watches: Vec<String> = status.watches.iter().filter_map(watch).collect();
    let sections = [
        (
            "not known yet (what was in force before this agent stays in force until then)",
            &status.waits_for,
        ),
        ("watches of the API server with faults", &watches),
        ("not guarded", &pods),
        (
            match audits {
                false => "closed (their policy can't be put in force)",
                true => "audited as closed (their policy can't be put in force)",
            },
            &status.closed,
        ),
        ("devices of unknown pods", &unknown),
        ("the network plugin", &plugin),
        (
            "the API's certificate (what was read earlier stays in force)",
            &certificate,
        ),
        (
            "devices without hooks (calls through Services aren't decided there)",
            &devices,
        ),
        (
            "the node's own network (the last known state stays in use)",
            &status.node_faults,
        ),
        (
            "objects that don't parse (their last good form is in force)",
            &status.invalid,
        ),
        ("parts of objects that can't be used", &status.problems),
        (
            "namespaces and records of pods that couldn't be read",
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

/// Describes a device of an unknown pod.
fn unknown(one: &UnknownDevice, audits: bool) -> String {
    let whose = one.pod.as_ref().map_or_else(
        || "the pod runtime has no record of it".to_owned(),
        |pod| format!("{pod}, which the API server doesn't show"),
    );
    let what = match (one.closed, audits) {
        (true, false) => "closed",
        (true, true) => "audited: closed in enforce mode",
        (false, _) => "open",
    };
    format!("{}, {what}: {whose}", one.device)
}

/// Describes a watch that isn't connected, or recently wasn't.
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

#[cfg(test)]
#[path = "status_text_tests.rs"]
mod tests;
