//! Filters on clsact qdiscs, as used before Linux 6.6: they outlive the agent, the next
//! agent takes them over, and foreign filters keep working.
#![allow(clippy::unwrap_used)]

mod under_traffic;

use std::thread;
use std::time::{Duration, Instant};

use ringfence_tests::agent::{Shop, TCP, UDP};
use ringfence_tests::testnet::{Probe, probe_tcp, probe_udp};
use serde_json::Value;

use under_traffic::{WHILE, from_rogue, none_fell, under_traffic};

/// The agent checks its filters' position every five seconds.
const LOOKS: Duration = Duration::from_secs(12);
/// Classic BPF: drops UDP over IPv4 and passes all other packets to the next filter.
const NO_UDP: &str = "4,48 0 0 23,21 0 1 17,6 0 0 2,6 0 0 4294967295";
/// Classic BPF: TC_ACT_OK, after which no other filter runs.
const ALL_OK: &str = "1,6 0 0 0";

fn shop() -> Shop {
    let mut shop = Shop::open().unwrap();
    by(&mut shop, "clsact");
    shop
}

fn by(shop: &mut Shop, way: &str) {
    shop.agent.flags = vec!["--attach".to_owned(), way.to_owned()];
}

fn tc(shop: &Shop, args: &str) -> String {
    let args: Vec<&str> = args.split(' ').collect();
    shop.net.node().output("tc", &args).unwrap()
}

/// Attaches a foreign filter.
fn foreign(shop: &Shop, pod: &str, side: &str, priority: u16, bytecode: &str) {
    let device = device(shop, pod);
    let priority = priority.to_string();
    let filter = ["filter", "add", "dev", &device, side, "prio", &priority];
    let program = ["bpf", "da", "bytecode", bytecode];
    let args = [&filter[..], &program].concat();
    shop.net.node().output("tc", &args).unwrap();
}

fn device(shop: &Shop, pod: &str) -> String {
    shop.net.pod(pod).unwrap().host_device.clone()
}

/// A filter: priority, handle, name and program id, in the order in which filters run.
type Row = (u64, String, String, u64);

fn filters(shop: &Shop, pod: &str, side: &str) -> Vec<Row> {
    let shown = tc(
        shop,
        &format!("-j filter show dev {} {side}", device(shop, pod)),
    );
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // The head of each priority is also listed, without options.
    let rows = shown.as_array().unwrap().iter();
    let rows = rows.filter_map(|row| {
        let options = row.get("options")?;
        let id = options["prog"]["id"].as_u64();
        Some((
            row["pref"].as_u64()?,
            text(&options["handle"]),
            text(&options["bpf_name"]),
            id.unwrap_or_default(),
        ))
    });
    rows.collect()
}

fn has_clsact(shop: &Shop, pod: &str) -> bool {
    tc(shop, &format!("qdisc show dev {}", device(shop, pod))).contains("clsact")
}

fn tcx_links(shop: &Shop) -> usize {
    let versions = std::fs::read_dir(&shop.agent.pin_dir).unwrap();
    let links = versions.map(|version| version.unwrap().path().join("links"));
    links.map(|l| std::fs::read_dir(l).unwrap().count()).sum()
}

/// Returns the positions of the filters of all three pods, and the programs they run.
fn ours(shop: &Shop) -> (Vec<(u64, String)>, Vec<u64>) {
    let (mut places, mut programs) = (Vec::new(), Vec::new());
    for pod in ["server", "client", "rogue"] {
        for (side, name) in [("ingress", "from_pod"), ("egress", "to_pod")] {
            let rows = filters(shop, pod, side);
            let [(priority, handle, found, id)] = &rows[..] else {
                panic!("{pod} {side}: {rows:?}");
            };
            assert_eq!(found, name);
            places.push((*priority, handle.clone()));
            programs.push(*id);
        }
    }
    (places, programs)
}

fn foreign_of(shop: &Shop, pod: &str) -> Vec<String> {
    let rows = shop.agent.json(&["endpoints"]).unwrap();
    let pod = format!("shop/{pod}");
    let mut rows = rows.as_array().unwrap().iter();
    let row = rows.find(|row| row["pod"] == pod.as_str()).unwrap();
    let shown = row["foreign_filters"].as_array().unwrap().iter();
    shown
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

/// Two on each of the three pods' devices, and two on the uplink.
const PROGRAMS: usize = 8;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_packet_is_lost_or_let_through_while_one_agent_dies_and_another_adopts_its_filters() {
    let mut shop = shop();
    shop.start().unwrap();
    let before = shop.agent.drops().unwrap();
    let (places, programs) = ours(&shop);
    let denied = under_traffic(&mut shop, |shop| {
        let died = shop.agent.drops().unwrap();
        shop.agent.kill(&mut shop.net).unwrap();
        thread::sleep(WHILE);
        assert_eq!(ours(shop), (places.clone(), programs.clone()));
        shop.start().unwrap();
        none_fell(&before, &died);
        none_fell(&died, &shop.agent.drops().unwrap());
    });
    assert_eq!(tcx_links(&shop), 0);
    let (still, replaced) = ours(&shop);
    assert_eq!(still, places, "the same filters");
    let kept = replaced.iter().filter(|id| programs.contains(id)).count();
    assert_eq!(kept, 0, "with the new agent's programs: {replaced:?}");
    let after = shop.agent.drops().unwrap();
    let counted = |protocol| from_rogue(&after, protocol) - from_rogue(&before, protocol);
    assert_eq!((counted("tcp"), counted("udp")), (denied, 10 * denied));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_may_take_the_other_way_than_the_one_before_it() {
    let mut shop = shop();
    shop.start().unwrap();
    under_traffic(&mut shop, |shop| {
        shop.agent.kill(&mut shop.net).unwrap();
        by(shop, "best");
        shop.start().unwrap();
        // On a kernel without tcx links both ways are the same.
        if tcx_links(shop) > 0 {
            assert_eq!(tcx_links(shop), PROGRAMS);
            for side in ["ingress", "egress"] {
                assert_eq!(filters(shop, "server", side), []);
            }
        }
        shop.agent.stop(&mut shop.net).unwrap();
        by(shop, "clsact");
        shop.start().unwrap();
        assert_eq!(tcx_links(shop), 0);
        ours(shop);
    });
    // The qdiscs of the first agent are still recognized as ours.
    by(&mut shop, "best");
    shop.agent.stop(&mut shop.net).unwrap();
    shop.start().unwrap();
    shop.agent.stop(&mut shop.net).unwrap();
    assert_eq!(shop.agent.run_on_node(&["uninstall"]).unwrap().code, 0);
    assert!(!has_clsact(&shop, "server"), "its qdisc stays behind");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn uninstall_takes_filters_and_qdiscs_away_and_only_from_where_they_are() {
    let mut shop = shop();
    shop.start().unwrap();
    shop.agent.stop(&mut shop.net).unwrap();
    let elsewhere = shop.agent.run(&["uninstall"]).unwrap();
    assert_eq!(elsewhere.code, 3, "{elsewhere:?}");
    assert!(
        elsewhere.stderr.contains("another network namespace"),
        "{elsewhere:?}"
    );
    shop.is_guarded("after an uninstall elsewhere").unwrap();

    let removed = shop.agent.run_on_node(&["uninstall"]).unwrap();
    assert_eq!(removed.code, 0, "{removed:?}");
    assert!(
        removed
            .stdout
            .starts_with(&format!("removed {PROGRAMS} programs")),
        "{removed:?}"
    );
    assert!(!shop.agent.pin_dir.exists(), "records stay behind");
    for pod in ["server", "client", "rogue"] {
        assert!(!has_clsact(&shop, pod), "{pod}");
    }
    assert!(shop.calls("rogue", "server", true).unwrap(), "still closed");
    shop.start().unwrap();
    shop.is_guarded("installed anew").unwrap();
}

/// Returns how the client's and the rogue's calls to the server over IPv4 end.
fn v4_calls(shop: &Shop) -> [Probe; 3] {
    let server = shop.address("server", true, 0).unwrap().ip();
    let patience = Duration::from_millis(250);
    let [client, rogue] = ["client", "rogue"].map(|pod| shop.ns(pod).unwrap());
    [
        probe_tcp(client, server, TCP, patience).unwrap(),
        probe_udp(client, server, UDP, patience).unwrap(),
        probe_tcp(rogue, server, TCP, patience).unwrap(),
    ]
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_filter_of_others_goes_on_working_is_shown_and_outlives_uninstall() {
    use Probe::{Open, TimedOut};

    for way in ["clsact", "best"] {
        let mut shop = shop();
        by(&mut shop, way);
        tc(
            &shop,
            &format!("qdisc add dev {} clsact", device(&shop, "server")),
        );
        foreign(&shop, "server", "egress", 5, NO_UDP);
        assert_eq!(v4_calls(&shop), [Open, TimedOut, Open], "before {way}");

        shop.start().unwrap();
        assert_eq!(v4_calls(&shop), [Open, TimedOut, TimedOut], "with {way}");
        assert_eq!(foreign_of(&shop, "server").len(), 1, "{way}");
        assert!(foreign_of(&shop, "server")[0].starts_with("egress bpf"));
        assert!(foreign_of(&shop, "server")[0].ends_with("(priority 5)"));
        assert!(foreign_of(&shop, "client").is_empty(), "{way}");

        shop.agent.stop(&mut shop.net).unwrap();
        let removed = shop.agent.run_on_node(&["uninstall"]).unwrap();
        assert_eq!(removed.code, 0, "{removed:?}");
        assert_eq!(v4_calls(&shop), [Open, TimedOut, Open], "after {way}");
        assert_eq!(filters(&shop, "server", "egress").len(), 1);
        assert!(has_clsact(&shop, "server"), "the qdisc wasn't ours");
        assert!(!has_clsact(&shop, "client"));
    }
}

/// Waits until the filter that runs first is ours.
fn stands_first(shop: &Shop, pod: &str, side: &str, name: &str) -> Vec<Row> {
    let start = Instant::now();
    loop {
        let rows = filters(shop, pod, side);
        if rows[0].2 == name {
            return rows;
        }
        assert!(start.elapsed() < LOOKS, "{rows:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_filter_that_accepts_everything_never_stays_in_front_of_ours() {
    let mut shop = shop();
    tc(
        &shop,
        &format!("qdisc add dev {} clsact", device(&shop, "server")),
    );
    foreign(&shop, "server", "egress", 1, ALL_OK);
    shop.start().unwrap();
    let rows = stands_first(&shop, "server", "egress", "to_pod");
    assert_eq!(rows.len(), 2, "{rows:?}");
    shop.is_guarded("behind one that accepts all").unwrap();

    // Added last, it is the first of its priority until the agent's next check.
    foreign(&shop, "server", "egress", 1, ALL_OK);
    assert_ne!(filters(&shop, "server", "egress")[0].2, "to_pod");
    assert_eq!(filters(&shop, "server", "egress").len(), 3);
    let rows = stands_first(&shop, "server", "egress", "to_pod");
    shop.is_guarded("in front again").unwrap();
    let count = rows.iter().filter(|row| row.2 == "to_pod").count();
    assert!(count <= 2, "{rows:?}");
    assert_eq!(foreign_of(&shop, "client"), Vec::<String>::new());
    // The next agent takes over from the new position, and leaves no filter behind.
    shop.agent.kill(&mut shop.net).unwrap();
    shop.start().unwrap();
    let rows = filters(&shop, "server", "egress");
    assert_eq!((rows.len(), rows[0].2.as_str()), (3, "to_pod"), "{rows:?}");
    assert_eq!(foreign_of(&shop, "server").len(), 2);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_filter_that_somebody_removes_comes_back() {
    let mut shop = shop();
    shop.start().unwrap();
    let device = device(&shop, "server");
    tc(&shop, &format!("qdisc del dev {device} clsact"));
    assert_eq!(filters(&shop, "server", "egress"), []);
    let start = Instant::now();
    while filters(&shop, "server", "egress").is_empty() {
        assert!(start.elapsed() < LOOKS, "it stays away");
        thread::sleep(Duration::from_millis(100));
    }
    shop.is_guarded("after somebody removed the qdisc").unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_plain_ingress_qdisc_keeps_a_pod_unguarded_and_says_how_to_mend_it() {
    let mut shop = shop();
    let device = device(&shop, "server");
    tc(&shop, &format!("qdisc add dev {device} ingress"));
    let others = ["shop/client", "shop/rogue"];
    shop.agent.start(&mut shop.net, &others).unwrap();
    let status = shop.agent.json(&["status"]).unwrap();
    let unguarded = status["unguarded"].as_array().unwrap();
    assert_eq!(unguarded.len(), 1, "{status}");
    assert_eq!(unguarded[0]["pod"], "shop/server");
    let remedy = format!("tc qdisc del dev {device} ingress");
    let reason = unguarded[0]["reason"].as_str().unwrap();
    assert!(reason.contains(&remedy), "{reason}");
    assert_eq!(filters(&shop, "server", "ingress"), []);

    tc(&shop, remedy.strip_prefix("tc ").unwrap());
    let waited = shop.agent.run(&["status", "--wait", "shop/server"]);
    assert_eq!(waited.unwrap().code, 0);
    shop.is_guarded("without that qdisc").unwrap();
}
