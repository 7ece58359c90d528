//! One pass: manifests, compile, discover, apply. Blocking, and never fails:
//! what goes wrong is said in the status, and the next pass tries again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use ringfence_policy::compile::Compiler;
use ringfence_policy::diff::Change;
use ringfence_policy::index::{Index, PodKey, Scope};

use crate::datapath::Interface;
use crate::discover::{self, DiscoverError, Discovery, Unguarded, Wanted};
use crate::failure;
use crate::manifests::{Feed, ManifestError, ManifestErrors, Store};
use crate::settings::Settings;
use crate::state::{Shared, Status, UnguardedPod, UnhookedDevice};

/// What one pass leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pass {
    /// A manifest was too fresh to read: the pass doesn't count as complete.
    pub unsettled: bool,
    /// Something failed or a pod's interface wasn't there: try again soon.
    pub retry: bool,
}

/// Finds the interfaces of pods; another implementation stands in for tests.
pub type Discover =
    Box<dyn FnMut(&[Wanted], &[Interface]) -> Result<Discovery, DiscoverError> + Send>;

/// Everything between the source of policy and the datapath.
pub struct Engine {
    store: Store,
    feed: Feed,
    index: Index,
    compiler: Compiler,
    /// What the compiler has changed since the kernel was told last.
    change: Option<Change>,
    node: String,
    discover: Discover,
    compiled: Option<Compiled>,
    interfaces: Vec<Interface>,
    /// The addresses by which each of them was found.
    found_by: BTreeMap<PodKey, Vec<IpAddr>>,
    /// Pods without an interface, as discovery last said.
    unguarded: Vec<Unguarded>,
    /// Pods whose programs couldn't be attached the last time. Apart from
    /// `unguarded`, since either may be renewed without the other.
    refused: Vec<Unguarded>,
    /// Other devices that have their hooks.
    devices: usize,
    /// Other devices that haven't.
    unhooked: Vec<UnhookedDevice>,
    skipped: Vec<String>,
    warnings: Vec<String>,
}

/// What follows from the objects alone.
struct Compiled {
    wanted: Vec<Wanted>,
    problems: Vec<String>,
    problem_fields: BTreeSet<(String, String)>,
    host_network: Vec<Unguarded>,
    /// Not yet applied since it was compiled.
    fresh: bool,
}

impl Engine {
    /// Reads the manifests for the first time; any error in them is refused.
    pub fn open(settings: &Settings) -> Result<Self, ManifestErrors> {
        let netns_dir: PathBuf = settings.netns_dir.clone();
        let discover: Discover =
            Box::new(move |wanted, known| discover::discover(&netns_dir, wanted, known));
        Self::with_discover(settings, discover)
    }

    /// As [`Engine::open`], with another way to find interfaces.
    pub fn with_discover(settings: &Settings, discover: Discover) -> Result<Self, ManifestErrors> {
        Ok(Self {
            store: Store::open(&settings.manifests)?,
            feed: Feed::default(),
            index: Index::new(settings.config.clone()),
            compiler: Compiler::new(Scope::Node(settings.node_name.clone())),
            change: None,
            node: settings.node_name.clone(),
            discover,
            compiled: None,
            interfaces: Vec::new(),
            found_by: BTreeMap::new(),
            unguarded: Vec::new(),
            refused: Vec::new(),
            devices: 0,
            unhooked: Vec::new(),
            skipped: Vec::new(),
            warnings: Vec::new(),
        })
    }

    /// Brings the kernel to what the manifests and the interfaces say now.
    /// `since` is when the first event came that asked for it.
    pub fn pass(&mut self, shared: &Shared, since: Option<Instant>) -> Pass {
        let began = since.unwrap_or_else(Instant::now);
        let refresh = self.store.refresh();
        if refresh.changed || self.compiled.is_none() {
            let fresh = self.compile();
            self.log_problems(&shared.status(), &fresh);
            self.compiled = Some(fresh);
        }
        let discovered = self.find_interfaces();
        let applied = self.apply(shared, began);
        let error = discovered
            .err()
            .or(applied.err())
            .map(|error| failure::one_line(&error));
        let incomplete = self.unguarded().next().is_some() || !self.unhooked.is_empty();
        let retry = error.is_some() || incomplete;
        self.publish(shared, error);
        Pass {
            unsettled: refresh.unsettled,
            retry,
        }
    }

    fn compile(&mut self) -> Compiled {
        self.feed.tell(&self.store, &mut self.index);
        let change = self.compiler.update(&mut self.index);
        match &mut self.change {
            Some(earlier) => earlier.then(change),
            None => self.change = Some(change),
        }
        let index = &self.index;
        let wanted = self
            .compiler
            .tables()
            .endpoints
            .iter()
            .map(|(pod, policy)| Wanted {
                pod: pod.clone(),
                addresses: policy.addresses.clone(),
            })
            .collect();
        let found = index.problems();
        let problems = found
            .iter()
            .map(|p| format!("{}: {}: {}", p.object, p.key_or_field, p.message));
        Compiled {
            wanted,
            problems: problems.collect(),
            problem_fields: found
                .iter()
                .map(|p| (p.object.clone(), p.key_or_field.clone()))
                .collect(),
            host_network: host_network(index, &self.node),
            fresh: true,
        }
    }

    /// On failure the interfaces stay as they were: policy must not wait for them.
    fn find_interfaces(&mut self) -> anyhow::Result<()> {
        let Some(compiled) = &self.compiled else {
            return Ok(());
        };
        let wanted: BTreeMap<&PodKey, &[IpAddr]> = compiled
            .wanted
            .iter()
            .map(|wanted| (&wanted.pod, &*wanted.addresses))
            .collect();
        let known = self.known(&wanted);
        let found = (self.discover)(&compiled.wanted, &known)?;
        for warning in &found.warnings {
            if !self.warnings.contains(warning) {
                tracing::warn!("{warning}");
            }
        }
        let addresses = |interface: &Interface| match wanted.get(&interface.pod) {
            Some(now) if !now.is_empty() => now.to_vec(),
            _ => self
                .found_by
                .get(&interface.pod)
                .cloned()
                .unwrap_or_default(),
        };
        self.found_by = found
            .interfaces
            .iter()
            .map(|interface| (interface.pod.clone(), addresses(interface)))
            .collect();
        self.interfaces = found.interfaces;
        self.unguarded = found.unguarded;
        self.skipped = found.skipped;
        self.warnings = found.warnings;
        Ok(())
    }

    /// The interfaces that are still known. A pod that now has other addresses
    /// altogether is sought anew: its old device may be another pod's by now.
    fn known(&self, wanted: &BTreeMap<&PodKey, &[IpAddr]>) -> Vec<Interface> {
        let is_known = |interface: &&Interface| {
            let Some(now) = wanted.get(&interface.pod) else {
                return false;
            };
            let before = self.found_by.get(&interface.pod);
            now.is_empty()
                || before.is_none_or(|before| before.iter().any(|address| now.contains(address)))
        };
        self.interfaces.iter().filter(is_known).cloned().collect()
    }

    fn unguarded(&self) -> impl Iterator<Item = &Unguarded> {
        self.unguarded.iter().chain(&self.refused)
    }

    fn apply(&mut self, shared: &Shared, began: Instant) -> anyhow::Result<()> {
        let Some(compiled) = &mut self.compiled else {
            return Ok(());
        };
        // Told once, whatever becomes of it: the datapath takes note first.
        let change = self.change.take();
        let change = change.unwrap_or_else(|| self.compiler.unchanged());
        let applied = shared
            .kernel()
            .apply(self.compiler.tables(), &change, &self.interfaces)?;
        let refused = applied.failed.into_iter().map(|(pod, error)| Unguarded {
            pod,
            reason: format!("its programs can't be attached: {error}"),
        });
        self.refused = refused.collect();
        self.devices = applied.devices;
        let unhooked = applied.unhooked.into_iter();
        self.unhooked = unhooked
            .map(|(device, reason)| UnhookedDevice { device, reason })
            .collect();
        if compiled.fresh {
            compiled.fresh = false;
            let at = applied.in_force_at.unwrap_or_else(Instant::now);
            let took = at.saturating_duration_since(began);
            shared.metrics.applied(took);
            tracing::info!(
                generation = applied.generation,
                flipped = applied.flipped,
                endpoints = self.interfaces.len(),
                "policy in force after {:.1} ms",
                took.as_secs_f64() * 1e3,
            );
        }
        Ok(())
    }

    fn publish(&self, shared: &Shared, error: Option<String>) {
        let mut status = shared.status();
        self.log_unguarded(&status);
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
        let mut kernel = shared.kernel();
        status.generation = kernel.generation();
        status.endpoints = kernel
            .endpoints()
            .iter()
            .filter(|endpoint| endpoint.attached)
            .count();
        drop(kernel);
        status.source_connected = self.store.is_connected();
        status.invalid = self
            .store
            .problems()
            .iter()
            .map(ManifestError::to_string)
            .collect();
        status.skipped.clone_from(&self.skipped);
        status.devices = self.devices;
        status.unhooked.clone_from(&self.unhooked);
        if let Some(compiled) = &self.compiled {
            status.problems.clone_from(&compiled.problems);
            status.problem_fields.clone_from(&compiled.problem_fields);
            status.unguarded = self
                .unguarded()
                .chain(&compiled.host_network)
                .map(row)
                .collect();
        }
        shared.set_status(status);
    }

    fn log_unguarded(&self, before: &Status) {
        for pod in self
            .unguarded()
            .map(row)
            .filter(|pod| !before.unguarded.contains(pod))
        {
            tracing::warn!(pod = pod.pod, "not guarded: {}", pod.reason);
        }
        let new = self.unhooked.iter();
        for device in new.filter(|device| !before.unhooked.contains(device)) {
            let UnhookedDevice { device, reason } = device;
            tracing::warn!(device, "without hooks: {reason}");
        }
    }

    fn log_problems(&self, before: &Status, now: &Compiled) {
        let new = now.problems.iter().filter(|p| !before.problems.contains(p));
        for problem in new {
            tracing::warn!("{problem}");
        }
        for problem in self.store.problems() {
            let text = problem.to_string();
            if !before.invalid.contains(&text) {
                tracing::error!("{text}; the last good state of its objects stays in force");
            }
        }
    }
}

fn row(pod: &Unguarded) -> UnguardedPod {
    UnguardedPod {
        pod: pod.pod.to_string(),
        reason: pod.reason.clone(),
    }
}

/// Pods that share the node's namespace: they are the node, so nothing can stand
/// between.
fn host_network(index: &Index, node: &str) -> Vec<Unguarded> {
    let pods = index.pods_on_host_network().into_iter();
    pods.filter(|pod| pod.node() == Some(node))
        .map(|pod| Unguarded {
            pod: pod.key(),
            reason: "host network: it is the node, and has no interface of its own".into(),
        })
        .collect()
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
