//! How long pods take to start beside the running agent, and from when on they may call
//! whom policy lets them; started by `cargo xtask bench start`.
//!
//! A real container runtime and a real network plugin start them. The pod's object is
//! there before, as a scheduler has it; its status shows no address.
#![allow(clippy::unwrap_used)]

#[path = "../tests/runtime/containerd.rs"]
mod containerd;
#[path = "../tests/runtime/node.rs"]
mod node;

use anyhow::Result;
use ringfence_tests::bench;
use serde_json::{Value, json};

use node::{Node, until_open};

/// Pods that are started; RINGFENCE_BENCH_ROUNDS says otherwise. A p99 needs so many.
const STARTS: usize = 200;
/// What the agent may add to a start: nothing of it is on the runtime's way.
const ADDED: f64 = 1.1;
/// Milliseconds from a start's end to the first call, at the ninety-ninth percentile.
const FIRST_CALL: f64 = 100.0;

fn main() -> Result<()> {
    let starts = bench::rounds(STARTS)?;
    let mut node = Node::start(|_| Vec::new());
    let alone: Vec<f64> = (0..starts)
        .map(|n| start(&mut node, "alone", n).0)
        .collect();
    node.shop.start()?;
    let guarded = (0..starts).map(|n| start(&mut node, "guarded", n));
    let (guarded, calls): (Vec<f64>, Vec<Option<f64>>) = guarded.unzip();
    let calls: Vec<f64> = calls.into_iter().flatten().collect();
    let mut worst = calls.clone();
    worst.sort_by(f64::total_cmp);
    let worst = worst[(worst.len() * 99).div_ceil(100) - 1];
    let row = |case: &str, variant: &str, samples: Value| json!({ "case": case, "variant": variant, "unit": "ms", "samples": samples });
    let against = |mut row: Value, case: &str, target: f64| {
        row["against"] = json!(case);
        row["target"] = json!(target);
        row
    };
    let rows = [
        row("sandbox alone", "start", json!(alone)),
        against(
            row("sandbox", "start", json!(guarded)),
            "sandbox alone",
            ADDED,
        ),
        row("first call", "after the start", json!(calls)),
        row("bound", "p99", json!([FIRST_CALL])),
        against(row("first call", "p99", json!([worst])), "bound", 1.0),
    ];
    println!("{}", json!(rows));
    Ok(())
}

/// Milliseconds that a pod's sandbox took, and from then on its first call where there
/// is an agent.
fn start(node: &mut Node, kind: &str, n: usize) -> (f64, Option<f64>) {
    let name = format!("{kind}-{n}");
    node.schedule(&name, true);
    let sandbox = node.containerd.run("shop", &name, &format!("uid-{name}"));
    let sandbox = sandbox.unwrap();
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let call = (kind == "guarded").then(|| milliseconds(until_open(&sandbox.ns, &node.shop)));
    if call.is_some() {
        let row = node.row(&format!("shop/{name}"));
        assert_eq!(row["attached"], true, "{name} isn't guarded: {row}");
    }
    node.containerd.remove(&sandbox).unwrap();
    node.server.delete("pods", "shop", &name).unwrap();
    (milliseconds(sandbox.took), call)
}
