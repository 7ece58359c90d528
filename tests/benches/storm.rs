//! A storm of denied packets beside the running agent; started by `cargo xtask
//! bench storm`.

use std::time::Duration;

use anyhow::Result;
use ringfence_tests::storm::{Storm, Weather};
use serde_json::{Value, json};

/// How long one lasts.
const TIME: Duration = Duration::from_secs(10);
/// How many there are.
const STORMS: usize = 3;
/// Packets a second that a storm has at least: else it is none.
const RATE: f64 = 300_000.0;
/// What part of one core the agent may take meanwhile.
const SHARE: f64 = 0.1;

fn main() -> Result<()> {
    let weather = Weather::open()?;
    let storms = (0..STORMS).map(|_| weather.storm(TIME));
    let storms: Vec<Storm> = storms.collect::<Result<_>>()?;
    for storm in &storms {
        eprintln!("{storm:?}");
    }
    let row = |case: &str, variant: &str, unit: &str, of: &dyn Fn(&Storm) -> f64| {
        let samples: Vec<f64> = storms.iter().map(of).collect();
        json!({ "case": case, "variant": variant, "unit": unit, "samples": samples })
    };
    let against = |mut row: Value, case: &str, target: f64| {
        row["against"] = json!(case);
        row["target"] = json!(target);
        row
    };
    let rows = [
        row("least", "packet", "ns", &|_| 1e9 / RATE),
        against(
            row("storm", "packet", "ns", &|s| 1e9 / s.rate()),
            "least",
            1.0,
        ),
        row("storm", "core", "s", &|s| s.time.as_secs_f64()),
        against(
            row("agent", "core", "s", &|s| s.agent.as_secs_f64()),
            "storm",
            SHARE,
        ),
        row("sent", "denied", "packets", &|s| s.counts.denied as f64),
        against(
            row("counted", "denied", "packets", &|s| s.counts.dropped as f64),
            "sent",
            1.0,
        ),
        row("sent", "allowed", "packets", &|s| s.counts.allowed as f64),
        against(
            row("passed", "allowed", "packets", &|s| s.counts.passed as f64),
            "sent",
            1.0,
        ),
        row("lost", "device", "packets", &|s| s.counts.lost as f64),
    ];
    println!("{}", Value::from(rows.to_vec()));
    Ok(())
}
