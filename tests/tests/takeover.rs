//! The agent dies, stops, restarts and is uninstalled, under traffic.
#![allow(clippy::unwrap_used)]

mod under_traffic;

use std::collections::BTreeSet;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use ringfence_ebpf::abi::ABI_VERSION;
use ringfence_tests::agent::{Agent, Manifest, Shop};

use under_traffic::{WHILE, from_rogue, none_fell, under_traffic};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_packet_is_lost_or_let_through_while_one_agent_dies_and_another_takes_over() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    let before = shop.agent.drops().unwrap();
    let denied = under_traffic(&mut shop, |shop| {
        let died = shop.agent.drops().unwrap();
        shop.agent.kill(&mut shop.net).unwrap();
        thread::sleep(WHILE);
        shop.start().unwrap();
        none_fell(&before, &died);
        none_fell(&died, &shop.agent.drops().unwrap());
    });
    let after = shop.agent.drops().unwrap();
    // Includes packets dropped while no agent ran.
    let counted = |protocol| from_rogue(&after, protocol) - from_rogue(&before, protocol);
    assert_eq!(
        (counted("tcp"), counted("udp")),
        (denied, 10 * denied),
        "denied and counted"
    );
    let from_client = after.keys().filter(|series| series[0] == "shop/client");
    assert_eq!(from_client.count(), 0, "{after:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_may_die_at_any_moment_of_its_start_or_of_a_change() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    let before = shop.agent.drops().unwrap();
    let denied = under_traffic(&mut shop, |shop| {
        shop.agent.kill(&mut shop.net).unwrap();
        for round in 0..10 {
            let changed = Shop::rogue().label("round", &round.to_string());
            let changed = changed.label("egress.ringfence.dev/client", &(8000 + round).to_string());
            shop.write("rogue", &changed.yaml()).unwrap();
            let mut command = shop.agent.command();
            let mut agent = command.stderr(Stdio::null()).spawn().unwrap();
            thread::sleep(Duration::from_millis(70 * round));
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
        shop.start().unwrap();
    });
    let after = shop.agent.drops().unwrap();
    none_fell(&before, &after);
    let counted = |protocol| from_rogue(&after, protocol) - from_rogue(&before, protocol);
    assert_eq!((counted("tcp"), counted("udp")), (denied, 10 * denied));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn enforcement_outlives_sigterm_and_ends_with_uninstall() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    let refused = shop.agent.run(&["uninstall"]).unwrap();
    assert_eq!(refused.code, 3, "with the agent running: {refused:?}");
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");

    shop.agent.stop(&mut shop.net).unwrap();
    assert!(!shop.agent.socket.exists(), "the socket stays behind");
    shop.is_guarded("after SIGTERM").unwrap();

    let removed = shop.agent.run(&["uninstall"]).unwrap();
    assert_eq!(removed.code, 0, "{removed:?}");
    assert!(!shop.agent.pin_dir.exists(), "pins stay behind");
    assert!(shop.calls("rogue", "server", true).unwrap(), "still closed");
    let again = shop.agent.run(&["uninstall"]).unwrap();
    assert_eq!(again.code, 0, "nothing to remove is fine: {again:?}");

    shop.start().unwrap();
    shop.is_guarded("installed anew").unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_second_agent_on_the_same_socket_refuses_and_the_first_goes_on() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    let pid = shop.agent.json(&["status"]).unwrap()["pid"].clone();
    let refused = shop.agent.refused().unwrap();
    assert_eq!(refused.code, 3, "{refused:?}");
    let socket = shop.agent.socket.to_string_lossy().into_owned();
    assert!(refused.stderr.contains(&socket), "{refused:?}");
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    let status = shop.agent.json(&["status"]).unwrap();
    assert_eq!(status["pid"], pid, "another agent answers");
    shop.is_guarded("after the second agent").unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_second_agent_on_the_same_pins_refuses_and_so_does_uninstall() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    let mut other = shop.agent.beside("node-2");
    other.pin_dir = shop.agent.pin_dir.clone();
    let refused = other.refused().unwrap();
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(
        refused.stderr.contains("another agent holds"),
        "{refused:?}"
    );
    let uninstall = other.run(&["uninstall"]).unwrap();
    assert_eq!(uninstall.code, 3, "{uninstall:?}");
    shop.is_guarded("after the second agent").unwrap();
}

/// Returns the ruleset and peer class of every rule in the pinned tables.
fn numbers(agent: &Agent) -> BTreeSet<Vec<u8>> {
    let pin = agent.pin_dir.join(format!("v{ABI_VERSION}/RULES"));
    let rules = Map::HashMap(MapData::from_pin(pin).unwrap());
    let rules: HashMap<MapData, [u8; 12], [u8; 8]> = rules.try_into().unwrap();
    // Skip the buffer number.
    let numbers = rules.keys().map(|key| key.unwrap()[4..].to_vec());
    numbers.collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_restart_numbers_rulesets_as_before_and_tables_of_another_key_are_numbered_otherwise() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    let before = numbers(&shop.agent);
    assert!(!before.is_empty());
    for _ in 0..2 {
        shop.agent.kill(&mut shop.net).unwrap();
        shop.start().unwrap();
        shop.agent.pass().unwrap();
        assert_eq!(numbers(&shop.agent), before);
    }
    let mut other = Shop::open().unwrap();
    other.start().unwrap();
    let others = numbers(&other.agent);
    assert_eq!(others.len(), before.len());
    assert!(others.is_disjoint(&before), "{others:?}");
}

fn guarded(agent: &Agent) -> Vec<String> {
    let rows = agent.json(&["endpoints"]).unwrap();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| row["pod"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn two_agents_on_one_machine_guard_their_own_pods_and_leave_the_others_alone() {
    let second = Manifest::pod("second", "node-2", 13)
        .label("ringfence.dev/ingress", "enforce")
        .label("egress.ringfence.dev/server", "true");
    let mut shop = Shop::with([Shop::server(), Shop::client(), Shop::rogue(), second]).unwrap();
    let mut other = shop.agent.beside("node-2");
    shop.start().unwrap();
    other.start(&mut shop.net, &["shop/second"]).unwrap();
    assert_eq!(guarded(&other), ["shop/second"]);
    assert!(!guarded(&shop.agent).contains(&"shop/second".to_owned()));

    let agree = |shop: &Shop, second_open: bool, when: &str| {
        shop.is_guarded(when).unwrap();
        assert!(shop.calls("second", "server", true).unwrap(), "{when}");
        let seen = shop.calls("rogue", "second", second_open).unwrap();
        assert_eq!(seen, second_open, "{when}: rogue to second");
    };
    agree(&shop, false, "with two agents");
    // Each counts only its own drops.
    let drops = other.drops().unwrap();
    let own = |series: &[String; 5]| series[1] == "shop/second";
    assert!(!drops.is_empty() && drops.keys().all(own), "{drops:?}");

    shop.agent.kill(&mut shop.net).unwrap();
    agree(&shop, false, "with the first one dead");
    shop.start().unwrap();
    agree(&shop, false, "with the first one back");
    other.stop(&mut shop.net).unwrap();
    assert_eq!(other.run(&["uninstall"]).unwrap().code, 0);
    agree(&shop, true, "with the second one uninstalled");
}
