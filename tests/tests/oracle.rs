//! The compiler against the oracle, on random clusters.
//!
//! `RINGFENCE_CLUSTERS` sets the number of clusters (default 2,000), `RINGFENCE_SEED`
//! repeats one. A disagreement prints its seed and the smallest cluster that shows it.

use std::collections::BTreeMap;
use std::io::{Write as _, stdout};

use ringfence_tests::oracle::check::{self, View};
use ringfence_tests::oracle::{Expected, Verdict};
use ringfence_tests::parallel;
use ringfence_tests::random::{self, Cluster, NODE, features};
use serde_json::Value;

/// Shares are reported for at least this many clusters.
const ENOUGH: u64 = 1000;

/// The least number of pods in a cluster.
const PODS: usize = 5;
const POLICIES: usize = 3;
const PROBES: usize = 20;

/// The least share of each verdict, in percent of all.
const LEAST_VERDICT: f64 = 15.0;
/// The least share of each corner, in percent of the clusters.
const LEAST_FEATURE: f64 = 1.0;

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("RINGFENCE_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("RINGFENCE_CLUSTERS").unwrap_or(2000)).collect(),
    }
}

fn assert_size(cluster: &Cluster) {
    let of = |kinds: &[&str]| {
        let is = |o: &&Value| kinds.iter().any(|kind| o["kind"] == **kind);
        cluster.objects.iter().filter(is).count()
    };
    let sizes = [
        of(&["Pod"]),
        of(&["NetworkPolicy", "ClusterNetworkPolicy"]),
        cluster.probes.len(),
    ];
    let enough = [PODS, POLICIES, PROBES];
    let fits = sizes.iter().zip(enough).all(|(size, least)| *size >= least);
    assert!(fits, "seed {} is too small: {sizes:?}", cluster.seed);
}

/// The statistics of a run.
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
                // One per cluster: the next would most likely be the same.
                break;
            }
            let exempt = (oracle.exempt(probe), check::answer_exempt(&tables, probe));
            assert_eq!(
                exempt.0,
                exempt.1,
                "seed {}, view {view:?}, without NetworkPolicies: {}",
                cluster.seed,
                check::describe(probe)
            );
        }
        let wrong = check::wrong_quarantine(&cluster.objects, &tables);
        assert!(wrong.is_empty(), "seed {}: {wrong:?}", cluster.seed);
    }

    fn add(&mut self, other: Self) {
        self.clusters += other.clusters;
        for (name, count) in other.features {
            *self.features.entry(name).or_default() += count;
        }
        for (verdict, count) in other.verdicts {
            *self.verdicts.entry(verdict).or_default() += count;
        }
        self.disagreements.extend(other.disagreements);
    }

    /// Returns every corner and verdict with its share in percent and the required
    /// least share.
    fn shares(&self) -> Vec<(String, f64, f64)> {
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        let total: u64 = self.verdicts.values().sum();
        let corners = self.features.iter().map(|(name, count)| {
            let name = (*name).to_owned();
            (name, share(*count, self.clusters), LEAST_FEATURE)
        });
        let verdicts = [Verdict::Allow, Verdict::Audit, Verdict::Deny].map(|verdict| {
            let count = self.verdicts.get(&verdict).copied().unwrap_or(0);
            (format!("{verdict:?}"), share(count, total), LEAST_VERDICT)
        });
        corners.chain(verdicts).collect()
    }

    fn print_and_check(&self) {
        let shares = self.shares();
        let mut text = format!(
            "{} clusters, of which or of whose verdicts\n",
            self.clusters
        );
        for (name, share, _) in &shares {
            text += &format!("{share:6.1}% {name}\n");
        }
        // Straight to the terminal: the harness would hide `print!` output of a passing
        // test, and these shares must be visible.
        stdout()
            .write_all(text.as_bytes())
            .expect("standard output");
        let rare = shares.iter().filter(|(_, share, least)| share < least);
        let rare: Vec<_> = rare.map(|(name, ..)| name).collect();
        let told = self.clusters >= ENOUGH;
        assert!(!told || rare.is_empty(), "too rare: {rare:?}");
    }
}

/// Compares some clusters, as a node sees them and as the offline commands do.
fn compare(seeds: &mut dyn Iterator<Item = u64>) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        let cluster = random::cluster(seed);
        assert_size(&cluster);
        seen.clusters += 1;
        for (name, has) in features::features(&cluster) {
            *seen.features.entry(name).or_default() += u64::from(has);
        }
        seen.look(&cluster, Some(NODE));
        if seed % 5 == 0 {
            seen.look(&cluster, None);
        }
    }
    seen
}

#[test]
fn the_tables_say_what_the_policies_say() {
    let seeds = seeds();
    let mut seen = Seen::default();
    for part in parallel::split(&seeds, |seeds| compare(seeds)) {
        seen.add(part);
    }
    assert!(
        seen.disagreements.is_empty(),
        "oracle and compiler disagree:\n\n{}\n",
        seen.disagreements.join("\n\n")
    );
    seen.print_and_check();
}
