//! Manifests change under a running agent, for better or worse.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_tests::agent::{Drops, Exchange, Shop, TCP, Talk, UDP};

/// Without an echo for this long, the packet is lost: TCP retransmits within that time.
const LOST: Duration = Duration::from_secs(2);
/// How long to wait for a packet that must not come back.
const DENIED: Duration = Duration::from_millis(250);
/// The gauge of objects of which an older version is in force.
const INVALID: &str = "ringfence_policy_invalid";

/// Opens a TCP stream and a UDP exchange from the client to the server, over each family.
fn streams(shop: &Shop) -> Vec<(Talk, Exchange)> {
    let client = shop.ns("client").unwrap();
    let open = |v4| {
        let [tcp, udp] = [TCP, UDP].map(|port| shop.address("server", v4, port).unwrap());
        let mut talk = Talk::open(client, tcp).unwrap();
        let mut exchange = Exchange::open(client, udp).unwrap();
        assert!(talk.echo(LOST).unwrap() && exchange.echo(LOST).unwrap());
        (talk, exchange)
    };
    [true, false].map(open).into()
}

fn are_cut(streams: &mut [(Talk, Exchange)]) {
    for (talk, exchange) in streams {
        assert!(!talk.echo(DENIED).unwrap(), "a word on a revoked stream");
        assert!(!exchange.echo(DENIED).unwrap(), "a revoked datagram");
    }
}

fn from_client(drops: &Drops, protocol: &str) -> u64 {
    let series = ["shop/client", "shop/server", "ingress", "policy", protocol];
    let packets = drops.get(&series.map(str::to_owned));
    packets.copied().unwrap_or_default()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_policy_change_cuts_open_streams_on_the_next_packet_and_another_mends_them() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    let mut streams = streams(&shop);
    shop.write("client", &Shop::stranger().yaml()).unwrap();
    shop.agent.wait_for("shop/server").unwrap();
    are_cut(&mut streams);
    let drops = shop.agent.drops().unwrap();
    assert!(from_client(&drops, "tcp") >= 2, "{drops:?}");
    assert_eq!(from_client(&drops, "udp"), 2, "{drops:?}");

    shop.write("client", &Shop::client().yaml()).unwrap();
    shop.agent.wait_for("shop/server").unwrap();
    for (talk, exchange) in &mut streams {
        // TCP retransmits the data by itself.
        assert!(talk.hears(LOST).unwrap(), "the stream doesn't go on");
        assert!(exchange.echo(LOST).unwrap(), "the exchange doesn't go on");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_policy_that_changed_while_no_agent_ran_cuts_open_streams_when_one_starts() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    let mut streams = streams(&shop);
    shop.agent.kill(&mut shop.net).unwrap();
    shop.write("client", &Shop::stranger().yaml()).unwrap();
    for (talk, exchange) in &mut streams {
        assert!(talk.echo(LOST).unwrap() && exchange.echo(LOST).unwrap());
    }
    shop.start().unwrap();
    are_cut(&mut streams);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_revoked_stream_is_cut_also_where_only_the_server_sends() {
    let allowed = Shop::stranger().label("egress.ringfence.dev/server", "8081");
    let mut shop = Shop::with([Shop::server(), allowed, Shop::rogue()]).unwrap();
    shop.start().unwrap();
    let (server, client) = (shop.ns("server").unwrap(), shop.ns("client").unwrap());
    let listener = server.run(|| TcpListener::bind(("::", 8081)));
    let listener = listener.unwrap().unwrap();
    let to = shop.address("server", true, 8081).unwrap();
    let stream = client.run(|| TcpStream::connect_timeout(&to, LOST));
    let (mut stream, mut pushing) = (stream.unwrap().unwrap(), listener.accept().unwrap().0);
    stream.set_nonblocking(true).unwrap();
    pushing.set_nonblocking(true).unwrap();
    let mut hears = |time: Duration| {
        let (start, mut heard) = (Instant::now(), 0);
        while start.elapsed() < time {
            // A full buffer doesn't matter here.
            let _ = pushing.write(&[0; 100]);
            heard += stream.read(&mut [0; 4096]).unwrap_or_default();
            thread::sleep(Duration::from_millis(2));
        }
        heard
    };
    assert!(hears(DENIED) > 0);

    shop.write("client", &Shop::stranger().yaml()).unwrap();
    shop.agent.wait_for("shop/server").unwrap();
    // Data that had arrived before policy changed.
    hears(DENIED);
    // Long enough for the server to retransmit.
    assert_eq!(hears(LOST), 0, "bytes heard after the revocation");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_yaml_error_keeps_the_last_good_state_in_force_and_shows() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    assert_eq!(shop.agent.metric(INVALID).unwrap(), 0.0);
    let server = Shop::server().yaml();
    let cases = [
        // Invalid YAML; a duplicate key; YAML that isn't a Pod.
        (
            server.replace("metadata:", "metadata: ["),
            "server.yaml: document 1: ",
        ),
        (
            server.replace("uid: uid-of-server", "labels: {}"),
            "server.yaml: document 1: ",
        ),
        (
            server.replace("app: \"server\"", "app: [server]"),
            "server.yaml: document 1: Pod shop/server: metadata.labels",
        ),
    ];
    for (broken, place) in cases {
        shop.write("server", &broken).unwrap();
        // Its policy is in force, and the status reports that it is an older version.
        shop.agent.wait_for("shop/server").unwrap();
        let status = shop.agent.json(&["status"]).unwrap();
        let said = status["invalid"].to_string();
        assert!(said.contains(place), "{place} isn't in {status:#}");
        let shown = shop.agent.run(&["status"]).unwrap();
        assert!(shown.stdout.contains(place), "{shown:?}");
        assert!(shop.agent.metric(INVALID).unwrap() >= 1.0, "{broken}");
        shop.is_guarded(place).unwrap();
    }
    shop.write("server", &server).unwrap();
    shop.agent.wait_for("shop/server").unwrap();
    let status = shop.agent.json(&["status"]).unwrap();
    assert_eq!(status["invalid"].as_array().map(Vec::len), Some(0));
    assert_eq!(shop.agent.metric(INVALID).unwrap(), 0.0);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_that_starts_on_a_yaml_error_refuses_and_changes_nothing() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    shop.agent.kill(&mut shop.net).unwrap();
    let broken = Shop::server()
        .yaml()
        .replace("app: \"server\"", "app: [server]");
    shop.write("server", &broken).unwrap();
    let refused = shop.agent.refused().unwrap();
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("metadata.labels"), "{refused:?}");
    shop.is_guarded("after a start that was refused").unwrap();
    shop.write("server", &Shop::server().yaml()).unwrap();
    shop.start().unwrap();
    shop.is_guarded("repaired").unwrap();
}
