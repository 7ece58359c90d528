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
mod tests {
    use super::*;

    #[test]
    fn the_status_says_whether_anybody_scrapes() {
        let mut status = Status::default();
        let has = |status: &Status, line: &str| {
            let text = status_text(status, Paint::off());
            assert!(text.lines().any(|one| one == line), "{line}: {text}");
        };
        has(&status, "metrics     not served (--metrics-addr none)");
        let mut scrapes = Scrapes {
            address: "0.0.0.0:9435".into(),
            last: None,
        };
        status.metrics = Some(scrapes.clone());
        has(&status, "metrics     0.0.0.0:9435, last scrape: never");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        scrapes.last = Some(now.as_secs() - 300);
        status.metrics = Some(scrapes);
        has(&status, "metrics     0.0.0.0:9435, last scrape: 5 min ago");
        let said = [119, 120, 7199, 7200, 172_800].map(ago);
        let expected = [
            "119 s ago",
            "2 min ago",
            "119 min ago",
            "2 h ago",
            "2 days ago",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn the_status_says_the_worst_first() {
        let mut status = Status {
            passes: 1,
            source_connected: true,
            ..Status::default()
        };
        assert!(status_text(&status, Paint::off()).starts_with("well\n"));
        status.invalid = vec!["a.yaml: document 1: line 1: no".into()];
        let text = status_text(&status, Paint::off());
        assert!(text.starts_with("running on older policy\n"), "{text}");
        assert!(
            text.contains("\n  a.yaml: document 1: line 1: no\n"),
            "{text}"
        );
        status.error = Some("map RULES is full".into());
        assert!(status_text(&status, Paint::off()).starts_with("failing: map RULES is full\n"));
    }

    #[test]
    fn the_status_says_by_which_mark_packets_count_as_seen() {
        let said = |mark: Option<SeenMark>| {
            let status = Status {
                seen_mark: mark,
                ..Status::default()
            };
            let text = status_text(&status, Paint::off());
            let line = text.lines().find(|line| line.starts_with("mark "));
            line.expect("a line").to_owned()
        };
        let bit = |asked| Some(SeenMark { bit: 0x1000, asked });
        let asked = "mark        0x1000, without it packets are dropped";
        assert_eq!(said(bit(true)), asked);
        let not_yet = "mark        0x1000, not asked for before the first pass";
        assert_eq!(said(bit(false)), not_yet);
        let none = "mark        none is asked for (--seen-mark 0)";
        assert_eq!(said(None), none);
    }

    #[test]
    fn the_status_says_which_kinds_the_cluster_does_not_have() {
        let row = |kind: &str, state: &str| WatchStatus {
            kind: kind.into(),
            state: state.into(),
            since: 0,
            listed: true,
            error: None,
            errors: 0,
            lists: 1,
        };
        let mut status = Status {
            watches: vec![
                row("Pod", "connected"),
                row("ClusterNetworkPolicy", "absent"),
            ],
            ..Status::default()
        };
        let line = "\nkinds       the cluster has no ClusterNetworkPolicy\n";
        assert!(status_text(&status, Paint::off()).contains(line));
        status.watches.pop();
        assert!(!status_text(&status, Paint::off()).contains("\nkinds"));
    }

    #[test]
    fn the_status_says_how_long_programs_take_the_certificate() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = i64::try_from(now.as_secs()).unwrap();
        let said = |expires: i64, error: Option<&str>| {
            let api = RemoteStatus {
                address: "[::]:9436".into(),
                certificate_expires: expires,
                certificate_error: error.map(Into::into),
                certificate_errors: 1,
            };
            let status = Status {
                api: Some(api),
                ..Status::default()
            };
            status_text(&status, Paint::off())
        };
        let well = said(now + 20 * 86_400 + 60, None);
        let line = "\napi         [::]:9436, certificate expires in 20 days\n";
        assert!(well.contains(line), "{well}");
        assert!(!well.contains("stays in force"), "{well}");
        let broken = said(now - 300, Some("--api-cert /c: no"));
        let line = "\napi         [::]:9436, certificate expired 5 min ago: nobody takes it\n";
        assert!(broken.contains(line), "{broken}");
        assert!(broken.contains("\n  --api-cert /c: no\n"), "{broken}");
        let off = status_text(&Status::default(), Paint::off());
        assert!(!off.contains("certificate"), "{off}");
    }

    #[test]
    fn the_status_says_where_the_network_plugin_is_and_why_it_is_not() {
        let mut status = Status::default();
        let line = |plugin: &CniStatus| {
            let status = Status {
                plugin: Some(plugin.clone()),
                ..Status::default()
            };
            status_text(&status, Paint::off())
        };
        assert!(!status_text(&status, Paint::off()).contains("plugin"));
        let mut plugin = CniStatus::default();
        let nothing = "\nplugin      not installed: no network is configured yet\n";
        assert!(line(&plugin).contains(nothing));
        plugin.list = Some("/n/1.conflist".into());
        plugin.way = Some(crate::cni::Way::DropIn);
        plugin.rewrites = 3;
        let said = line(&plugin);
        let expected = "\nplugin      in /n/1.conflist by the drop-in folder, put back 3 times\n";
        assert!(said.contains(expected), "{said}");
        plugin.way = None;
        plugin.error = Some("it is broken".into());
        let said = line(&plugin);
        let expected = "\nplugin      not installed, put back 3 times\n";
        assert!(said.contains(expected), "{said}");
        let expected = "the network plugin\n  it is broken\n";
        assert!(said.contains(expected), "{said}");
        // As it goes over the socket.
        status.plugin = Some(plugin);
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    }
}
