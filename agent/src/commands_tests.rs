use super::*;

#[test]
fn an_event_is_one_line_with_both_names_and_the_reason() {
    let mut event = serde_json::json!({
        "source": "bank/rogue", "source_address": "10.0.0.1", "source_port": 40000,
        "destination": "bank/ledger", "destination_address": "fd00::2", "destination_port": 8080,
        "protocol": "tcp", "direction": "ingress", "reason": "policy", "audited": false, "len": 74,
    });
    let expected = "DROPPED bank/rogue (10.0.0.1:40000) > bank/ledger ([fd00::2]:8080) tcp ingress policy, 74 bytes";
    assert_eq!(event_line(&event, Paint::off()), expected);
    event["audited"] = true.into();
    event["source_port"] = 0.into();
    assert!(event_line(&event, Paint::off()).starts_with("AUDITED bank/rogue (10.0.0.1) > "));
    let lost = serde_json::json!({"lost": 7});
    assert!(event_line(&lost, Paint::off()).starts_with("7 events lost"));
}

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
    assert!(line(&plugin).contains("\nplugin      not installed: no network is configured yet\n"));
    plugin.list = Some("/n/1.conflist".into());
    plugin.way = Some(crate::cni::Way::DropIn);
    plugin.rewrites = 3;
    let said = line(&plugin);
    let expected = "\nplugin      in /n/1.conflist by the drop-in folder, put back 3 times\n";
    assert!(said.contains(expected), "{said}");
    plugin.way = None;
    plugin.error = Some("it is broken".into());
    let said = line(&plugin);
    assert!(
        said.contains("\nplugin      not installed, put back 3 times\n"),
        "{said}"
    );
    assert!(
        said.contains("the network plugin\n  it is broken\n"),
        "{said}"
    );
    // As it goes over the socket.
    status.plugin = Some(plugin);
    let text = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
}
