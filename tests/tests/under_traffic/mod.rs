//! Traffic of all kinds while something happens to the agent: no allowed packet may be
//! lost, and no denied one let through.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ringfence_tests::agent::{Drops, Exchange, Shop, TCP, Talk, UDP};
use ringfence_tests::testnet::{Ns, Probe, probe_tcp, send_udp};

/// Without an echo for this long, a packet was lost: TCP retransmits it after 200 ms at
/// the earliest, UDP never.
const LOST: Duration = Duration::from_secs(2);
/// How long to wait for a packet that must not come back.
const DENIED: Duration = Duration::from_millis(200);
/// The pause between two packets of a stream: some 500 per second.
const PAUSE: Duration = Duration::from_millis(2);
/// How long the streams run before, between and after.
pub(crate) const WHILE: Duration = Duration::from_millis(500);

/// The counts of the traffic.
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

    /// Sends numbered datagrams, each with its own echo.
    fn exchange(&self, from: &Ns, to: SocketAddr) {
        let to = SocketAddr::new(to.ip(), UDP);
        let mut exchange = Exchange::open(from, to).unwrap();
        while self.runs() {
            assert!(exchange.echo(LOST).unwrap(), "a datagram to {to} was lost");
            self.echoes.fetch_add(1, Ordering::Relaxed);
            thread::sleep(PAUSE);
        }
    }

    /// Sends data on one TCP connection.
    fn talk(&self, from: &Ns, to: SocketAddr) {
        let mut talk = Talk::open(from, to).unwrap();
        while self.runs() {
            assert!(talk.echo(LOST).unwrap(), "a word to {to} was lost");
            self.echoes.fetch_add(1, Ordering::Relaxed);
            thread::sleep(PAUSE);
        }
    }

    /// Opens new connections, all allowed.
    fn call(&self, from: &Ns, to: SocketAddr) {
        while self.runs() {
            let probe = probe_tcp(from, to.ip(), to.port(), LOST).unwrap();
            assert_eq!(probe, Probe::Open, "a new connection to {to}");
            thread::sleep(5 * PAUSE);
        }
    }

    /// Opens connections and sends datagrams, all denied.
    fn knock(&self, from: &Ns, to: SocketAddr) {
        while self.runs() {
            let probe = probe_tcp(from, to.ip(), TCP, DENIED).unwrap();
            assert_eq!(probe, Probe::TimedOut, "the rogue to {to}");
            send_udp(from, to.ip(), UDP, 10, 32).unwrap();
            self.denied.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Ends the traffic even if the play panics; nothing else would.
struct Curtain<'a>(&'a Witness);

impl Drop for Curtain<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Plays while all kinds of traffic run: no allowed packet may be lost, and no denied
/// one let through. Returns the number of rounds of denied traffic.
pub(crate) fn under_traffic(shop: &mut Shop, play: impl FnOnce(&mut Shop)) -> u64 {
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

/// Returns the number of TCP segments that a namespace has retransmitted.
fn retransmitted(ns: &Ns) -> u64 {
    let text = ns.run(|| fs::read_to_string("/proc/thread-self/net/snmp"));
    let text = text.unwrap().unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (head, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut fields = head.split_whitespace().zip(values.split_whitespace());
    let field = fields.find(|(name, _)| *name == "RetransSegs");
    field.unwrap().1.parse().unwrap()
}

pub(crate) fn from_rogue(drops: &Drops, protocol: &str) -> u64 {
    let series = ["shop/rogue", "shop/server", "ingress", "policy", protocol];
    let packets = drops.get(&series.map(str::to_owned));
    packets.copied().unwrap_or_default()
}

pub(crate) fn none_fell(before: &Drops, after: &Drops) {
    for (series, packets) in before {
        let now = after.get(series).copied().unwrap_or_default();
        assert!(now >= *packets, "{series:?} fell from {packets} to {now}");
    }
}
