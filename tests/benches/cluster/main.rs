//! The real agent following a live cluster; started by `cargo xtask bench cluster`.
//!
//! The API server double runs in this process, the agent in another, on a node
//! whose 100 pods are network namespaces. Pod changes come 20 times a second and
//! a policy change every second, by a clock that waits for nobody. A compiler in
//! this process follows the same objects: it knows which changes alter the node's
//! entries, and what they should be.
//!
//! A change is timed from the moment before the double is told, up to the moment
//! when the pinned maps, read as packets read them (the active buffer first, then
//! its entry), hold what the change makes of one entry. They are looked at every
//! 100 µs, which is what a figure may be too high by.
//!
//! Variant `shares` is two small nodes side by side: see [`shares`].

mod changes;
mod kernel;
mod mirror;
mod node;
mod run;
mod shares;

use anyhow::{Result, bail};
use ringfence_tests::clusters::Cluster;
use serde_json::{Value, json};

use run::Measured;

/// A cluster, what it is called here, and what the agent's memory may be.
const VARIANTS: [(Cluster, &str, f64); 2] = [
    (Cluster::Dense, "30k", 150e6),
    (Cluster::Wide, "100k", 400e6),
];

/// One namespace at its bound, and what that costs another.
const SHARES: &str = "shares";

fn main() -> Result<()> {
    // Cargo itself adds `--bench`.
    let arguments = std::env::args().skip(1);
    let named: Vec<String> = arguments.filter(|a| !a.starts_with('-')).collect();
    let known = |n: &&String| *n == SHARES || VARIANTS.iter().any(|v| v.1 == **n);
    if let Some(unknown) = named.iter().find(|n| !known(n)) {
        bail!("no variant {unknown}; there are 30k, 100k and {SHARES}");
    }
    let wanted = |variant| named.is_empty() || named.iter().any(|name| name == variant);
    let mut rows = Vec::new();
    for (cluster, variant, memory) in VARIANTS {
        if wanted(variant) {
            rows.extend(table(variant, memory, &run::measure(cluster)?));
        }
    }
    if wanted(SHARES) {
        rows.extend(shares::measure()?);
    }
    println!("{}", Value::Array(rows));
    Ok(())
}

fn table(variant: &str, memory: f64, measured: &Measured) -> Vec<Value> {
    let row = |case: &str, unit: &str, samples: Vec<f64>, target: Option<f64>| {
        json!({
            "case": case, "variant": variant, "unit": unit, "samples": samples,
            "target": target,
        })
    };
    let at = |percent| percentile(&measured.apply, percent);
    vec![
        row("apply_p50", "s", vec![at(50)], Some(0.005)),
        row("apply_p99", "s", vec![at(99)], Some(0.05)),
        row("memory", "bytes", measured.memory.clone(), Some(memory)),
        row("maps", "bytes", vec![measured.maps], None),
        row("first_tables", "s", vec![measured.first_tables], Some(10.0)),
    ]
}

/// By the nearest rank.
fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}
