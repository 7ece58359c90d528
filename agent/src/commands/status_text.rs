//! `ringfence status` as a person reads it.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use super::health::{Health, health};
use crate::api::remote::RemoteStatus;
use crate::cni::CniStatus;
use crate::kubernetes::health::WatchStatus;
use crate::output::Paint;
use crate::state::{Scrapes, SeenMark, Status, UnknownDevice};

/// What `ringfence status` prints.
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
        status.agent(),
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
        let _ = writeln!(text, "plugin      {plugin}");
    }
    sections(status, paint, &mut text);
    text
}

/// Whether all is well, or what is worst.
pub(super) fn verdict(status: &Status, paint: Paint) -> String {
    match health(status) {
        Health::Failing(error) => format!("{}: {error}", paint.red("failing")),
        Health::Waiting(why) => paint.yellow(&why),
        Health::Well => paint.green("well"),
    }
}

/// How many pods are guarded, and how many are not for what reason.
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

/// Where pods have their addresses, or that nobody says it.
fn ranges(ranges: Option<&[String]>) -> String {
    match ranges {
        None => String::new(),
        Some([]) => "pod ranges  none is known (--pod-cidrs): a pod that isn't known yet counts \
                     as outside\n"
            .to_owned(),
        Some(few) if few.len() <= 4 => format!("pod ranges  {}\n", few.join(", ")),
        Some(many) => format!("pod ranges  {}, … ({})\n", many[..4].join(", "), many.len()),
    }
}

/// Kinds that the API server doesn't have, if there are any.
fn absent(status: &Status) -> String {
    let watches = status.watches.iter();
    let absent = watches.filter(|watch| watch.state == "absent");
    let kinds: Vec<&str> = absent.map(|watch| watch.kind.as_str()).collect();
    match kinds.is_empty() {
        true => String::new(),
        false => format!("kinds       the cluster has no {}\n", kinds.join(", ")),
    }
}

/// The node's own tunnels, or that only those count which always do.
fn tunnels(ports: &[u16]) -> String {
    if ports.is_empty() {
        return "on the usual ports".to_owned();
    }
    let ports: Vec<String> = ports.iter().map(|port| format!("UDP/{port}")).collect();
    format!("on the usual ports and {}", ports.join(", "))
}

/// By which bit packets count as seen, and whether they are asked for it.
fn mark(mark: Option<&SeenMark>) -> String {
    match mark {
        None => "none is asked for (--seen-mark 0)".to_owned(),
        Some(SeenMark { bit, asked: true }) => format!("{bit:#x}, without it packets are dropped"),
        Some(SeenMark { bit, asked: false }) => {
            format!("{bit:#x}, not asked for before the first pass")
        }
    }
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

/// Where programs are served, and for how long they take the certificate.
fn programs(api: &RemoteStatus) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs().try_into().unwrap_or(i64::MAX));
    let left = api.certificate_expires.saturating_sub(now);
    let certificate = if left > 0 {
        format!("expires in {}", span(left.unsigned_abs()))
    } else {
        format!("expired {}: nobody takes it", ago(left.unsigned_abs()))
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
    let audits = status.mode == "audit";
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
            "not known yet (what was in force before this agent stays until it is)",
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
        ("devices of pods that nobody knows", &unknown),
        ("the network plugin", &plugin),
        (
            "the API's certificate (what was read before stays in force)",
            &certificate,
        ),
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
fn unknown(one: &UnknownDevice, audits: bool) -> String {
    let whose = one.pod.as_ref().map_or_else(
        || "the pod runtime has no record of it".to_owned(),
        |pod| format!("{pod}, which the API server doesn't show"),
    );
    let what = match (one.closed, audits) {
        (true, false) => "closed",
        (true, true) => "audited: closed in mode enforce",
        (false, _) => "open",
    };
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

#[cfg(test)]
#[path = "status_text_tests.rs"]
mod tests;
