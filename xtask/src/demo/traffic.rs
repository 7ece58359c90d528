//! Real connections between all callers and callees at once, and the table of results.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::expected::Expected;
use super::stage::{DATABASE, DATABASE_PORT, DNS, DNS_PORT, POD_PORT, Stage};
use crate::testnet::{Ns, Probe, call_tcp};

/// Timeout of calls expected to be denied. It ends before the first retransmission, a
/// second later, so that a dropped attempt is exactly one packet.
const DENIED: Duration = Duration::from_millis(300);
/// Timeout of calls expected to be allowed, which may be late on a busy machine.
const ALLOWED: Duration = Duration::from_secs(3);

/// The result of each call, by caller and callee, over IPv4 and over IPv6:
/// `.` answered, `X` no answer, any other character is neither.
pub(super) type Seen = BTreeMap<(String, String), [char; 2]>;

/// One call to make.
#[derive(Clone, Debug)]
pub(super) struct Call {
    from: String,
    to: String,
    v4: bool,
    ns: Ns,
    address: SocketAddr,
    /// The banner that the callee sends.
    banner: String,
    timeout: Duration,
}

impl Call {
    /// Creates a call over one address family; `expected` determines its timeout.
    pub(super) fn new(
        stage: &Stage,
        from: &str,
        to: &str,
        v4: bool,
        expected: char,
    ) -> Result<Self> {
        Ok(Self {
            from: from.to_owned(),
            to: to.to_owned(),
            v4,
            ns: stage.ns(from)?.clone(),
            address: address(stage, from, to, v4)?,
            banner: to.to_owned(),
            timeout: if expected == '.' { ALLOWED } else { DENIED },
        })
    }

    /// Makes the call and returns its result.
    pub(super) fn make(&self) -> Result<char> {
        Ok(
            match call_tcp(&self.ns, None, self.address, self.timeout)? {
                Ok(banner) if banner == self.banner => '.',
                // A different server answered.
                Ok(_) => '?',
                Err(Probe::TimedOut) => 'X',
                Err(Probe::Refused) => 'R',
                Err(Probe::Unreachable) => 'U',
                Err(Probe::Open) => '?',
            },
        )
    }
}

/// Makes every call of the table except those marked `-`.
pub(super) fn try_all(stage: &Stage, expected: &Expected) -> Result<Seen> {
    let mut calls = Vec::new();
    for from in &expected.callers {
        for to in &expected.callees {
            for (v4, cell) in [true, false].into_iter().zip(expected.cell(from, to)) {
                if cell != '-' {
                    calls.push(Call::new(stage, from, to, v4, cell)?);
                }
            }
        }
    }
    let results: Vec<Result<char>> = thread::scope(|scope| {
        let threads: Vec<_> = calls
            .iter()
            .map(|call| scope.spawn(|| call.make()))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<char>>| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a caller panicked")))
        };
        threads.into_iter().map(join).collect()
    });
    let mut seen = Seen::new();
    for (call, result) in calls.iter().zip(results) {
        let cell = seen
            .entry((call.from.clone(), call.to.clone()))
            .or_insert(['-'; 2]);
        cell[usize::from(!call.v4)] = result?;
    }
    Ok(seen)
}

/// Counts the pairs whose results differ from the table.
pub(super) fn differing(expected: &Expected, seen: &Seen) -> usize {
    let differs = |from: &String, to: &String| {
        let cell = seen
            .get(&(from.clone(), to.clone()))
            .copied()
            .unwrap_or(['-'; 2]);
        cell != expected.cell(from, to)
    };
    let wrong = |from| {
        expected
            .callees
            .iter()
            .filter(move |to| differs(from, to))
            .count()
    };
    expected.callers.iter().map(wrong).sum()
}

/// Returns the address at which a caller reaches a callee: the NodePort for callers
/// outside if there is one, else the callee's own address.
fn address(stage: &Stage, from: &str, to: &str, v4: bool) -> Result<SocketAddr> {
    if to == "database" {
        let address: IpAddr = DATABASE[usize::from(!v4)];
        return Ok(SocketAddr::new(address, DATABASE_PORT));
    }
    if to == "dns" {
        return Ok(SocketAddr::new(DNS, DNS_PORT));
    }
    if from == "outside"
        && let Some(port) = stage.cluster.node_port(to)
        && let Some(node) = stage.net.node_address(v4)
    {
        return Ok(SocketAddr::new(node, port.port));
    }
    Ok(SocketAddr::new(
        stage.cluster.pod(to)?.address(v4)?,
        POD_PORT,
    ))
}
