//! What happens in the cluster: pods that come, go and get other labels, and
//! policies that change.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context as _, Result};
use ringfence_tests::clusters::NODE;
use ringfence_tests::random::Dice;
use serde_json::{Value, json};

/// One change of one object.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// It comes, or is this from now on.
    Put(Value),
    /// It goes: resource, namespace and name.
    Delete(&'static str, String, String),
}

/// Of so many pods of other nodes one takes part, and of so many policies.
const EACH: usize = 11;
/// So many changes later the opposite of a change is made.
const LATER: usize = 40;

/// What is still to happen.
pub(crate) struct Changes {
    dice: Dice,
    seen: usize,
    /// Pods of other nodes, used in turn.
    remote: VecDeque<Value>,
    /// Pods of the node.
    local: VecDeque<Value>,
    policies: VecDeque<Value>,
    /// Labels that pods of a namespace have.
    labels: BTreeMap<String, Vec<Value>>,
    /// What undoes earlier changes, oldest first.
    undo: VecDeque<Value>,
}

impl Changes {
    pub(crate) fn new() -> Self {
        Self {
            dice: Dice::new(5),
            seen: 0,
            remote: VecDeque::new(),
            local: VecDeque::new(),
            policies: VecDeque::new(),
            labels: BTreeMap::new(),
            undo: VecDeque::new(),
        }
    }

    /// Takes note of an object of the cluster.
    pub(crate) fn take(&mut self, object: &Value) {
        self.seen += 1;
        let takes_part = self.seen.is_multiple_of(EACH);
        match object["kind"].as_str() {
            Some("Pod") if object["spec"]["nodeName"] == NODE => {
                self.local.push_back(object.clone());
            }
            Some("Pod") if takes_part => {
                let labels = object["metadata"]["labels"].clone();
                let own = self.labels.entry(namespace(object)).or_default();
                own.push(labels);
                self.remote.push_back(object.clone());
            }
            Some("NetworkPolicy") if takes_part => self.policies.push_back(object.clone()),
            _ => {}
        }
    }

    /// Keeps only those pods of other nodes that `is_peer` says.
    pub(crate) fn keep(&mut self, is_peer: impl Fn(&Value) -> bool) {
        self.remote.retain(is_peer);
    }

    pub(crate) fn len(&self) -> usize {
        self.remote.len()
    }

    /// A change that most likely alters the node's entries: two in five times a
    /// peer goes, two in five it gets other labels, else a pod of the node does.
    /// Each is undone later.
    pub(crate) fn telling(&mut self) -> Result<Change> {
        if self.undo.len() > LATER
            && let Some(object) = self.undo.pop_front()
        {
            return Ok(Change::Put(object));
        }
        let kind = self.dice.below(5);
        let pods = if kind == 4 {
            &mut self.local
        } else {
            &mut self.remote
        };
        let pod = pods.pop_front().context("no pods")?;
        pods.push_back(pod.clone());
        self.undo.push_back(pod.clone());
        if kind < 2 {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            return Ok(Change::Delete("pods", namespace(&pod), name.to_owned()));
        }
        let mut pod = pod;
        let own = self.labels.get(&namespace(&pod));
        let others: Vec<&Value> = own
            .into_iter()
            .flatten()
            .filter(|labels| labels["app"] != pod["metadata"]["labels"]["app"])
            .collect();
        let labels = match others.is_empty() {
            true => json!({"app": "none"}),
            false => (*self.dice.choose(&others)).clone(),
        };
        pod["metadata"]["labels"] = labels;
        Ok(Change::Put(pod))
    }

    /// A change of a pod that most likely alters nothing here: its status, or a
    /// label that no policy names.
    pub(crate) fn idle(&mut self, number: usize) -> Result<Change> {
        // Far from those that are gone for the moment, which are at the end.
        let at = self.remote.len() / 2 + self.dice.below(self.remote.len() / 4);
        let pod = self.remote.get_mut(at).context("no pod")?;
        if self.dice.chance(50) {
            pod["metadata"]["annotations"] = json!({"checked": number.to_string()});
        } else {
            pod["metadata"]["labels"]["version"] = json!(format!("v{}", number % 7));
        }
        Ok(Change::Put(pod.clone()))
    }

    /// A policy gets another port.
    pub(crate) fn policy(&mut self, number: usize) -> Result<Change> {
        let mut policy = self.policies.pop_front().context("no policies")?;
        let port = json!([{"protocol": "TCP", "port": 2000 + number % 1000}]);
        for way in ["ingress", "egress"] {
            if let Some(rule) = policy["spec"][way].get_mut(0) {
                rule["ports"] = port.clone();
            }
        }
        self.policies.push_back(policy.clone());
        Ok(Change::Put(policy))
    }
}

fn namespace(object: &Value) -> String {
    let namespace = object["metadata"]["namespace"].as_str();
    namespace.unwrap_or_default().to_owned()
}
