//! Nanoseconds a packet, by test run of the loaded programs; started by
//! `cargo xtask bench packet`, which prints what this measures.
//!
//! The figures hold the kernel's own loop, about what `empty` shows. Rounds are
//! interleaved, so that a machine that slows down slows all cases, and all runs on
//! one CPU. Where each packet is another one, a program of the bench's own object
//! changes it first; what that costs is measured in the same round and taken off.

mod world;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::Array;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use ringfence::datapath::{Attach, Datapath, Hook, Options};
use ringfence_ebpf::packet::tcp;
use ringfence_tests::packets::{Frame, fixture};
use ringfence_tests::testnet::Net;
use serde_json::json;

use world::{PEERS, World};

/// Rounds over all cases.
const ROUNDS: usize = 11;
/// Runs a measurement.
const REPEAT: u32 = 200_000;
/// Events per second and endpoint, where they are read: the agent's default.
const EVENTS: u32 = 100;

// How packets are varied, as `ebpf/src/bpf/bench.rs` has it.
const EACH_PORT: u32 = 1;
const EACH_PEER: u32 = 2;
const EACH_STALE: u32 = 4;
const EACH_QUOTA: u32 = 8;

/// What is run.
#[derive(Clone, Copy, PartialEq)]
enum Program {
    Empty,
    Floor,
    FromPod,
    ToPod,
}

struct Case {
    name: &'static str,
    variant: String,
    program: Program,
    frame: Frame,
    vary: u32,
    passes: bool,
    against: Option<(&'static str, f64)>,
    samples: Vec<f64>,
}

fn main() -> Result<()> {
    let mut one = CpuSet::new();
    one.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    let mut rows = Vec::new();
    for (rules, events) in [(1, 0), (world::MANY_RULES, 0), (1, EVENTS)] {
        let mut builder = Net::builder();
        for pod in &fixture::PODS {
            builder = builder.pod(pod.name, pod.addresses());
        }
        let net = builder.build()?;
        let cases = net.node().run(|| measure(&net, rules, events))??;
        rows.extend(cases.iter().map(row));
    }
    println!("{}", json!(rows));
    Ok(())
}

fn row(case: &Case) -> serde_json::Value {
    let (against, ratio) = case.against.unzip();
    json!({
        "case": case.name, "variant": case.variant, "unit": "ns",
        "samples": case.samples, "against": against, "target": ratio,
    })
}

fn measure(net: &Net, rules: usize, events: u32) -> Result<Vec<Case>> {
    let mut datapath = Datapath::open(&Options {
        pin_dir: net.pin_dir(),
        audit: false,
        events_per_second: events,
        pickup: Duration::ZERO,
        attach: Attach::Best,
    })?;
    let world = World::new(net, rules)?;
    datapath.apply(&world.tables, &world.interfaces)?;
    // Somebody takes the events off, as the agent does.
    let events_read = datapath.take_events().filter(|_| events > 0);
    let reader = events_read.map(world::read_events);
    let mut cases = Vec::new();
    for v4 in [true, false] {
        world.open_flows(&mut datapath, v4)?;
        cases.extend(family(v4, rules, events));
    }
    let slot = datapath
        .endpoints()
        .iter()
        .find(|e| e.id == 1)
        .map(|e| e.slot);
    let mut own = Own::load(net, world.ifindex(), slot.context("no endpoint 1")?)?;
    for _ in 0..ROUNDS {
        let empty = own.run("empty", &cases[0].frame)?.0;
        for case in &mut cases {
            let time = one_round(&mut datapath, &mut own, &world, case, empty)?;
            case.samples.push(time);
        }
    }
    drop(reader);
    Ok(cases)
}

/// Nanoseconds a packet; a figure of a case that took another way is worth nothing.
fn one_round(
    datapath: &mut Datapath,
    own: &mut Own,
    world: &World,
    case: &Case,
    empty: f64,
) -> Result<f64> {
    own.set(case)?;
    let (name, hook) = match case.program {
        Program::Empty => return Ok(own.run("empty", &case.frame)?.0),
        Program::Floor if case.vary == 0 => return Ok(own.run("floor", &case.frame)?.0),
        Program::Floor => ("vary_floor", None),
        Program::FromPod => ("vary_from_pod", Some(Hook::FromPod)),
        Program::ToPod => ("vary_to_pod", Some(Hook::ToPod)),
    };
    let (time, passes) = match hook {
        Some(hook) if case.vary == 0 => {
            let run = datapath.run(hook, &case.frame.bytes(), world.ifindex(), 1, REPEAT)?;
            (run.duration.as_nanos() as f64, run.passes)
        }
        _ => {
            let harness = own.run("vary", &case.frame)?.0;
            own.set(case)?;
            let (time, passes) = own.run(name, &case.frame)?;
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

fn call(v4: bool, flags: u8) -> Frame {
    Frame::tcp(
        (fixture::address("caller", v4), 40_000),
        (world::peer(v4, 0), 8080),
        flags,
    )
}

/// The cases of one family in one world.
fn family(v4: bool, rules: usize, events: u32) -> Vec<Case> {
    let data = call(v4, tcp::ACK);
    let to = |peer, port| Frame::udp((fixture::address("caller", v4), 40_001), (peer, port));
    let denied = to(world::stranger(v4), 53);
    let outside = to(fixture::address("stranger", v4), 53);
    let what = |one: &str| format!("{}{one}", if v4 { "v4" } else { "v6" });
    let case = |name, variant: String, program, frame: &Frame, vary, passes, against| Case {
        name,
        variant,
        program,
        frame: frame.clone(),
        vary,
        passes,
        against,
        samples: Vec::new(),
    };
    let (empty, floor) = (Some("empty"), Some("floor"));
    let at = |against: Option<&'static str>, target: f64| against.map(|against| (against, target));
    if events > 0 {
        let with = || what(", events read");
        return vec![
            case("empty", with(), Program::Empty, &data, 0, true, None),
            case(
                "denied",
                with(),
                Program::FromPod,
                &denied,
                0,
                false,
                at(empty, 5.0),
            ),
            case(
                "denied-cidr",
                with(),
                Program::FromPod,
                &outside,
                0,
                false,
                at(empty, 7.0),
            ),
        ];
    }
    let plain = || match rules {
        1 => what(""),
        _ => what(", 100k rules"),
    };
    let random = || match rules {
        1 => what(", 10k peers"),
        _ => what(", 10k peers, 100k rules"),
    };
    let anew = EACH_PORT | EACH_PEER | EACH_QUOTA;
    let syn = call(v4, tcp::SYN);
    vec![
        case("empty", plain(), Program::Empty, &data, 0, true, None),
        case("floor", plain(), Program::Floor, &data, 0, true, None),
        case(
            "established",
            plain(),
            Program::FromPod,
            &data,
            0,
            true,
            at(floor, 1.3),
        ),
        case(
            "reply",
            plain(),
            Program::ToPod,
            &data.reply(),
            0,
            true,
            at(floor, 1.3),
        ),
        case(
            "denied",
            plain(),
            Program::FromPod,
            &denied,
            0,
            false,
            at(empty, 5.0),
        ),
        case(
            "denied-cidr",
            plain(),
            Program::FromPod,
            &outside,
            0,
            false,
            at(empty, 7.0),
        ),
        case(
            "new",
            plain(),
            Program::FromPod,
            &syn,
            anew,
            true,
            at(empty, 14.0),
        ),
        case(
            "stale",
            plain(),
            Program::FromPod,
            &data,
            EACH_STALE,
            true,
            at(floor, 14.0),
        ),
        case("empty", random(), Program::Empty, &data, 0, true, None),
        case(
            "floor",
            random(),
            Program::Floor,
            &data,
            EACH_PEER,
            true,
            None,
        ),
        case(
            "established",
            random(),
            Program::FromPod,
            &data,
            EACH_PEER,
            true,
            at(floor, 1.3),
        ),
        case(
            "reply",
            random(),
            Program::ToPod,
            &data.reply(),
            EACH_PEER,
            true,
            at(floor, 1.3),
        ),
        case(
            "denied",
            random(),
            Program::FromPod,
            &denied,
            EACH_PEER,
            false,
            at(empty, 5.0),
        ),
    ]
}

/// The bench's own programs, over the datapath's own maps, so that the floor
/// finds the very flows.
struct Own {
    ebpf: Ebpf,
    ifindex: u32,
    slot: u32,
}

impl Own {
    const PROGRAMS: [&str; 6] = [
        "empty",
        "floor",
        "vary",
        "vary_floor",
        "vary_from_pod",
        "vary_to_pod",
    ];

    fn load(net: &Net, ifindex: u32, slot: u32) -> Result<Self> {
        let object = std::env::var("RINGFENCE_BENCH_OBJECT")
            .context("RINGFENCE_BENCH_OBJECT isn't set: run `cargo xtask bench packet`")?;
        let version = ringfence_ebpf::abi::ABI_VERSION;
        let ebpf = EbpfLoader::new()
            .default_map_pin_directory(net.pin_dir().join(format!("v{version}")))
            .load_file(&object)
            .with_context(|| format!("can't load {object}"))?;
        let mut own = Self {
            ebpf,
            ifindex,
            slot,
        };
        for name in Self::PROGRAMS {
            own.program(name)?.load()?;
        }
        Ok(own)
    }

    fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(name);
        let program =
            program.with_context(|| format!("the bench's object has no program {name}"))?;
        Ok(program.try_into()?)
    }

    /// Says how the next packets are varied.
    fn set(&mut self, case: &Case) -> Result<()> {
        let v4 = case.frame.source.is_ipv4();
        // The last two bytes of source and destination, and the source port.
        let (source, destination, port_at) = if v4 { (28, 32, 34) } else { (36, 52, 54) };
        let peer_at = if case.program == Program::ToPod {
            source
        } else {
            destination
        };
        let map = self
            .ebpf
            .map_mut("VARY")
            .context("the bench's object has no map VARY")?;
        // `Vary` of `ebpf/src/bpf/bench.rs`.
        let vary = [0, case.vary, self.slot, peer_at, port_at, PEERS];
        Array::<_, [u32; 6]>::try_from(map)?.set(0, vary, 0)?;
        Ok(())
    }

    /// Nanoseconds a run, and whether the packet passed.
    fn run(&mut self, name: &str, frame: &Frame) -> Result<(f64, bool)> {
        // The start of struct __sk_buff: ingress_ifindex at 36, ifindex at 40.
        let mut context = [0; 44];
        context[36..40].copy_from_slice(&1_u32.to_ne_bytes());
        context[40..44].copy_from_slice(&self.ifindex.to_ne_bytes());
        let result = self.program(name)?.test_run(TestRunOptions {
            data_in: Some(&frame.bytes()),
            ctx_in: Some(&context),
            repeat: REPEAT,
            ..TestRunOptions::new()
        })?;
        // TC_ACT_SHOT (linux/pkt_cls.h).
        Ok((result.duration.as_nanos() as f64, result.return_value != 2))
    }
}
