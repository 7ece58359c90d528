//! Nanoseconds a packet, by test run of the loaded programs; started by
//! `cargo xtask bench packet`, which prints what this measures. Names of cases
//! as arguments, with or without a variant, measure these alone.
//!
//! The figures hold the kernel's own loop, about what `empty` shows. Three
//! datapaths stand side by side (one rule, 100,000 rules, events read); rounds go
//! through all cases of all of them, so that a machine that slows down slows all,
//! and all runs on one CPU. Where each packet is another one, a program of the
//! bench's own object changes it first; what that costs is measured in the same
//! round and taken off.

mod cases;
mod own;
mod setup;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use ringfence::datapath::{Attach, Datapath, Hook, Options, SEEN_MARK};
use ringfence_tests::bench;
use ringfence_tests::packets::fixture;
use ringfence_tests::testnet::Net;
use serde_json::{Value, json};

use cases::{Case, Program};
use own::Own;
use setup::Setup;

/// Rounds over all cases; RINGFENCE_BENCH_ROUNDS says otherwise.
const ROUNDS: usize = 11;
/// Runs a measurement.
const REPEAT: u32 = 200_000;
/// What a decision by selector rules may cost more among 100,000 of them.
const MANY_RULES_TARGET: f64 = 1.10;

fn main() -> Result<()> {
    bench::go_first()?;
    let mut one = CpuSet::new();
    one.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    // Cargo itself adds `--bench`.
    let named: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let mut stages = Vec::new();
    for setting in cases::SETTINGS {
        let mut stage = Stage::set(&setting)?;
        stage.cases.retain(|case| {
            let whole = format!("{} {}", case.name, case.variant);
            let is_named = |name: &String| name == case.name || *name == whole;
            case.name == "empty" || named.is_empty() || named.iter().any(is_named)
        });
        // Where nothing but the yardstick is left, nothing is measured.
        if stage.cases.iter().all(|case| case.name == "empty") && !named.is_empty() {
            continue;
        }
        stages.push(stage);
    }
    for _ in 0..bench::rounds(ROUNDS)? {
        for stage in &mut stages {
            stage.round()?;
        }
    }
    let cases: Vec<Case> = stages.into_iter().flat_map(|stage| stage.cases).collect();
    let mut rows: Vec<Value> = cases.iter().map(|case| row(case, &cases)).collect();
    rows.extend(by_one_rule(&cases));
    println!("{}", json!(rows));
    Ok(())
}

fn row(case: &Case, all: &[Case]) -> Value {
    let (against, target) = (case.against.map(|a| a.0), case.against.and_then(|a| a.1));
    // Few nanoseconds, of programs that run one right after the other.
    let unchecked = |other: &&Case| other.name == cases::UNCHECKED && other.variant == case.variant;
    let other = all
        .iter()
        .find(unchecked)
        .filter(|other| against == Some(other.name));
    json!({
        "case": case.name, "variant": case.variant, "unit": "ns",
        "samples": case.samples, "against": against, "target": target,
        "ratios": other.map(|other| paired(case, other)),
    })
}

/// Round by round.
fn paired(these: &Case, those: &Case) -> Vec<f64> {
    let pairs = these.samples.iter().zip(&those.samples);
    pairs.map(|(these, those)| these / those).collect()
}

/// What each case costs among many rules, by what it costs under one.
fn by_one_rule(cases: &[Case]) -> Vec<Value> {
    let all: HashMap<(&str, &str), &Case> = cases
        .iter()
        .map(|case| ((case.name, case.variant.as_str()), case))
        .collect();
    let rows = cases.iter().filter_map(|many| {
        let of = many.variant.strip_suffix(cases::MANY)?;
        let one = all.get(&(many.name, of)).filter(|_| many.by_rules)?;
        Some(json!({
            "case": many.name, "variant": format!("{}: by one rule", many.variant),
            "unit": "ns", "samples": many.samples, "against": format!("{}, {of}", one.name),
            "ratios": paired(many, one),
            "target": MANY_RULES_TARGET,
        }))
    });
    rows.collect()
}

/// One datapath with its network, and the cases that are measured in it.
struct Stage {
    net: Net,
    setup: Setup,
    datapath: Datapath,
    own: Own,
    cases: Vec<Case>,
}

impl Stage {
    fn set(setting: &cases::Setting) -> Result<Self> {
        let mut builder = Net::builder();
        for pod in &fixture::PODS {
            builder = builder.pod(pod.name, pod.addresses());
        }
        let net = builder.build()?;
        let (setup, datapath, own) = net.node().run(|| Self::inside(&net, setting))??;
        Ok(Self {
            cases: cases::all(setting),
            net,
            setup,
            datapath,
            own,
        })
    }

    /// To be called inside the node's namespace.
    fn inside(net: &Net, setting: &cases::Setting) -> Result<(Setup, Datapath, Own)> {
        let mut datapath = Datapath::open(&Options {
            pin_dir: net.pin_dir(),
            audit: false,
            events_per_second: setting.events,
            pickup: Duration::ZERO,
            attach: Attach::Best,
            seen_mark: SEEN_MARK,
            enters_namespaces: false,
        })?;
        let setup = Setup::new(net, setting.rules)?;
        datapath.apply(&setup.tables, &setup.interfaces)?;
        // Somebody takes the events off, as the agent does.
        if let Some(events) = datapath.take_events().filter(|_| setting.events > 0) {
            setup::read_events(events);
        }
        for v4 in [true, false] {
            setup.open_connections(&mut datapath, v4)?;
        }
        let endpoints = datapath.endpoints();
        let slot = endpoints.iter().find(|e| e.id == 1).map(|e| e.slot);
        let own = Own::load(net, setup.ifindex(), slot.context("no endpoint 1")?)?;
        Ok((setup, datapath, own))
    }

    fn round(&mut self) -> Result<()> {
        let (setup, datapath, own) = (&self.setup, &mut self.datapath, &mut self.own);
        let cases = &mut self.cases;
        self.net.node().run(|| {
            let empty = own.run("empty", &cases[0].frame, REPEAT)?.0;
            for case in cases {
                let time = once(datapath, own, setup, case, empty)?;
                case.samples.push(time);
            }
            Ok(())
        })?
    }
}

/// Nanoseconds a packet; a figure of a case that took another way is worth nothing.
fn once(
    datapath: &mut Datapath,
    own: &mut Own,
    setup: &Setup,
    case: &Case,
    empty: f64,
) -> Result<f64> {
    own.set(case)?;
    let (name, hook) = match case.program {
        Program::Empty => return Ok(own.run("empty", &case.frame, REPEAT)?.0),
        Program::Floor if case.vary == 0 => return Ok(own.run("floor", &case.frame, REPEAT)?.0),
        Program::Floor => ("vary_floor", None),
        Program::Own(name) => (name, None),
        Program::FromPod => ("vary_from_pod", Some(Hook::FromPod)),
        Program::ToPod => ("vary_to_pod", Some(Hook::ToPod)),
    };
    let (time, passes) = match hook {
        Some(hook) if case.vary == 0 => {
            let run = datapath.run(hook, &case.frame.bytes(), setup.ifindex(), 1, true, REPEAT)?;
            (run.duration.as_nanos() as f64, run.passes)
        }
        None if case.vary == 0 => own.run(name, &case.frame, REPEAT)?,
        _ => {
            let harness = own.run("vary", &case.frame, REPEAT)?.0;
            own.set(case)?;
            let (time, passes) = own.run(name, &case.frame, REPEAT)?;
            (time - harness + empty, passes)
        }
    };
    ensure!(
        passes == case.passes,
        "{}, {}: the verdict is not the case's",
        case.name,
        case.variant
    );
    Ok(time)
}
