//! A pod that tries to reach all others, in every way, while the event ring isn't read.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_ebpf::abi::{DropKey, Event, capacity};
use ringfence_tests::agent::{Drops, Shop};
use ringfence_tests::packets::Frame;
use ringfence_tests::storm::lost_in_sending;
use ringfence_tests::testnet::Frames;

/// Pods of another node, each its own workload: with five protocols and three reasons
/// they make more pairs than one sender may have named.
const CROWD: u16 = 500;
/// The number of rounds over all pods.
const ROUNDS: u64 = 3;
/// Denied packets of another pod, before and after the rounds.
const OTHERS: u64 = 1000;
/// The number of frames per system call.
const BATCH: usize = 64;
const GRE: u8 = 47;
/// A port that policy doesn't open.
const SHUT: u16 = 9998;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_that_tries_everybody_leaves_others_their_names_and_loses_no_count() {
    let mut shop = shop();
    let (agent, server) = (&shop.agent, Shop::server().v4().into());
    let tries = tries(&shop);
    let denied = vec![udp(&shop, Shop::client().v4(), "client", server); OTHERS as usize];
    let before = agent.drops().unwrap();
    // The ring isn't read from here on.
    agent.freeze().unwrap();
    let mut sent = [0, 0];
    sent[0] += send(&shop, "client", &denied);
    for _ in 0..ROUNDS {
        sent[1] += send(&shop, "rogue", &tries);
    }
    sent[0] += send(&shop, "client", &denied);
    agent.thaw().unwrap();
    let seen = Seen::since(&before, &agent.drops().unwrap());
    let lost = agent.metric("ringfence_events_lost_total").unwrap() as u64;
    eprintln!("sent {sent:?}, {seen:?}, events lost {lost}");
    assert_eq!(seen.all, sent[0] + sent[1], "every packet is counted");
    assert_eq!(seen.of_client, sent[0], "a quiet pod's are named");
    assert!(seen.other > 0, "nothing overflowed");
    let most = u64::from(DropKey::PER_SOURCE);
    // CPUs may race for the last ones.
    assert!((most..most + 8).contains(&seen.series), "{}", seen.series);
    // A record has a header of eight bytes (BPF_RINGBUF_HDR_SZ).
    let room = u64::from(capacity::EVENTS) / (size_of::<Event>() as u64 + 8);
    let overflow = sent[0] + sent[1] - room;
    assert!(
        (overflow..=overflow + 1).contains(&lost),
        "{lost} events were lost, and {overflow} had no room"
    );
    shop.is_guarded("behind the storm").unwrap();
    // A pair that is already named keeps counting under its name.
    let named = udp(&shop, Shop::rogue().v4(), "rogue", server);
    let before = shop.agent.dropped("rogue", "server").unwrap();
    let sent = send(&shop, "rogue", &vec![named; 100]);
    assert_eq!(
        shop.agent.dropped("rogue", "server").unwrap() - before,
        sent
    );
    shop.end_servers();
}

/// A name without a workload is kept for the duration of two scans.
const GIVEN_UP: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs root: cargo xtask test"]
fn names_that_nobody_uses_are_given_up_and_those_with_a_count_stay() {
    let mut shop = shop();
    let server = Shop::server().v4().into();
    let to_member = Frame::udp((Shop::rogue().v4().into(), 4000), (member(7), SHUT));
    let denied = addressed(&shop, "rogue", &to_member).bytes();
    assert_eq!(send(&shop, "rogue", &[denied]), 1);
    let named = || {
        shop.agent
            .metric("ringfence_map_entries{map=\"NAMES\"}")
            .unwrap()
    };
    assert!(named() >= f64::from(CROWD), "{}", named());
    assert_eq!(shop.agent.dropped("rogue", "crowd-7").unwrap(), 1);
    shop.remove("crowd").unwrap();
    let since = Instant::now();
    while named() > 20.0 {
        assert!(since.elapsed() < GIVEN_UP, "{} names are left", named());
        thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(
        shop.agent.dropped("rogue", "crowd-7").unwrap(),
        1,
        "named on"
    );
    // A workload that comes back gets another number, and counts under its name.
    shop.write("crowd", &crowd()).unwrap();
    shop.agent.pass().unwrap();
    let other = Frame::udp((Shop::rogue().v4().into(), 4000), (member(8), SHUT));
    let denied = addressed(&shop, "rogue", &other).bytes();
    assert_eq!(send(&shop, "rogue", &[denied]), 1);
    assert_eq!(shop.agent.dropped("rogue", "crowd-8").unwrap(), 1);
    let before = shop.agent.dropped("client", "server").unwrap();
    let denied = udp(&shop, Shop::client().v4(), "client", server);
    assert_eq!(send(&shop, "client", &[denied]), 1);
    assert_eq!(shop.agent.dropped("client", "server").unwrap(), before + 1);
    shop.end_servers();
}

/// Reports all denied packets as events, if there is room.
fn shop() -> Shop {
    let rogue = Shop::rogue().label("ringfence.dev/egress", "enforce");
    let mut shop = Shop::with([Shop::server(), Shop::client(), rogue]).unwrap();
    shop.write("crowd", &crowd()).unwrap();
    shop.agent.flags = vec!["--events-per-second".to_owned(), u32::MAX.to_string()];
    shop.start().unwrap();
    // Its first denied packet gives the pair a name.
    let named = udp(
        &shop,
        Shop::rogue().v4(),
        "rogue",
        Shop::server().v4().into(),
    );
    send(&shop, "rogue", &[named]);
    shop
}

fn crowd() -> String {
    let mut yaml = String::new();
    for number in 0..CROWD {
        let (name, ip) = (format!("crowd-{number}"), member(number));
        writeln!(
            yaml,
            "---\napiVersion: v1\nkind: Pod\n\
             metadata: {{name: {name}, namespace: shop, uid: {name}, labels: {{app: {name}}}}}\n\
             spec: {{nodeName: node-2, containers: [{{name: main, image: example.com/crowd}}]}}\n\
             status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}"
        )
        .unwrap();
    }
    yaml
}

fn member(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 245, high, low).into()
}

/// Returns frames from the rogue to each pod of the crowd, over each protocol: denied
/// by policy, for the MAC and for the address.
fn tries(shop: &Shop) -> Vec<Vec<u8>> {
    let own = IpAddr::from(Shop::rogue().v4());
    let forged = IpAddr::from(Shop::client().v4());
    let ways = |from: IpAddr, to: IpAddr| {
        [
            Frame::tcp((from, 4000), (to, SHUT), 2),
            Frame::udp((from, 4000), (to, SHUT)),
            Frame::sctp((from, 4000), (to, SHUT)),
            Frame::echo(from, to, true, 7),
            Frame::ip(from, to, GRE, vec![0; 16]),
        ]
    };
    let mut all = Vec::new();
    for to in (0..CROWD).map(member) {
        for (from, mac) in [(own, false), (own, true), (forged, false)] {
            let frames = ways(from, to).map(|frame| addressed(shop, "rogue", &frame));
            all.extend(frames.map(|frame| {
                frame
                    .with(|f| f.source_mac[5] ^= if mac { 0x40 } else { 0 })
                    .bytes()
            }));
        }
    }
    all
}

fn udp(shop: &Shop, from: Ipv4Addr, name: &str, to: IpAddr) -> Vec<u8> {
    let frame = Frame::udp((from.into(), 4000), (to, SHUT));
    addressed(shop, name, &frame).bytes()
}

fn addressed(shop: &Shop, from: &str, frame: &Frame) -> Frame {
    let pod = shop.net.pod(from).unwrap();
    frame.with(|f| (f.source_mac, f.destination_mac) = (pod.mac, pod.host_mac))
}

/// Sends frames and returns how many of them reached the pod's hook.
fn send(shop: &Shop, from: &str, frames: &[Vec<u8>]) -> u64 {
    let ns = shop.ns(from).unwrap();
    let (socket, lost) = (
        Frames::open(ns, "eth0").unwrap(),
        lost_in_sending(ns).unwrap(),
    );
    for batch in frames.chunks(BATCH) {
        let mut sent = 0;
        while sent < batch.len() {
            sent += socket.send_many(&batch[sent..]).unwrap();
        }
    }
    frames.len() as u64 - (lost_in_sending(ns).unwrap() - lost)
}

/// The counts of an interval.
#[derive(Debug)]
struct Seen {
    all: u64,
    /// Packets from `client` to `server` counted by name.
    of_client: u64,
    /// Packets counted without names.
    other: u64,
    /// The number of pairs and reasons that the rogue has under its name.
    series: u64,
}

impl Seen {
    fn since(before: &Drops, after: &Drops) -> Self {
        let more = |wanted: &dyn Fn(&[String; 5]) -> bool| {
            let sum = |drops: &Drops| -> u64 {
                let wanted = drops.iter().filter(|(key, _)| wanted(key));
                wanted.map(|(_, packets)| packets).sum()
            };
            sum(after) - sum(before)
        };
        let is = |key: &[String; 5], ends: [&str; 2]| key[..2] == ends;
        Self {
            all: more(&|_| true),
            of_client: more(&|key| is(key, ["shop/client", "shop/server"])),
            other: more(&|key| is(key, ["other", "other"])),
            series: after.keys().filter(|key| key[0] == "shop/rogue").count() as u64,
        }
    }
}
