//! A pod that sends as fast as one core can what policy denies.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::agent::{Manifest, Shop};
use crate::packets::Frame;
use crate::testnet::{Frames, Ns};

/// Frames of one system call.
const BATCH: usize = 256;
/// One of so many is allowed.
const ALLOWED: usize = 64;
/// The port that policy opens to the storm; nobody listens there.
const OPEN: u16 = 9999;
/// The port that it doesn't.
const SHUT: u16 = 9998;

/// What became of a storm's packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Sent and denied by policy.
    pub denied: u64,
    /// Sent and allowed by policy.
    pub allowed: u64,
    /// Dropped, as `/metrics` says.
    pub dropped: u64,
    /// Seen by the pod to which they were sent.
    pub passed: u64,
    /// Lost by the sender's own device, whose queue was full.
    pub lost: u64,
}

/// A storm and what it took.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// What became of its packets.
    pub counts: Counts,
    /// How long it took.
    pub time: Duration,
    /// Time that the sender had on its CPU: less, if others wanted it too.
    pub core: Duration,
    /// Time that the agent's process had on all CPUs meanwhile.
    pub agent: Duration,
    /// Events that the agent was told, and those beyond the endpoint's rate.
    pub events: (u64, u64),
}

impl Storm {
    /// Packets a second.
    pub fn rate(&self) -> f64 {
        self.sent() / self.time.as_secs_f64()
    }

    /// Packets in a second of a core that has nothing else to do.
    pub fn rate_of_core(&self) -> f64 {
        self.sent() / self.core.as_secs_f64()
    }

    fn sent(&self) -> f64 {
        (self.counts.denied + self.counts.allowed) as f64
    }

    /// What part of one core the agent took.
    pub fn agent_share(&self) -> f64 {
        self.agent.as_secs_f64() / self.time.as_secs_f64()
    }
}

/// A network, and the agent on it with its own defaults.
pub struct Weather {
    shop: Shop,
    frames: Frames,
    batch: Vec<Vec<u8>>,
}

impl Weather {
    /// Starts the agent.
    pub fn open() -> Result<Self> {
        let rogue = Shop::rogue()
            .label("ringfence.dev/egress", "enforce")
            .label("egress.ringfence.dev/client", &format!("udp-{OPEN}"));
        let mut shop = Shop::with([Shop::server(), Shop::client(), rogue])?;
        shop.start()?;
        // Before any socket: whatever else the pod gets isn't counted.
        count_arrivals(shop.ns("client")?)?;
        let frames = Frames::open(shop.ns("rogue")?, "eth0")?;
        let batch = batch(&shop)?;
        Ok(Self {
            shop,
            frames,
            batch,
        })
    }

    /// Sends for so long, and counts.
    pub fn storm(&self, time: Duration) -> Result<Storm> {
        let agent = &self.shop.agent;
        let (lost, passed) = (self.lost()?, self.passed()?);
        let (dropped, events) = (self.dropped()?, self.suppressed()?);
        let (busy, start) = (agent.cpu_time()?, Instant::now());
        let ([denied, allowed], core) = self.send(time)?;
        // What is asked of it below is no part of the storm.
        let (took, busy) = (start.elapsed(), agent.cpu_time()? - busy);
        let dropped = self.dropped()? - dropped;
        let suppressed = self.suppressed()? - events;
        Ok(Storm {
            counts: Counts {
                denied,
                allowed,
                dropped,
                passed: self.passed()? - passed,
                lost: self.lost()? - lost,
            },
            time: took,
            core,
            agent: busy,
            events: (dropped.saturating_sub(suppressed), suppressed),
        })
    }

    /// On one CPU; how many denied and allowed ones were sent, and how long the
    /// CPU was this thread's.
    fn send(&self, time: Duration) -> Result<([u64; 2], Duration)> {
        let worker = || {
            let mut one = CpuSet::new();
            one.set(0)?;
            sched_setaffinity(Pid::from_raw(0), &one).context("can't stay on one CPU")?;
            let (start, mut sent) = (Instant::now(), [0; 2]);
            while start.elapsed() < time {
                let count = self.frames.send_many(&self.batch)?;
                // A batch that was cut short begins anew: counted is what was sent.
                let allowed = count.div_ceil(ALLOWED);
                sent[0] += (count - allowed) as u64;
                sent[1] += allowed as u64;
            }
            // Nanoseconds on a CPU come first (Documentation/scheduler/sched-stats.rst).
            let stat = fs::read_to_string("/proc/thread-self/schedstat")?;
            let core = stat.split_whitespace().next().context("no schedstat")?;
            Ok((sent, Duration::from_nanos(core.parse()?)))
        };
        std::thread::scope(|scope| scope.spawn(worker).join().expect("it doesn't panic"))
    }

    fn dropped(&self) -> Result<u64> {
        self.shop.agent.dropped("rogue", "server")
    }

    fn suppressed(&self) -> Result<u64> {
        let name = "ringfence_events_suppressed_total";
        Ok(self.shop.agent.metric(name)? as u64)
    }

    /// Packets that nftables has seen in the pod that is allowed.
    fn passed(&self) -> Result<u64> {
        let list = ["list", "counter", "ip", "storm", "arrived"];
        let text = self.shop.ns("client")?.output("nft", &list)?;
        let mut words = text.split_whitespace();
        words.find(|word| *word == "packets");
        let count = words.next().context("no counter in what nft lists")?;
        Ok(count.parse()?)
    }

    fn lost(&self) -> Result<u64> {
        lost_in_sending(self.shop.ns("rogue")?)
    }
}

/// What a pod's own device says it has dropped in sending.
pub fn lost_in_sending(pod: &Ns) -> Result<u64> {
    let read = || fs::read_to_string("/proc/thread-self/net/dev");
    let text = pod.run(read)??;
    let line = text.lines().find_map(|l| l.trim().strip_prefix("eth0:"));
    // Eight fields of what came in; then bytes, packets, errors, dropped.
    let field = line.and_then(|line| line.split_whitespace().nth(11));
    Ok(field.context("no eth0 in /proc/net/dev")?.parse()?)
}

/// The storm's packets, and no others, are counted and go no further: nobody
/// answers them.
fn count_arrivals(ns: &Ns) -> Result<()> {
    for line in [
        "add table ip storm",
        "add counter ip storm arrived",
        "add chain ip storm in { type filter hook prerouting priority -300; }",
        &format!("add rule ip storm in udp dport {OPEN} counter name arrived drop"),
    ] {
        ns.output("nft", &[line])?;
    }
    Ok(())
}

/// The first of every [`ALLOWED`] is allowed.
fn batch(shop: &Shop) -> Result<Vec<Vec<u8>>> {
    let (rogue, gateway) = {
        let pod = shop.net.pod("rogue")?;
        (pod.mac, pod.host_mac)
    };
    let own = IpAddr::from(Shop::rogue().v4());
    let frame = |pod: &Manifest, port: u16, source: usize| {
        let ports = ((own, 40_000 + source as u16), (pod.v4().into(), port));
        let frame = Frame::udp(ports.0, ports.1);
        let frame = frame.with(|f| (f.source_mac, f.destination_mac) = (rogue, gateway));
        frame.bytes()
    };
    let (server, client) = (Shop::server(), Shop::client());
    ensure!(BATCH.is_multiple_of(ALLOWED), "a batch holds whole shares");
    let all = (0..BATCH).map(|i| match i % ALLOWED {
        0 => frame(&client, OPEN, i),
        _ => frame(&server, SHUT, i),
    });
    Ok(all.collect())
}
