//! Checks the dashboard's structure; [`crate::scrape`] runs its queries.

use std::collections::BTreeSet;
use std::fs;

use ringfence_tests::deployed::deploy;
use serde_json::Value;

/// The number of columns in Grafana's grid.
const COLUMNS: u64 = 24;

pub(crate) fn panels() -> Vec<Value> {
    dashboard()["panels"].as_array().unwrap().clone()
}

fn dashboard() -> Value {
    let text = fs::read_to_string(deploy("dashboards/ringfence.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn is_row(panel: &Value) -> bool {
    panel["type"] == "row"
}

#[test]
fn panels_have_numbers_of_their_own_and_do_not_overlap() {
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        let (x, y) = (place("x"), place("y"));
        assert!(x + place("w") <= COLUMNS, "{panel}");
        for column in x..x + place("w") {
            for line in y..y + place("h") {
                assert!(taken.insert((column, line)), "overlaps: {panel}");
            }
        }
    }
}

#[test]
fn every_panel_says_what_it_shows_and_in_which_unit() {
    let mut titles = BTreeSet::new();
    for panel in panels() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        assert!(titles.insert(text(&panel["title"])), "twice: {panel}");
        if is_row(&panel) {
            continue;
        }
        assert!(text(&panel["description"]).ends_with('.'), "{panel}");
        assert_ne!(
            text(&panel["fieldConfig"]["defaults"]["unit"]),
            "",
            "{panel}"
        );
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
    }
}

#[test]
fn every_query_goes_to_the_data_source_that_the_reader_chose() {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let chosen = |variable: &&Value| variable["type"] == "datasource";
    let chosen = variables.iter().find(chosen).unwrap();
    assert_eq!(chosen["query"], "prometheus");
    let name = format!("${{{}}}", chosen["name"].as_str().unwrap());
    let queries = variables.iter().filter(|one| one["type"] == "query");
    let panels = panels();
    let shown = panels.iter().filter(|panel| !is_row(panel));
    let targets = shown
        .clone()
        .filter_map(|panel| panel["targets"].as_array());
    let everywhere = shown.chain(targets.flatten()).chain(queries);
    for place in everywhere {
        assert_eq!(place["datasource"]["uid"], name.as_str(), "{place}");
    }
}
