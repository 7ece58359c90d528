//! Tests of the listings' tables and JSON.

use super::*;
use crate::output::table;

/// Parses rows as an agent prints them.
fn rows<T: Row>(json: serde_json::Value) -> Vec<T> {
    serde_json::from_value(json).unwrap()
}

fn endpoint() -> serde_json::Value {
    serde_json::json!({
        "pod": "bank/ledger-0", "gone": false, "workload": "bank/ledger", "id": 7, "slot": 1,
        "ifindex": 12, "interface": "veth12", "addresses": ["10.0.0.2", "fd00::2"],
        "found_by": "cni_plugin", "ingress": "enforce", "egress": "open", "attached": true,
        "foreign_filters": [],
    })
}

#[test]
fn endpoints_are_listed_with_the_pods_that_have_none() {
    let bare = serde_json::json!({"pod": "bank/node", "attached": false, "reason": "host network"});
    let rows: Vec<EndpointRow> = rows(serde_json::json!([endpoint(), bare]));
    assert!(matches!(
        rows[..],
        [EndpointRow::Endpoint(_), EndpointRow::NotGuarded(_)]
    ));
    let text = table(&EndpointRow::columns(), &rows);
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|one| one.split_whitespace().collect())
        .collect();
    let header = [
        "POD",
        "WORKLOAD",
        "INTERFACE",
        "ADDRESSES",
        "FOUND_BY",
        "INGRESS",
        "EGRESS",
        "ATTACHED",
        "FOREIGN_FILTERS",
        "REASON",
    ];
    assert_eq!(lines[0], header);
    let guarded = [
        "bank/ledger-0",
        "bank/ledger",
        "veth12",
        "10.0.0.2,fd00::2",
        "cni_plugin",
        "enforce",
        "open",
        "true",
        "-",
        "-",
    ];
    assert_eq!(lines[1], guarded);
    let bare = [
        "bank/node",
        "-",
        "-",
        "-",
        "-",
        "-",
        "-",
        "false",
        "-",
        "host",
        "network",
    ];
    assert_eq!(lines[2], bare);
}

#[test]
fn connections_have_their_numbers_to_the_right() {
    let connection = |port: u16, packets: u64| {
        serde_json::json!({
            "pod": "bank/ledger-0", "local": "10.0.0.2", "local_port": port, "remote": "10.0.0.3",
            "remote_port": 4000, "protocol": "tcp", "peer": "bank/web", "opened": "ingress",
            "state": "established", "picked_up": false, "age": 5, "idle": 1,
            "packets": [packets, 2], "bytes": [60, 120],
        })
    };
    let rows: Vec<Whole<Connection>> = rows(serde_json::json!([
        connection(80, 1),
        connection(8080, 1000)
    ]));
    let text = table(&Whole::<Connection>::columns(), &rows);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].contains("          80  10.0.0.3"), "{text}");
    assert!(
        lines[1].contains("established      1,2  60,120    5     1"),
        "{text}"
    );
    assert!(
        lines[2].contains("established   1000,2  60,120    5     1"),
        "{text}"
    );
}

#[test]
fn a_row_is_named_by_its_node_whatever_the_agent_calls_itself() {
    let drops = serde_json::json!([{
        "node": "m", "source": "a/b", "destination": "c/d", "direction": "egress",
        "reason": "policy", "protocol": "tcp", "audited": false, "packets": 1, "bytes": 60,
        "newer": {"x": 1},
    }]);
    let mut rows: Vec<OnNode<Whole<DropSeries>>> = rows(drops.clone());
    rows[0].node = "n".into();
    let mut expected = drops;
    expected[0]["node"] = "n".into();
    assert_eq!(
        serde_json::to_value(&rows).unwrap(),
        expected,
        "with what is newer"
    );
    let text = table(&OnNode::<Whole<DropSeries>>::columns(), &rows);
    assert!(text.starts_with("NODE  SOURCE  DESTINATION"), "{text}");
    assert!(
        text.lines()
            .nth(1)
            .unwrap()
            .starts_with("n     a/b     c/d"),
        "{text}"
    );
}

#[test]
fn a_node_s_endpoints_are_read_like_those_of_this_one() {
    let bare = serde_json::json!({"pod": "bank/node", "attached": false, "reason": "host network"});
    let both = serde_json::json!([endpoint(), bare]);
    let mut rows: Vec<OnNode<EndpointRow>> = rows(both.clone());
    rows.iter_mut().for_each(|row| row.node = "n".into());
    let mut expected = both;
    for n in 0..2 {
        expected[n]["node"] = "n".into();
    }
    assert_eq!(serde_json::to_value(&rows).unwrap(), expected);
}
