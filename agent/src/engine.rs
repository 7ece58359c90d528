//! One pass: read the source, compile, discover, apply. It blocks and never fails: errors are
//! reported in the status, and the next pass tries again.

mod answer;
mod interfaces;
mod keep;
mod publish;
mod settle;
mod surroundings;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::bail;
use ringfence_api::{Status, UnhookedDevice};
use ringfence_policy::compile::{Capacity, Compiler, IdKey};
use ringfence_policy::diff::Change;
use ringfence_policy::index::{Index, PodEntry, PodKey, Scope};

use crate::datapath::{Interface, Others};
use crate::discover::records::Records;
use crate::discover::{Claims, Finder, Sought, Unguarded};
use crate::failure;
use crate::node::{self, Surroundings};
use crate::questions::Question;
use crate::settings::{Origin, Settings};
use crate::source::{News, Source};
use crate::state::Shared;
use crate::summary::Summary;

/// Maximum size of the texts of all NetworkPolicies in bytes: a hundred thousand of the usual size
/// take a third of it.
const TEXTS: usize = 96 << 20;

/// Maximum size of all Services and EndpointSlices in bytes: twenty thousand Services with ten
/// endpoints each take a third of it.
const SERVICES: usize = 96 << 20;

/// Result of one pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pass {
    /// A manifest was too new to be read: the pass doesn't count as complete.
    pub unsettled: bool,
    /// Something that the first tables depend on isn't known yet: nothing was changed.
    pub waits: bool,
    /// Something failed or a pod's interface wasn't found: retry soon.
    pub retry: bool,
}

/// What a pass examines besides the source of policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Everything.
    All,
    /// The node's devices only if the set of wanted pods has changed: the kernel reports changes
    /// of its devices by itself.
    Source,
}

/// Examines the node's own network; tests use another implementation.
pub type LookAround = Box<dyn FnMut() -> Surroundings + Send>;

/// Everything between the source of policy and the datapath.
pub struct Engine {
    source: Source,
    index: Index,
    compiler: Compiler,
    /// What the compiler has changed since the kernel was last updated.
    change: Option<Change>,
    node: String,
    finder: Box<dyn Finder>,
    look_around: LookAround,
    surroundings: surroundings::Node,
    compiled: Option<Compiled>,
    /// When the first event of each kind that isn't in force yet arrived.
    since: BTreeMap<&'static str, Instant>,
    /// When a summary, which takes long for many objects, may be computed again.
    next_summary: Option<Instant>,
    /// Labels of pods may have changed who is cut off and who may read metrics.
    readmits: bool,
    /// The last pass left something that must be retried.
    retry: bool,
    interfaces: Vec<Interface>,
    /// The addresses by which each interface was found.
    found_by: BTreeMap<PodKey, Vec<IpAddr>>,
    /// Pods without an interface, according to the last discovery.
    unguarded: Vec<Unguarded>,
    /// Which of them are only starting or ending.
    settling: settle::Settling,
    /// Pods whose programs couldn't be attached in the last pass.
    refused: Vec<Unguarded>,
    /// Pods that are closed until their policy can be written.
    closed: Vec<PodKey>,
    /// Number of other devices that have their hooks.
    devices: usize,
    /// Other devices that lack their hooks.
    unhooked: Vec<UnhookedDevice>,
    skipped: Vec<String>,
    warnings: Vec<String>,
    /// What the last discovery reported about devices that belong to no known pod.
    others: Others,
    /// Earlier versions of policies that are still in force.
    kept: keep::Kept,
    /// Questions asked before the current pass started.
    asked: Vec<Question>,
}

/// What is derived from the objects alone.
struct Compiled {
    wanted: Vec<Sought>,
    /// Not applied yet since it was compiled.
    fresh: bool,
    summary: Summary,
    /// The summary is out of date.
    stale: bool,
}

impl Engine {
    /// Creates an engine that hasn't made a pass yet.
    pub fn new(settings: &Settings, source: Source) -> Self {
        let finder: Box<dyn Finder> = match &settings.origin {
            Origin::Manifests(_) => Box::new(Claims {
                netns_dir: settings.netns_dir.clone(),
            }),
            Origin::Kubernetes(_) => Box::new(Records::new(settings)),
        };
        Self::with_finder(settings, source, finder, Box::new(node::look))
    }

    /// Works like [`Engine::new`], with other implementations of finding interfaces and examining
    /// the node.
    pub fn with_finder(
        settings: &Settings,
        source: Source,
        finder: Box<dyn Finder>,
        look_around: LookAround,
    ) -> Self {
        let mut index = Index::new(settings.config.clone())
            .with_room_for_texts(TEXTS)
            .with_room_for_services(SERVICES);
        let kept = keep::Kept::read(&settings.socket, &mut index);
        Self {
            source,
            index,
            compiler: Compiler::new(Scope::Node(settings.node_name.clone()))
                .with_capacity(Capacity::MAPS),
            change: None,
            node: settings.node_name.clone(),
            finder,
            look_around,
            surroundings: surroundings::Node::new(settings.tunnel_ports.clone()),
            compiled: None,
            since: BTreeMap::new(),
            next_summary: None,
            readmits: false,
            retry: false,
            interfaces: Vec::new(),
            found_by: BTreeMap::new(),
            unguarded: Vec::new(),
            settling: settle::Settling::default(),
            refused: Vec::new(),
            closed: Vec::new(),
            devices: 0,
            unhooked: Vec::new(),
            skipped: Vec::new(),
            warnings: Vec::new(),
            // Before the first discovery no device has been judged.
            others: Others {
                judged: Some(BTreeSet::new()),
                ..Others::default()
            },
            kept,
            asked: Vec::new(),
        }
    }

    /// Sets the key for ids, which is that of the maps to be updated. Call it before the first
    /// pass: everything is compiled with the new key.
    pub fn number_by(&mut self, key: IdKey) {
        let scope = Scope::Node(self.node.clone());
        self.compiler = Compiler::keyed(scope, key).with_capacity(Capacity::MAPS);
    }

    /// Brings the kernel up to date with the source and the interfaces. `since` is when the first
    /// event arrived that triggered the pass.
    pub fn pass(&mut self, shared: &Shared, since: Option<Instant>, look: Look) -> Pass {
        let began = since.unwrap_or_else(Instant::now);
        self.asked.extend(shared.questions.take());
        let (moved, closed) = match look {
            Look::All => self.look_at_node(shared),
            Look::Source => (false, Ok(())),
        };
        let (started, asked) = match look {
            Look::All => self.ask_runtime(),
            Look::Source => (false, Ok(())),
        };
        let mut news = self.source.refresh(&mut self.index);
        let own = [("Node", moved), ("Sandbox", started)];
        for (kind, _) in own.into_iter().filter(|(_, changed)| *changed) {
            news.changed = true;
            news.since.insert(kind, began);
        }
        if !self.surroundings.is_known() {
            news.waits_for.push("addresses of the node's interfaces");
        }
        if !news.waits_for.is_empty() {
            return self.wait(shared, &news);
        }
        let unsettled = news.unsettled;
        let finds = self.compile(news, began) || look == Look::All || self.retry;
        let discovered = if finds {
            self.find_interfaces()
        } else {
            Ok(())
        };
        let applied = self.apply(shared, finds);
        self.kept.write(&mut self.index);
        let error = discovered
            .err()
            .or(applied.err())
            .or(closed.err())
            .or(asked.err())
            .map(|error| failure::one_line(&error));
        let incomplete = self.unguarded().next().is_some() || !self.unhooked.is_empty();
        self.retry = error.is_some() || incomplete;
        if std::mem::take(&mut self.readmits) {
            shared.admission.refresh(&self.index);
        }
        self.summarize(&shared.status());
        if let Some(emitter) = &shared.emitter {
            emitter.answer(|ip| self.index.pod_at(ip).map(PodEntry::key));
        }
        self.publish(shared, error, unsettled);
        Pass {
            unsettled,
            waits: false,
            retry: self.retry,
        }
    }

    /// Compiles changes; returns whether the set of wanted pods has changed.
    fn compile(&mut self, news: News, began: Instant) -> bool {
        if !news.changed && self.compiled.is_some() {
            return false;
        }
        for (kind, at) in news.since {
            self.since.entry(kind).or_insert(at);
        }
        if self.since.is_empty() {
            self.since.insert("manifests", began);
        }
        self.readmits = true;
        let change = self.compiler.update(&mut self.index);
        match &mut self.change {
            Some(earlier) => earlier.then(change),
            None => self.change = Some(change),
        }
        let endpoints = self.compiler.tables().endpoints.iter();
        let uid = |pod: &PodKey| {
            let entry = self.index.pod(&pod.namespace, &pod.name);
            entry.map_or_else(String::new, |entry| entry.runtime_uid().to_owned())
        };
        let ends = |pod: &PodKey| {
            let entry = self.index.pod(&pod.namespace, &pod.name);
            entry.is_some_and(PodEntry::terminating)
        };
        let wanted = endpoints.map(|(pod, policy)| Sought {
            uid: uid(pod),
            ends: ends(pod),
            pod: pod.clone(),
            addresses: policy.addresses.clone(),
        });
        let wanted: Vec<Sought> = wanted.collect();
        let before = self.compiled.take();
        let differs = before.as_ref().is_none_or(|before| before.wanted != wanted);
        self.compiled = Some(Compiled {
            wanted,
            fresh: true,
            summary: before.map(|before| before.summary).unwrap_or_default(),
            stale: true,
        });
        differs
    }

    /// Computes the summary of all objects if it is due: only after the datapath is up to date,
    /// and for a whole cluster at most a fiftieth of the time.
    fn summarize(&mut self, before: &Status) {
        let now = Instant::now();
        let is_due = self.next_summary.is_none_or(|next| next <= now);
        let Some(compiled) = self.compiled.as_mut().filter(|c| c.stale && is_due) else {
            return;
        };
        compiled.stale = false;
        compiled.summary = Summary::of(&self.index, &self.node);
        if self.source.is_large() {
            let took = now.elapsed();
            self.next_summary = Some(Instant::now() + took * 50 + Duration::from_millis(20));
        }
        self.log_problems(before);
    }

    fn unguarded(&self) -> impl Iterator<Item = &Unguarded> {
        self.unguarded.iter().chain(&self.refused)
    }

    /// Applies the tables with the interfaces that were found, or with those of the last pass:
    /// then only the change is processed.
    fn apply(&mut self, shared: &Shared, finds: bool) -> anyhow::Result<()> {
        // Passed on once, even if applying fails: the datapath records it first.
        let change = self.change.take();
        let change = change.unwrap_or_else(|| self.compiler.unchanged());
        let mut kernel = shared.dataplane();
        let tables = self.compiler.tables();
        if !finds {
            let followed = kernel.apply_delta(tables, &change)?;
            drop(kernel);
            self.closed.clear();
            self.refused.extend(publish::refused(followed.refused));
            self.applied(shared, followed.generation, followed.flipped, followed.at);
            return Ok(());
        }
        kernel.set_others(self.others.clone());
        let applied = kernel.apply(tables, &change, &self.interfaces)?;
        drop(kernel);
        self.refused = publish::refused(applied.failed);
        self.closed.clone_from(&applied.closed);
        self.devices = applied.devices;
        let unhooked = applied.unhooked.into_iter();
        self.unhooked = unhooked
            .map(|(device, reason)| UnhookedDevice { device, reason })
            .collect();
        if let Some(error) = applied.error {
            bail!("{error}");
        }
        let at = applied.in_force_at.unwrap_or_else(Instant::now);
        self.applied(shared, applied.generation, applied.flipped, at);
        Ok(())
    }

    /// Records that the compiled tables have been in force since `at`.
    fn applied(&mut self, shared: &Shared, generation: u64, flipped: bool, at: Instant) {
        let Some(compiled) = self.compiled.as_mut().filter(|c| c.fresh) else {
            return;
        };
        compiled.fresh = false;
        let since = std::mem::take(&mut self.since);
        let took = |began: &Instant| at.saturating_duration_since(*began);
        for (kind, began) in &since {
            shared.metrics.applied(kind, took(began));
        }
        let longest = since.values().map(took).max().unwrap_or_default();
        tracing::info!(
            generation,
            flipped,
            endpoints = self.interfaces.len(),
            "policy in force after {:.1} ms",
            longest.as_secs_f64() * 1e3,
        );
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
