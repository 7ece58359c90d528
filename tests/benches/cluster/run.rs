//! One cluster: listed, then followed.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use ringfence_ebpf::abi::Addr;
use ringfence_tests::apiserver::ApiServer;
use ringfence_tests::clusters::{Cluster, NODE, count};
use serde_json::Value;

use crate::changes::{Change, Changes};
use crate::kernel::{Kernel, Mark};
use crate::mirror::Mirror;
use crate::node::Node;

/// How long the cluster is followed; RINGFENCE_BENCH_SECONDS says otherwise.
const SECONDS: usize = 60;
/// Pod changes a second.
const RATE: usize = 20;
/// Between two looks at the maps.
const LOOK: Duration = Duration::from_micros(100);
/// After this it is asked whether a later change has overtaken one.
const LATE: Duration = Duration::from_secs(2);

/// What was measured.
pub(crate) struct Measured {
    /// Seconds that each change took that altered the node's entries.
    pub(crate) apply: Vec<f64>,
    /// Resident bytes of the agent, every second.
    pub(crate) memory: Vec<f64>,
    /// Bytes of its maps in the kernel.
    pub(crate) maps: f64,
    /// Seconds from the agent's start.
    pub(crate) first_tables: f64,
}

/// A change that has been told to the double, and what it makes of an entry.
type Told = (Instant, Mark);

pub(crate) fn measure(cluster: Cluster) -> Result<Measured> {
    let counts = count::count(cluster.objects());
    eprintln!("{}: {counts:?}", cluster.name());
    ensure!(counts.is_fair(), "the cluster isn't what it should be");
    let local = |object: &Value| object["kind"] == "Pod" && object["spec"]["nodeName"] == NODE;
    let pods: Vec<Value> = cluster.objects().filter(local).collect();
    let mut node = Node::new(&pods)?;
    let server = node.server()?;
    let (mut mirror, mut changes) = (Mirror::new(), Changes::new());
    for object in cluster.objects() {
        changes.take(&object);
        mirror.take(object.clone())?;
        server.apply_value(object)?;
    }
    let first = mirror.first(pods.len())?;
    changes.keep(|pod| shown(pod).is_some_and(|addr| mirror.is_peer(&addr)));
    ensure!(changes.len() > 200, "{} peers take part", changes.len());
    let (first_tables, kernel) = node.start(&server, &first)?;
    eprintln!("{}: first tables after {first_tables:.2} s", cluster.name());
    thread::sleep(Duration::from_secs(3));

    let mirror = Arc::new(Mutex::new(mirror));
    let (tell, told) = channel();
    let looker = thread::spawn({
        let mirror = Arc::clone(&mirror);
        move || look(&kernel, &told, &mirror)
    });
    let memory = churn(&node, &server, &mirror, &mut changes, &tell);
    drop(tell);
    let seen = looker.join().map_err(|_| anyhow!("the looker panicked"))?;
    let maps = node.maps()?;
    let said = node.said()?;
    let (apply, overtaken) = seen.with_context(|| tail(&said))?;
    let (_, peak) = node.memory()?;
    eprintln!(
        "{}: {} changes timed, {overtaken} overtaken; memory at its peak {peak}",
        cluster.name(),
        apply.len(),
    );
    let (memory, share) = memory?;
    ensure!(
        (0.4..=0.6).contains(&share),
        "{share} of the changes alter entries"
    );
    node.stop()?;
    Ok(Measured {
        apply,
        memory,
        maps,
        first_tables,
    })
}

fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().rev().take(20).collect();
    let lines: Vec<&str> = lines.into_iter().rev().collect();
    format!("the agent's last words:\n{}", lines.join("\n"))
}

fn shown(pod: &Value) -> Option<Addr> {
    let ip: IpAddr = pod["status"]["podIP"].as_str()?.parse().ok()?;
    Some(Addr::from(ip))
}

/// Changes by the clock. Gives the agent's memory every second, and what part of
/// the pod changes altered entries.
fn churn(
    node: &Node,
    server: &ApiServer,
    mirror: &Mutex<Mirror>,
    changes: &mut Changes,
    tell: &Sender<Told>,
) -> Result<(Vec<f64>, f64)> {
    let seconds = match std::env::var("RINGFENCE_BENCH_SECONDS") {
        Ok(seconds) => seconds.parse().context("RINGFENCE_BENCH_SECONDS")?,
        Err(_) => SECONDS,
    };
    let (mut memory, mut altering) = (Vec::new(), 0);
    let start = Instant::now() + Duration::from_millis(100);
    for number in 0..seconds * RATE {
        let change = match number % 2 {
            0 => changes.telling()?,
            _ => changes.idle(number)?,
        };
        let at = start + Duration::from_secs(1) * u32::try_from(number)? / u32::try_from(RATE)?;
        altering += usize::from(make(server, mirror, tell, &change, at)?);
        if number % RATE == RATE / 2 {
            let policy = changes.policy(number)?;
            let half = Duration::from_millis(500) / u32::try_from(RATE)?;
            // Between two pod changes; not timed.
            make(server, mirror, &channel().0, &policy, at + half)?;
            memory.push(node.memory()?.0);
        }
    }
    Ok((memory, altering as f64 / (seconds * RATE) as f64))
}

/// Makes one change at its time; whether it alters an entry.
fn make(
    server: &ApiServer,
    mirror: &Mutex<Mirror>,
    tell: &Sender<Told>,
    change: &Change,
    at: Instant,
) -> Result<bool> {
    let mirror = mirror.lock();
    let mark = mirror
        .unwrap_or_else(PoisonError::into_inner)
        .follow(change)?;
    thread::sleep(at.saturating_duration_since(Instant::now()));
    let now = Instant::now();
    match change {
        Change::Put(object) => drop(server.apply_value(object.clone())?),
        Change::Delete(resource, namespace, name) => server.delete(resource, namespace, name)?,
    }
    if let Some(mark) = mark {
        // Nobody listens to a policy's.
        let _ = tell.send((now, mark));
    }
    Ok(mark.is_some())
}

/// Looks at the maps until each change shows. Gives how long each took, and how
/// many can't be told since a later one has altered the same entry.
fn look(
    kernel: &Kernel,
    told: &Receiver<Told>,
    mirror: &Mutex<Mirror>,
) -> Result<(Vec<f64>, usize)> {
    let (mut took, mut overtaken) = (Vec::new(), 0);
    let mut open: VecDeque<Told> = VecDeque::new();
    loop {
        match told.try_recv() {
            Ok(one) => open.push_back(one),
            Err(TryRecvError::Disconnected) if open.is_empty() => return Ok((took, overtaken)),
            Err(_) => {}
        }
        let mut still = VecDeque::new();
        for (at, mark) in open.drain(..) {
            let shows = kernel.has(&mark)?;
            let waited = at.elapsed();
            if shows {
                took.push(waited.as_secs_f64());
                continue;
            }
            if waited > LATE {
                let mirror = mirror.lock().unwrap_or_else(PoisonError::into_inner);
                ensure!(!mirror.is_current(&mark), "{mark:?} isn't in force");
                overtaken += 1;
                continue;
            }
            still.push_back((at, mark));
        }
        open = still;
        thread::sleep(LOOK);
    }
}
