//! Tests of the status text.

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
    assert!(status_text(&status, Paint::off()).starts_with("healthy\n"));
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
    let asked = "mark        0x1000, packets without it are dropped";
    assert_eq!(said(bit(true)), asked);
    let not_yet = "mark        0x1000, not required before the first pass";
    assert_eq!(said(bit(false)), not_yet);
    let none = "mark        not required (--seen-mark 0)";
    assert_eq!(said(None), none);
}

#[test]
fn the_status_says_which_kinds_the_cluster_does_not_have() {
    let row = |kind: &str, state: WatchState| WatchStatus {
        kind: kind.into(),
        state,
        since: 0,
        listed: true,
        error: None,
        errors: 0,
        lists: 1,
    };
    let mut status = Status {
        watches: vec![
            row("Pod", WatchState::Connected),
            row("ClusterNetworkPolicy", WatchState::Absent),
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
    let line = "\napi         [::]:9436, certificate expired 5 min ago: clients reject it\n";
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
    plugin.way = Some(ringfence_api::Way::DropIn);
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
    // In the form that the socket transports.
    status.plugin = Some(plugin);
    let text = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
}
