//! The agent dies, stops, restarts and goes for good, under traffic.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ringfence_tests::agent::{Agent, Drops, Exchange, Manifest, Shop, TCP, Talk, UDP};
use ringfence_tests::testnet::{Ns, Probe, probe_tcp, send_udp};

/// No echo for that long, and a packet was lost: TCP sends it again after 200 ms
/// at the earliest, UDP never.
const LOST: Duration = Duration::from_secs(2);
/// A packet that shall not come back has that long to do it.
const DENIED: Duration = Duration::from_millis(200);
/// Between two packets of a stream: some 500 a second.
const PAUSE: Duration = Duration::from_millis(2);
/// How long the streams run before, between and after.
const WHILE: Duration = Duration::from_millis(500);

/// What the traffic did.
#[derive(Default)]
struct Witness {
    stop: AtomicBool,
    echoes: AtomicU64,
    denied: AtomicU64,
}

impl Witness {
    fn runs(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Datagrams that are numbered, each with its own echo.
    fn exchange(&self, from: &Ns, to: SocketAddr) {
        let to = SocketAddr::new(to.ip(), UDP);
        let mut exchange = Exchange::open(from, to).unwrap();
        while self.runs() {
            assert!(exchange.echo(LOST).unwrap(), "a datagram to {to} was lost");
            self.echoes.fetch_add(1, Ordering::Relaxed);
            thread::sleep(PAUSE);
        }
    }

    /// Words on one TCP connection.
    fn talk(&self, from: &Ns, to: SocketAddr) {
        let mut talk = Talk::open(from, to).unwrap();
        while self.runs() {
            assert!(talk.echo(LOST).unwrap(), "a word to {to} was lost");
            self.echoes.fetch_add(1, Ordering::Relaxed);
            thread::sleep(PAUSE);
        }
    }

    /// New connections, all allowed.
    fn call(&self, from: &Ns, to: SocketAddr) {
        while self.runs() {
            let probe = probe_tcp(from, to.ip(), to.port(), LOST).unwrap();
            assert_eq!(probe, Probe::Open, "a new connection to {to}");
            thread::sleep(5 * PAUSE);
        }
    }

    /// Connections and datagrams, all denied.
    fn knock(&self, from: &Ns, to: SocketAddr) {
        while self.runs() {
            let probe = probe_tcp(from, to.ip(), TCP, DENIED).unwrap();
            assert_eq!(probe, Probe::TimedOut, "the rogue to {to}");
            send_udp(from, to.ip(), UDP, 10, 32).unwrap();
            self.denied.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Ends the traffic also where the play panics: else nobody would.
struct Curtain<'a>(&'a Witness);

impl Drop for Curtain<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Plays while all kinds of traffic run: none of it may be lost or let through.
/// Returns how many rounds of denied traffic there were.
fn under_traffic(shop: &mut Shop, play: impl FnOnce(&mut Shop)) -> u64 {
    let [client, rogue, server] = ["client", "rogue", "server"].map(|pod| shop.ns(pod).unwrap());
    let (client, rogue, server) = (client.clone(), rogue.clone(), server.clone());
    let [v4, v6] = [true, false].map(|v4| shop.address("server", v4, TCP).unwrap());
    let resent = || retransmitted(&client) + retransmitted(&server);
    let (before, witness) = (resent(), Witness::default());
    thread::scope(|scope| {
        let curtain = Curtain(&witness);
        for to in [v4, v6] {
            let (witness, client, rogue) = (&witness, &client, &rogue);
            scope.spawn(move || witness.exchange(client, to));
            scope.spawn(move || witness.talk(client, to));
            scope.spawn(move || witness.knock(rogue, to));
        }
        scope.spawn(|| witness.call(&client, v4));
        thread::sleep(WHILE);
        play(shop);
        thread::sleep(WHILE);
        drop(curtain);
    });
    assert_eq!(resent() - before, 0, "TCP segments had to be sent again");
    assert!(witness.echoes.load(Ordering::Relaxed) > 400);
    witness.denied.load(Ordering::Relaxed)
}

/// TCP segments that a namespace has sent again.
fn retransmitted(ns: &Ns) -> u64 {
    let text = ns.run(|| fs::read_to_string("/proc/thread-self/net/snmp"));
    let text = text.unwrap().unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (head, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut fields = head.split_whitespace().zip(values.split_whitespace());
    let field = fields.find(|(name, _)| *name == "RetransSegs");
    field.unwrap().1.parse().unwrap()
}

fn from_rogue(drops: &Drops, protocol: &str) -> u64 {
    let series = ["shop/rogue", "shop/server", "ingress", "policy", protocol];
    let packets = drops.get(&series.map(str::to_owned));
    packets.copied().unwrap_or_default()
}

fn none_fell(before: &Drops, after: &Drops) {
    for (series, packets) in before {
        let now = after.get(series).copied().unwrap_or_default();
        assert!(now >= *packets, "{series:?} fell from {packets} to {now}");
    }
}

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
    // Also those that were dropped while no agent ran.
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
    // Each counts its own drops alone.
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
