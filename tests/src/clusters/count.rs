//! What a cluster is, counted naively: the selectors are the oracle's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use super::NODE;
use crate::oracle::address::Cidr;
use crate::oracle::selector::selects;

/// What was counted.
#[derive(Clone, Default, Debug)]
pub struct Counts {
    /// All pods.
    pub pods: usize,
    /// Those of [`NODE`].
    pub local: usize,
    /// NetworkPolicies.
    pub policies: usize,
    /// Distinct label sets of pods.
    pub label_sets: usize,
    /// Fewest and most labels of a pod, without those that list callees.
    pub labels: (usize, usize),
    /// Services that labels list, by caller: each once a service.
    pub edges: usize,
    /// Fewest policies with peers that select one local pod.
    pub selecting: usize,
    /// Fewest and most pods that match one peer of these, without blocks that
    /// match no pod at all.
    pub matches: (usize, usize),
    /// Most pods that one direction of one of these lets through.
    pub widest: usize,
}

impl Counts {
    /// Whether at least three policies select each local pod, and their peers
    /// match 10 to 500 pods.
    pub fn is_fair(&self) -> bool {
        self.local == 100 && self.selecting >= 3 && self.matches.0 >= 10 && self.widest <= 500
    }
}

/// Pods of equal labels in one namespace.
struct Group {
    labels: BTreeMap<String, String>,
    pods: Vec<usize>,
}

#[derive(Default)]
struct Seen {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    groups: BTreeMap<String, Vec<Group>>,
    addresses: Vec<Vec<IpAddr>>,
    /// Pods of [`NODE`]: namespace and group.
    local: Vec<(String, usize)>,
    policies: BTreeMap<String, Vec<Value>>,
}

/// Counts what a cluster's objects are.
pub fn count(objects: impl Iterator<Item = Value>) -> Counts {
    let mut seen = Seen::default();
    for object in objects {
        seen.take(&object);
    }
    let groups = || seen.groups.values().flatten();
    let plain = |group: &Group| group.labels.keys().filter(|key| !is_edge(key)).count();
    let edges = |group: &Group| group.labels.keys().filter(|key| lists_service(key)).count();
    let mut counts = Counts {
        pods: seen.addresses.len(),
        local: seen.local.len(),
        policies: seen.policies.values().map(Vec::len).sum(),
        label_sets: groups().map(|g| &g.labels).collect::<BTreeSet<_>>().len(),
        labels: (
            groups().map(plain).min().unwrap_or_default(),
            groups().map(plain).max().unwrap_or_default(),
        ),
        edges: groups().map(edges).sum(),
        selecting: usize::MAX,
        matches: (usize::MAX, 0),
        widest: 0,
    };
    seen.count_peers(&mut counts);
    counts
}

fn is_edge(key: &str) -> bool {
    lists_service(key) || key.contains("egress-groups.ringfence.dev/")
}

fn lists_service(key: &str) -> bool {
    key.starts_with("egress.ringfence.dev/") || key.contains(".egress.ringfence.dev/")
}

impl Seen {
    fn take(&mut self, object: &Value) {
        let text = |path| object.pointer(path).and_then(Value::as_str);
        let name = text("/metadata/name").unwrap_or_default().to_owned();
        let namespace = text("/metadata/namespace").unwrap_or_default().to_owned();
        match text("/kind") {
            Some("Namespace") => {
                let labels = strings(&object["metadata"]["labels"]);
                self.namespaces.insert(name, labels);
            }
            Some("NetworkPolicy") => {
                let spec = object["spec"].clone();
                self.policies.entry(namespace).or_default().push(spec);
            }
            Some("Pod") => self.take_pod(object, namespace),
            _ => {}
        }
    }

    fn take_pod(&mut self, pod: &Value, namespace: String) {
        let number = self.addresses.len();
        let listed = pod["status"]["podIPs"].as_array();
        let listed = listed.into_iter().flatten();
        let parsed = listed.filter_map(|entry| entry["ip"].as_str()?.parse().ok());
        self.addresses.push(parsed.collect());
        let labels = strings(&pod["metadata"]["labels"]);
        let groups = self.groups.entry(namespace.clone()).or_default();
        let known = groups.iter().position(|group| group.labels == labels);
        let group = known.unwrap_or_else(|| {
            let pods = Vec::new();
            groups.push(Group { labels, pods });
            groups.len() - 1
        });
        groups[group].pods.push(number);
        if pod["spec"]["nodeName"] == NODE {
            self.local.push((namespace, group));
        }
    }

    fn count_peers(&self, counts: &mut Counts) {
        let mut counted = BTreeSet::new();
        for (namespace, group) in &self.local {
            let labels = &self.groups[namespace][*group].labels;
            let policies = self.policies.get(namespace);
            let policies = policies.into_iter().flatten().enumerate();
            let mut selecting = 0;
            for (n, spec) in policies {
                if !selects(&spec["podSelector"], &borrowed(labels)) {
                    continue;
                }
                let directions = [&spec["ingress"], &spec["egress"]];
                selecting += usize::from(directions.iter().any(|rules| rules.is_array()));
                if counted.insert((namespace, n)) {
                    for rules in directions {
                        self.count_direction(rules, namespace, counts);
                    }
                }
            }
            counts.selecting = counts.selecting.min(selecting);
        }
    }

    fn count_direction(&self, rules: &Value, namespace: &str, counts: &mut Counts) {
        let mut all = BTreeSet::new();
        for rule in rules.as_array().into_iter().flatten() {
            let peers = [&rule["from"], &rule["to"]];
            for peer in peers.into_iter().filter_map(Value::as_array).flatten() {
                let found = self.matching(peer, namespace);
                if peer.get("ipBlock").is_none() || !found.is_empty() {
                    counts.matches.0 = counts.matches.0.min(found.len());
                    counts.matches.1 = counts.matches.1.max(found.len());
                }
                all.extend(found);
            }
        }
        counts.widest = counts.widest.max(all.len());
    }

    fn matching(&self, peer: &Value, namespace: &str) -> Vec<usize> {
        if let Some(block) = peer.get("ipBlock") {
            return self.within(block);
        }
        let spaces =
            self.namespaces
                .iter()
                .filter(|(name, labels)| match peer.get("namespaceSelector") {
                    Some(selector) => selects(selector, &borrowed(labels)),
                    None => *name == namespace,
                });
        let groups = spaces
            .filter_map(|(name, _)| self.groups.get(name))
            .flatten();
        let groups = groups.filter(|group| match peer.get("podSelector") {
            Some(selector) => selects(selector, &borrowed(&group.labels)),
            None => true,
        });
        groups.flat_map(|group| &group.pods).copied().collect()
    }

    fn within(&self, block: &Value) -> Vec<usize> {
        let cidr = |value: &Value| value.as_str().and_then(Cidr::parse);
        let whole = cidr(&block["cidr"]);
        let except = block["except"].as_array();
        let except: Vec<Cidr> = except.into_iter().flatten().filter_map(cidr).collect();
        let holds = |ip: &IpAddr| {
            whole.is_some_and(|whole| whole.contains(*ip))
                && !except.iter().any(|part| part.contains(*ip))
        };
        let pods = self.addresses.iter().enumerate();
        pods.filter(|(_, ips)| ips.iter().any(holds))
            .map(|(number, _)| number)
            .collect()
    }
}

fn strings(labels: &Value) -> BTreeMap<String, String> {
    let labels = labels.as_object().into_iter().flatten();
    labels
        .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
        .collect()
}

fn borrowed(labels: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    let pairs = labels.iter();
    pairs.map(|(k, v)| (k.as_str(), v.as_str())).collect()
}
