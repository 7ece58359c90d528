//! Nanoseconds a packet, by test run of the loaded programs; started by
//! `cargo xtask bench packet`, which prints what this measures.
//!
//! The figures hold the kernel's own loop, about what `empty` shows. Rounds are
//! interleaved: a machine that slows down slows all cases.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use ringfence::datapath::{Attach, Datapath, Hook, Interface, Options};
use ringfence_ebpf::packet::tcp;
use ringfence_tests::packets::{Frame, fixture};
use ringfence_tests::testnet::Net;
use serde_json::json;

/// Rounds over all cases.
const ROUNDS: usize = 11;
/// Runs a measurement.
const REPEAT: u32 = 200_000;
/// An established packet by the floor of its family.
const ESTABLISHED_TARGET: f64 = 1.3;
/// A denied packet by the empty classifier.
const DENIED_TARGET: f64 = 5.0;

/// What is run.
#[derive(Clone, Copy, PartialEq)]
enum Program {
    /// A hook of the datapath.
    Hook(Hook),
    /// A program of the bench's own object.
    Own(&'static str),
}

struct Case {
    name: &'static str,
    program: Program,
    frame: Vec<u8>,
    v4: bool,
    against: Option<(&'static str, f64)>,
    samples: Vec<f64>,
}

fn main() -> Result<()> {
    let mut builder = Net::builder();
    for pod in &fixture::PODS {
        builder = builder.pod(pod.name, pod.addresses());
    }
    let net = builder.build()?;
    let cases = net.node().run(|| measure(&net))??;
    let rows: Vec<_> = cases.iter().map(row).collect();
    println!("{}", json!(rows));
    Ok(())
}

fn row(case: &Case) -> serde_json::Value {
    let (against, ratio) = case.against.unzip();
    json!({
        "case": case.name, "variant": if case.v4 { "v4" } else { "v6" },
        "unit": "ns", "samples": case.samples, "against": against, "target": ratio,
    })
}

fn measure(net: &Net) -> Result<Vec<Case>> {
    let pin_dir = net.pin_dir();
    let mut datapath = Datapath::open(&Options {
        pin_dir: pin_dir.clone(),
        audit: false,
        events_per_second: 0,
        pickup: Duration::ZERO,
        attach: Attach::Best,
    })?;
    let tables = fixture::tables();
    let mut interfaces = interfaces(net, &tables)?;
    // The floor's key has endpoint id 1: the caller's, who comes first.
    interfaces.sort_by_key(|interface| interface.pod.name != "caller");
    datapath.apply(&tables, &interfaces)?;
    let ifindex = interfaces[0].ifindex;
    let mut own = own_programs(&pin_dir)?;
    let mut cases = Vec::new();
    for v4 in [true, false] {
        open_flow(&mut datapath, ifindex, v4)?;
        cases.extend(family(v4));
    }
    for _ in 0..ROUNDS {
        for case in &mut cases {
            let time = match case.program {
                Program::Hook(hook) => {
                    let run = datapath.run(hook, &case.frame, ifindex, 1, REPEAT)?;
                    expect(case.name, run.passes)?;
                    run.duration
                }
                Program::Own(name) => run_own(&mut own, name, &case.frame)?,
            };
            case.samples.push(time.as_nanos() as f64);
        }
    }
    Ok(cases)
}

/// A figure of a case that took another way is worth nothing.
fn expect(case: &str, passes: bool) -> Result<()> {
    if passes == (case == "denied") {
        return Err(anyhow!("{case}: the verdict is not the case's"));
    }
    Ok(())
}

fn call(v4: bool, flags: u8) -> Frame {
    Frame::tcp(
        (fixture::address("caller", v4), 40_000),
        (fixture::address("callee", v4), 8080),
        flags,
    )
}

fn family(v4: bool) -> Vec<Case> {
    let data = call(v4, tcp::ACK);
    let stranger = Frame::udp(
        (fixture::address("caller", v4), 40_001),
        (fixture::address("far", v4), 53),
    );
    let case = |name, program, frame: &Frame, against| Case {
        name,
        program,
        frame: frame.bytes(),
        v4,
        against,
        samples: Vec::new(),
    };
    let floor = Some(("floor", ESTABLISHED_TARGET));
    vec![
        case("empty", Program::Own("empty"), &data, None),
        case("floor", Program::Own("floor"), &data, None),
        case("established", Program::Hook(Hook::FromPod), &data, floor),
        case("reply", Program::Hook(Hook::ToPod), &data.reply(), floor),
        case(
            "denied",
            Program::Hook(Hook::FromPod),
            &stranger,
            Some(("empty", DENIED_TARGET)),
        ),
    ]
}

fn open_flow(datapath: &mut Datapath, ifindex: u32, v4: bool) -> Result<()> {
    let syn = call(v4, tcp::SYN);
    datapath.run(Hook::FromPod, &syn.bytes(), ifindex, 1, 1)?;
    let answer = syn.reply().flags(tcp::SYN | tcp::ACK);
    datapath.run(Hook::ToPod, &answer.bytes(), ifindex, 1, 1)?;
    Ok(())
}

fn interfaces(net: &Net, tables: &ringfence_policy::tables::Tables) -> Result<Vec<Interface>> {
    tables
        .endpoints
        .keys()
        .filter_map(|pod| Some((pod, net.pod(&pod.name).ok()?)))
        .map(|(pod, at)| {
            let ifindex = nix::net::if_::if_nametoindex(at.host_device.as_str())
                .with_context(|| format!("no device {}", at.host_device))?;
            Ok(Interface {
                pod: pod.clone(),
                ifindex,
                name: at.host_device.clone(),
                mac: at.mac,
            })
        })
        .collect()
}

/// Loaded over the datapath's own maps, so that the floor finds the very flow.
fn own_programs(pin_dir: &std::path::Path) -> Result<Ebpf> {
    let object = std::env::var("RINGFENCE_BENCH_OBJECT")
        .context("RINGFENCE_BENCH_OBJECT isn't set: run `cargo xtask bench packet`")?;
    let version = ringfence_ebpf::abi::ABI_VERSION;
    let mut ebpf = EbpfLoader::new()
        .default_map_pin_directory(pin_dir.join(format!("v{version}")))
        .load_file(&object)
        .with_context(|| format!("can't load {object}"))?;
    for name in ["empty", "floor"] {
        own(&mut ebpf, name)?.load()?;
    }
    Ok(ebpf)
}

fn own<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the bench's object has no program {name}"))?;
    Ok(program.try_into()?)
}

fn run_own(ebpf: &mut Ebpf, name: &str, frame: &[u8]) -> Result<Duration> {
    let result = own(ebpf, name)?.test_run(TestRunOptions {
        data_in: Some(frame),
        repeat: REPEAT,
        ..TestRunOptions::new()
    })?;
    Ok(result.duration)
}
