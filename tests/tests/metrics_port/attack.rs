//! A pod that opens connections endlessly.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_tests::agent::{Manifest, Shop, TCP};
use ringfence_tests::apiserver::ApiServer;
use ringfence_tests::testnet::{Probe, probe_tcp};

use super::cluster;

/// The number of connections opened before the agent is checked.
const CONNECTIONS: usize = 10_000;
/// The number of connections that the attacker keeps open and silent.
const SILENT: usize = 1_000;
/// The timeout of an attempt to make a call that policy may deny: far more than an
/// answer takes.
const ATTEMPT: Duration = Duration::from_millis(20);
/// The limit for putting policy in force, on a machine that is also busy with other
/// tests. The bench measures the time on an idle machine.
const IN_FORCE: Duration = Duration::from_secs(1);
/// The limit of memory growth, in KiB.
const GROWTH: u64 = 20 * 1024;

/// Opens connections until it is stopped: half of them send nothing, half request the
/// page and don't read it.
struct Attack<'a> {
    to: SocketAddr,
    opened: &'a AtomicUsize,
    stop: &'a AtomicBool,
}

impl Attack<'_> {
    fn run(&self) {
        let mut held = VecDeque::new();
        while !self.stop.load(Ordering::Relaxed) {
            // A full listen queue accepts no connections for the moment.
            let stream = TcpStream::connect_timeout(&self.to, Duration::from_millis(200));
            let Ok(mut stream) = stream else {
                continue;
            };
            let number = self.opened.fetch_add(1, Ordering::Relaxed);
            if number.is_multiple_of(2) {
                // The connection may be closed by now.
                let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n");
            }
            held.push_back(stream);
            if held.len() > SILENT {
                held.pop_front();
            }
        }
    }
}

/// Returns how long a change takes to have an effect: the client may call the server again.
fn change(shop: &Shop, server: &ApiServer) -> Duration {
    let to = shop.address("server", true, TCP).unwrap();
    let client = shop.ns("client").unwrap();
    let call = || probe_tcp(client, to.ip(), to.port(), ATTEMPT).unwrap();
    server.apply(&Shop::stranger().yaml()).unwrap();
    let start = Instant::now();
    while call() == Probe::Open {
        assert!(start.elapsed() < IN_FORCE, "still open");
    }
    server.apply(&Shop::client().yaml()).unwrap();
    let start = Instant::now();
    while call() != Probe::Open {
        assert!(start.elapsed() < IN_FORCE, "still closed");
    }
    start.elapsed()
}

fn changes(shop: &Shop, server: &ApiServer, when: &str) {
    let mut took: Vec<Duration> = (0..20).map(|_| change(shop, server)).collect();
    took.sort();
    println!(
        "a policy change {when}: p50 {:.1} ms, at most {:.1} ms, with attempts of {} ms",
        took[took.len() / 2].as_secs_f64() * 1e3,
        took[took.len() - 1].as_secs_f64() * 1e3,
        ATTEMPT.as_millis()
    );
}

/// Scrapes as another client. Returns how long that took.
fn scrape(shop: &Shop, to: SocketAddr) -> Option<Duration> {
    let start = Instant::now();
    let client = shop.ns("client").unwrap();
    let patience = Duration::from_secs(10);
    let stream = client.run(|| TcpStream::connect_timeout(&to, patience));
    let mut stream = stream.unwrap().ok()?;
    stream.set_read_timeout(Some(patience)).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n")
        .ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    page.contains("ringfence_build_info")
        .then(|| start.elapsed())
}

/// Asserts the properties that must hold during the flood.
fn holds(shop: &mut Shop, server: &ApiServer, to: SocketAddr) {
    changes(shop, server, "under attack");
    shop.is_guarded("under attack").unwrap();
    let livez = Instant::now();
    shop.agent.probe("/livez").unwrap();
    println!("/livez under attack: {:?}", livez.elapsed());
    shop.agent.probe("/readyz").unwrap();
    let late = Manifest::pod("late", Shop::NODE, 13);
    let addresses = [late.v4().into(), late.v6().into()];
    shop.net.add_pod("late", &addresses).unwrap();
    shop.record(&late).unwrap();
    server.apply(&late.yaml()).unwrap();
    shop.agent.wait_for("shop/late").unwrap();
    let scrapes: Vec<_> = (0..5).map(|_| scrape(shop, to)).collect();
    println!("scrapes of another client under attack: {scrapes:?}");
    assert!(scrapes.iter().any(Option::is_some), "nobody else is served");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ten_thousand_connections_of_one_pod_delay_no_policy_and_cost_the_agent_little() {
    let mut shop = Shop::open().unwrap();
    let server = cluster(&mut shop);
    shop.start().unwrap();
    let node = shop.net.node_address(true).unwrap();
    let to = SocketAddr::new(node, shop.agent.metrics_port);
    // Metrics that every scraped agent has.
    for _ in 0..3 {
        shop.agent.metrics().unwrap();
    }
    changes(&shop, &server, "in peace");
    let (memory, files) = (
        shop.agent.memory("VmRSS").unwrap(),
        shop.agent.open_files().unwrap(),
    );
    let (opened, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let attack = Attack {
        to,
        opened: &opened,
        stop: &stop,
    };
    let rogue = shop.ns("rogue").unwrap().clone();
    thread::scope(|scope| {
        let attackers = [(); 2].map(|()| scope.spawn(|| rogue.run(|| attack.run()).unwrap()));
        let start = Instant::now();
        while opened.load(Ordering::Relaxed) < CONNECTIONS {
            assert!(start.elapsed() < Duration::from_secs(120), "{opened:?}");
            assert!(attackers.iter().all(|one| !one.is_finished()));
            thread::sleep(Duration::from_millis(50));
        }
        println!("{CONNECTIONS} connections in {:?}", start.elapsed());
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            holds(&mut shop, &server, to);
            let now = shop.agent.open_files().unwrap();
            println!("open files: {files} before, {now} under attack");
            assert!(now <= files + 64 + 16, "{now} files, {files} before");
        }));
        stop.store(true, Ordering::Relaxed);
        checked.unwrap();
    });
    let grown = shop.agent.memory("VmRSS").unwrap().saturating_sub(memory);
    println!(
        "{} connections; memory grew by {grown} KiB",
        opened.into_inner()
    );
    assert!(grown < GROWTH, "memory grew by {grown} KiB");
    let log = shop.agent.log().unwrap();
    let told = log.matches("closed unserved").count();
    assert!((1..=5).contains(&told), "said {told} times:\n{log}");
    assert!(!log.contains("Too many open files"), "{log}");
    let status = shop.agent.json(&["status"]).unwrap();
    assert_eq!(status["apply_errors"], 0, "{status:#}");
}
