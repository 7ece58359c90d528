//! The health of an agent: the first line of `ringfence status`, and its exit code.

use std::time::{SystemTime, UNIX_EPOCH};

use ringfence_api::{CniStatus, Status};

/// The health of an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Health {
    /// Nothing needs attention.
    Healthy,
    /// The agent isn't in its desired state, yet or any more.
    Waiting(String),
    /// The agent can't do its work.
    Failing(String),
}

/// Returns the most severe ailment, if there is any.
pub(super) fn health(status: &Status) -> Health {
    if let Some(error) = &status.error {
        return Health::Failing(error.clone());
    }
    let waits = match status {
        _ if status.passes == 0 => Some("starting".to_owned()),
        _ if !status.waits_for.is_empty() => Some("waiting for the first lists".to_owned()),
        _ if !status.source_connected => {
            Some("running on the last known state: the source can't be read".to_owned())
        }
        _ => ailments(status).next(),
    };
    waits.map_or(Health::Healthy, Health::Waiting)
}

/// Lists what a person should look into, the most severe first. Pods that start or end, and
/// tenants' objects that can't be put in force, are no ailments of the agent.
fn ailments(status: &Status) -> impl Iterator<Item = String> {
    let plugin = status.plugin.iter().flat_map(CniStatus::problems).count();
    let counts = [
        (status.unguarded.len(), "pod", "not guarded"),
        (
            status.closed.len(),
            "pod",
            "closed, their policy not in force",
        ),
        (status.unhooked.len(), "device", "without hooks"),
        (plugin, "fault", "of the network plugin"),
        (
            status.node_faults.len(),
            "fault",
            "of the node's own network",
        ),
        (
            certificate(status),
            "certificate",
            "of the API that can't be used",
        ),
    ];
    let invalid = (!status.invalid.is_empty()).then(|| "running on older policy".to_owned());
    let said = |(count, one, what): (usize, &str, &str)| match count {
        0 => None,
        1 => Some(format!("1 {one} {what}")),
        many => Some(format!("{many} {one}s {what}")),
    };
    let said: Vec<String> = counts.into_iter().filter_map(said).chain(invalid).collect();
    said.into_iter()
}

/// Returns the number of certificates that can't be used, which is at most one.
fn certificate(status: &Status) -> usize {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs().try_into().unwrap_or(i64::MAX));
    let api = status.api.iter();
    api.filter(|api| api.certificate_error.is_some() || api.certificate_expires <= now)
        .count()
}

#[cfg(test)]
mod tests {
    use ringfence_api::{RemoteStatus, UnguardedPod, UnhookedDevice, UnknownDevice};

    use super::*;

    fn well() -> Status {
        Status {
            passes: 1,
            source_connected: true,
            ..Status::default()
        }
    }

    fn pods(reason: &str) -> Vec<UnguardedPod> {
        let (pod, reason) = ("a/b".into(), reason.into());
        vec![UnguardedPod { pod, reason }]
    }

    #[test]
    fn what_every_healthy_node_has_is_no_ailment() {
        let mut status = well();
        status.host_network = pods("host network");
        status.pending = pods("the pod runtime has no record of its sandbox (yet)");
        status.unknown = vec![UnknownDevice {
            device: "veth7".into(),
            pod: None,
            closed: true,
        }];
        status.problems = vec!["Pod a/b: ringfence.dev/ingress: perhaps".into()];
        status.skipped = vec!["/run/netns/x: no such file".into()];
        assert_eq!(health(&status), Health::Healthy);
    }

    /// The expected text, and the change that causes it.
    type Ailment = (&'static str, fn(&mut Status));

    #[test]
    fn each_ailment_alone_makes_a_node_unwell_and_is_said() {
        let change: [Ailment; 10] = [
            ("starting", |s| s.passes = 0),
            ("first lists", |s| s.waits_for = vec!["Pod".into()]),
            ("can't be read", |s| s.source_connected = false),
            ("older policy", |s| s.invalid = vec!["a.yaml: no".into()]),
            ("1 pod not guarded", |s| s.unguarded = pods("why")),
            ("2 pods closed", |s| {
                s.closed = vec!["a/b".into(), "a/c".into()];
            }),
            ("1 device without hooks", |s| {
                let (device, reason) = ("eth0".into(), "why".into());
                s.unhooked = vec![UnhookedDevice { device, reason }];
            }),
            ("network plugin", |s| {
                let error = Some("why".into());
                s.plugin = Some(CniStatus {
                    error,
                    ..CniStatus::default()
                });
            }),
            ("own network", |s| s.node_faults = vec!["why".into()]),
            ("certificate", |s| {
                s.api = Some(RemoteStatus {
                    address: "[::]:9436".into(),
                    certificate_expires: 1,
                    certificate_error: None,
                    certificate_errors: 0,
                });
            }),
        ];
        assert_eq!(health(&well()), Health::Healthy);
        for (said, change) in change {
            let mut status = well();
            change(&mut status);
            let Health::Waiting(text) = health(&status) else {
                panic!("{said}: {:?}", health(&status))
            };
            assert!(text.contains(said), "{said}: {text}");
        }
    }

    #[test]
    fn a_failing_pass_is_worst_of_all() {
        let mut status = well();
        status.unguarded = pods("why");
        status.error = Some("map RULES is full".into());
        let failing = Health::Failing("map RULES is full".into());
        assert_eq!(health(&status), failing);
    }
}
