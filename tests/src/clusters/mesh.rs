//! A mesh of services whose calls stand in their callers' labels.
//!
//! 1,600 services of 80 teams in eight namespaces, 3 to 12 pods each. Besides
//! the listed calls a monitor calls every service and an edge proxy every
//! `service.api.*`, both by groups. NetworkPolicies of teams and services lie
//! above the labels.

use serde_json::{Value, json};

use super::edges;
use super::parts::{self, Deployment, Labels, PODS_PER_NODE, Placement, condition, equal};
use super::rules::{self, Ways};
use crate::random::Dice;

const SEED: u64 = 0x3e54;
pub(super) const SERVICES: usize = 1600;
const PODS: usize = 12_000;
pub(super) const EDGES: usize = 9300;
const NODES: usize = PODS / PODS_PER_NODE;
const TEAM: usize = 20;
/// Policies that select each service, and those that select each team.
const POLICIES: (usize, usize) = (2, 3);

/// Namespaces and how many teams each has.
const SPACES: [(&str, usize); 8] = [
    ("default", 40),
    ("payments", 12),
    ("lending", 8),
    ("ledger", 6),
    ("data", 5),
    ("edge", 4),
    ("ops", 3),
    ("labs", 2),
];
/// The second words of the services' names, which are their types.
const TYPES: [&str; 8] = [
    "api", "consumer", "store", "cron", "gateway", "web", "batch", "internal",
];
const TIERS: [&str; 3] = ["front", "core", "store"];
/// Services with a part of their own.
const MONITOR: usize = 0;
const PROXY: usize = 1;

pub(super) fn objects() -> impl Iterator<Item = Value> {
    let mut dice = Dice::new(SEED);
    let callees = edges::edges(&mut dice, SERVICES, EDGES);
    let sizes = sizes(&mut dice);
    let spaces = SPACES.iter().map(|(name, _)| {
        let labels = [("callers.ringfence.dev/any_namespace", "true")];
        parts::namespace(name, &labels)
    });
    let mut number = 0;
    let pods = (0..SERVICES).flat_map(move |service| {
        let listed: Vec<usize> = callees[service].iter().copied().collect();
        let deployment = deployment(service, &listed);
        let first = number;
        number += sizes[service];
        (first..number).map(move |number| {
            let placement = Placement {
                number,
                nodes: NODES,
            };
            parts::pod(&deployment, placement)
        })
    });
    spaces
        .chain((0..NODES).map(parts::node))
        .chain(parts::dns())
        .chain(pods)
        .chain((0..SERVICES).flat_map(service_policies))
        .chain((0..SERVICES / TEAM).flat_map(team_policies))
        .chain(
            SPACES.iter().skip(4).map(|(space, _)| {
                parts::policy(space, "default-deny", rules::default_deny(Ways::In))
            }),
        )
}

/// Pods of each service.
fn sizes(dice: &mut Dice) -> Vec<usize> {
    let mut sizes: Vec<usize> = (0..SERVICES).map(|_| dice.between(3, 12)).collect();
    let mut sum: usize = sizes.iter().sum();
    for service in (0..SERVICES).cycle() {
        let size = &mut sizes[service];
        match sum.cmp(&PODS) {
            std::cmp::Ordering::Less => (*size, sum) = (*size + 1, sum + 1),
            std::cmp::Ordering::Greater if *size > 3 => (*size, sum) = (*size - 1, sum - 1),
            std::cmp::Ordering::Greater => {}
            std::cmp::Ordering::Equal => break,
        }
    }
    sizes
}

fn team(service: usize) -> String {
    format!("team-{}", service / TEAM)
}

fn space(service: usize) -> &'static str {
    let mut left = service / TEAM;
    for (name, teams) in SPACES {
        match left.checked_sub(teams) {
            Some(rest) => left = rest,
            None => return name,
        }
    }
    SPACES[0].0
}

fn name(service: usize) -> String {
    match service {
        MONITOR => "service.internal.monitor".to_owned(),
        PROXY => "service.gateway.edge-proxy".to_owned(),
        // A third of all are of the first type, as where every product has one.
        _ if service.is_multiple_of(3) => format!("service.api.{service}"),
        _ => format!("service.{}.{service}", TYPES[1 + service % 7]),
    }
}

fn deployment(service: usize, callees: &[usize]) -> Deployment {
    let mut dice = Dice::new(SEED << 20 | service as u64);
    let hash = parts::hash(&mut dice);
    let version = format!("v{}", dice.between(1, 9));
    let mut labels = parts::labels([
        ("app", &name(service)),
        ("team", &team(service)),
        ("tier", TIERS[service % TIERS.len()]),
        ("version", &version),
        ("pod-template-hash", &hash),
        ("ringfence.dev/ingress", "enforce"),
    ]);
    if dice.chance(25) {
        let mode = dice.pick(&["enforce", "audit"]);
        labels.insert("ringfence.dev/egress".into(), json!(mode));
    }
    for callee in callees {
        let key = key("egress", space(service), space(*callee), &name(*callee));
        let value = dice.pick(&["true", "true", "true", "http", "http_grpc", "9090"]);
        labels.insert(key, json!(value));
    }
    match service {
        MONITOR => groups(&mut labels, service, &TYPES, "metrics"),
        PROXY => groups(&mut labels, service, &TYPES[..1], "true"),
        _ => {}
    }
    Deployment {
        namespace: space(service).to_owned(),
        name: name(service),
        hash,
        labels,
        http: [8080, 8081, 9000][service % 3],
    }
}

fn key(base: &str, from: &str, to: &str, what: &str) -> String {
    match from == to {
        true => format!("{base}.ringfence.dev/{what}"),
        false => format!("{to}.{base}.ringfence.dev/{what}"),
    }
}

fn groups(labels: &mut Labels, service: usize, types: &[&str], value: &str) {
    for (to, _) in SPACES {
        for kind in types {
            let key = key("egress-groups", space(service), to, kind);
            labels.insert(key, json!(value));
        }
    }
}

fn service_policies(service: usize) -> Vec<Value> {
    let mut dice = Dice::new(SEED << 21 | service as u64);
    let name = name(service);
    let policy = |n: usize| {
        let subject = equal([("app", &name)]);
        let ways = [Ways::In, Ways::any(&mut dice)][n % 2];
        let spec = rules::spec(&mut dice, subject, ways, NODES, |dice| peers(dice, service));
        parts::policy(space(service), &format!("{name}-{n}"), spec)
    };
    (0..POLICIES.0).map(policy).collect()
}

fn team_policies(number: usize) -> Vec<Value> {
    let mut dice = Dice::new(SEED << 22 | number as u64);
    let first = number * TEAM;
    let policy = |n: usize| {
        let subject = equal([("team", &team(first))]);
        let ways = [Ways::In, Ways::Out, Ways::In][n % 3];
        let spec = rules::spec(&mut dice, subject, ways, NODES, |dice| peers(dice, first));
        parts::policy(space(first), &format!("{}-{n}", team(first)), spec)
    };
    (0..POLICIES.1).map(policy).collect()
}

fn peers(dice: &mut Dice, service: usize) -> Vec<Value> {
    let count = dice.between(1, 2);
    (0..count).map(|_| peer(dice, service)).collect()
}

/// Some 50 pods of a team's tier, to some 150 of a team.
fn peer(dice: &mut Dice, service: usize) -> Value {
    let other = dice.below(SERVICES);
    let (own, others, tier) = (team(service), team(other), dice.pick(&TIERS));
    let named = equal([("kubernetes.io/metadata.name", space(other))]);
    match dice.below(6) {
        0 => json!({"podSelector": equal([("team", &own)])}),
        1 => json!({"podSelector": equal([("team", &own), ("tier", tier)])}),
        2 => json!({"namespaceSelector": named, "podSelector": equal([("team", &others)])}),
        3 => json!({"namespaceSelector": {}, "podSelector": {
            "matchLabels": {"tier": tier},
            "matchExpressions": [{"key": "team", "operator": "In", "values": [own, others]}],
        }}),
        4 => json!({"namespaceSelector": {}, "podSelector": {
            "matchLabels": {"team": others},
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": [tier]}],
        }}),
        _ => json!({
            "namespaceSelector": condition("kubernetes.io/metadata.name", "Exists", &[]),
            "podSelector": equal([("team", &others), ("tier", tier)]),
        }),
    }
}
