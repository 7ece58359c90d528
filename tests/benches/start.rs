//! How long pods take to start beside the running agent, and from when on they may call
//! whom policy lets them; started by `cargo xtask bench start`.
//!
//! A real container runtime and a real network plugin start them, without and with the
//! chained plugin. The pod's object is there before, as a scheduler has it; its status shows
//! no address.
#![allow(clippy::unwrap_used)]

#[path = "../tests/runtime/containerd.rs"]
mod containerd;
#[path = "../tests/runtime/node.rs"]
mod node;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::Result;
use ringfence_tests::bench;
use serde_json::{Value, json};

use containerd::Containerd;
use node::{Node, until_open};

/// Pods that are started; RINGFENCE_BENCH_ROUNDS says otherwise. A p99 needs so many.
const STARTS: usize = 200;
/// What the agent may add to a start: nothing of it is on the runtime's way.
const ADDED: f64 = 1.1;
/// Milliseconds from a start's end to the first call, at the ninety-ninth percentile.
const FIRST_CALL: f64 = 100.0;
/// Milliseconds that the plugin takes for ADD without its wait, likewise.
const ADD: f64 = 20.0;

fn main() -> Result<()> {
    let starts = bench::rounds(STARTS)?;
    let mut node = Node::start(|containerd| vec![flag(containerd)]);
    let alone: Vec<f64> = (0..starts)
        .map(|n| start(&mut node, "alone", n).0)
        .collect();
    node.shop.start()?;
    let (beside, calls) = guarded(&mut node, "guarded", starts);
    let times = chain(&node, 0)?;
    let _ = guarded(&mut node, "passing", starts);
    let adds = fs::read_to_string(&times)?;
    let adds = adds.lines().map(|line| Ok(line.parse::<f64>()? / 1e3));
    let adds = adds.collect::<Result<Vec<f64>>>()?;
    chain(&node, 5)?;
    let (chained, chained_calls) = guarded(&mut node, "chained", starts);
    let row = |case: &str, variant: &str, samples: Value| json!({ "case": case, "variant": variant, "unit": "ms", "samples": samples });
    let against = |mut row: Value, case: &str, target: f64| {
        row["against"] = json!(case);
        row["target"] = json!(target);
        row
    };
    let worst = |samples: &[f64]| json!([p99(samples)]);
    let rows = [
        row("sandbox alone", "start", json!(alone)),
        against(
            row("sandbox", "start", json!(beside)),
            "sandbox alone",
            ADDED,
        ),
        row("sandbox with plugin", "start", json!(chained)),
        row("first call", "after the start", json!(calls)),
        row(
            "first call with plugin",
            "after the start",
            json!(chained_calls),
        ),
        row("plugin", "ADD but for its wait", json!(adds)),
        row("100 ms", "p99", json!([FIRST_CALL])),
        against(row("first call", "p99", worst(&calls)), "100 ms", 1.0),
        against(
            row("first call with plugin", "p99", worst(&chained_calls)),
            "100 ms",
            1.0,
        ),
        row("20 ms", "p99", json!([ADD])),
        against(row("plugin", "p99", worst(&adds)), "20 ms", 1.0),
    ];
    println!("{}", json!(rows));
    Ok(())
}

/// Where the plugin finds what the agent says.
fn state(containerd: &Containerd) -> PathBuf {
    containerd.folder().join("cni-state")
}

fn flag(containerd: &Containerd) -> String {
    format!("--cni-state={}", state(containerd).display())
}

/// Puts the plugin in the chain, with a shell around it that writes how many microseconds
/// each ADD took to the file that this returns. The shell reads its own clock: a command
/// for that would count as part of the plugin.
fn chain(node: &Node, timeout: u64) -> Result<PathBuf> {
    let state = state(&node.containerd);
    let (shell, times) = (state.with_file_name("timed"), state.with_file_name("times"));
    let plugin = node.shop.agent.binary.with_file_name("ringfence-cni");
    let script = format!(
        "#!/bin/bash\nbegan=${{EPOCHREALTIME/[.,]/}}\n{}\ncode=$?\n\
         ended=${{EPOCHREALTIME/[.,]/}}\n\
         [ $CNI_COMMAND != ADD ] || echo $((ended - began)) >>{}\nexit $code\n",
        plugin.display(),
        times.display()
    );
    fs::write(&shell, script)?;
    fs::set_permissions(&shell, fs::Permissions::from_mode(0o755))?;
    let entry = json!({
        "type": "ringfence-cni", "stateDir": state, "socket": node.shop.agent.socket,
        "timeoutSeconds": timeout,
    });
    node.containerd.chain(&shell, entry)?;
    Ok(times)
}

/// Starts of guarded pods, and their first calls.
fn guarded(node: &mut Node, kind: &str, starts: usize) -> (Vec<f64>, Vec<f64>) {
    let both = (0..starts).map(|n| start(node, kind, n));
    let (starts, calls): (Vec<f64>, Vec<Option<f64>>) = both.unzip();
    (starts, calls.into_iter().flatten().collect())
}

fn p99(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * 99).div_ceil(100) - 1]
}

/// Milliseconds that a pod's sandbox took, and from then on its first call where there
/// is an agent.
fn start(node: &mut Node, kind: &str, n: usize) -> (f64, Option<f64>) {
    let name = format!("{kind}-{n}");
    node.schedule(&name, true);
    let sandbox = node.containerd.run("shop", &name, &format!("uid-{name}"));
    let sandbox = sandbox.unwrap();
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let call = (kind != "alone").then(|| milliseconds(until_open(&sandbox.ns, &node.shop)));
    if call.is_some() {
        let row = node.row(&format!("shop/{name}"));
        assert_eq!(row["attached"], true, "{name} isn't guarded: {row}");
    }
    node.containerd.remove(&sandbox).unwrap();
    node.server.delete("pods", "shop", &name).unwrap();
    (milliseconds(sandbox.took), call)
}
