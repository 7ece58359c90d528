//! The minimum that must hold on every kernel, in seconds: the programs load, the real
//! agent guards real pods. `cargo xtask kernels` runs this inside guests too.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ringfence::datapath::{Attach, Datapath, Options, SEEN_MARK};
use ringfence_tests::agent::Shop;
use ringfence_tests::testnet::Net;

/// Half of the verifier's limit (`BPF_COMPLEXITY_LIMIT_INSNS`): the next release of
/// Linux may count differently.
const ROOM: u32 = 500_000;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_verifier_accepts_every_program_with_room_to_spare() {
    let net = Net::builder().build().unwrap();
    let open = || {
        Datapath::open(&Options {
            pin_dir: net.pin_dir(),
            audit: false,
            events_per_second: 0,
            pickup: Duration::ZERO,
            attach: Attach::Best,
            seen_mark: SEEN_MARK,
            enters_namespaces: false,
        })
    };
    let mut datapath = net.node().run(open).unwrap().unwrap();
    let programs = datapath.verified().unwrap();
    assert!(!programs.is_empty());
    for program in programs {
        // `cargo xtask kernels` reads these lines. Linux 5.16 and later report the count.
        let instructions = program.instructions.unwrap_or_default();
        println!("\nverified {} {instructions}", program.program);
        assert!(instructions < ROOM, "{program:?}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_allowed_call_passes_and_a_denied_one_is_dropped_and_counted() {
    for way in ["best", "clsact"] {
        smoke(way);
    }
}

/// Before Linux 6.6 both ways are the same.
fn smoke(way: &str) {
    let mut shop = Shop::open().unwrap();
    shop.agent.flags = vec!["--attach".to_owned(), way.to_owned()];
    shop.start().unwrap();
    shop.is_guarded("with the agent at work").unwrap();
    let drops = shop.agent.drops().unwrap();
    for protocol in ["tcp", "udp"] {
        let series = ["shop/rogue", "shop/server", "ingress", "policy", protocol];
        // An unanswered call may be retried on a slow machine.
        let dropped = drops.get(&series.map(str::to_owned)).copied();
        assert!(dropped >= Some(2), "one of each family: {drops:?}");
    }
    let from_client = drops.keys().filter(|series| series[0] == "shop/client");
    assert_eq!(from_client.count(), 0, "{drops:?}");
    shop.agent.stop(&mut shop.net).unwrap();
    shop.is_guarded("with no agent").unwrap();
}
