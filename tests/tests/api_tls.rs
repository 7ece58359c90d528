//! The read-only API for programs, on a real agent.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_tests::agent::Shop;
use ringfence_tests::programs::{Programs, answer, ask};
use serde_json::Value;

const PORT: u16 = 9436;
/// The maximum age of a list.
const PAGE: Duration = Duration::from_millis(1100);
const PATIENCE: Duration = Duration::from_secs(20);
/// The year in which certificates of these tests expire.
const YEAR: i32 = 4000;

/// Opens a shop whose agent serves programs on every address of the node.
fn open() -> (Shop, Programs) {
    let mut shop = Shop::open().unwrap();
    let programs = Programs::new(&shop.net.dir().join("api"), YEAR).unwrap();
    shop.agent.flags = programs.flags(SocketAddr::from(([0; 8], PORT)));
    (shop, programs)
}

fn address(shop: &Shop, v4: bool) -> SocketAddr {
    SocketAddr::new(shop.net.node_address(v4).unwrap(), PORT)
}

fn refused(shop: &Shop, reason: &str) -> f64 {
    let name = format!("ringfence_clients_refused_total{{listener=\"api\",reason=\"{reason}\"}}");
    shop.agent.metric(&name).unwrap()
}

/// Returns the part of the status that doesn't change from one pass to the next.
fn steady(mut status: Value) -> Value {
    let fields = status.as_object_mut().unwrap();
    assert!(fields.remove("passes").is_some());
    status
}

fn rows(list: &Value) -> BTreeSet<String> {
    let rows = list.as_array().unwrap();
    rows.iter().map(ToString::to_string).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_program_with_a_certificate_reads_what_root_reads_on_the_socket() {
    let (mut shop, programs) = open();
    shop.start().unwrap();
    shop.is_guarded("before").unwrap();
    let client = programs.client(true).unwrap();
    for (from, v4) in [("node", true), ("client", true), ("client", false)] {
        thread::sleep(PAGE);
        let (ns, to) = (shop.ns(from).unwrap(), address(&shop, v4));
        let read = |what: &str| {
            let (code, value) = answer(&client, ns, to, &format!("GET /v1/{what}")).unwrap();
            assert_eq!(code, 200, "{what}: {value}");
            value
        };
        let local = |what: &str| shop.agent.json(&[what]).unwrap();
        assert_eq!(steady(read("status")), steady(local("status")));
        let endpoints = local("endpoints");
        assert_eq!(rows(&read("endpoints")), rows(&endpoints));
        assert_eq!(endpoints.as_array().unwrap().len(), 3);
        let drops = read("drops");
        assert_eq!(rows(&drops), rows(&local("drops")));
        assert!(drops.to_string().contains("shop/rogue"), "{drops}");
        assert!(!read("connections").as_array().unwrap().is_empty());
        for (request, expected) in [
            ("GET /v1/wait?pod=shop/client", 404),
            ("GET /v1/bound?pod=shop/client&device=1&milliseconds=1", 404),
            ("POST /v1/status", 405),
        ] {
            let (code, _) = answer(&client, ns, to, request).unwrap();
            assert_eq!(code, expected, "{request}");
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn nobody_without_a_certificate_reads_anything() {
    let (mut shop, programs) = open();
    shop.start().unwrap();
    let others = Programs::new(&shop.net.dir().join("others"), YEAR).unwrap();
    let (ns, to) = (shop.ns("rogue").unwrap(), address(&shop, true));
    let nobody = programs.client(false).unwrap();
    assert!(answer(&nobody, ns, to, "GET /v1/status").is_err());
    assert!(refused(&shop, "no_certificate") > 0.0);
    // This client also trusts only a different authority, so it aborts the handshake.
    let foreign = others.client(true).unwrap();
    assert!(answer(&foreign, ns, to, "GET /v1/status").is_err());
    assert!(refused(&shop, "handshake") > 0.0);
    let own = programs.client(true).unwrap();
    assert_eq!(answer(&own, ns, to, "GET /v1/status").unwrap().0, 200);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_under_quarantine_reads_nothing_and_what_it_follows_ends() {
    let (mut shop, programs) = open();
    shop.start().unwrap();
    let client = programs.client(true).unwrap();
    let to = address(&shop, true);
    let from = |pod: &str| shop.ns(pod).unwrap();
    let mut followed = ask(&client, from("rogue"), to, "GET /v1/events").unwrap();
    let mut first = [0; 15];
    followed.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    let cut_off = Shop::rogue().label("ringfence.dev/quarantine", "true");
    shop.write("rogue", &cut_off.yaml()).unwrap();
    shop.agent.wait_for("shop/rogue").unwrap();
    assert!(answer(&client, from("rogue"), to, "GET /v1/status").is_err());
    assert_eq!(
        answer(&client, from("client"), to, "GET /v1/status")
            .unwrap()
            .0,
        200
    );
    followed.sock.set_read_timeout(Some(PATIENCE)).unwrap();
    let start = Instant::now();
    let _ = followed.read_to_end(&mut Vec::new());
    assert!(start.elapsed() < PATIENCE, "it goes on");
    // One client that asked, and one that followed.
    assert!(refused(&shop, "quarantine") >= 2.0);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_renewed_certificate_is_shown_by_itself_and_a_broken_one_leaves_the_old() {
    let (mut shop, programs) = open();
    shop.start().unwrap();
    let client = programs.client(true).unwrap();
    let (ns, to) = (shop.ns("node").unwrap(), address(&shop, true));
    let api = || shop.agent.json(&["status"]).unwrap()["api"].clone();
    let until = |what: &str, done: &dyn Fn(&Value) -> bool| {
        let start = Instant::now();
        while !done(&api()) {
            assert!(start.elapsed() < PATIENCE, "{what}: {}", api());
            thread::sleep(Duration::from_millis(100));
        }
    };
    let before = api()["certificate_expires"].clone();
    programs.renew(YEAR - 1).unwrap();
    until("renewed", &|api| api["certificate_expires"] != before);
    assert_eq!(answer(&client, ns, to, "GET /v1/status").unwrap().0, 200);
    fs::write(programs.file("tls.crt"), "no").unwrap();
    until("broken", &|api| api["certificate_error"].is_string());
    assert_eq!(answer(&client, ns, to, "GET /v1/status").unwrap().0, 200);
    let metric = |name: &str| shop.agent.metric(name).unwrap();
    assert_eq!(metric("ringfence_api_certificate_stale"), 1.0);
    assert_eq!(metric("ringfence_api_certificate_reload_errors_total"), 1.0);
    let expires = metric("ringfence_api_certificate_expiry_timestamp_seconds");
    assert_eq!(Some(expires), api()["certificate_expires"].as_f64());
    let text = shop.agent.run(&["status"]).unwrap().stdout;
    assert!(
        text.contains("\napi         [::]:9436, certificate expires in "),
        "{text}"
    );
    assert!(text.contains("--api-cert "), "{text}");
    programs.renew(YEAR - 2).unwrap();
    until("well again", &|api| api["certificate_error"].is_null());
    assert_eq!(metric("ringfence_api_certificate_stale"), 0.0);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_thousand_connections_of_a_pod_hold_up_neither_policy_nor_other_programs() {
    let (mut shop, programs) = open();
    shop.start().unwrap();
    let to = address(&shop, true);
    let mut held = Vec::new();
    for _ in 0..1000 {
        let rogue = shop.ns("rogue").unwrap();
        let stream = rogue.run(|| TcpStream::connect_timeout(&to, PATIENCE));
        held.push(stream.unwrap());
    }
    let client = programs.client(true).unwrap();
    let ns = shop.ns("client").unwrap();
    let start = Instant::now();
    for what in ["status", "endpoints", "connections", "drops"] {
        let asked = answer(&client, ns, to, &format!("GET /v1/{what}"));
        assert_eq!(asked.unwrap().0, 200, "{what}");
    }
    assert!(start.elapsed() < PATIENCE);
    shop.write("client", &Shop::stranger().yaml()).unwrap();
    shop.agent.wait_for("shop/client").unwrap();
    assert!(!shop.calls("client", "server", false).unwrap());
    assert!(refused(&shop, "too_often") + refused(&shop, "full") > 500.0);
    let files = shop.agent.open_files().unwrap();
    assert!(files < 300, "{files}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_cannot_be_served_exits_2_before_anything_happens() {
    let (mut shop, programs) = open();
    let flags = shop.agent.flags.clone();
    let others = Programs::new(&shop.net.dir().join("others"), YEAR).unwrap();
    let refused = |shop: &Shop, code: i32, words: &[&str]| {
        let ended = shop.agent.refused().unwrap();
        assert_eq!(ended.code, code, "{ended:?}");
        for word in words {
            assert!(ended.stderr.contains(word), "{word} isn't in {ended:?}");
        }
        assert!(!shop.agent.pin_dir.exists() && !shop.agent.socket.exists());
    };
    for (number, flag) in [(1, "--api-cert"), (2, "--api-key"), (3, "--api-client-ca")] {
        shop.agent.flags.remove(number);
        refused(&shop, 2, &[flag]);
        shop.agent.flags = flags.clone();
    }
    for (name, flag) in [
        ("tls.crt", "--api-cert"),
        ("tls.key", "--api-key"),
        ("ca.crt", "--api-client-ca"),
    ] {
        let file = programs.file(name);
        let before = fs::read(&file).unwrap();
        fs::write(&file, "").unwrap();
        refused(&shop, 2, &[flag, &file.to_string_lossy()]);
        fs::write(&file, before).unwrap();
    }
    fs::copy(others.file("tls.key"), programs.file("tls.key")).unwrap();
    refused(&shop, 2, &["--api-key", "tls.key", "--api-cert", "tls.crt"]);
    programs.renew(YEAR).unwrap();
    shop.agent.flags = programs.flags("192.0.2.1:1".parse().unwrap());
    refused(&shop, 3, &["--api-addr", "192.0.2.1:1"]);
}
