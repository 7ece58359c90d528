//! Values in objects that can't be used as written.

use serde::Serialize;

use crate::{
    config::Config,
    index::{Index, PodEntry, held::Unit, memory::Sort},
    labels::{self, Target},
    selector::Labels,
};

/// An unusable value and its location.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Kind and name: `Pod bank/ledger-0`.
    pub object: String,
    /// Label or annotation key, or field path.
    pub key_or_field: String,
    /// What is wrong, and how the value is treated.
    pub message: String,
}

/// The field reported for an object that doesn't fit into the tables.
const CAPACITY: &str = "capacity";

/// Ending of a policy's message.
const KEPT: &str = "the last valid form stays in force";

/// Returns all problems, sorted.
pub(crate) fn of(index: &Index) -> Vec<Problem> {
    let config = &index.config;
    let mut found = Found(Vec::new());
    for pod in index.odd_pods() {
        match pod.stand_in.as_deref() {
            Some(kind) => found.pod(config, kind, pod),
            None if pod.finished => {}
            None => found.pod(config, "Pod", pod),
        }
    }
    for (name, labels) in index.namespaces() {
        found.namespace(config, name, labels);
    }
    for (namespace, name) in index.odd_policies() {
        let Some(stored) = index.policy(namespace, name) else {
            continue;
        };
        let object = format!("NetworkPolicy {namespace}/{name}");
        let error = index.invalid.get(&(namespace.to_owned(), name.to_owned()));
        if let Some(error) = error {
            let kept = match stored.closed {
                true => "isolates its pods and allows nothing until it is corrected",
                false => KEPT,
            };
            found.add(&object, &error.field, format!("{}; {kept}", error.message));
        }
        found.mode(config, &object, stored.mode.as_deref());
    }
    found.held(index);
    for (name, stored) in &index.cluster_policies {
        let object = format!("ClusterNetworkPolicy {name}");
        let error = index.invalid.get(&(String::new(), name.to_string()));
        if let Some(error) = error {
            let kept = match stored.closed {
                true => "denies its pods everything in its tier until it is corrected",
                false => KEPT,
            };
            found.add(&object, &error.field, format!("{}; {kept}", error.message));
        }
        found.mode(config, &object, stored.mode.as_deref());
        for field in stored.domain_names() {
            let message = "domain names aren't resolved; this peer matches nothing";
            found.add(&object, &field, message.to_owned());
        }
        for (field, becomes) in stored.unread() {
            let message = format!("this version doesn't know what that means; {becomes}");
            found.add(&object, &field, message);
        }
    }
    for (sort, (namespace, name)) in index.refused() {
        let (object, message) = match sort {
            Sort::Service => (
                format!("Service {namespace}/{name}"),
                "this agent's memory has no room for it within its namespace's share; until it \
                 comes anew with room, all addresses are judged by policy, and once more \
                 where what goes there arrives",
            ),
            Sort::EndpointSlice => (
                format!("EndpointSlice {namespace}/{name}"),
                "this agent's memory has no room for it within its namespace's share; its \
                 endpoints aren't known until it comes anew with room",
            ),
        };
        found.add(&object, CAPACITY, message.to_owned());
    }
    for (name, node) in &index.nodes {
        for net in &node.refused {
            let message = format!(
                "{net} is more than a node's pods can have; it doesn't count among the \
                 cluster's pod ranges"
            );
            found.add(&format!("Node {name}"), "spec.podCIDRs", message);
        }
    }
    for ((namespace, name), hidden) in index.unlisted_services() {
        let object = format!("Service {namespace}/{name}");
        let message = match hidden {
            true => {
                "its namespace's share of this node's tables has no room for its addresses; \
                 until it has, all addresses are judged by policy, and once more where what \
                 goes there arrives"
            }
            false => {
                "more addresses times ports than its namespace's share has room for; its \
                 addresses are judged by policy"
            }
        };
        found.add(&object, CAPACITY, message.to_owned());
    }
    found.0.sort();
    found.0
}

/// Reports whether a pod with these labels has any problem.
pub(crate) fn is_odd(config: &Config, labels: &Labels) -> bool {
    let mut found = Found(Vec::new());
    found.pod_labels(config, "", labels);
    !found.0.is_empty()
}

/// Reports whether a policy's mode is invalid.
pub(crate) fn is_odd_mode(mode: Option<&str>) -> bool {
    mode.is_some_and(|mode| !matches!(mode, "audit" | "enforce"))
}

struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, object: &str, key: &str, message: String) {
        self.0.push(Problem {
            object: object.to_owned(),
            key_or_field: key.to_owned(),
            message,
        });
    }

    /// Adds the objects that don't fit into the tables.
    fn held(&mut self, index: &Index) {
        let share = "its namespace's share of this node's tables has no room for";
        for (namespace, name, kept) in index.held.all() {
            let form = match kept {
                true => "the last form that had room stays in force",
                false => "its pods are closed in its directions",
            };
            let object = format!("NetworkPolicy {namespace}/{name}");
            self.add(&object, CAPACITY, format!("{share} it; {form}"));
        }
        for (space, unit) in index.held.labels() {
            match unit {
                Unit::Calls(service) => self.add(
                    &format!("Workload {space}/{service}"),
                    CAPACITY,
                    format!("{share} its pods' egress labels; they grant nothing"),
                ),
                Unit::Callers(namespace, service) => self.add(
                    &format!("Namespace {space}"),
                    CAPACITY,
                    format!(
                        "its share of this node's tables has no room for its pods' labels \
                         that call {namespace}/{service}; they grant nothing there"
                    ),
                ),
                Unit::Policy(_) => {}
            }
        }
        for name in index.held.clusters() {
            let message = "ClusterNetworkPolicies may have three quarters of this node's tables, \
                           which have no room for it; it denies its pods everything in its tier";
            let object = format!("ClusterNetworkPolicy {name}");
            self.add(&object, CAPACITY, message.to_owned());
        }
    }

    fn mode(&mut self, config: &Config, object: &str, mode: Option<&str>) {
        if let Some(value) = mode.filter(|mode| is_odd_mode(Some(mode))) {
            let message = format!("{value:?} is neither audit nor enforce; taken for enforce");
            self.add(object, &config.key("mode"), message);
        }
    }

    fn pod(&mut self, config: &Config, kind: &str, pod: &PodEntry) {
        let object = format!("{kind} {}/{}", pod.traits.namespace, pod.name);
        self.pod_labels(config, &object, &pod.traits.labels);
    }

    fn pod_labels(&mut self, config: &Config, object: &str, labels: &Labels) {
        self.shared(
            config,
            object,
            labels,
            "taken for its Namespace's mode, else for enforce",
        );
        let quarantine = config.key("quarantine");
        let known = ["true", "false"];
        self.word(object, labels, &quarantine, &known, "not in quarantine");
        for (key, value) in labels.iter() {
            let fault = match Target::parse(config, key) {
                None => continue,
                Some(target) => target.and_then(|_| labels::Value::parse(value)).err(),
            };
            if let Some(fault) = fault {
                self.add(object, key, format!("{fault}; grants nothing"));
            }
        }
    }

    fn namespace(&mut self, config: &Config, name: &str, labels: &Labels) {
        let object = format!("Namespace {name}");
        self.shared(config, &object, labels, "taken for enforce");
        let overrides = config.key("pod-overrides");
        let taken = "pods may only tighten";
        self.word(&object, labels, &overrides, &["allow"], taken);
    }

    /// Checks the labels that pods and Namespaces have in common.
    fn shared(&mut self, config: &Config, object: &str, labels: &Labels, taken: &str) {
        for key in [config.key("ingress"), config.key("egress")] {
            let value = labels.get(&key);
            if let Some(value) = value.filter(|v| !labels::Mode::is_valid(v)) {
                let message = format!("{value:?} is none of enforce, audit, off; {taken}");
                self.add(object, &key, message);
            }
        }
        for key in callers(config, labels) {
            self.word(object, labels, key, &["true", "false"], "admits nobody");
        }
    }

    fn word(&mut self, object: &str, labels: &Labels, key: &str, known: &[&str], taken: &str) {
        let value = labels.get(key);
        if let Some(value) = value.filter(|v| !known.contains(&&***v)) {
            let message = format!("{value:?} is not {}; {taken}", known.join(" or "));
            self.add(object, key, message);
        }
    }
}

fn callers<'a>(config: &'a Config, labels: &'a Labels) -> impl Iterator<Item = &'a str> {
    let keys = labels.iter().map(|(key, _)| &**key);
    keys.filter(|key| {
        let prefix = key.split_once('/').map(|(prefix, _)| prefix);
        prefix == Some(config.callers_prefix.as_str())
    })
}
