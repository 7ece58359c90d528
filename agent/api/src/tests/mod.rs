//! Every kind of answer, to JSON and back.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::*;
use samples::{connection, drops, endpoint, event, status};

/// Asserts that each word survives the wire, and a word of a newer agent as well.
macro_rules! words_survive {
    ($($name:ident)+) => {$(
        for word in $name::KNOWN {
            survives(word);
            assert!(!matches!($name::from(word.as_str()), $name::Other(_)), "{word}");
            assert_eq!(serde_json::to_value(word).unwrap(), serde_json::Value::from(word.to_string()));
        }
        let newer = $name::Other("newest".to_owned());
        survives(&newer);
        assert!(matches!(serde_json::from_str("\"newest\"").unwrap(), $name::Other(_)));
    )+};
}

mod offline;
mod samples;

/// Asserts that an answer survives the wire, alone and as one row of several agents' answers.
fn survives<T: Serialize + DeserializeOwned + PartialEq + Clone + Debug>(answer: &T) {
    let text = serde_json::to_string(answer).unwrap();
    let back: T = serde_json::from_str(&text).unwrap();
    assert_eq!(&back, answer, "{text}");
    assert_eq!(serde_json::to_string(&back).unwrap(), text);
    let value = serde_json::to_value(answer).unwrap();
    assert_eq!(&serde_json::from_value::<T>(value).unwrap(), answer);
}

/// Asserts the same of a row, also with its node's name, and that fields of a newer agent are
/// ignored, or kept by whoever passes the row on.
fn row_survives<T: Serialize + DeserializeOwned + PartialEq + Clone + Debug>(row: &T) {
    survives(row);
    survives(&Whole::from(row.clone()));
    let node = "n".to_owned();
    let row_on_node = OnNode {
        node,
        row: Whole::from(row.clone()),
    };
    survives(&row_on_node);
    let mut newer = serde_json::to_value(row).unwrap();
    newer["newer"] = json!({"x": [1, null]});
    assert_eq!(&serde_json::from_value::<T>(newer.clone()).unwrap(), row);
    let whole: Whole<T> = serde_json::from_value(newer.clone()).unwrap();
    assert_eq!(&whole.known, row);
    assert_eq!(serde_json::to_value(&whole).unwrap(), newer);
}

#[test]
fn every_word_is_read_back_and_so_are_those_of_newer_agents() {
    words_survive!(ConnectionState Direction Enforcement FoundBy Mode Protocol Reason);
    words_survive!(WatchState Way);
}

#[test]
fn a_word_is_no_number() {
    let error = serde_json::from_str::<Reason>("7").unwrap_err().to_string();
    assert!(error.contains("expected a string"), "{error}");
}

#[test]
fn a_status_is_read_back() {
    for mode in Mode::KNOWN {
        let mut status = status();
        status.mode = mode.clone();
        survives(&status);
    }
    let mut status = status();
    for way in Way::KNOWN {
        let mut plugin = status.plugin.clone().unwrap();
        plugin.way = Some(way.clone());
        status.plugin = Some(plugin);
        survives(&status);
    }
    survives(&Status::default());
    survives(&Whole::from(status));
}

#[test]
fn a_status_of_an_older_agent_lacks_what_came_later() {
    let old = json!({
        "version": "0.0.1", "node": "n", "mode": "audit", "source": "manifests", "pid": 1,
        "source_connected": true, "passes": 1, "apply_errors": 0, "error": null, "generation": 1,
        "endpoints": 1, "unguarded": [], "devices": 1, "unhooked": [], "invalid": [],
        "problems": [], "skipped": [],
    });
    let status: Status = serde_json::from_value(old).unwrap();
    assert_eq!((status.mode, status.pod_ranges), (Mode::Audit, None));
}

#[test]
fn every_kind_of_endpoint_is_read_back() {
    for by in FoundBy::KNOWN {
        let mut endpoint = endpoint();
        endpoint.found_by = by.clone();
        row_survives(&endpoint);
    }
    for enforcement in Enforcement::KNOWN {
        let mut endpoint = endpoint();
        (endpoint.ingress, endpoint.egress) = (enforcement.clone(), enforcement.clone());
        row_survives(&endpoint);
    }
    let mut gone = endpoint();
    (gone.pod, gone.gone, gone.reason) = (None, true, Some("gone".into()));
    row_survives(&gone);
    survives(&EndpointRow::Endpoint(gone.into()));
}

#[test]
fn a_pod_without_an_interface_is_a_row_among_endpoints() {
    let pod = UnguardedPod {
        pod: "bank/node".into(),
        reason: "host network".into(),
    };
    let bare = NotGuarded::from(&pod);
    row_survives(&bare);
    let row = EndpointRow::NotGuarded(bare.into());
    survives(&row);
    survives(&OnNode {
        node: "n".to_owned(),
        row: row.clone(),
    });
    let expected = r#"{"pod":"bank/node","attached":false,"reason":"host network"}"#;
    assert_eq!(serde_json::to_string(&row).unwrap(), expected);
}

#[test]
fn every_kind_of_connection_is_read_back() {
    for state in ConnectionState::KNOWN {
        for opened in Direction::KNOWN {
            for protocol in Protocol::KNOWN {
                let mut connection = connection();
                connection.state = state.clone();
                connection.opened = opened.clone();
                connection.protocol = protocol.clone();
                row_survives(&connection);
            }
        }
    }
}

#[test]
fn every_kind_of_drop_is_read_back() {
    for reason in Reason::KNOWN {
        for audited in [false, true] {
            let mut series = drops();
            series.reason = reason.clone();
            series.audited = audited;
            row_survives(&series);
            let mut event = event();
            event.reason = reason.clone();
            event.audited = audited;
            row_survives(&event);
            survives(&EventLine::Packet(event.into()));
        }
    }
    let lost = EventLine::Lost(Lost { lost: 7 });
    survives(&lost);
    assert_eq!(serde_json::to_string(&lost).unwrap(), r#"{"lost":7}"#);
}

#[test]
fn numbers_of_any_size_are_read_back() {
    let mut series = drops();
    (series.packets, series.bytes) = (u64::MAX, u64::MAX);
    row_survives(&series);
    let mut connection = connection();
    connection.bytes = [u64::MAX, 0];
    row_survives(&connection);
}

#[test]
fn answers_about_what_is_in_force_are_read_back() {
    survives(&InForce::not("the agent is starting".into()));
    survives(&InForce {
        in_force: true,
        reason: None,
        generation: u64::MAX,
        invalid: vec!["a.yaml: no".into()],
    });
    survives(&PolicyInForce::not("there is no such policy"));
    let answer = PolicyInForce {
        in_force: true,
        pods: 3,
        reason: None,
        generation: 4,
    };
    survives(&answer);
    survives(&OnNode {
        node: "n".to_owned(),
        row: answer,
    });
    survives(&Bound { in_force: true });
    survives(&Fault {
        error: "connections: no such map".into(),
    });
}

#[test]
fn names_and_order_of_fields_are_stable() {
    let expected = concat!(
        r#"{"pod":"bank/ledger-0","local":"10.0.0.2","local_port":8080,"remote":"fd00::3","#,
        r#""remote_port":40000,"protocol":"tcp","peer":"bank/web","opened":"ingress","#,
        r#""state":"half-closed","picked_up":true,"age":60,"idle":2,"packets":[1,2],"#,
        r#""bytes":[60,120]}"#,
    );
    assert_eq!(serde_json::to_string(&connection()).unwrap(), expected);
    let expected = concat!(
        r#"{"pod":"bank/ledger-0","gone":false,"workload":"bank/ledger","id":7,"slot":1,"#,
        r#""ifindex":12,"interface":"veth12","addresses":["10.0.0.2","fd00::2"],"#,
        r#""found_by":"cni_cache","ingress":"enforce","egress":"open","attached":true,"#,
        r#""foreign_filters":["ingress bpf x (priority 2)"]}"#,
    );
    assert_eq!(serde_json::to_string(&endpoint()).unwrap(), expected);
    let expected = concat!(
        r#"{"source":"bank/rogue","destination":"bank/ledger","direction":"egress","#,
        r#""reason":"policy","protocol":"udp","audited":false,"packets":2,"bytes":120}"#,
    );
    assert_eq!(serde_json::to_string(&drops()).unwrap(), expected);
}
