use proptest::prelude::*;
use serde_json::json;

use super::*;

const ENTRY: &str = r#"{"type":"ringfence-cni","stateDir":"/s","via":"list"}"#;

/// A list as an administrator may have written it.
const LIST: &str = r#"{
    "x-owner" : "someone", "cniVersion": "0.3.1",
    "name": "pods",
    "plugins" : [
        { "type":"ptp", "mtu" : 1.50e3, "ipam": {"type": "host-local"} },
        {"type": "portmap"}
    ],
    "disableCheck": true
}
"#;

fn put_in(text: &str) -> String {
    put(text, ENTRY).unwrap().unwrap()
}

#[test]
fn the_entry_goes_behind_all_others_and_nothing_else_changes() {
    let edited = put_in(LIST);
    let expected = LIST.replace(
        "{\"type\": \"portmap\"}",
        &format!("{{\"type\": \"portmap\"}},\n        {ENTRY}"),
    );
    assert_eq!(edited, expected);
    assert_eq!(put(&edited, ENTRY).unwrap(), None);
    assert_eq!(take(&edited).unwrap().unwrap(), LIST);
    assert_eq!(take(LIST).unwrap(), None);
}

#[test]
fn an_entry_that_is_old_doubled_or_not_the_last_is_put_right() {
    let edited = put_in(LIST);
    let newer = ENTRY.replace("/s", "/t");
    let once = put(&edited, &newer).unwrap().unwrap();
    assert_eq!(once.matches("ringfence-cni").count(), 1);
    assert!(once.contains("/t"));
    // Another tool's entry after ours, ours first, ours twice.
    let behind = edited.replace(ENTRY, &format!("{ENTRY}, {{\"type\":\"istio-cni\"}}"));
    let front = LIST.replace(
        "{\"type\": \"portmap\"}",
        "{\"type\":\"ringfence-cni\"} ,{\"type\":\"portmap\"}",
    );
    let twice = edited.replace(ENTRY, &format!("{ENTRY},{ENTRY}"));
    let first = LIST.replace(
        "{ \"type\":\"ptp\"",
        "{\"type\":\"ringfence-cni\"},{ \"type\":\"ptp\"",
    );
    for text in [behind, front, twice, first] {
        let right = put_in(&text);
        let list: Value = serde_json::from_str(&right).unwrap();
        let plugins = list["plugins"].as_array().unwrap();
        let ours = plugins.iter().filter(|one| one["type"] == PLUGIN);
        assert_eq!(ours.count(), 1, "{text}");
        assert_eq!(plugins.last().unwrap()["type"], PLUGIN, "{text}");
        assert!(!take(&right).unwrap().unwrap().contains(PLUGIN));
    }
}

#[test]
fn an_entry_is_known_by_its_type_however_that_is_written() {
    let spelled = LIST.replace(
        "{\"type\": \"portmap\"}",
        r#"{"ty\u0070e": "ringfence\u002dcni"}"#,
    );
    assert!(!take(&spelled).unwrap().unwrap().contains("ringfence"));
}

#[test]
fn what_a_runtime_would_not_take_is_an_error() {
    for (text, error) in [
        ("", "parse"),
        ("{", "parse"),
        ("[]", "parse"),
        (r#"{"name":"a","plugins":[{"type":"ptp"}]} x"#, "parse"),
        (
            r#"{"name":"a","plugins":[],"plugins":[{"type":"ptp"}]}"#,
            "parse",
        ),
        (r#"{"name":"a","plugins":[{"kind":"ptp"}]}"#, "parse"),
        (r#"{"name":"a","plugins":[{"type":""}]}"#, "parse"),
        (r#"{"name":"a","plugins":[]}"#, "no network"),
        (r#"{"name":"","plugins":[{"type":"ptp"}]}"#, "no network"),
        (
            r#"{"name":"a","plugins":[{"type":"ringfence-cni"}]}"#,
            "no network",
        ),
    ] {
        for result in [put(text, ENTRY), take(text)] {
            let said = result.unwrap_err().to_string();
            assert!(said.contains(error), "{text}: {said}");
        }
    }
}

#[test]
fn no_entry_goes_where_the_plugin_would_be_called_with_a_version_that_it_refuses() {
    let list = |versions: &str| format!(r#"{{{versions}"name":"a","plugins":[{{"type":"ptp"}}]}}"#);
    for fine in [
        r#""cniVersion":"0.3.1","#,
        r#""cniVersion":"1.0.0","cniVersions":["0.2.0","0.10.0","1.0.0"],"#,
    ] {
        assert!(put(&list(fine), ENTRY).is_ok(), "{fine}");
    }
    for bad in [
        "",
        r#""cniVersion":"0.2.0","#,
        r#""cniVersion":"1.0.0","cniVersions":["1.0.0","1.20.0","1.1.0"],"#,
    ] {
        let refused = put(&list(bad), ENTRY).unwrap_err().to_string();
        assert!(
            refused.contains("ringfence-cni supports 0.3.1"),
            "{refused}"
        );
    }
}

#[test]
fn a_file_with_one_plugin_becomes_a_list_that_holds_it_to_the_letter() {
    let text =
        "{ \"cniVersion\":\"0.3.1\", \"name\": \"a\\\"b\",\n \"type\":\"bridge\", \"x\":1.0 }\n";
    let list = convert(text).unwrap();
    assert!(list.contains(text.trim()));
    let read: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(read["name"], "a\"b");
    assert_eq!(read["cniVersion"], "0.3.1");
    assert_eq!(read["plugins"].as_array().unwrap().len(), 1);
    assert!(put(&list, ENTRY).unwrap().is_some());
    for bad in [LIST, r#"{"name":"a"}"#, r#"{"name":"","type":"b"}"#, ENTRY] {
        assert!(convert(bad).is_err(), "{bad}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn list() -> impl Strategy<Value = String> {
    let plugin = prop::collection::btree_map("[a-z]{1,3}", value(), 0..3);
    let plugins = prop::collection::vec((plugin, "[a-z]{1,5}"), 1..5);
    let rest = prop::collection::btree_map("[a-z]{1,3}|plugin", value(), 0..4);
    (plugins, rest, "[ \t\r\n]{0,3}", any::<bool>()).prop_map(|(plugins, rest, space, pretty)| {
        let mut list = json!({"cniVersion": "1.0.0", "name": "a"});
        for (key, value) in rest {
            list[key] = value;
        }
        let plugins = plugins.into_iter().map(|(keys, kind)| {
            let mut plugin: Value = Value::Object(keys.into_iter().collect());
            plugin["type"] = kind.into();
            plugin
        });
        list["plugins"] = plugins.collect();
        let text = if pretty {
            serde_json::to_string_pretty(&list)
        } else {
            serde_json::to_string(&list)
        };
        format!("{space}{}{space}", text.unwrap())
    })
}

proptest! {
    #[test]
    fn of_any_list_everything_is_kept_and_what_was_put_in_can_be_taken_out(text in list()) {
        let edited = put(&text, ENTRY).unwrap().unwrap();
        prop_assert_eq!(put(&edited, ENTRY).unwrap(), None);
        prop_assert_eq!(take(&edited).unwrap(), Some(text.clone()));
        prop_assert_eq!(take(&text).unwrap(), None);
        let mut read: Value = serde_json::from_str(&edited).unwrap();
        let plugins = read["plugins"].as_array_mut().unwrap();
        let own = plugins.pop().unwrap();
        prop_assert_eq!(own, serde_json::from_str::<Value>(ENTRY).unwrap());
        prop_assert_eq!(read, serde_json::from_str::<Value>(&text).unwrap());
    }

    #[test]
    fn no_text_makes_the_editor_panic(text in "\\PC{0,60}", plugin in "\\PC{0,20}") {
        let list = format!(r#"{{"cniVersion":"1.0.0","name":"a","plugins":[{plugin}]}}"#);
        for text in [text, list] {
            if let Ok(Some(edited)) = put(&text, ENTRY) {
                prop_assert!(List::parse(&edited).is_ok());
            }
        }
    }
}
