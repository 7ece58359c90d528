//! One namespace asks for more than there is; no other namespace is affected.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use ringfence_ebpf::abi::{ABI_VERSION, Grant, RuleKey, capacity};
use ringfence_tests::agent::{Manifest, Shop};
use serde_json::Value;

/// The number of blocks in a policy.
const BLOCKS: u32 = 25_000;
/// The number of policies with that many blocks each.
const LISTS: u32 = 11;
/// The limit of the agent's resident memory, in kB.
const MOST: u64 = 400_000;
const QUARANTINE: &str = "ringfence.dev/quarantine";
type Rules = HashMap<MapData, [u8; size_of::<RuleKey>()], [u8; size_of::<Grant>()]>;

fn mallory() -> Manifest {
    Manifest::pod("mallory", Shop::NODE, 13)
}

/// Returns a shop in which namespace `evil` has a pod as well.
fn shop() -> Shop {
    let pods = [Shop::server(), Shop::client(), Shop::rogue(), mallory()];
    let mut shop = Shop::with(pods).unwrap();
    let yaml = mallory().yaml();
    let yaml = yaml.replace("namespace: shop", "namespace: evil");
    shop.write("mallory", &yaml).unwrap();
    shop.start().unwrap();
    shop.agent.wait_for("evil/mallory").unwrap();
    shop
}

fn head(name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{ name: {name}, namespace: evil }}\n\
         spec:\n  podSelector: {{}}\n  policyTypes: [Egress]\n  egress:\n"
    )
}

/// Returns rules with a block and a wide range of ports each.
fn ranges(count: u32) -> String {
    let mut yaml = head("ranges");
    for n in 0..count {
        let last = 65_535 - n;
        let _ = write!(
            yaml,
            "    - to:\n        - ipBlock: {{ cidr: 30.0.{}.{}/32 }}\n      ports:\n        \
             - {{ protocol: TCP, port: {}, endPort: {last} }}\n        \
             - {{ protocol: UDP, port: {}, endPort: {last} }}\n",
            n >> 8,
            n & 255,
            n + 1,
            n + 2,
        );
    }
    yaml
}

fn list(number: u32) -> String {
    let mut yaml = head(&format!("list-{number}"));
    yaml.push_str("    - to:\n");
    for n in number * BLOCKS..(number + 1) * BLOCKS {
        let [_, b, c, d] = n.to_be_bytes();
        let _ = writeln!(yaml, "        - ipBlock: {{ cidr: 20.{b}.{c}.{d}/32 }}");
    }
    yaml
}

fn status(shop: &Shop) -> Value {
    shop.agent.json(&["status"]).unwrap()
}

/// Returns the resident memory of the agent, in kB.
fn resident(shop: &Shop) -> u64 {
    let pid = status(shop)["pid"].as_u64().unwrap();
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.unwrap().split_whitespace().next();
    words.unwrap().parse().unwrap()
}

/// Returns how long it takes to deny the client's calls to the server, and to allow them again.
fn changes(shop: &Shop, when: &str) -> [Duration; 2] {
    [(Shop::stranger(), false), (Shop::client(), true)].map(|(client, allowed)| {
        let start = Instant::now();
        shop.write("client", &client.yaml()).unwrap();
        shop.agent.wait_for("shop/client").unwrap();
        let took = start.elapsed();
        let calls = shop.calls("client", "server", allowed).unwrap();
        assert_eq!(calls, allowed, "{when}");
        took
    })
}

/// Adds a pod that no pod lists: it may not be called, and may not call pods that list
/// their callers.
fn add_pod(shop: &mut Shop, name: &str, number: u8) -> Manifest {
    let pod = Manifest::pod(name, Shop::NODE, number).label("ringfence.dev/ingress", "enforce");
    let addresses = [IpAddr::from(pod.v4()), Ipv6Addr::into(pod.v6())];
    shop.net.add_pod(name, &addresses).unwrap();
    shop.serve(name).unwrap();
    shop.write(name, &pod.yaml()).unwrap();
    pod
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_namespace_that_asks_for_more_than_there_is_delays_nobody_else() {
    let mut shop = shop();
    let (idle, before) = (changes(&shop, "idle"), resident(&shop));
    shop.write("ranges", &ranges(270)).unwrap();
    for number in 0..LISTS {
        shop.write(&format!("list-{number}"), &list(number))
            .unwrap();
    }
    let start = Instant::now();
    shop.agent.pass().unwrap();
    shop.agent.wait_for("evil/mallory").unwrap();
    eprintln!("{LISTS} policies of {BLOCKS} blocks: {:?}", start.elapsed());

    let now = status(&shop);
    assert!(now["error"].is_null(), "{}", now["error"]);
    let problems = now["problems"].to_string();
    assert!(
        problems.contains("NetworkPolicy evil/list-10: capacity"),
        "{problems}"
    );
    assert!(!problems.contains("NetworkPolicy shop/"), "{problems}");
    let metrics = shop.agent.metrics().unwrap();
    let row =
        "ringfence_policy_problems{field=\"capacity\",object=\"NetworkPolicy evil/list-10\"} 1";
    assert!(metrics.contains(row), "{metrics}");
    for map in ["RULES", "PORTS", "CIDRS"] {
        let line = format!("ringfence_map_entries{{map=\"{map}\"}}");
        eprintln!("{:?}", metrics.lines().find(|l| l.starts_with(&line)));
    }

    let full = changes(&shop, "with a namespace at its bound");
    let after = resident(&shop);
    eprintln!("a change: {idle:?} before, {full:?} now; resident {before} kB, now {after} kB");
    assert!(after < MOST, "{after} kB are resident");

    add_pod(&mut shop, "new", 20);
    shop.agent.wait_for("shop/new").unwrap();
    assert!(
        !shop.calls("rogue", "new", false).unwrap(),
        "closed from its first pass on"
    );
    shop.write("server", &Shop::server().label(QUARANTINE, "true").yaml())
        .unwrap();
    shop.agent.wait_for("shop/server").unwrap();
    assert!(
        !shop.calls("client", "server", false).unwrap(),
        "quarantine"
    );
    shop.write("server", &Shop::server().yaml()).unwrap();
    shop.agent.wait_for("shop/server").unwrap();
    shop.is_guarded("quarantine lifted").unwrap();

    // Endpoints whose rules had no room stay closed after a restart too.
    shop.agent.kill(&mut shop.net).unwrap();
    shop.start().unwrap();
    shop.is_guarded("with a new agent").unwrap();
    let problems = status(&shop)["problems"].to_string();
    assert!(
        problems.contains("NetworkPolicy evil/list-10: capacity"),
        "{problems}"
    );
}

/// Fills map `RULES` with rules of a buffer that doesn't exist.
fn fill(shop: &Shop) -> Vec<[u8; size_of::<RuleKey>()]> {
    let mut rules = rules(shop);
    let key = |class: u32| {
        let mut key = [0; size_of::<RuleKey>()];
        for (to, part) in key.chunks_exact_mut(4).zip([7, 1, class]) {
            to.copy_from_slice(&part.to_ne_bytes());
        }
        key
    };
    let keys = (0..capacity::RULES).map(key);
    keys.take_while(|key| rules.insert(key, [0; size_of::<Grant>()], 0).is_ok())
        .collect()
}

fn rules(shop: &Shop) -> Rules {
    let folder = shop.agent.pin_dir.join(format!("v{ABI_VERSION}"));
    let map = MapData::from_pin(folder.join("RULES")).unwrap();
    Map::HashMap(map).try_into().unwrap()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn with_a_full_table_new_pods_are_closed_and_named_and_quarantines_take_effect() {
    let mut shop = shop();
    // The table has no room for this pod's rule.
    let client = || Shop::client().label("egress.ringfence.dev/new", "8080_udp-5353");
    shop.write("client", &client().yaml()).unwrap();
    shop.agent.wait_for("shop/client").unwrap();
    let junk = fill(&shop);
    assert!(!junk.is_empty() && junk.len() < capacity::RULES as usize);

    let pod = add_pod(&mut shop, "new", 20);
    shop.write(
        "new",
        &pod.label("egress.ringfence.dev/rogue", "8080").yaml(),
    )
    .unwrap();
    shop.agent.pass().unwrap();
    shop.agent.pass().unwrap();
    let now = status(&shop);
    let error = now["error"].as_str().unwrap();
    assert!(error.contains("map RULES is full"), "{error}");
    assert_eq!(now["closed"].to_string(), "[\"shop/new\"]", "{now:#}");
    let rows = shop.agent.json(&["endpoints"]).unwrap();
    let mut rows = rows.as_array().unwrap().iter();
    let row = rows.find(|row| row["pod"] == "shop/new").unwrap();
    assert_eq!(row["attached"], true, "{row}");
    for (from, to) in [("rogue", "new"), ("new", "rogue")] {
        assert!(!shop.calls(from, to, false).unwrap(), "{from} to {to}");
    }
    shop.is_guarded("with a full table").unwrap();

    shop.write("client", &client().label(QUARANTINE, "true").yaml())
        .unwrap();
    shop.agent.pass().unwrap();
    shop.agent.pass().unwrap();
    assert!(status(&shop)["error"].is_string());
    assert!(
        !shop.calls("client", "server", false).unwrap(),
        "quarantine"
    );
    assert!(!shop.calls("client", "rogue", false).unwrap(), "quarantine");

    let mut rules = rules(&shop);
    for key in junk {
        rules.remove(&key).unwrap();
    }
    shop.agent.wait_for("shop/new").unwrap();
    let now = status(&shop);
    assert!(
        now["error"].is_null() && now["closed"].as_array().is_some_and(Vec::is_empty),
        "{now:#}"
    );
    shop.write("client", &client().yaml()).unwrap();
    shop.agent.wait_for("shop/client").unwrap();
    shop.is_guarded("with room again").unwrap();
    assert!(
        shop.calls("client", "new", true).unwrap(),
        "its rule is there"
    );
}

/// Returns a policy that lets mallory call the rogue, and this many blocks besides.
fn to_rogue(blocks: u32) -> String {
    let (rogue, mut yaml) = (Shop::rogue(), head("grown"));
    let _ = writeln!(
        yaml,
        "    - to:\n        - ipBlock: {{ cidr: {}/32 }}\n        - ipBlock: {{ cidr: \"{}/128\" }}",
        rogue.v4(),
        rogue.v6(),
    );
    for n in 0..blocks {
        let [_, b, c, d] = n.to_be_bytes();
        let _ = writeln!(yaml, "        - ipBlock: {{ cidr: 20.{b}.{c}.{d}/32 }}");
    }
    yaml
}

/// Asserts whether mallory may call the rogue; it may call no other pod in any case.
fn mallory_calls_the_rogue(shop: &Shop, allowed: bool, when: &str) {
    shop.agent.wait_for("evil/mallory").unwrap();
    let calls = |to, allowed| shop.calls("mallory", to, allowed).unwrap();
    assert_eq!(calls("rogue", allowed), allowed, "{when}");
    assert!(!calls("client", false), "{when}");
    shop.is_guarded(when).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_last_form_that_had_room_is_in_force_after_the_agent_was_killed() {
    let mut shop = shop();
    let folder = shop.agent.socket.with_extension("forms");
    shop.write("grown", &to_rogue(3)).unwrap();
    mallory_calls_the_rogue(&shop, true, "with room");
    assert!(!folder.exists(), "there is nothing to keep");
    shop.write("grown", &to_rogue(60_000)).unwrap();
    shop.agent.pass().unwrap();
    mallory_calls_the_rogue(&shop, true, "by the last form");
    for _ in 0..2 {
        assert!(folder.join("policies.json").exists());
        shop.agent.kill(&mut shop.net).unwrap();
        shop.start().unwrap();
        mallory_calls_the_rogue(&shop, true, "after a restart");
        let problems = status(&shop)["problems"].to_string();
        assert!(
            problems.contains("the last form that had room stays in force"),
            "{problems}"
        );
    }
    // Entries that can't be read count as absent.
    shop.agent.kill(&mut shop.net).unwrap();
    let text = fs::read(folder.join("policies.json")).unwrap();
    fs::write(folder.join("policies.json"), &text[..text.len() / 2]).unwrap();
    shop.start().unwrap();
    mallory_calls_the_rogue(&shop, false, "with half a file");
    let problems = status(&shop)["problems"].to_string();
    assert!(problems.contains("policies.json"), "{problems}");
    shop.write("grown", &to_rogue(3)).unwrap();
    shop.agent.pass().unwrap();
    mallory_calls_the_rogue(&shop, true, "with room again");
    assert!(!folder.exists(), "nothing is left");
}

/// Returns a closed caller of `evil`, a service of its own, that lists this many
/// services at ports of any number; it sends no packet.
fn caller(number: u32, services: u32) -> String {
    let pod = Manifest::pod(&format!("caller-{number}"), Shop::NODE, 14)
        .label("ringfence.dev/egress", "enforce");
    let pod = (0..services).fold(pod, |pod, n| {
        let port = 1 + (n + number) % 200;
        pod.label(&format!("egress.ringfence.dev/t{n}"), &port.to_string())
    });
    evil(&pod, number, 1)
}

/// Moves a pod to namespace `evil`, with another address for each number.
fn evil(pod: &Manifest, number: u32, net: u8) -> String {
    let [.., c, d] = number.to_be_bytes();
    let yaml = pod.yaml().replace("namespace: shop", "namespace: evil");
    let v4 = format!("10.{net}.{c}.{d}");
    let yaml = yaml.replace(&pod.v4().to_string(), &v4);
    yaml.replace(&pod.v6().to_string(), &format!("fd00:{net}::{number:x}"))
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

/// Returns the median duration of both kinds of change.
fn change(shop: &Shop, when: &str) -> Duration {
    median((0..5).flat_map(|_| changes(shop, when)).collect())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn labels_that_ask_for_more_than_there_is_delay_nobody_else() {
    const SERVICES: u32 = 10_500;
    const CALLERS: u32 = 26;
    let mut shop = shop();
    let targets: Vec<String> = (0..SERVICES)
        .map(|n| evil(&Manifest::pod(&format!("t{n}"), "elsewhere", 15), n, 2))
        .collect();
    shop.write("targets", &targets.join("---\n")).unwrap();
    let callers = |services| {
        let all: Vec<String> = (0..CALLERS).map(|n| caller(n, services)).collect();
        shop.write("callers", &all.join("---\n")).unwrap();
    };
    callers(1);
    shop.agent.pass().unwrap();
    shop.agent.wait_for("evil/mallory").unwrap();
    let idle = change(&shop, "idle");
    callers(SERVICES);
    let start = Instant::now();
    shop.agent.pass().unwrap();
    shop.agent.wait_for("evil/mallory").unwrap();
    let took = start.elapsed();
    let now = status(&shop);
    assert!(now["error"].is_null(), "{}", now["error"]);
    let problems = now["problems"].to_string();
    assert!(problems.contains("Workload evil/caller-"), "{problems}");
    assert!(!problems.contains("shop/"), "{problems}");
    let metrics = shop.agent.metrics().unwrap();
    assert!(metrics.contains("field=\"capacity\",object=\"Workload evil/caller-"));
    for map in ["RULES", "PORTS", "CIDRS"] {
        let line = format!("ringfence_map_entries{{map=\"{map}\"}}");
        eprintln!("{:?}", metrics.lines().find(|l| l.starts_with(&line)));
    }
    let full = change(&shop, "with labels at their bound");
    let kb = resident(&shop);
    eprintln!(
        "{CALLERS} callers of {SERVICES}: {took:?}; a change: {idle:?} before, {full:?} now; {kb} kB"
    );
    assert!(kb < MOST, "{kb} kB are resident");
    add_pod(&mut shop, "new", 20);
    shop.agent.wait_for("shop/new").unwrap();
    assert!(
        !shop.calls("rogue", "new", false).unwrap(),
        "closed from its first pass on"
    );
    shop.is_guarded("with labels at their bound").unwrap();
}
