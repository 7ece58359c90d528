//! Dashboard and alerts against a real Prometheus that scrapes a real agent of a
//! cluster under traffic.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use ringfence_tests::agent::{Manifest, Shop};
use ringfence_tests::apiserver::ApiServer;
use ringfence_tests::deployed::Prometheus;
use ringfence_tests::programs::Programs;
use serde_json::Value;

use crate::alerts::rules;
use crate::cluster;
use crate::dashboard::panels;

/// How long traffic runs before the queries: a rate takes two scrapes with counts, and
/// there is one scrape per second.
const TRAFFIC: Duration = Duration::from_secs(5);
/// How long to wait for the expected scrape, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The values that Grafana would substitute for each variable.
const FILLED: [(&str, &str); 4] = [
    ("$__rate_interval", "30s"),
    ("$__range", "1h"),
    ("$instance", ".*"),
    ("$namespace", ".*"),
];

#[test]
#[ignore = "needs root and Prometheus: cargo xtask test"]
fn every_panel_has_data_and_every_alert_knows_its_metrics_while_an_agent_is_under_traffic() {
    let mut shop = Shop::with([
        Shop::server(),
        Shop::client(),
        Shop::rogue(),
        Manifest::pod("tried", Shop::NODE, 13).label("ringfence.dev/ingress", "audit"),
        Manifest::pod("odd", Shop::NODE, 14).label("egress.ringfence.dev/server", "no-port!"),
    ])
    .unwrap();
    let server = cluster(&mut shop);
    with_plugin(&mut shop);
    let programs = Programs::new(&shop.net.dir().join("api"), 4000).unwrap();
    let flags = programs.flags(([127, 0, 0, 1], 9436).into());
    shop.agent.flags.extend(flags);
    shop.start().unwrap();
    let target = format!("127.0.0.1:{}", shop.agent.metrics_port);
    let prometheus = Prometheus::start(&mut shop.net, &target).unwrap();
    let scraped = "ringfence_build_info";
    prometheus.wait_for(scraped, PATIENCE).unwrap();
    traffic(&shop, &server);
    panels_have_data(&prometheus);
    alerts_know_their_metrics(&prometheus);
}

/// Makes the agent keep the network plugin in a network's list.
fn with_plugin(shop: &mut Shop) {
    let at = |name: &str| shop.net.dir().join(name);
    for name in ["net.d", "bin"] {
        fs::create_dir(at(name)).unwrap();
    }
    let list = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"ptp"}]}"#;
    fs::write(at("net.d/10-pods.conflist"), list).unwrap();
    let flag = |flag: &str, name: &str| format!("--{flag}={}", at(name).display());
    shop.agent.flags = vec![
        flag("cni-state", "cni-state"),
        flag("cni-conf-dir", "net.d"),
        flag("cni-bin-dir", "bin"),
    ];
}

/// Makes allowed, denied and audited calls, and changes policy meanwhile.
fn traffic(shop: &Shop, server: &ApiServer) {
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < TRAFFIC {
        round += 1;
        shop.is_guarded("under Prometheus' eyes").unwrap();
        assert!(shop.calls("rogue", "tried", true).unwrap());
        let changed = Shop::client().label("round", &format!("{round}"));
        server.apply(&changed.yaml()).unwrap();
    }
    // The last counts are scraped within a second.
    thread::sleep(Duration::from_secs(2));
}

fn panels_have_data(prometheus: &Prometheus) {
    let mut bare = Vec::new();
    for panel in panels() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let filled = FILLED
                .iter()
                .fold(expression.to_owned(), |text, (from, to)| {
                    text.replace(from, to)
                });
            assert!(
                !filled.contains('$'),
                "a variable that nobody fills: {filled}"
            );
            let series = prometheus.query(&filled).unwrap();
            // There is no duration for a kind that didn't change.
            if series.iter().all(|one| one["value"][1] == "NaN") {
                bare.push(format!("{}: {filled}: {series:?}", panel["title"]));
            }
        }
    }
    assert!(bare.is_empty(), "panels without data:\n{}", bare.join("\n"));
}

fn alerts_know_their_metrics(prometheus: &Prometheus) {
    let loaded = prometheus.rules().unwrap();
    assert_eq!(loaded.len(), rules().len());
    let mut active = BTreeSet::new();
    for rule in &loaded {
        assert_eq!(rule["health"], "ok", "{rule}");
        if rule["state"] != "inactive" {
            active.insert(rule["name"].as_str().unwrap());
        }
        for selector in selectors(rule) {
            let series = prometheus.query(&selector).unwrap();
            assert!(
                !series.is_empty(),
                "no {selector}, of which {}",
                rule["name"]
            );
        }
    }
    // One pod's label is invalid; nothing else is wrong.
    assert_eq!(active, ["RingfencePolicyProblem"].into());
}

/// Returns the series that an alert's expression uses, except those that first appear
/// with the first packet or the first problem of their kind.
fn selectors(rule: &Value) -> Vec<String> {
    let expression = rule["query"].as_str().unwrap();
    let mut found = Vec::new();
    for (at, _) in expression.match_indices("ringfence_") {
        let rest = &expression[at..];
        let name = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let labels = rest[name..]
            .starts_with('{')
            .then(|| rest.find('}'))
            .flatten();
        let selector = &rest[..labels.map_or(name, |end| end + 1)];
        let later = ["reason=", "source=", "field=\"capacity\""]
            .iter()
            .any(|label| selector.contains(label));
        if !later && selector != "ringfence_" {
            found.push(selector.to_owned());
        }
    }
    found
}
