//! Applies every fix that `explain` proposes to random clusters and checks it with the
//! oracle: the fix allows the requested call, and `explain` lists everything else it
//! allows or denies.
//!
//! `RINGFENCE_CLUSTERS` sets the number of clusters (default 60), `RINGFENCE_SEED`
//! repeats one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_policy::explain::{Calls, Explanation, Verdict as Found, explain};
use ringfence_policy::index::Index;
use ringfence_policy::ports::PortSpec;
use ringfence_tests::oracle::check::{self, describe};
use ringfence_tests::oracle::{End, Oracle, Probe, Verdict};
use ringfence_tests::parallel;
use ringfence_tests::random::{self, Dice};
use serde_json::{Value, json};

/// Ports that policies of random clusters name, and others.
const PORTS: [(u8, u16); 7] = [
    (6, 80),
    (6, 443),
    (6, 8080),
    (17, 53),
    (17, 8080),
    (132, 80),
    (1, 0),
];

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("RINGFENCE_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("RINGFENCE_CLUSTERS").unwrap_or(60)).collect(),
    }
}

/// Applies a merge patch as defined by RFC 7386.
fn merge(into: &mut Value, from: Value) {
    let Value::Object(from) = from else {
        *into = from;
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in from {
        match value {
            Value::Null => drop(into.as_object_mut().map(|into| into.remove(&key))),
            value => merge(&mut into[&key], value),
        }
    }
}

fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let meta = &object["metadata"];
    match text(&meta["namespace"]).as_str() {
        "" => format!("{} {}", text(&object["kind"]), text(&meta["name"])),
        space => format!("{} {space}/{}", text(&object["kind"]), text(&meta["name"])),
    }
}

/// Returns the objects with every fix applied.
fn pasted(objects: &[Value], found: &Explanation) -> Vec<Value> {
    let mut objects = objects.to_vec();
    for fix in &found.fix {
        let patch: Value = serde_yaml_ng::from_str(&fix.patch).expect(&fix.patch);
        let known = objects.iter_mut().rev().find(|o| name(o) == fix.object);
        let form = serde_json::to_value(fix.form).expect("a form");
        match (known, form.as_str()) {
            (Some(object), Some("patch")) => merge(object, patch),
            (None, Some("object")) => objects.push(patch),
            (known, form) => panic!("{form:?} of {}: {known:?}", fix.object),
        }
    }
    objects
}

/// A pod's address that no other pod has.
struct Place {
    end: End,
    workload: String,
}

fn places(objects: &[Value], index: &Index) -> Vec<Place> {
    let tables = check::tables_of(index, None);
    let mut shown: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let pods = || objects.iter().filter(|o| o["kind"] == "Pod");
    for pod in pods() {
        let own: BTreeSet<IpAddr> = addresses(pod).collect();
        own.into_iter()
            .for_each(|ip| *shown.entry(ip).or_default() += 1);
    }
    let nodes = of_nodes(objects);
    let mut places = Vec::new();
    for pod in pods() {
        let text = |value: &Value| value.as_str().unwrap_or("default").to_owned();
        let id = (
            text(&pod["metadata"]["namespace"]),
            text(&pod["metadata"]["name"]),
        );
        let is_it =
            |key: &&ringfence_policy::index::PodKey| key.namespace == id.0 && key.name == id.1;
        let Some(key) = tables.endpoints.keys().find(is_it) else {
            continue;
        };
        let own: BTreeSet<IpAddr> = addresses(pod).collect();
        for address in own {
            if shown[&address] == 1 && !nodes.contains(&address) {
                places.push(Place {
                    end: End {
                        address,
                        pod: Some(id.clone()),
                    },
                    workload: tables.endpoints[key].workload.clone(),
                });
            }
        }
    }
    places
}

fn addresses(pod: &Value) -> impl Iterator<Item = IpAddr> {
    let status = &pod["status"];
    let all = status["podIPs"].as_array().into_iter().flatten();
    let all = all.map(|ip| &ip["ip"]).chain([&status["podIP"]]);
    all.filter_map(|ip| ip.as_str()?.parse().ok())
}

/// Returns every address that Nodes show anywhere, and the one after it: the first two
/// addresses of a podCIDR belong to the node.
fn of_nodes(objects: &[Value]) -> BTreeSet<IpAddr> {
    let nodes = objects.iter().filter(|o| o["kind"] == "Node");
    let text: String = nodes.map(Value::to_string).collect();
    let words = text.split(|c: char| !(c.is_ascii_hexdigit() || ".:".contains(c)));
    let shown = words.filter_map(|word| word.trim_end_matches('.').parse().ok());
    let both = shown.flat_map(|ip| match ip {
        IpAddr::V4(v4) => [ip, IpAddr::V4((u32::from(v4) + 1).into())],
        IpAddr::V6(v6) => [ip, IpAddr::V6((u128::from(v6) + 1).into())],
    });
    both.collect()
}

/// Reports whether a call passes now, and once staged policies are enforced.
fn passes(oracle: &Oracle<'_>, probe: &Probe) -> [bool; 2] {
    let cut = [&probe.from, &probe.to].into_iter().any(|end| {
        let pod = end.pod.as_ref();
        pod.is_some_and(|(space, name)| oracle.quarantined(space, name))
    });
    let said = oracle.verdict(probe);
    let both = [said.ingress, said.egress];
    let now = both.iter().all(|v| *v != Verdict::Deny);
    let enforced = both
        .iter()
        .all(|v| ![Verdict::Deny, Verdict::Audit].contains(v));
    [now && !cut, enforced && !cut]
}

/// The placeholder name of an address without a pod.
const NO_POD: &str = "";

/// Reports whether a list of calls contains this one.
fn tells(calls: &Calls, from: &str, to: &str) -> bool {
    let is = |said: &str, name: &str| match name {
        NO_POD => !said.contains('/'),
        name => said == name,
    };
    let mut named = calls.calls.iter();
    calls.count > calls.calls.len() || named.any(|c| is(&c.from, from) && is(&c.to, to))
}

#[derive(Default)]
struct Seen {
    proposals: usize,
    by_cluster_policy: usize,
    closing: usize,
}

struct Case<'a> {
    seed: u64,
    before: &'a [Value],
    places: Vec<Place>,
    /// Addresses without a workload.
    outside: Vec<IpAddr>,
}

impl Case<'_> {
    fn ends(&self) -> Vec<(End, &str)> {
        let pods = self
            .places
            .iter()
            .map(|p| (p.end.clone(), p.workload.as_str()));
        let outside = self.outside.iter().map(|address| {
            let end = End {
                address: *address,
                pod: None,
            };
            (end, NO_POD)
        });
        pods.chain(outside).collect()
    }

    /// Asks about one call, and compares all others before and after its fix.
    fn ask(&self, index: &Index, (from, to): (usize, usize), port: (u8, u16), seen: &mut Seen) {
        let written = |place: &Place| {
            let (space, name) = place.end.pod.as_ref().expect("a pod");
            format!("pod:{space}/{name}")
        };
        let (from, to) = (&self.places[from], &self.places[to]);
        let spec = PortSpec {
            protocol: port.0,
            port: port.1,
        };
        let Ok(found) = explain(index, &written(from), &written(to), &spec) else {
            return;
        };
        let Some(effect) = &found.effect else { return };
        seen.proposals += 1;
        seen.closing += usize::from(effect.closes.count > 0);
        let cluster = |object: &str| object.starts_with("ClusterNetworkPolicy");
        let fixes = &found.fix;
        seen.by_cluster_policy += usize::from(fixes.iter().any(|fix| cluster(&fix.object)));
        let after = pasted(self.before, &found);
        let again = check::index(&after).expect("what is pasted parses");
        let better = explain(&again, &written(from), &written(to), &spec).expect("known");
        let context = format!("seed {}: {found:#?}", self.seed);
        assert!(better.verdict < found.verdict, "{context}\n{better:#?}");
        assert_ne!(better.verdict, Found::Denied, "{context}");
        assert!(!effect.partly, "{context}");
        let asked = (from.workload.as_str(), to.workload.as_str(), port);
        self.compare(&after, asked, (&effect.opens, &effect.closes), &context);
    }

    fn compare(
        &self,
        after: &[Value],
        asked: (&str, &str, (u8, u16)),
        (opens, closes): (&Calls, &Calls),
        context: &str,
    ) {
        let oracles = [self.before, after].map(Oracle::of_cluster);
        let ends = self.ends();
        let both = ends.iter().flat_map(|a| ends.iter().map(move |b| (a, b)));
        for ((from, caller), (to, callee)) in both {
            let is_one = from.pod == to.pod;
            if is_one || from.address.is_ipv4() != to.address.is_ipv4() {
                continue;
            }
            for (protocol, port) in PORTS {
                let probe = Probe {
                    from: from.clone(),
                    to: to.clone(),
                    protocol,
                    port,
                };
                let [before, after] = oracles.each_ref().map(|oracle| passes(oracle, &probe));
                for (was, is) in before.into_iter().zip(after) {
                    let said = match (was, is) {
                        (true, false) => tells(closes, caller, callee),
                        (false, true) => {
                            asked == (*caller, *callee, (protocol, port))
                                || tells(opens, caller, callee)
                        }
                        _ => true,
                    };
                    assert!(
                        said,
                        "{}: {before:?} {after:?}\n{context}",
                        describe(&probe)
                    );
                }
            }
        }
    }
}

/// Asks about calls in random clusters, and compares the effects of each fix with its
/// description.
fn look(seeds: &mut dyn Iterator<Item = u64>) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        let cluster = random::cluster(seed);
        let Ok(index) = check::index(&cluster.objects) else {
            continue;
        };
        let ends = cluster.probes.iter().flat_map(|p| [&p.from, &p.to]);
        let nodes = of_nodes(&cluster.objects);
        let pods = cluster.objects.iter().filter(|o| o["kind"] == "Pod");
        let owned: BTreeSet<IpAddr> = pods.flat_map(addresses).collect();
        let outside = ends.filter(|end| end.pod.is_none()).map(|end| end.address);
        let outside: BTreeSet<IpAddr> = outside
            .filter(|ip| !nodes.contains(ip) && !owned.contains(ip))
            .collect();
        let case = Case {
            seed,
            before: &cluster.objects,
            places: places(&cluster.objects, &index),
            outside: outside.into_iter().take(6).collect(),
        };
        if case.places.len() < 2 {
            continue;
        }
        let mut dice = Dice::new(seed ^ 0xf1_0e5);
        for _ in 0..4 {
            let ends = (dice.below(case.places.len()), dice.below(case.places.len()));
            let port = *dice.choose(&PORTS);
            case.ask(&index, ends, port, &mut seen);
        }
    }
    seen
}

#[test]
fn every_fix_opens_what_was_asked_and_says_whatever_else_it_does() {
    let mut seen = Seen::default();
    for part in parallel::split(&seeds(), |seeds| look(seeds)) {
        seen.proposals += part.proposals;
        seen.by_cluster_policy += part.by_cluster_policy;
        seen.closing += part.closing;
    }
    let Seen {
        proposals,
        by_cluster_policy,
        closing,
    } = seen;
    println!("{proposals} fixes, {by_cluster_policy} by ClusterNetworkPolicies, {closing} close");
    if seeds().len() >= 60 {
        assert!(
            proposals > 50 && by_cluster_policy > 5,
            "too few: {proposals}, {by_cluster_policy}"
        );
        assert!(
            closing * 20 < proposals,
            "{closing} of {proposals} close something"
        );
    }
}
