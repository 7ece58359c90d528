//! The bench's own programs.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, HashMap};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use ringfence::datapath::{SEEN_MARK, over_pins};
use ringfence_ebpf::abi::{Connection, ConnectionKey};
use ringfence_tests::packets::Frame;
use ringfence_tests::testnet::Net;

use super::cases::{Case, Program};
use super::setup::{self, PEERS};

/// Bytes of a connection's key, and of a connection.
const KEY: usize = size_of::<ConnectionKey>();
const CONNECTION: usize = size_of::<Connection>();

/// The bench's own programs, over the datapath's own maps, so that the floor
/// finds the very connections.
pub(super) struct Own {
    ebpf: Ebpf,
    ifindex: u32,
    slot: u32,
}

impl Own {
    const PROGRAMS: [&str; 9] = [
        "empty",
        "floor",
        "from_pod",
        "from_pod_unchecked",
        "from_pod_pending",
        "vary",
        "vary_floor",
        "vary_from_pod",
        "vary_to_pod",
    ];

    pub(super) fn load(net: &Net, ifindex: u32, slot: u32) -> Result<Self> {
        let object = std::env::var("RINGFENCE_BENCH_OBJECT")
            .context("RINGFENCE_BENCH_OBJECT isn't set: run `cargo xtask bench packet`")?;
        let version = ringfence_ebpf::abi::ABI_VERSION;
        let bytes = std::fs::read(&object).with_context(|| format!("can't read {object}"))?;
        let pins = net.pin_dir().join(format!("v{version}"));
        let ebpf =
            over_pins(&bytes, &pins, SEEN_MARK).with_context(|| format!("can't load {object}"))?;
        let mut own = Self {
            ebpf,
            ifindex,
            slot,
        };
        for name in Self::PROGRAMS {
            own.program(name)?.load()?;
        }
        own.fill_floor()?;
        Ok(own)
    }

    /// Gives the floor a connection of each peer's to find, as the datapath has one.
    fn fill_floor(&mut self) -> Result<()> {
        let map = self.ebpf.map_mut("FLOOR");
        let map = map.context("the bench's object has no map FLOOR")?;
        let mut floor = HashMap::<_, [u8; KEY], [u8; CONNECTION]>::try_from(map)?;
        for v4 in [true, false] {
            for number in 0..PEERS as u16 {
                let key = setup::connection_key(v4, number);
                floor.insert(key, [0; CONNECTION], 0)?;
            }
        }
        Ok(())
    }

    fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(name);
        let program =
            program.with_context(|| format!("the bench's object has no program {name}"))?;
        Ok(program.try_into()?)
    }

    /// Says how the next packets are varied.
    pub(super) fn set(&mut self, case: &Case) -> Result<()> {
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
        let vary = [0, case.vary, self.slot, peer_at, port_at, case.peers];
        Array::<_, [u32; 6]>::try_from(map)?.set(0, vary, 0)?;
        Ok(())
    }

    /// Nanoseconds a run, and whether the packet passed.
    pub(super) fn run(&mut self, name: &str, frame: &Frame, repeat: u32) -> Result<(f64, bool)> {
        // The start of struct __sk_buff: mark at 8, ingress_ifindex at 36, ifindex at 40.
        let mut context = [0; 44];
        context[8..12].copy_from_slice(&SEEN_MARK.to_ne_bytes());
        context[36..40].copy_from_slice(&1_u32.to_ne_bytes());
        context[40..44].copy_from_slice(&self.ifindex.to_ne_bytes());
        let result = self.program(name)?.test_run(TestRunOptions {
            data_in: Some(&frame.bytes()),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::new()
        })?;
        // TC_ACT_SHOT (linux/pkt_cls.h).
        Ok((result.duration.as_nanos() as f64, result.return_value != 2))
    }
}
