//! Values in objects that can't be used as they stand.

use serde::Serialize;

use crate::{
    config::Config,
    index::Index,
    labels::{self, Target},
    model::Meta,
    selector::Labels,
};

/// A value that can't be used, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Kind and name: `Pod bank/ledger-0`.
    pub object: String,
    /// Label or annotation key, or field path.
    pub key_or_field: String,
    /// What is wrong, and what it is taken for.
    pub message: String,
}

/// All problems, sorted.
pub(crate) fn of(index: &Index) -> Vec<Problem> {
    let config = &index.config;
    let mut found = Found(Vec::new());
    for pod in index.pods.values().filter(|p| !p.finished()) {
        found.pod(config, "Pod", &pod.metadata);
    }
    for ((kind, _), pod) in &index.stand_ins {
        found.pod(config, kind, &pod.metadata);
    }
    for namespace in index.namespaces.values() {
        found.namespace(config, &namespace.metadata);
    }
    for (key, stored) in &index.policies {
        let meta = &stored.policy.metadata;
        if let Some(error) = index.invalid.get(key) {
            let kept = match stored.closed {
                true => "isolates its pods and allows nothing until it is corrected",
                false => "the last valid form stays in force",
            };
            let message = format!("{}; {kept}", error.message);
            found.add("NetworkPolicy", meta, &error.field, message);
        }
        let annotation = config.key("mode");
        let mode = meta.annotations.get(&annotation);
        if let Some(value) = mode.filter(|v| !matches!(v.as_str(), "audit" | "enforce")) {
            let message = format!("{value:?} is neither audit nor enforce; taken for enforce");
            found.add("NetworkPolicy", meta, &annotation, message);
        }
    }
    found.0.sort();
    found.0
}

struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, kind: &str, meta: &Meta, key: &str, message: String) {
        let object = match meta.namespace.as_str() {
            "" => format!("{kind} {}", meta.name),
            namespace => format!("{kind} {namespace}/{}", meta.name),
        };
        self.0.push(Problem {
            object,
            key_or_field: key.to_owned(),
            message,
        });
    }

    fn pod(&mut self, config: &Config, kind: &str, meta: &Meta) {
        self.shared(config, kind, meta);
        let quarantine = config.key("quarantine");
        self.word(
            kind,
            meta,
            &quarantine,
            &["true", "false"],
            "not in quarantine",
        );
        for (key, value) in &meta.labels {
            let fault = match Target::parse(config, key) {
                None => continue,
                Some(target) => target.and_then(|_| labels::Value::parse(value)).err(),
            };
            if let Some(fault) = fault {
                self.add(kind, meta, key, format!("{fault}; grants nothing"));
            }
        }
    }

    fn namespace(&mut self, config: &Config, meta: &Meta) {
        self.shared(config, "Namespace", meta);
        let overrides = config.key("pod-overrides");
        self.word(
            "Namespace",
            meta,
            &overrides,
            &["allow"],
            "pods may only tighten",
        );
    }

    /// Labels that pods and Namespaces have in common.
    fn shared(&mut self, config: &Config, kind: &str, meta: &Meta) {
        for key in [config.key("ingress"), config.key("egress")] {
            let value = meta.labels.get(&key);
            if let Some(value) = value.filter(|v| !labels::Mode::is_valid(v)) {
                let taken = match kind {
                    "Namespace" => "taken for enforce",
                    _ => "taken for its Namespace's mode, else for enforce",
                };
                let message = format!("{value:?} is none of enforce, audit, off; {taken}");
                self.add(kind, meta, &key, message);
            }
        }
        for key in callers(config, &meta.labels) {
            self.word(kind, meta, key, &["true", "false"], "admits nobody");
        }
    }

    fn word(&mut self, kind: &str, meta: &Meta, key: &str, known: &[&str], taken: &str) {
        let value = meta.labels.get(key);
        if let Some(value) = value.filter(|v| !known.contains(&v.as_str())) {
            let message = format!("{value:?} is not {}; {taken}", known.join(" or "));
            self.add(kind, meta, key, message);
        }
    }
}

fn callers<'a>(config: &'a Config, labels: &'a Labels) -> impl Iterator<Item = &'a String> {
    let ours = |key: &&String| {
        let prefix = key.split_once('/').map(|(prefix, _)| prefix);
        prefix == Some(config.callers_prefix.as_str())
    };
    labels.keys().filter(ours)
}
