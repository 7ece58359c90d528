//! The clients that are served: pods, the node, a quarantined pod, over both families.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use ringfence_tests::agent::Shop;
use ringfence_tests::testnet::Ns;

use super::cluster;

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// The result of requesting a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// The page was served.
    Page,
    /// The connection was closed without an answer.
    Closed,
}

fn ask(from: &Ns, to: SocketAddr) -> Answer {
    let stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE));
    let mut stream = stream.unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The other end may have closed the connection already.
    let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n");
    let mut page = String::new();
    let read = stream.read_to_string(&mut page);
    if page.starts_with("HTTP/1.1 200 OK") && page.contains("ringfence_build_info") {
        return Answer::Page;
    }
    assert!(page.is_empty(), "{page}");
    assert!(
        !matches!(&read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
        "neither answered nor closed"
    );
    Answer::Closed
}

/// Requests the page from a pod over IPv4 and IPv6.
fn both(shop: &Shop, from: &str) -> [Answer; 2] {
    [true, false].map(|v4| {
        let node = shop.net.node_address(v4).unwrap();
        let to = SocketAddr::new(node, shop.agent.metrics_port);
        ask(shop.ns(from).unwrap(), to)
    })
}

const PAGE: [Answer; 2] = [Answer::Page; 2];
const CLOSED: [Answer; 2] = [Answer::Closed; 2];

fn refused(shop: &Shop, reason: &str) -> f64 {
    let name =
        format!("ringfence_clients_refused_total{{listener=\"metrics\",reason=\"{reason}\"}}");
    shop.agent.metric(&name).unwrap()
}

/// Returns the link-local addresses of the node, scoped as in the pod.
fn link_local(shop: &Shop, pod: &str) -> Vec<SocketAddr> {
    let text = shop
        .net
        .node()
        .output("ip", &["-6", "-o", "addr", "show", "scope", "link"]);
    let text = text.unwrap();
    let words = text
        .split_whitespace()
        .filter(|word| word.starts_with("fe80:"));
    let addresses = words.filter_map(|word| word.split('/').next()?.parse::<Ipv6Addr>().ok());
    let scope = shop
        .ns(pod)
        .unwrap()
        .run(|| if_nametoindex("eth0"))
        .unwrap()
        .unwrap();
    let port = shop.agent.metrics_port;
    addresses
        .map(|address| SocketAddrV6::new(address, port, 0, scope).into())
        .collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn everybody_is_served_but_a_pod_under_quarantine_and_whoever_comes_by_a_link_local_address() {
    let mut shop = Shop::open().unwrap();
    let server = cluster(&mut shop);
    shop.start().unwrap();
    assert_eq!(both(&shop, "rogue"), PAGE);
    let cut_off = Shop::rogue().label("ringfence.dev/quarantine", "true");
    server.apply(&cut_off.yaml()).unwrap();
    shop.agent.wait_for("shop/rogue").unwrap();
    assert_eq!(both(&shop, "rogue"), CLOSED);
    assert_eq!(both(&shop, "client"), PAGE);
    assert!(refused(&shop, "quarantine") >= 2.0);
    let mut reached = 0;
    for to in link_local(&shop, "rogue") {
        let from = shop.ns("rogue").unwrap();
        let connected = from.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)));
        if connected.unwrap().is_ok() {
            reached += 1;
            assert_eq!(ask(from, to), Answer::Closed, "{to}");
        }
    }
    assert_eq!(refused(&shop, "link_local") > 0.0, reached > 0);

    // A restarted agent knows it before the API server reports it.
    server.stop();
    shop.agent.kill(&mut shop.net).unwrap();
    shop.agent.start(&mut shop.net, &[]).unwrap();
    assert_eq!(both(&shop, "rogue"), CLOSED, "while the API server is away");
    assert_eq!(both(&shop, "client"), PAGE, "while the API server is away");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn only_clients_of_metrics_from_are_served_over_both_families() {
    let mut shop = Shop::open().unwrap();
    let server = cluster(&mut shop);
    let [v4, v6] = [true, false].map(|v4| shop.net.pod("server").unwrap().address(v4).unwrap());
    for from in [
        "shop/app=client".to_owned(),
        format!("{v4}/32"),
        v6.to_string(),
        "127.0.0.1".to_owned(),
    ] {
        shop.agent.flags.extend(["--metrics-from".to_owned(), from]);
    }
    shop.start().unwrap();
    assert_eq!(both(&shop, "client"), PAGE, "by its labels");
    assert_eq!(both(&shop, "server"), PAGE, "by its addresses");
    assert_eq!(both(&shop, "rogue"), CLOSED);
    assert!(refused(&shop, "not_listed") >= 2.0);
    let cut_off = Shop::client().label("ringfence.dev/quarantine", "true");
    server.apply(&cut_off.yaml()).unwrap();
    shop.agent.wait_for("shop/client").unwrap();
    assert_eq!(
        both(&shop, "client"),
        CLOSED,
        "selected, and under quarantine"
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn status_tells_whether_anybody_scrapes() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    let text = || shop.agent.run(&["status"]).unwrap().stdout;
    assert!(text().contains("last scrape: never"), "{}", text());
    let last = || shop.agent.json(&["status"]).unwrap()["metrics"]["last"].clone();
    assert!(last().is_null());
    shop.agent.probe("/livez").unwrap();
    assert!(last().is_null(), "a probe is no scrape");
    shop.agent.metrics().unwrap();
    assert!(last().is_u64());
    assert!(text().contains(" s ago"), "{}", text());
}
