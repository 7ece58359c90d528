//! Two nodes with the same namespace `bank`; on one of them namespace `evil` has as
//! much of every table as it may.
//!
//! The same change is made on both in turn, and timed as everywhere in this bench.
//! Which node goes first changes from round to round. A new pod is timed from the
//! moment before the double is told, up to the moment when both programs are pinned
//! on its device: from then on it is closed, or open to whom its policies allow.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ringfence_policy::compile::Capacity;
use ringfence_tests::apiserver::ApiServer;
use ringfence_tests::bench;
use ringfence_tests::clusters::NODE;
use serde_json::{Value, json};

use crate::changes::Change;
use crate::kernel::Kernel;
use crate::mirror::Mirror;
use crate::node::Node;

/// How often each change is made.
const ROUNDS: usize = 30;
/// Between two changes: the one before is in both buffers, and its status is worked out.
const PAUSE: Duration = Duration::from_millis(150);
/// Between two looks.
const LOOK: Duration = Duration::from_micros(100);
/// A change that takes longer than this is lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many times as long a change may take beside a namespace at its bound.
const TARGET: f64 = 1.2;
/// Pods of `evil` on the node, each with a ruleset of its own.
const EVIL: u32 = 5;

/// One node, and what it should hold.
struct Side {
    node: Node,
    server: ApiServer,
    mirror: Mirror,
    kernel: Kernel,
}

/// What is changed in namespace `bank`.
#[derive(Clone, Copy)]
enum Kind {
    /// The port of a rule whose peers are pods.
    Pods,
    /// The block of a rule.
    Block,
    /// The port of a rule for any address.
    Anyone,
    /// The labels of a pod, by which a policy names it.
    Label,
    /// A pod comes.
    NewPod,
}

/// The kinds and what they are called here.
const KINDS: [(Kind, &str); 5] = [
    (Kind::Pods, "policy_pods"),
    (Kind::Block, "policy_block"),
    (Kind::Anyone, "policy_anyone"),
    (Kind::Label, "pod_label"),
    (Kind::NewPod, "new_pod"),
];

pub(crate) fn measure() -> Result<Vec<Value>> {
    let mut idle = Side::new(bank())?;
    let mut full = Side::new(bank().into_iter().chain(evil()).collect())?;
    let tables = full.mirror.tables();
    let sizes = [tables.cidrs.len(), tables.rules.len(), tables.ports.len()];
    eprintln!(
        "shares: prefixes, rules and blocks of ports {sizes:?} of {:?}; {} policies without room",
        Capacity::MAPS,
        full.mirror.without_room(),
    );
    ensure!(full.mirror.without_room() > 0, "there is room for all");
    thread::sleep(Duration::from_secs(3));
    let mut rows = Vec::new();
    for (kind, name) in KINDS {
        rows.extend(compare(&mut idle, &mut full, kind, name)?);
    }
    idle.node.stop()?;
    full.node.stop()?;
    Ok(rows)
}

fn compare(idle: &mut Side, full: &mut Side, kind: Kind, name: &str) -> Result<[Value; 2]> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    // The first round is not counted: its policy comes, the later ones change it.
    for round in 0..=bench::rounds(ROUNDS)? {
        let (a, b) = match round % 2 {
            0 => {
                let a = idle.time(kind, round)?;
                (a, full.time(kind, round)?)
            }
            _ => {
                let b = full.time(kind, round)?;
                (idle.time(kind, round)?, b)
            }
        };
        if round > 0 {
            alone.push(a);
            beside.push(b);
        }
    }
    for side in [idle, full] {
        side.undo(kind)?;
    }
    let ratios: Vec<f64> = alone.iter().zip(&beside).map(|(a, b)| b / a).collect();
    let row = |variant: &str, samples: Vec<f64>| json!({"case": name, "variant": variant, "unit": "s", "samples": samples, "target": null});
    let mut at_bound = row("at_bound", beside);
    at_bound["against"] = json!("idle");
    at_bound["ratios"] = json!(ratios);
    at_bound["target"] = json!(TARGET);
    Ok([row("idle", alone), at_bound])
}

impl Side {
    fn new(objects: Vec<Value>) -> Result<Self> {
        let is_local = |o: &&Value| o["kind"] == "Pod" && o["spec"]["nodeName"] == NODE;
        let pods: Vec<Value> = objects.iter().filter(is_local).cloned().collect();
        let mut node = Node::new(&pods)?;
        let server = node.server()?;
        let mut mirror = Mirror::new();
        for object in objects {
            mirror.take(object.clone())?;
            server.apply_value(object)?;
        }
        let first = mirror.first(pods.len())?;
        let (took, kernel) = node.start(&server, &first)?;
        eprintln!("shares: first tables after {took:.2} s");
        Ok(Self {
            node,
            server,
            mirror,
            kernel,
        })
    }

    /// Makes a change and waits for it; seconds.
    fn time(&mut self, kind: Kind, round: usize) -> Result<f64> {
        let number = u16::try_from(round)?;
        let object = match kind {
            Kind::Pods => policy(
                "pods",
                &app("ledger"),
                json!({"ingress": [{
                    "from": [{"podSelector": app("teller")}], "ports": [{"port": 2000 + number}],
                }]}),
            ),
            Kind::Block => policy(
                "block",
                &app("ledger"),
                json!({"egress": [{
                    "to": [{"ipBlock": {"cidr": format!("198.51.100.{number}/32")}}],
                }]}),
            ),
            Kind::Anyone => policy(
                "anyone",
                &app("clerk"),
                json!({"egress": [{
                    "ports": [{"port": 2000 + number}],
                }]}),
            ),
            Kind::Label => pod(
                "bank",
                "desk",
                "elsewhere",
                90,
                &format!("desk-{}", number % 2),
            ),
            Kind::NewPod => return self.new_pod(number),
        };
        let took = self.change(&Change::Put(object))?;
        thread::sleep(PAUSE);
        Ok(took)
    }

    fn change(&mut self, change: &Change) -> Result<f64> {
        let mark = self.mirror.follow(change)?.context("it alters nothing")?;
        let start = Instant::now();
        match change {
            Change::Put(object) => drop(self.server.apply_value(object.clone())?),
            Change::Delete(resource, namespace, name) => {
                self.server.delete(resource, namespace, name)?;
            }
        }
        while !self.kernel.has(&mark)? {
            self.wait(start)?;
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// Looks again in a moment, unless it has been too long.
    fn wait(&self, start: Instant) -> Result<()> {
        ensure!(
            start.elapsed() < PATIENCE,
            "it isn't in force; the agent says:\n{}",
            self.node.said()?
        );
        thread::sleep(LOOK);
        Ok(())
    }

    /// A pod comes to the node and goes again; seconds until its programs are there.
    fn new_pod(&mut self, number: u16) -> Result<f64> {
        let name = format!("new-{number}");
        let object = pod("bank", &name, NODE, 100 + u32::from(number), "new");
        let address: IpAddr = object["status"]["podIP"]
            .as_str()
            .context("no IP")?
            .parse()?;
        self.node.add_pod(("bank", &name), &[address])?;
        // What the kernel tells of the device is dealt with before.
        thread::sleep(PAUSE);
        self.mirror.follow(&Change::Put(object.clone()))?;
        let start = Instant::now();
        self.server.apply_value(object)?;
        while !self.node.is_guarded()? {
            self.wait(start)?;
        }
        let took = start.elapsed().as_secs_f64();
        thread::sleep(PAUSE);
        self.change(&Change::Delete("pods", "bank".to_owned(), name.clone()))?;
        self.node.remove_pod(&name)?;
        let gone = Instant::now();
        while !self.node.is_guarded()? {
            self.wait(gone)?;
        }
        thread::sleep(PAUSE);
        Ok(took)
    }

    /// Takes a kind's policy away again.
    fn undo(&mut self, kind: Kind) -> Result<()> {
        let name = match kind {
            Kind::Pods => "pods",
            Kind::Block => "block",
            Kind::Anyone => "anyone",
            Kind::Label | Kind::NewPod => return Ok(()),
        };
        let name = name.to_owned();
        self.change(&Change::Delete("networkpolicies", "bank".to_owned(), name))?;
        thread::sleep(PAUSE);
        Ok(())
    }
}

fn app(name: &str) -> Value {
    json!({"matchLabels": {"app": name}})
}

/// A pod whose address ends with a number below 256.
fn pod(namespace: &str, name: &str, node: &str, number: u32, app: &str) -> Value {
    let ip = format!("10.20.{}.{number}", u8::from(namespace == "evil"));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "main"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

/// A policy of `bank`.
fn policy(name: &str, subject: &Value, rules: Value) -> Value {
    netpol("bank", name, subject, rules)
}

fn netpol(namespace: &str, name: &str, subject: &Value, rules: Value) -> Value {
    let types = match rules.get("ingress") {
        Some(_) => ["Ingress"],
        None => ["Egress"],
    };
    let mut spec = rules;
    spec["podSelector"] = subject.clone();
    spec["policyTypes"] = json!(types);
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// What both nodes have.
fn bank() -> Vec<Value> {
    let desks = json!({"ingress": [{"from": [{"podSelector": app("desk-0")}]}]});
    let nobody = json!({"ingress": []});
    let from = json!([{"podSelector": app("teller")}]);
    let tellers = json!({"ingress": [{"from": from, "ports": [{"port": 1000}]}]});
    vec![
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}),
        namespace("bank"),
        namespace("evil"),
        pod("bank", "ledger", NODE, 1, "ledger"),
        pod("bank", "clerk", NODE, 2, "clerk"),
        pod("bank", "teller", "elsewhere", 3, "teller"),
        pod("bank", "desk", "elsewhere", 90, "desk-1"),
        policy("desks", &app("clerk"), desks),
        policy("tellers", &app("ledger"), tellers),
        policy("new", &app("new"), nobody),
    ]
}

/// More than there is room for: ranges of ports, each in a block of its own, and lists
/// of blocks, for pods of which each is under a policy of its own besides.
fn evil() -> Vec<Value> {
    let block = |net: u8, n: u32| {
        let [_, b, c, d] = n.to_be_bytes();
        json!({"ipBlock": {"cidr": format!("{net}.{b}.{c}.{d}/32")}})
    };
    let range = |n: u32| {
        let range =
            |protocol: &str| json!({"protocol": protocol, "port": n + 1, "endPort": 65_000 - n});
        json!({"to": [block(30, n)], "ports": [range("TCP"), range("UDP")]})
    };
    let ranges = (0..8).map(|p| {
        let rules: Vec<Value> = (p * 1000..(p + 1) * 1000).map(range).collect();
        netpol(
            "evil",
            &format!("ranges-{p}"),
            &json!({}),
            json!({"egress": rules}),
        )
    });
    let lists = (0..11).map(|p| {
        let to: Vec<Value> = (p * 5000..(p + 1) * 5000).map(|n| block(20, n)).collect();
        netpol(
            "evil",
            &format!("list-{p}"),
            &json!({}),
            json!({"egress": [{"to": to}]}),
        )
    });
    let pods = (0..EVIL).flat_map(|n| {
        let name = format!("mallory-{n}");
        let to = json!({"egress": [{"to": [block(40, n)]}]});
        [
            pod("evil", &name, NODE, n + 1, &name),
            netpol("evil", &format!("own-{n}"), &app(&name), to),
        ]
    });
    ranges.chain(lists).chain(pods).collect()
}
