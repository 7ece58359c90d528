//! Agents of this version and of others take over from each other, killed on the way,
//! under numbered packets: a lost packet is a gap in the numbers.
//!
//! `cargo xtask build-others` builds the other agents. `RINGFENCE_TAKEOVERS` sets the
//! number of takeovers.
#![allow(clippy::unwrap_used)]

mod numbered;

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use ringfence_ebpf::abi::ABI_VERSION;
use ringfence_tests::agent::{Drops, Shop};

use numbered::{Numbers, SINK, under_numbers};

/// How long an agent has to make progress before it is killed.
const START: Duration = Duration::from_millis(900);
/// The longest until an agent that is left alive owns all hooks.
const MOVED: Duration = Duration::from_secs(20);

fn takeovers() -> u32 {
    let said = std::env::var("RINGFENCE_TAKEOVERS").ok();
    said.map_or(5, |text| {
        text.parse().expect("RINGFENCE_TAKEOVERS is a number")
    })
}

fn random(below: Duration) -> Duration {
    let number = RandomState::new().build_hasher().finish();
    below.mul_f64(number as f64 / u64::MAX as f64)
}

fn shop() -> Shop {
    let ports = format!("8080_udp-5353_udp-{SINK}");
    let client = Shop::stranger().label("egress.ringfence.dev/server", &ports);
    Shop::with([Shop::server(), client, Shop::rogue()]).unwrap()
}

/// Returns the agents of this version and of another one.
fn binaries(shop: &Shop, other: &str) -> [PathBuf; 2] {
    let own = shop.agent.binary.clone();
    let other = own.with_file_name(format!("ringfence-{other}"));
    assert!(
        other.exists(),
        "{} isn't there: `cargo xtask build-others`",
        other.display()
    );
    [own, other]
}

/// Returns the folders of all versions that have pinned something.
fn versions(shop: &Shop) -> Vec<String> {
    let folders = fs::read_dir(&shop.agent.pin_dir).unwrap();
    let names = folders.map(|one| one.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn has_moved(shop: &Shop, version: u32) {
    let wanted = [format!("v{version}")];
    let start = Instant::now();
    while versions(shop) != wanted {
        assert!(start.elapsed() < MOVED, "{:?} are left", versions(shop));
        thread::sleep(Duration::from_millis(50));
    }
}

/// Lets agents of `binaries` take over in turn: each time some are killed at any moment
/// of their start before one is left alive. `seen` checks the state after each takeover.
fn take_turns(shop: &mut Shop, binaries: &[PathBuf], mut seen: impl FnMut(&mut Shop, usize)) {
    for round in 0..takeovers() as usize {
        shop.agent.kill(&mut shop.net).unwrap();
        for killed in 0..2 {
            // Of the new version, and of the old one.
            let turn = (round + 1 + killed) % binaries.len();
            shop.agent.binary.clone_from(&binaries[turn]);
            let mut agent = shop.agent.command().stderr(Stdio::null()).spawn().unwrap();
            thread::sleep(random(START));
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
        let turn = (round + 1) % binaries.len();
        shop.agent.binary.clone_from(&binaries[turn]);
        shop.start().unwrap();
        seen(shop, turn);
    }
}

/// Returns the number of packets counted as denied on their way from the rogue to the sink.
fn denied(drops: &Drops) -> u64 {
    let series = ["shop/rogue", "shop/server", "ingress", "policy", "udp"];
    let packets = drops.get(&series.map(str::to_owned));
    packets.copied().unwrap_or_default()
}

fn nothing_was_lost(numbers: &Numbers) {
    assert!(numbers.sent > 10_000, "{numbers:?}");
    assert_eq!(numbers.lost(), 0, "allowed and lost: {numbers:?}");
    assert_eq!(
        numbers.let_through, 0,
        "denied and let through: {numbers:?}"
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_of_the_same_version_loses_no_packet_and_no_count() {
    let mut shop = shop();
    shop.start().unwrap();
    let binaries = [shop.agent.binary.clone()];
    let numbers = under_numbers(&mut shop, |shop| take_turns(shop, &binaries, |_, _| {}));
    nothing_was_lost(&numbers);
    assert_eq!(denied(&shop.agent.drops().unwrap()), numbers.refused);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_of_another_policy_version_moves_all_over_and_loses_no_packet_and_no_count() {
    let mut shop = shop();
    shop.start().unwrap();
    let binaries = binaries(&shop, "other-policy");
    let numbers = under_numbers(&mut shop, |shop| {
        take_turns(shop, &binaries, |shop, turn| {
            has_moved(shop, ABI_VERSION + 1000 * u32::try_from(turn).unwrap());
        });
    });
    nothing_was_lost(&numbers);
    assert_eq!(denied(&shop.agent.drops().unwrap()), numbers.refused);
    for lost in [
        "ringfence_connections_lost_total",
        "ringfence_counts_lost_total",
    ] {
        assert_eq!(shop.agent.metric(lost).unwrap(), 0.0, "{lost}");
    }
    shop.is_guarded("after the last one").unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_of_another_connections_version_picks_up_what_is_open_and_says_what_it_lost() {
    let mut shop = shop();
    shop.start().unwrap();
    let binaries = binaries(&shop, "other-connections");
    let numbers = under_numbers(&mut shop, |shop| {
        let pushed = numbered::Pushed::open(shop);
        take_turns(shop, &binaries, |shop, turn| {
            has_moved(shop, ABI_VERSION + 1000 * u32::try_from(turn).unwrap());
            // The server would accept no connection from this pod.
            pushed.is_heard();
            let picked_up = "ringfence_connections_picked_up_total";
            assert!(shop.agent.metric(picked_up).unwrap() >= 1.0);
            shop.agent.pass().unwrap();
            let status = shop.agent.json(&["status"]).unwrap();
            assert!(status["picked_up"].as_u64().unwrap() >= 1, "{status}");
        });
    });
    nothing_was_lost(&numbers);
    for lost in [
        "ringfence_connections_lost_total",
        "ringfence_counts_lost_total",
    ] {
        let times = shop.agent.metric(lost).unwrap();
        assert!(times >= f64::from(takeovers()), "{lost}: {times}");
    }
    let status = shop.agent.json(&["status"]).unwrap();
    let said = status["took_over"].as_str().unwrap_or_default();
    assert!(
        said.ends_with("connections lost, counters lost"),
        "{status}"
    );
}
