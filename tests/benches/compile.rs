//! From parsed objects to tables, and one pod's relabelling; started by
//! `cargo xtask bench compile`, which prints what this measures.
//!
//! `compile_memory.rs` has the bytes: an allocator that counts would slow this.

mod common;

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use ringfence_policy::config::Config;
use ringfence_policy::index::Index;
use ringfence_policy::model::{Object, Parsed, Pod};
use ringfence_tests::clusters::{Cluster, NODE, count};
use ringfence_tests::random::Dice;
use serde_json::{Value, json};

use ringfence_policy::compile::Compiler;
use ringfence_policy::model::{Kind, ObjectKey};

/// As the agent has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Relabellings measured.
const RELABELLINGS: usize = 2000;
/// Relabellings of this node's own pods: they change what is enforced here.
const LOCAL_RELABELLINGS: usize = 300;
/// How often a block over all addresses comes and goes.
const BLOCKS: usize = 5;

fn main() -> Result<()> {
    common::run(|cluster| {
        check(cluster)?;
        let mut rows = times(cluster)?;
        rows.extend(relabelling(cluster)?);
        rows.push(whole_block(cluster)?);
        Ok(rows)
    })
}

/// A figure of a cluster that isn't what it says is worth nothing.
fn check(cluster: Cluster) -> Result<()> {
    let counts = count::count(cluster.objects());
    if !counts.is_fair() {
        bail!("{} isn't what it should be: {counts:?}", cluster.name());
    }
    eprintln!("{}: {counts:?}", cluster.name());
    Ok(())
}

fn samples(cluster: Cluster) -> usize {
    if cluster == Cluster::Huge { 3 } else { 5 }
}

/// Seconds that the first tables may take.
fn time_target(cluster: Cluster) -> f64 {
    match cluster {
        Cluster::Mesh => 0.2,
        Cluster::Dense => 1.0,
        Cluster::Huge | Cluster::Wide => 3.0,
    }
}

/// The first tables, and merely storing the objects by their keys.
fn times(cluster: Cluster) -> Result<Vec<Value>> {
    let name = cluster.name();
    let objects: Vec<Object> = common::parsed(cluster).collect::<Result<_>>()?;
    let (mut floor, mut time) = (Vec::new(), Vec::new());
    for _ in 0..samples(cluster) {
        let own = objects.clone();
        let start = Instant::now();
        let stored = common::stored(own);
        floor.push(start.elapsed().as_secs_f64());
        drop(black_box(stored));

        let own = objects.clone();
        let start = Instant::now();
        let mut index = Index::new(Config::default());
        own.into_iter().for_each(|object| index.apply(object));
        let mut compiler = Compiler::new(common::scope());
        compiler.update(&mut index);
        time.push(start.elapsed().as_secs_f64());
        common::expect_local_pods(&compiler)?;
    }
    let stored = format!("{name}-floor");
    Ok(vec![
        json!({
            "case": name, "variant": "time", "unit": "s", "samples": time,
            "against": stored, "target": time_target(cluster),
        }),
        json!({"case": stored, "variant": "time", "unit": "s", "samples": floor}),
    ])
}

/// One pod after the other gets other labels; the tables follow each. First any
/// pod of the cluster, then pods of this node.
fn relabelling(cluster: Cluster) -> Result<Vec<Value>> {
    let mut objects: Vec<Object> = common::parsed(cluster).collect::<Result<_>>()?;
    let mut index = Index::new(Config::default());
    for object in &objects {
        index.apply(object.clone());
    }
    let mut compiler = Compiler::new(common::scope());
    compiler.update(&mut index);

    let mut relabeller = Relabeller::new(&objects);
    let mut rows = Vec::new();
    for (variant, count, local) in [
        ("relabel_p99", RELABELLINGS, false),
        ("relabel_local_p99", LOCAL_RELABELLINGS, true),
    ] {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let pod = relabeller.next(&mut objects, local)?;
            let start = Instant::now();
            index.apply(pod);
            compiler.update(&mut index);
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let p99 = times[(times.len() * 99).div_ceil(100) - 1];
        let target = (cluster == Cluster::Huge && !local).then_some(0.001);
        rows.push(json!({
            "case": cluster.name(), "variant": variant, "unit": "s", "samples": [p99],
            "target": target,
        }));
    }
    expect_fresh(&compiler, objects)?;
    Ok(rows)
}

/// A policy for pods of this node that lets them call any address comes and goes:
/// the class of each pod that another peer in use names is another one then.
fn whole_block(cluster: Cluster) -> Result<Value> {
    let mut objects: Vec<Object> = common::parsed(cluster).collect::<Result<_>>()?;
    let is_local =
        |o: &&Object| matches!(o, Object::Pod(p) if p.spec.node_name.as_deref() == Some(NODE));
    let pod = objects.iter().find(is_local).context("no pod here")?.meta();
    let (namespace, labels) = (pod.namespace.clone(), pod.labels.clone());
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "any-address", "namespace": namespace},
        "spec": {
            "podSelector": {"matchLabels": labels}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}],
        },
    });
    let Parsed::Object(policy) = Object::from_value(policy)? else {
        bail!("the policy is ignored");
    };
    let mut index = Index::new(Config::default());
    for object in &objects {
        index.apply(object.clone());
    }
    let mut compiler = Compiler::new(common::scope());
    compiler.update(&mut index);
    let mut times = Vec::new();
    for number in 0..=2 * BLOCKS {
        let start = Instant::now();
        match number % 2 {
            0 => index.apply((*policy).clone()),
            _ => index.delete(&ObjectKey::new(
                Kind::NetworkPolicy,
                &namespace,
                "any-address",
            )),
        }
        compiler.update(&mut index);
        times.push(start.elapsed().as_secs_f64());
    }
    objects.push(*policy);
    expect_fresh(&compiler, objects)?;
    Ok(json!({"case": cluster.name(), "variant": "whole_block", "unit": "s", "samples": times}))
}

/// What was changed step by step equals what is compiled from scratch.
fn expect_fresh(compiler: &Compiler, objects: Vec<Object>) -> Result<()> {
    let mut index = Index::new(Config::default());
    objects.into_iter().for_each(|object| index.apply(object));
    let mut fresh = Compiler::new(common::scope());
    fresh.update(&mut index);
    if fresh.tables() != compiler.tables() {
        bail!("after the changes the tables aren't those compiled from scratch");
    }
    Ok(())
}

struct Relabeller {
    dice: Dice,
    pods: Vec<usize>,
    local: Vec<usize>,
}

impl Relabeller {
    fn new(objects: &[Object]) -> Self {
        let numbers = |wanted: &dyn Fn(&Pod) -> bool| {
            let all = objects.iter().enumerate();
            all.filter(|(_, o)| matches!(o, Object::Pod(pod) if wanted(pod)))
                .map(|(n, _)| n)
                .collect()
        };
        Self {
            dice: Dice::new(1),
            pods: numbers(&|_| true),
            local: numbers(&|pod| pod.spec.node_name.as_deref() == Some(NODE)),
        }
    }

    /// Changes one pod among the objects: another value of one label, or all
    /// labels of another pod.
    fn next(&mut self, objects: &mut [Object], local: bool) -> Result<Object> {
        let among = if local { &self.local } else { &self.pods };
        let number = *self.dice.choose(among);
        let other = *self.dice.choose(&self.pods);
        let labels = if self.dice.chance(50) {
            objects[other].meta().labels.clone()
        } else {
            let mut labels = objects[number].meta().labels.clone();
            let version = format!("v{}", self.dice.between(1, 9));
            labels.insert("version".to_owned(), version);
            labels
        };
        let Object::Pod(pod) = &mut objects[number] else {
            bail!("object {number} is no pod");
        };
        pod.metadata.labels = labels;
        Ok(objects[number].clone())
    }
}
