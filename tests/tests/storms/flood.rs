//! A pod opens connections as fast as it can and answers none.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_tests::agent::{Exchange, Shop, TCP, Talk, UDP};
use ringfence_tests::packets::Frame;
use ringfence_tests::testnet::{Frames, Probe, probe_tcp};

use super::witness::{Curtain, Witness, lasting};

/// A connection or an echo may be late on a busy machine; a dropped SYN is
/// retransmitted after a second.
const LOST: Duration = Duration::from_secs(10);

/// Returns SYNs from the rogue's own address to the server, from every port in a
/// scattered order: of each pair, the first goes to the open port, the second to a
/// closed one.
fn syns(shop: &Shop) -> Vec<Vec<u8>> {
    let pod = shop.net.pod("rogue").unwrap();
    let (own, server) = (Shop::rogue().v4().into(), Shop::server().v4().into());
    (0..1_u32 << 16)
        .map(|i| {
            // Odd, so that every port is visited before one repeats.
            let port = i.wrapping_mul(40_503) as u16;
            let to = if i % 2 == 0 { TCP } else { TCP + 1 };
            let frame = Frame::tcp((own, port), (server, to), 2);
            let frame = frame.with(|f| {
                f.source_mac = pod.mac;
                f.destination_mac = pod.host_mac;
            });
            frame.bytes()
        })
        .collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flood_of_connections_from_one_pod_leaves_those_of_others_alone() {
    let rogue = Shop::rogue().label("egress.ringfence.dev/server", &TCP.to_string());
    let client = Shop::client().label("ringfence.dev/egress", "enforce");
    let client = client.label("ringfence.dev/ingress", "enforce");
    let mut shop = Shop::with([Shop::server(), client, rogue]).unwrap();
    shop.start().unwrap();
    let (client, rogue) = (shop.ns("client").unwrap(), shop.ns("rogue").unwrap());
    // The rogue's kernel would reset every connection, because it has no socket for any.
    for line in [
        "add table ip deaf",
        "add chain ip deaf in { type filter hook prerouting priority -300; }",
        "add rule ip deaf in ip protocol tcp drop",
    ] {
        rogue.output("nft", &[line]).unwrap();
    }
    let frames = Frames::open(rogue, "eth0").unwrap();
    let syns = syns(&shop);
    let (witness, shut) = (Witness::default(), AtomicU64::new(0));
    let time = lasting(6);
    let start = Instant::now();
    thread::scope(|scope| {
        let curtain = Curtain(&witness);
        scope.spawn(|| {
            for batch in syns.chunks(256).cycle().take_while(|_| witness.runs()) {
                let sent = frames.send_many(batch).unwrap();
                shut.fetch_add(sent as u64 / 2, Ordering::Relaxed);
            }
        });
        for v4 in [true, false] {
            let to = shop.address("server", v4, TCP).unwrap();
            let (witness, client) = (&witness, client);
            scope.spawn(move || {
                let mut talk = Talk::open(client, to).unwrap();
                while witness.runs() {
                    assert!(talk.echo(LOST).unwrap(), "a word to {to} was lost");
                    witness.pause(&witness.old);
                }
            });
            scope.spawn(move || {
                let to = SocketAddr::new(to.ip(), UDP);
                let mut exchange = Exchange::open(client, to).unwrap();
                while witness.runs() {
                    assert!(exchange.echo(LOST).unwrap(), "a datagram to {to} was lost");
                    witness.pause(&witness.old);
                }
            });
            scope.spawn(move || {
                while witness.runs() {
                    let probe = probe_tcp(client, to.ip(), to.port(), LOST).unwrap();
                    assert_eq!(probe, Probe::Open, "a new connection to {to}");
                    witness.pause(&witness.new);
                }
            });
        }
        thread::sleep(time);
        drop(curtain);
    });
    let took = start.elapsed().as_secs_f64();
    let shut = shut.load(Ordering::Relaxed);
    let [old, new] = [&witness.old, &witness.new].map(|n| n.load(Ordering::Relaxed));
    eprintln!(
        "{:.0} SYNs/s, {old} echoes, {new} new connections",
        2.0 * shut as f64 / took
    );
    assert!(old > 20 && new > 10, "{old} echoes, {new} connections");
    let drops = shop.agent.drops().unwrap();
    let between = |from: &str, to: &str| -> u64 {
        let of = drops
            .iter()
            .filter(|(series, _)| series[0] == from && series[1] == to);
        of.map(|(_, packets)| packets).sum()
    };
    assert_eq!(between("shop/client", "shop/server"), 0, "{drops:?}");
    assert_eq!(between("shop/server", "shop/client"), 0, "{drops:?}");
    assert_eq!(between("shop/rogue", "shop/server"), shut, "{drops:?}");
}
