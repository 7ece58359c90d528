//! Compares drop counters with the packets that were sent.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::expected::Expected;
use super::report::fine;
use super::stage::{POD_PORT, Stage};
use crate::testnet::{Probe, probe_tcp, send_udp};

/// Packets by (source, destination, direction, reason, protocol).
pub(super) type Drops = BTreeMap<[String; 5], u64>;

/// Datagrams that the rogue sends over each family.
const DATAGRAMS: u32 = 5_000;
/// Connections that the rogue attempts over each family.
const CONNECTIONS: u32 = 5;

/// Reads the agent's drop counters, without audited packets.
pub(super) fn read(stage: &Stage) -> Result<Drops> {
    let rows = stage.ringfence_json(&["drops"])?;
    let mut drops = Drops::new();
    for row in rows.as_array().into_iter().flatten() {
        if row["audited"] != Value::Bool(true) {
            let key = ["source", "destination", "direction", "reason", "protocol"];
            let key = key.map(|name| row[name].as_str().unwrap_or_default().to_owned());
            *drops.entry(key).or_default() += row["packets"].as_u64().unwrap_or_default();
        }
    }
    Ok(drops)
}

/// Returns the increase between two readings.
fn added(before: &Drops, after: &Drops) -> Drops {
    let since = |(key, packets): (&[String; 5], &u64)| {
        let more = packets - before.get(key).copied().unwrap_or_default().min(*packets);
        (key.clone(), more)
    };
    after
        .iter()
        .map(since)
        .filter(|(_, packets)| *packets > 0)
        .collect()
}

/// Checks that each denied call of the table, one SYN over its family, is counted once,
/// for its pair of services.
pub(super) fn agree_with_table(stage: &Stage, expected: &Expected, before: &Drops) -> Result<()> {
    let mut sent: BTreeMap<(String, String), u64> = BTreeMap::new();
    for from in &expected.callers {
        for to in &expected.callees {
            let cell = expected.cell(from, to);
            let denied = cell.iter().filter(|family| **family == 'X').count();
            if denied > 0 {
                *sent
                    .entry((workload(stage, from), workload(stage, to)))
                    .or_default() += denied as u64;
            }
        }
    }
    let mut counted: BTreeMap<(String, String), u64> = BTreeMap::new();
    for ([source, destination, _, _, protocol], packets) in added(before, &read(stage)?) {
        if protocol == "tcp" {
            // A masqueraded client has the node's address.
            let source = if source == "node" {
                "outside".to_owned()
            } else {
                source
            };
            *counted.entry((source, destination)).or_default() += packets;
        }
    }
    for (pair, packets) in &sent {
        let seen = counted.get(pair).copied().unwrap_or_default();
        ensure!(
            seen == *packets,
            "{} to {}: {packets} packets sent and denied, {seen} counted",
            pair.0,
            pair.1
        );
    }
    let (sent, counted): (u64, u64) = (sent.values().sum(), counted.values().sum());
    ensure!(
        sent == counted,
        "{sent} TCP packets were denied, {counted} counted"
    );
    fine(&format!(
        "{counted} denied packets of the table above, each counted for its pair"
    ));
    Ok(())
}

/// Sends a known number of packets from the rogue to the ledger and checks the counters.
pub(super) fn agree_with_a_flood(stage: &Stage) -> Result<()> {
    let (rogue, ledger) = (
        stage.cluster.pod("rogue-1")?,
        stage.cluster.pod("service-ledger-1")?,
    );
    let before = read(stage)?;
    for v4 in [true, false] {
        let (ns, to) = (stage.ns("rogue-1")?, ledger.address(v4)?);
        send_udp(ns, to, POD_PORT, DATAGRAMS, 64)?;
        for _ in 0..CONNECTIONS {
            let probe = probe_tcp(ns, to, POD_PORT, Duration::from_millis(100))?;
            ensure!(probe == Probe::TimedOut, "rogue to ledger: {probe}");
        }
    }
    let counted = added(&before, &read(stage)?);
    for (protocol, sent) in [("udp", 2 * DATAGRAMS), ("tcp", 2 * CONNECTIONS)] {
        let pair = [
            &rogue.workload(),
            &ledger.workload(),
            "ingress",
            "policy",
            protocol,
        ];
        let pair = pair.map(str::to_owned);
        let seen = counted.get(&pair).copied().unwrap_or_default();
        ensure!(
            seen == u64::from(sent),
            "{}: {sent} sent, {seen} counted",
            pair.join(" ")
        );
        fine(&format!(
            "{sent} {protocol} packets from {} to {}: {seen} counted",
            pair[0], pair[1]
        ));
    }
    Ok(())
}

/// Returns the name in counters of a caller or callee of the table.
fn workload(stage: &Stage, name: &str) -> String {
    match stage.cluster.pod(name) {
        Ok(pod) => pod.workload(),
        Err(_) => "outside".to_owned(),
    }
}
