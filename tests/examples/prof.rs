use std::time::Duration;
struct Instant(Duration); impl Instant { fn now() -> Self { Self(nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()) } fn elapsed(&self) -> Duration { Self::now().0 - self.0 } }
use ringfence_policy::{compile::Compiler, config::Config, index::{Index, Scope}, model::Object};
use ringfence_tests::clusters::{Cluster, NODE};
use ringfence_tests::random::Dice;
fn main() {
    let which = std::env::args().nth(1).unwrap();
    let cluster = match which.as_str() { "mesh" => Cluster::Mesh, "dense" => Cluster::Dense, _ => Cluster::Huge };
    let mut objects: Vec<Object> = cluster.parsed().map(|o| o.unwrap()).collect();
    let n: usize = std::env::args().nth(2).map_or(1, |n| n.parse().unwrap());
    let mut last = None;
    for _ in 0..n {
    let own = objects.clone();
    let t = Instant::now();
    let mut index = Index::new(Config::default());
    for o in own { index.apply(o); }
    eprintln!("apply {:?}", t.elapsed());
    let t = Instant::now();
    let mut c = Compiler::new(Scope::Node(NODE.into()));
    c.update(&mut index);
    eprintln!("compile {:?} classes {} cidrs {} rules {} ports {} ends {}", t.elapsed(), c.tables().classes.len(), c.tables().cidrs.len(), c.tables().rules.len(), c.tables().ports.len(), c.tables().endpoints.len());
    last = Some((index, c));
    }
    let (mut index, mut c) = last.unwrap();
    let m: usize = std::env::args().nth(3).map_or(0, |n| n.parse().unwrap());
    let mut dice = Dice::new(1);
    let pods: Vec<usize> = (0..objects.len()).filter(|i| matches!(&objects[*i], Object::Pod(_))).collect();
    let local: Vec<usize> = pods.iter().copied().filter(|i| matches!(&objects[*i], Object::Pod(p) if p.spec.node_name.as_deref()==Some(NODE))).collect();
    let mut t1 = vec![]; let mut t2 = vec![];
    for round in 0..m {
        let is_local = round % 10 == 0;
        let number = *dice.choose(if is_local {&local} else {&pods});
        let other = *dice.choose(&pods);
        let mut labels = if dice.chance(50) { objects[other].meta().labels.clone() } else { objects[number].meta().labels.clone() };
        labels.insert("version".into(), format!("v{}", dice.between(1,9)));
        let Object::Pod(pod) = &mut objects[number] else { panic!() };
        pod.metadata.labels = labels;
        let o = objects[number].clone();
        let t = Instant::now();
        index.apply(o); c.update(&mut index);
        if is_local { t1.push(t.elapsed()) } else { t2.push(t.elapsed()) }
    }
    for (n, t) in [("local", &mut t1), ("remote", &mut t2)] { t.sort(); if !t.is_empty() { eprintln!("{n}: p50 {:?} p90 {:?} p99 {:?} max {:?}", t[t.len()/2], t[t.len()*9/10], t[t.len()*99/100], t.last().unwrap()); } }
}
