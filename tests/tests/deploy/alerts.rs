//! Tests the alert rules with `promtool`.

use std::collections::BTreeSet;
use std::fs;

use ringfence_tests::deployed::{deploy, documents, output, tool};
use serde_json::Value;

fn read(name: &str) -> Value {
    let text = fs::read_to_string(deploy(&format!("dashboards/{name}"))).unwrap();
    documents(&text).unwrap().remove(0)
}

pub(crate) fn rules() -> Vec<Value> {
    read("alerts.yaml")["groups"][0]["rules"]
        .as_array()
        .unwrap()
        .clone()
}

/// Returns the alerts of the tests whose expected list isn't empty, or is empty.
fn tried(tests: &Value, firing: bool) -> BTreeSet<String> {
    let tests = tests["tests"].as_array().unwrap();
    let cases = tests
        .iter()
        .flat_map(|test| test["alert_rule_test"].as_array().unwrap());
    cases
        .filter(|case| case["exp_alerts"].as_array().unwrap().is_empty() != firing)
        .map(|case| case["alertname"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_do_and_is_tried_firing_and_quiet() {
    let mut names = BTreeSet::new();
    for rule in rules() {
        assert!(
            names.insert(rule["alert"].as_str().unwrap().to_owned()),
            "twice: {rule}"
        );
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{rule}"
        );
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].as_str().is_some(), "{rule}");
        }
    }
    let tests = read("alerts_test.yaml");
    assert_eq!(tried(&tests, true), names);
    assert_eq!(tried(&tests, false), names);
}

#[test]
#[ignore = "needs Prometheus: cargo xtask test"]
fn every_alert_fires_when_it_shall_and_only_then() {
    let tests = deploy("dashboards/alerts_test.yaml");
    let mut promtool = tool("promtool").unwrap();
    output(promtool.args(["test", "rules"]).arg(tests)).unwrap();
}
