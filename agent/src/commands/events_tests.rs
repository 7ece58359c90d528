use super::*;

/// Parses a line as an agent writes it.
fn line(json: &serde_json::Value) -> EventLine {
    serde_json::from_value(json.clone()).unwrap()
}

#[test]
fn an_event_is_one_line_with_both_names_and_the_reason() {
    let mut event = serde_json::json!({
        "time": 1,
        "source": "bank/rogue", "source_address": "10.0.0.1", "source_port": 40000,
        "destination": "bank/ledger", "destination_address": "fd00::2", "destination_port": 8080,
        "protocol": "tcp", "direction": "ingress", "reason": "policy", "audited": false, "len": 74,
        "detail": 2,
    });
    let expected = "DROPPED bank/rogue (10.0.0.1:40000) > bank/ledger ([fd00::2]:8080) tcp ingress policy, 74 bytes";
    assert_eq!(event_line(&line(&event), Paint::off()), expected);
    event["audited"] = true.into();
    event["source_port"] = 0.into();
    let text = event_line(&line(&event), Paint::off());
    assert!(text.starts_with("AUDITED bank/rogue (10.0.0.1) > "));
    let lost = line(&serde_json::json!({"lost": 7}));
    assert!(event_line(&lost, Paint::off()).starts_with("7 events lost"));
}

#[test]
fn an_event_of_another_node_has_its_name_and_keeps_what_is_newer() {
    let mut event = serde_json::json!({
        "time": 1,
        "source": "bank/rogue", "source_address": "10.0.0.1", "source_port": 0,
        "destination": "bank/ledger", "destination_address": "10.0.0.2", "destination_port": 0,
        "protocol": "icmp", "direction": "egress", "reason": "newest", "audited": false, "len": 98,
        "detail": 8, "newer": [1],
    });
    let row = OnNode {
        node: "n".to_owned(),
        row: line(&event),
    };
    event["node"] = "n".into();
    assert_eq!(serde_json::to_value(row).unwrap(), event);
}
