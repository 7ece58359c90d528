//! The compiler against the oracle, on random clusters.
//!
//! `RINGFENCE_CLUSTERS` sets how many (2,000 unless told), `RINGFENCE_SEED`
//! asks one again. A disagreement prints its seed and the smallest cluster that
//! shows it.

use std::collections::BTreeMap;

use ringfence_tests::oracle::check::{self, View};
use ringfence_tests::oracle::{Expected, Verdict};
use ringfence_tests::random::{self, Cluster, NODE, features};

/// Parts of the work, so that every core has some.
const PARTS: u64 = 4;

/// Shares are told from no fewer clusters than this.
const ENOUGH: u64 = 200;

fn clusters(part: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("RINGFENCE_SEED") {
        Some(seed) if part == 0 => vec![seed],
        Some(_) => vec![],
        None => {
            let count: u64 = number("RINGFENCE_CLUSTERS").unwrap_or(2000);
            (0..count).filter(|seed| seed % PARTS == part).collect()
        }
    }
}

/// What a run has seen.
#[derive(Default)]
struct Seen {
    clusters: u64,
    features: BTreeMap<&'static str, u64>,
    verdicts: BTreeMap<Verdict, u64>,
    disagreements: Vec<String>,
}

impl Seen {
    fn count(&mut self, expected: Expected) {
        for verdict in [expected.ingress, expected.egress] {
            if verdict != Verdict::NotManaged {
                *self.verdicts.entry(verdict).or_default() += 1;
            }
        }
    }

    fn look(&mut self, cluster: &Cluster, view: View<'_>) {
        let tables = check::compile(&cluster.objects, view).expect("generated objects parse");
        let oracle = check::oracle(&cluster.objects, view);
        for probe in &cluster.probes {
            let expected = oracle.verdict(probe);
            self.count(expected);
            if expected != check::answer(&tables, probe) && self.disagreements.len() < 3 {
                let report = check::report(cluster.seed, &cluster.objects, view, probe);
                self.disagreements.push(report);
                // One a cluster: the next would most likely be the same.
                break;
            }
        }
        let wrong = check::wrong_quarantine(&cluster.objects, &tables);
        assert!(wrong.is_empty(), "seed {}: {wrong:?}", cluster.seed);
    }

    fn print_and_check(&self) {
        let total: u64 = self.verdicts.values().sum();
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        for (name, count) in &self.features {
            println!("{:6.1}% {name}", share(*count, self.clusters));
        }
        for (verdict, count) in &self.verdicts {
            println!("{:6.1}% {verdict:?}", share(*count, total));
        }
        if self.clusters < ENOUGH {
            return;
        }
        for (name, count) in &self.features {
            assert!(
                share(*count, self.clusters) >= 1.0,
                "too few clusters have: {name}"
            );
        }
        for (verdict, least) in [
            (Verdict::Allow, 15.0),
            (Verdict::Deny, 15.0),
            (Verdict::Audit, 5.0),
        ] {
            let count = self.verdicts.get(&verdict).copied().unwrap_or(0);
            assert!(
                share(count, total) >= least,
                "too few probes get {verdict:?}"
            );
        }
    }
}

/// Compares all of one part's clusters, as a node sees them and as the offline
/// commands do.
fn compare(part: u64) {
    let mut seen = Seen::default();
    for seed in clusters(part) {
        let cluster = random::cluster(seed);
        seen.clusters += 1;
        for (name, has) in features::features(&cluster) {
            *seen.features.entry(name).or_default() += u64::from(has);
        }
        seen.look(&cluster, Some(NODE));
        if seed % 5 == 0 {
            seen.look(&cluster, None);
        }
    }
    assert!(
        seen.disagreements.is_empty(),
        "oracle and compiler disagree:\n\n{}\n",
        seen.disagreements.join("\n\n")
    );
    seen.print_and_check();
}

#[test]
fn the_tables_say_what_the_policies_say() {
    compare(0);
}

#[test]
fn the_tables_say_what_the_policies_say_second_part() {
    compare(1);
}

#[test]
fn the_tables_say_what_the_policies_say_third_part() {
    compare(2);
}

#[test]
fn the_tables_say_what_the_policies_say_fourth_part() {
    compare(3);
}
