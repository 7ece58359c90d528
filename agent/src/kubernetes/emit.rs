//! Kubernetes Events on callers' pods about dropped packets: the only thing that the agent writes
//! to the API server, and only if enabled (`--emit-events`).
//!
//! Denials are aggregated by caller, callee, port and reason. Each sum is reported once in a while,
//! and a node writes a limited number of Events: an Event is a hint for a person, and uses storage
//! of the API server. Exact counters are elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::Request;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use ringfence_policy::index::PodKey;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Access;
use crate::datapath::EventRecord;
use crate::failure;

/// How long denials of one kind are aggregated before they are reported.
const GATHER: Duration = Duration::from_secs(5);
/// Minimum interval between two reports of the same denial.
const AGAIN: Duration = Duration::from_secs(300);
/// Maximum number of Events that one node writes per minute.
const A_MINUTE: usize = 30;
/// Maximum number of sums; denials beyond that aren't reported.
const MOST: usize = 1024;
/// Interval between two checks for due reports.
const TICK: Duration = Duration::from_secs(1);

/// A denial, reduced to what matters to its reader.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Denial {
    /// The caller.
    pub source: IpAddr,
    /// The callee's workload.
    pub destination: String,
    /// The destination port.
    pub port: u16,
    /// The IP protocol.
    pub protocol: &'static str,
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// The reason.
    pub reason: &'static str,
    /// Whether the packet passed all the same.
    pub audited: bool,
}

#[derive(Debug)]
struct Sum {
    packets: u64,
    since: Instant,
    told: Option<Instant>,
}

/// An Event to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// The caller's pod.
    pub pod: PodKey,
    /// What was denied.
    pub denial: Denial,
    /// Number of packets reported since the last Event for this denial.
    pub packets: u64,
}

/// Aggregates denials until they are reported.
#[derive(Debug, Default)]
pub struct Emitter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sums: BTreeMap<Denial, Sum>,
    /// Addresses whose pods have to be looked up.
    asked: BTreeSet<IpAddr>,
    /// The pods found, by address; none if there is no pod at an address.
    pods: BTreeMap<IpAddr, Option<PodKey>>,
    /// Times of the Events written in the last minute.
    made: Vec<Instant>,
}

impl Emitter {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a packet that was denied, or would have been.
    pub fn note(&self, record: &EventRecord, now: Instant) {
        let denial = Denial {
            source: record.source_address,
            destination: record.destination.clone(),
            port: record.destination_port,
            protocol: record.protocol,
            direction: record.direction,
            reason: record.reason,
            audited: record.audited,
        };
        let mut state = self.state();
        if state.sums.len() >= MOST && !state.sums.contains_key(&denial) {
            return;
        }
        let fresh = Sum {
            packets: 0,
            since: now,
            told: None,
        };
        let sum = state.sums.entry(denial).or_insert(fresh);
        if sum.packets == 0 {
            sum.since = now;
        }
        sum.packets += 1;
    }

    /// Looks up the pods of the pending addresses.
    pub fn answer(&self, pod_at: impl Fn(IpAddr) -> Option<PodKey>) {
        let mut state = self.state();
        for ip in std::mem::take(&mut state.asked) {
            state.pods.insert(ip, pod_at(ip));
        }
    }

    /// Returns the reports that are due.
    pub fn due(&self, now: Instant) -> Vec<Draft> {
        let mut state = self.state();
        let State {
            sums,
            asked,
            pods,
            made,
        } = &mut *state;
        made.retain(|at| now.duration_since(*at) < Duration::from_secs(60));
        let mut drafts = Vec::new();
        sums.retain(|denial, sum| {
            let rests = sum.told.is_some_and(|at| now.duration_since(at) < AGAIN);
            if sum.packets == 0 || rests {
                return rests;
            }
            if now.duration_since(sum.since) < GATHER || made.len() >= A_MINUTE {
                return true;
            }
            match pods.get(&denial.source) {
                None => {
                    asked.insert(denial.source);
                    true
                }
                // No pod has the address, or one of another cluster.
                Some(None) => false,
                Some(Some(pod)) => {
                    drafts.push(Draft {
                        pod: pod.clone(),
                        denial: denial.clone(),
                        packets: std::mem::take(&mut sum.packets),
                    });
                    sum.told = Some(now);
                    made.push(now);
                    true
                }
            }
        });
        // The address may belong to another pod the next time.
        pods.clear();
        drafts
    }
}

/// Writes due Events, forever.
pub async fn run(emitter: Arc<Emitter>, access: Access, node: String) {
    let mut client = None;
    loop {
        sleep(TICK).await;
        for draft in emitter.due(Instant::now()) {
            if let Err(error) = write(&mut client, &access, &draft, &node).await {
                tracing::warn!("can't write an Event: {}", failure::one_line(&error));
                // The next attempt reads the credentials again.
                client = None;
            }
        }
    }
}

async fn write(
    client: &mut Option<Client>,
    access: &Access,
    draft: &Draft,
    node: &str,
) -> anyhow::Result<()> {
    let client = match client {
        Some(client) => client,
        none => none.insert(access.client().await?),
    };
    let event = event(draft, node, Timestamp::now());
    let namespace = &draft.pod.namespace;
    let request = Request::post(format!(
        "/apis/events.k8s.io/v1/namespaces/{namespace}/events"
    ))
    .header(http::header::CONTENT_TYPE, "application/json")
    .body(serde_json::to_vec(&event)?)?;
    client.request::<Value>(request).await?;
    Ok(())
}

/// Builds the Event, as shown by `kubectl describe pod`.
fn event(draft: &Draft, node: &str, now: Timestamp) -> Value {
    let Draft {
        pod,
        denial,
        packets,
    } = draft;
    let Denial {
        destination,
        port,
        protocol,
        direction,
        reason,
        ..
    } = denial;
    let (done, word) = match denial.audited {
        true => ("would be dropped by staged policy", "CallAudited"),
        false => ("dropped", "CallDropped"),
    };
    let protocol = protocol.to_uppercase();
    let to = match port {
        0 => format!("{destination} {protocol}"),
        port => format!("{destination} {protocol}/{port}"),
    };
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": event_name(&pod.name, now),
            "namespace": pod.namespace,
        },
        "eventTime": format!("{now:.6}"),
        "type": "Warning",
        "reason": word,
        "action": "Call",
        "note": format!("{packets} packets to {to} {done} ({direction}: {reason})"),
        "reportingController": "ringfence.dev/agent",
        "reportingInstance": node,
        "regarding": {
            "apiVersion": "v1", "kind": "Pod",
            "namespace": pod.namespace, "name": pod.name, "uid": pod.uid,
        },
    })
}

/// Returns the pod's name, truncated if necessary, with a number appended: at most 253 characters,
/// like the name of any object.
fn event_name(pod: &str, now: Timestamp) -> String {
    let number = format!(".{:x}", now.as_nanosecond());
    let room = 253 - number.len();
    // Names are ASCII. A truncated name must end in a letter or a digit.
    let begin = pod.get(..room).unwrap_or(pod);
    format!("{}{number}", begin.trim_end_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(source: &str, port: u16) -> EventRecord {
        EventRecord {
            time: 0,
            source: "shop/rogue".into(),
            destination: "shop/server".into(),
            source_address: source.parse().unwrap(),
            destination_address: [10, 0, 0, 9].into(),
            source_port: 4000,
            destination_port: port,
            protocol: "tcp",
            direction: "ingress",
            reason: "policy",
            audited: false,
            len: 60,
            detail: 2,
        }
    }

    fn pod(_: IpAddr) -> Option<PodKey> {
        Some(PodKey {
            namespace: "shop".into(),
            name: "rogue".into(),
            uid: "u".into(),
        })
    }

    /// Returns what is reported at this second, once the caller's pod is known.
    fn told(emitter: &Emitter, start: Instant, seconds: u64) -> Vec<u64> {
        let now = start + Duration::from_secs(seconds);
        let mut drafts = emitter.due(now);
        emitter.answer(pod);
        drafts.extend(emitter.due(now));
        drafts.iter().map(|draft| draft.packets).collect()
    }

    #[test]
    fn denials_are_summed_up_and_told_again_only_after_a_while() {
        let (emitter, start) = (Emitter::default(), Instant::now());
        (0..7).for_each(|_| emitter.note(&record("10.0.0.1", 80), start));
        assert_eq!(told(&emitter, start, 1), [0; 0], "still gathered");
        assert_eq!(told(&emitter, start, 6), [7]);
        emitter.note(&record("10.0.0.1", 80), start + Duration::from_secs(7));
        assert_eq!(told(&emitter, start, 60), [0; 0]);
        assert_eq!(told(&emitter, start, 310), [1]);
        assert_eq!(told(&emitter, start, 700), [0; 0]);
        assert!(emitter.state().sums.is_empty(), "forgotten");
    }

    #[test]
    fn a_node_tells_only_so_many_a_minute_and_keeps_only_so_many() {
        let (emitter, start) = (Emitter::default(), Instant::now());
        for port in 0..2000 {
            emitter.note(&record("10.0.0.1", port), start);
        }
        assert_eq!(emitter.state().sums.len(), MOST);
        assert_eq!(told(&emitter, start, 6).len(), A_MINUTE);
        assert_eq!(told(&emitter, start, 30), [0; 0]);
        assert_eq!(told(&emitter, start, 67).len(), A_MINUTE);
    }

    #[test]
    fn a_caller_that_is_no_pod_is_passed_over() {
        let (emitter, start) = (Emitter::default(), Instant::now());
        emitter.note(&record("192.0.2.1", 80), start);
        let now = start + GATHER;
        assert!(emitter.due(now).is_empty());
        emitter.answer(|_| None);
        assert!(emitter.due(now).is_empty());
        assert!(emitter.state().sums.is_empty());
    }

    #[test]
    fn an_event_of_a_long_name_has_a_name_that_servers_take() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let number = format!(".{:x}", now.as_nanosecond());
        let long = "a".repeat(253);
        let name = event_name(&long, now);
        assert_eq!((name.len(), name.ends_with(&number)), (253, true));
        let dashed = format!("{}-{long}", "a".repeat(235));
        assert_eq!(
            event_name(&dashed, now),
            format!("{}{number}", "a".repeat(235))
        );
        assert_eq!(event_name("shop-1", now), format!("shop-1{number}"));
    }

    #[test]
    fn an_event_says_who_called_whom_and_why_not() {
        let emitter = Emitter::default();
        let start = Instant::now();
        emitter.note(&record("10.0.0.1", 80), start);
        emitter.due(start + GATHER);
        emitter.answer(pod);
        let drafts = emitter.due(start + GATHER);
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let event = event(&drafts[0], "node-1", now);
        assert_eq!(
            event["note"],
            "1 packets to shop/server TCP/80 dropped (ingress: policy)"
        );
        assert_eq!(event["eventTime"], "2026-01-02T03:04:05.000000Z");
        assert_eq!(event["regarding"]["uid"], "u");
    }
}
