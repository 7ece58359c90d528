//! The documents agree with the program: metrics and alerts, commands, and the README's
//! `explain`.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::Duration;

use clap::Parser as _;
use ringfence::cli::Cli;
use ringfence::datapath::{DropSeries, MapName, MapSpec, MapUsage, Stats, Writer};
use ringfence::kubernetes::Board;
use ringfence::metrics::{Metrics, Snapshot};
use ringfence_api::{CniStatus, RemoteStatus};
use ringfence_tests::deployed::static_binary;

/// The head of the metrics table, and of the table of reasons for refusing clients.
const METRICS: &str = "| metric | type | labels | what it counts | what to do | alert |";
const REFUSED: &str = "| reason | the agent closed the connection because |";

/// The head of the table of maps.
const MAPS: &str = "| map | kind | capacity | written by | holds |";

/// The type and labels of a metric.
type Shape = (String, BTreeSet<String>);

/// Returns a page on which every metric has a series. Every field is named here: a new
/// source of metrics doesn't compile until it is added to this page.
fn page() -> String {
    let metrics = Metrics::new().unwrap();
    metrics.applied("Pod", Duration::from_millis(12));
    let drops = [false, true].map(|audited| DropSeries {
        source: "bank/rogue".into(),
        destination: "bank/ledger".into(),
        direction: "ingress",
        reason: "policy",
        protocol: "tcp",
        audited,
        packets: 1,
        bytes: 60,
    });
    let map = MapUsage {
        name: MapName::Rules,
        entries: 1,
        capacity: 2,
    };
    let snapshot = Snapshot {
        drops: drops.into(),
        stats: Stats::default(),
        maps: vec![map],
        endpoints: [("enforce", 1)].into(),
        devices: [("hooked", 1)].into(),
        generation: 1,
        source_connected: true,
        invalid: 0,
        problems: [("Pod bank/rogue".to_owned(), "label".to_owned())].into(),
        board: Some(Board::default()),
        plugin: Some(CniStatus::default()),
        api: Some(RemoteStatus::default()),
    };
    String::from_utf8(metrics.render(&snapshot).unwrap()).unwrap()
}

/// Returns the names and values of a series' labels. No value on this page contains a quote.
fn labels(series: &str) -> Vec<(&str, &str)> {
    let parts: Vec<&str> = series.split('"').collect();
    let pairs = parts.chunks_exact(2);
    pairs
        .map(|pair| (pair[0].trim_matches([',', '=']), pair[1]))
        .collect()
}

/// Returns every metric on a page.
fn exported(page: &str) -> BTreeMap<String, Shape> {
    let mut found = BTreeMap::new();
    for declared in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = declared.split_once(' ').unwrap();
        found.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
    }
    for (name, series) in page.lines().filter_map(|line| line.split_once('{')) {
        let name = name.strip_suffix("_bucket").unwrap_or(name);
        // A histogram's sum and count have the labels of its buckets.
        if let Some((_, names)) = found.get_mut(name) {
            let own = labels(series).into_iter().map(|(label, _)| label);
            names.extend(own.filter(|label| *label != "le").map(str::to_owned));
        }
    }
    found
}

/// Returns the cells of all rows below this head in a document.
fn rows(document: &str, head: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(format!("../docs/{document}")).unwrap();
    let mut found = Vec::new();
    let mut is_within = false;
    for line in text.lines() {
        if line == head {
            is_within = true;
        } else if !line.starts_with('|') {
            is_within = false;
        } else if is_within && !line.starts_with("|---") {
            let cells = line.trim_matches('|').split('|');
            found.push(cells.map(|cell| cell.trim().to_owned()).collect());
        }
    }
    assert!(!found.is_empty(), "no table {head}");
    found
}

/// Returns the words in backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

#[test]
fn every_metric_is_documented_with_its_type_and_labels_and_no_other_is() {
    let mut documented = BTreeMap::new();
    for row in rows("metrics.md", METRICS) {
        let name = quoted(&row[0]).next().unwrap();
        let shape: Shape = (row[1].clone(), quoted(&row[2]).collect());
        let earlier = documented.insert(name.clone(), shape);
        assert!(earlier.is_none(), "{name} has two rows");
        for text in &row[3..5] {
            assert!(!text.is_empty(), "{name} has an empty cell");
        }
    }
    let exported = exported(&page());
    for (name, shape) in &exported {
        assert_eq!(documented.get(name), Some(shape), "docs/metrics.md: {name}");
    }
    for name in documented.keys() {
        assert!(exported.contains_key(name), "no agent exports {name}");
    }
}

#[test]
fn every_reason_for_refusing_a_client_is_documented_and_no_other_is() {
    let page = page();
    let series = page
        .lines()
        .filter_map(|line| line.strip_prefix("ringfence_clients_refused_total{"));
    let reasons = series.flat_map(labels);
    let reasons = reasons.filter(|(label, _)| *label == "reason");
    let reasons: BTreeSet<String> = reasons.map(|(_, reason)| reason.to_owned()).collect();
    let rows = rows("metrics.md", REFUSED);
    let documented: BTreeSet<String> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(documented, reasons);
}

#[test]
fn every_map_is_documented_as_the_catalogue_has_it() {
    let documented = rows("datapath.md", MAPS).into_iter();
    let documented: Vec<[String; 4]> = documented
        .map(|row| {
            let name = quoted(&row[0]).next().unwrap();
            [
                name,
                row[1].clone(),
                row[2].replace(',', ""),
                row[3].clone(),
            ]
        })
        .collect();
    let catalogued = MapName::ALL.map(|map| {
        let MapSpec {
            name,
            kind,
            entries,
            writer,
            ..
        } = map.spec();
        let writer = match writer {
            Writer::Agent => "agent",
            Writer::Packets => "packets",
            Writer::Both => "packets; the agent removes dead elements",
        };
        [
            name.to_owned(),
            format!("{kind:?}"),
            entries.to_string(),
            writer.to_owned(),
        ]
    });
    assert_eq!(documented, catalogued);
}

/// Returns the text of each alert's rule.
fn alerts() -> BTreeMap<String, String> {
    let text = fs::read_to_string("../deploy/dashboards/alerts.yaml").unwrap();
    let both = "ringfence_dropped_packets_total ringfence_audited_packets_total";
    let text = text.replace("ringfence_(dropped|audited)_packets_total", both);
    let rules = text.split("- alert: ").skip(1);
    rules
        .map(|rule| {
            let (name, rest) = rule.split_once('\n').unwrap();
            (name.trim().to_owned(), rest.to_owned())
        })
        .collect()
}

#[test]
fn every_alert_stands_at_a_metric_that_it_asks_for() {
    let alerts = alerts();
    let mut named = BTreeSet::new();
    for row in rows("metrics.md", METRICS) {
        let metric = quoted(&row[0]).next().unwrap();
        for alert in row[5].split(',').map(str::trim).filter(|a| !a.is_empty()) {
            let rule = alerts.get(alert);
            let rule = rule.unwrap_or_else(|| panic!("{metric}: there is no alert {alert}"));
            assert!(rule.contains(&metric), "{alert} doesn't ask for {metric}");
            named.insert(alert.to_owned());
        }
    }
    let all: BTreeSet<String> = alerts.into_keys().collect();
    assert_eq!(named, all);
}

/// Returns the lines of a document's code blocks that run `ringfence`, except synopses
/// and lines that require a shell.
fn commands(text: &str) -> Vec<String> {
    let blocks = text.split("\n```").skip(1).step_by(2);
    let lines = blocks.flat_map(str::lines);
    let lines = lines.map(|line| line.strip_prefix("$ ").unwrap_or(line));
    let plain = lines.filter(|line| line.starts_with("ringfence "));
    plain
        .filter(|line| !line.contains(['[', '<', '|']))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_in_the_documents_parses() {
    let mut count = 0;
    for name in ["README.md", "docs/install.md", "docs/reachability.md"] {
        let text = fs::read_to_string(format!("../{name}")).unwrap();
        for line in commands(&text) {
            if let Err(error) = Cli::try_parse_from(line.split_whitespace()) {
                panic!("{name}: {line}: {error}");
            }
            count += 1;
        }
    }
    assert!(count > 5, "{count} commands");
}

#[test]
#[ignore = "needs the static binary: cargo xtask test"]
fn the_readme_shows_what_explain_prints() {
    let readme = fs::read_to_string("../README.md").unwrap();
    let (_, block) = readme.split_once("```\n$ ringfence ").unwrap();
    let (command, rest) = block.split_once('\n').unwrap();
    let (shown, _) = rest.split_once("```").unwrap();
    let mut explain = Command::new(static_binary().unwrap());
    let explain = explain.args(command.split_whitespace()).current_dir("..");
    let output = explain.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), shown);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
