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
