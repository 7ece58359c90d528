//! Writes the results of a pass to the status and the log.

use std::collections::BTreeSet;

use ringfence_api::{Mode, PolicyInForce, Status, UnguardedPod, UnhookedDevice, UnknownDevice};
use ringfence_policy::index::PodKey;

use super::{Compiled, Engine, Pass};
use crate::datapath::Stranger;
use crate::discover::{Sandbox, Unguarded};
use crate::source::{News, Source};
use crate::state::Shared;

impl Engine {
    /// Ends a pass without changes: the previous policy stays in force until everything is known
    /// that the first tables depend on.
    pub(super) fn wait(&mut self, shared: &Shared, news: &News) -> Pass {
        for (kind, at) in &news.since {
            self.since.entry(kind).or_insert(*at);
        }
        let mut status = shared.status();
        status.passes += 1;
        status.waits_for = news
            .waits_for
            .iter()
            .map(|kind| (*kind).to_owned())
            .collect();
        status.invalid = self.source.invalid();
        let mut kernel = shared.dataplane();
        status.generation = kernel.generation();
        drop(kernel);
        for question in std::mem::take(&mut self.asked) {
            let waits = format!("not known yet: {}", status.waits_for.join(", "));
            // The receiver may be gone.
            let _ = question.answer.send(PolicyInForce::not(waits));
        }
        shared.set_status(status);
        Pass {
            unsettled: false,
            waits: true,
            retry: false,
        }
    }

    pub(super) fn publish(&mut self, shared: &Shared, error: Option<String>, unsettled: bool) {
        let mut status = shared.status();
        let before = status.unknown.clone();
        self.log_unguarded(&status);
        self.log_closed(&status);
        status.passes += 1;
        status.apply_errors += u64::from(error.is_some());
        match &error {
            Some(error) => {
                shared.metrics.failed();
                tracing::error!("pass failed: {error}");
            }
            None if status.error.is_some() => tracing::info!("pass succeeded again"),
            None => {}
        }
        status.error = error;
        let mut kernel = shared.dataplane();
        status.generation = kernel.generation();
        status.seen_mark = kernel.seen_mark();
        let endpoints = kernel.endpoints();
        drop(kernel);
        let guarded = endpoints.iter().filter(|one| one.attached && !one.gone);
        status.endpoints = guarded.count();
        let known = endpoints
            .iter()
            .filter(|one| !one.gone && one.pod.is_some());
        let known: BTreeSet<u32> = known.map(|one| one.ifindex).collect();
        let strangers = self.others.strangers.iter();
        let strangers = strangers.filter(|one| !known.contains(&one.ifindex));
        status.unknown = strangers.map(unknown).collect();
        log_unknown(&status, &before);
        if let Ok(stats) = shared.counters.stats() {
            status.picked_up = stats.connections_picked_up;
        }
        status.source_connected = self.source.is_connected();
        status.waits_for.clear();
        status.invalid = self.source.invalid();
        status.skipped.clone_from(&self.skipped);
        status.node_addresses = self.surroundings.addresses();
        status.tunnel_ports = self.surroundings.tunnels();
        status.node_faults = self.surroundings.faults().to_vec();
        let closed = self.closed.iter();
        status.closed = closed.map(ToString::to_string).collect();
        status.devices = self.devices;
        status.unhooked.clone_from(&self.unhooked);
        if let Some(Compiled { summary, .. }) = &self.compiled {
            status.problems.clone_from(&summary.problems);
            status.problems.extend_from_slice(self.kept.faults());
            shared.set_problem_fields(summary.problem_fields.clone());
            status.host_network = summary.host_network.iter().map(row).collect();
            status.unguarded = self.alarming().map(row).collect();
            let pending = self.unguarded().filter(|pod| self.is_pending(pod));
            status.pending = pending.map(row).collect();
            status.pod_ranges = Some(summary.pod_ranges.clone());
        }
        let (error, generation) = (status.error.clone(), status.generation);
        shared.set_status(status);
        if !unsettled {
            self.answer(error.as_deref(), generation);
        }
    }

    fn log_unguarded(&self, before: &Status) {
        let new = self.alarming().map(row);
        for pod in new.filter(|pod| !before.unguarded.contains(pod)) {
            tracing::warn!(pod = pod.pod, "not guarded: {}", pod.reason);
        }
        let new = self.unhooked.iter();
        for device in new.filter(|device| !before.unhooked.contains(device)) {
            let UnhookedDevice { device, reason } = device;
            tracing::warn!(device, "without hooks: {reason}");
        }
    }

    fn is_pending(&self, pod: &Unguarded) -> bool {
        pod.sandbox != Sandbox::There && self.settling.is_pending(&pod.pod)
    }

    /// Returns the pods that should be guarded and aren't.
    fn alarming(&self) -> impl Iterator<Item = &Unguarded> {
        self.unguarded().filter(move |pod| !self.is_pending(pod))
    }

    fn log_closed(&self, before: &Status) {
        let pods = self.closed.iter().map(ToString::to_string);
        for pod in pods.filter(|pod| !before.closed.contains(pod)) {
            let what = match before.mode == Mode::Audit {
                true => "audited as closed",
                false => "closed",
            };
            tracing::warn!(pod, "{what}: its policy can't be put in force yet");
        }
    }

    pub(super) fn log_problems(&self, before: &Status) {
        let now = self.compiled.iter().flat_map(|c| &c.summary.problems);
        for problem in now.filter(|p| !before.problems.contains(p)) {
            tracing::warn!("{problem}");
        }
        if let Source::Manifests { store, .. } = &self.source {
            for problem in store.problems() {
                let text = problem.to_string();
                if !before.invalid.contains(&text) {
                    tracing::error!("{text}; the last good state of its objects stays in force");
                }
            }
        }
    }
}

fn unknown(stranger: &Stranger) -> UnknownDevice {
    UnknownDevice {
        device: stranger.name.clone(),
        pod: stranger.pod.clone(),
        closed: stranger.closed,
    }
}

fn log_unknown(now: &Status, before: &[UnknownDevice]) {
    for one in now.unknown.iter().filter(|one| !before.contains(one)) {
        let (device, pod) = (
            &one.device,
            one.pod.as_deref().unwrap_or("no pod on record"),
        );
        let what = match (one.closed, now.mode == Mode::Audit) {
            (true, false) => "closed",
            (true, true) => "audited",
            (false, _) => "passes",
        };
        tracing::info!(device, pod, "leads to a pod that isn't known yet: {what}");
    }
}

/// Describes pods whose programs can't be attached.
pub(super) fn refused(failed: Vec<(PodKey, String)>) -> Vec<Unguarded> {
    let each = failed.into_iter().map(|(pod, error)| Unguarded {
        pod,
        reason: format!("its programs can't be attached: {error}"),
        sandbox: Sandbox::There,
    });
    each.collect()
}

fn row(pod: &Unguarded) -> UnguardedPod {
    UnguardedPod {
        pod: pod.pod.to_string(),
        reason: pod.reason.clone(),
    }
}
