//! The agent is killed and another one takes over, under traffic.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::expected::Expected;
use super::report::{compare, fine};
use super::stage::{POD_PORT, Stage};
use super::{counters, traffic};
use crate::testnet::{Ns, Probe, probe_tcp};

/// Pause between two messages on an open connection.
const PAUSE: Duration = Duration::from_millis(2);
/// Without an answer for this long, a packet counts as lost: TCP retransmits after
/// 200 ms at the earliest.
const LOST: Duration = Duration::from_secs(1);

/// Results of the traffic, from before the agent dies until after the takeover.
#[derive(Default)]
struct Witness {
    stop: AtomicBool,
    echoes: AtomicU64,
    denied: AtomicU64,
    allowed: AtomicU64,
}

/// Kills the agent, compares all traffic with the table, starts another agent and
/// compares again. Meanwhile open connections must not lose a packet.
pub(super) fn run(stage: &mut Stage, expected: &Expected) -> Result<()> {
    let witness = Witness::default();
    let pods = ["service-account-1", "service-ledger-1"];
    let pods: Vec<Ns> = pods
        .map(|pod| stage.ns(pod).cloned())
        .into_iter()
        .collect::<Result<_>>()?;
    let before = retransmitted(&pods)?;
    let scenes = Scenes::new(stage)?;
    let result = thread::scope(|scope| {
        let threads = [
            scope.spawn(|| scenes.converse(&witness, true)),
            scope.spawn(|| scenes.converse(&witness, false)),
            scope.spawn(|| scenes.try_denied(&witness)),
            scope.spawn(|| scenes.try_allowed(&witness)),
        ];
        let played = play(stage, expected);
        witness.stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a witness panicked"))??;
        }
        played
    });
    result?;
    let lost = retransmitted(&pods)? - before;
    ensure!(lost == 0, "{lost} TCP segments had to be sent again");
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    fine(&format!(
        "meanwhile {} words and their echoes on open connections, {} new connections allowed, \
         {} denied; no packet lost, none let through",
        count(&witness.echoes),
        count(&witness.allowed),
        count(&witness.denied)
    ));
    Ok(())
}

fn play(stage: &mut Stage, expected: &Expected) -> Result<()> {
    let counted = counters::read(stage)?;
    stage.kill_agent()?;
    agrees(stage, expected, "with the agent dead")?;
    let start = Instant::now();
    stage.start_agent()?;
    fine(&format!(
        "another agent took over in {} ms",
        start.elapsed().as_millis()
    ));
    agrees(stage, expected, "under the new agent")?;
    let kept = counters::read(stage)?;
    for (series, packets) in counted {
        let now = kept.get(&series).copied().unwrap_or_default();
        ensure!(
            now >= packets,
            "the counter of {series:?} fell from {packets} to {now}"
        );
    }
    fine("every drop counter is as it was, or higher");
    Ok(())
}

fn agrees(stage: &Stage, expected: &Expected, when: &str) -> Result<()> {
    let seen = traffic::try_all(stage, expected)?;
    if traffic::differing(expected, &seen) > 0 {
        compare(expected, &seen);
        anyhow::bail!("{when}, traffic differs from what is expected");
    }
    fine(&format!(
        "{when}: denied stays denied, allowed stays allowed"
    ));
    Ok(())
}

/// The callers and callees during the takeover.
struct Scenes {
    account: Ns,
    rogue: Ns,
    edge: Ns,
    ledger: [SocketAddr; 2],
    accounts: SocketAddr,
}

impl Scenes {
    fn new(stage: &Stage) -> Result<Self> {
        let address = |pod: &str, v4: bool| -> Result<SocketAddr> {
            Ok(SocketAddr::new(
                stage.cluster.pod(pod)?.address(v4)?,
                POD_PORT,
            ))
        };
        Ok(Self {
            account: stage.ns("service-account-1")?.clone(),
            rogue: stage.ns("rogue-1")?.clone(),
            edge: stage.ns("edge-proxy-1")?.clone(),
            ledger: [
                address("service-ledger-1", true)?,
                address("service-ledger-1", false)?,
            ],
            accounts: address("service-api-accounts-1", true)?,
        })
    }

    /// Keeps one connection from service.account to the ledger open the whole time.
    fn converse(&self, witness: &Witness, v4: bool) -> Result<()> {
        let to = self.ledger[usize::from(!v4)];
        let mut stream = self
            .account
            .run(|| TcpStream::connect_timeout(&to, LOST))?
            .context("service.account can't call the ledger")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOST))?;
        let mut banner = [0; "service-ledger-1\n".len()];
        stream
            .read_exact(&mut banner)
            .context("the ledger is silent")?;
        while !witness.stop.load(Ordering::Relaxed) {
            let mut word = *b"word";
            stream.write_all(&word)?;
            stream
                .read_exact(&mut word)
                .context("a word on an open connection was lost")?;
            witness.echoes.fetch_add(1, Ordering::Relaxed);
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Tries to connect from the rogue to the ledger, which must stay denied.
    fn try_denied(&self, witness: &Witness) -> Result<()> {
        let patience = Duration::from_millis(100);
        while !witness.stop.load(Ordering::Relaxed) {
            let to = self.ledger[0];
            let probe = probe_tcp(&self.rogue, to.ip(), to.port(), patience)?;
            ensure!(
                probe == Probe::TimedOut,
                "rogue to ledger, under takeover: {probe}"
            );
            witness.denied.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Opens new connections from the edge, which must stay allowed.
    fn try_allowed(&self, witness: &Witness) -> Result<()> {
        while !witness.stop.load(Ordering::Relaxed) {
            let probe = probe_tcp(&self.edge, self.accounts.ip(), self.accounts.port(), LOST)?;
            ensure!(
                probe == Probe::Open,
                "edge to api.accounts, under takeover: {probe}"
            );
            witness.allowed.fetch_add(1, Ordering::Relaxed);
            thread::sleep(5 * PAUSE);
        }
        Ok(())
    }
}

/// Returns the number of retransmitted TCP segments, summed over namespaces.
fn retransmitted(namespaces: &[Ns]) -> Result<u64> {
    let mut sum = 0;
    for ns in namespaces {
        let text = ns.run(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
        let (head, values) = lines
            .next()
            .zip(lines.next())
            .context("no Tcp line in snmp")?;
        let mut fields = head.split_whitespace().zip(values.split_whitespace());
        let field = fields.find(|(name, _)| *name == "RetransSegs");
        sum += field.context("no RetransSegs in snmp")?.1.parse::<u64>()?;
    }
    Ok(sum)
}
