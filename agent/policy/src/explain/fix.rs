//! The smallest change that allows a denied call.
//!
//! Each side that denies has ways to be opened, the best first. Combinations
//! are tried on a copy of the index in that order, so that what is offered works.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    compile::policy::Origin,
    index::{Index, Key},
    labels::{self, PortRef},
    model::{
        EgressRule, IngressRule, IntOrString, IpBlock, LabelSelector, Meta, NetworkPolicy,
        NetworkPolicyPort, NetworkPolicySpec, Peer, PolicyType,
    },
    ports::PortSpec,
    view::{PodView, View},
};

use super::{
    Case, Fix, Party, Side, Verdict,
    change::{self, Change, Rule},
    party::PartyKind,
    side,
};

/// One way to open one side.
type Way = Vec<Change>;

pub(super) fn find(
    case: &Case<'_>,
    from: &Party,
    to: &Party,
    port: &PortSpec,
    egress: &Side,
    ingress: &Side,
) -> Vec<Fix> {
    let call = Call {
        case,
        from,
        to,
        port,
    };
    let cut_off: Way = [from, to]
        .into_iter()
        .filter_map(|p| call.release(p))
        .collect();
    let denied = |side: &Side| side.verdict == Verdict::Denied;
    let mut outgoing = vec![Way::new()];
    let mut incoming = vec![Way::new()];
    if denied(egress) {
        outgoing.extend(call.ways(PolicyType::Egress));
    }
    if denied(ingress) {
        incoming.extend(call.ways(PolicyType::Ingress));
    }
    let index = case.view.index;
    for out in &outgoing {
        for inn in &incoming {
            let mut changes: Vec<Change> = Vec::new();
            for change in cut_off.iter().chain(out).chain(inn) {
                if !changes.contains(change) {
                    changes.push(change.clone());
                }
            }
            if !changes.is_empty() && call.works(index, &changes) {
                return change::write(index, &changes);
            }
        }
    }
    Vec::new()
}

struct Call<'c, 'a> {
    case: &'c Case<'a>,
    from: &'c Party,
    to: &'c Party,
    port: &'c PortSpec,
}

impl<'c, 'a> Call<'c, 'a> {
    fn view(&self) -> &'c View<'a> {
        &self.case.view
    }

    fn pod(&self, party: &Party) -> Option<&'c PodView<'a>> {
        party.pod.map(|i| &self.view().pods[i])
    }

    /// Whether the call goes through once the changes are made. Pods keep their
    /// places in the view: no change adds or removes one.
    fn works(&self, index: &Index, changes: &[Change]) -> bool {
        let mut index = index.clone();
        for change in changes {
            change.apply(&mut index);
        }
        let case = Case::new(&index);
        let (egress, ingress) = side::both(&case, self.from, self.to, self.port);
        egress.verdict.max(ingress.verdict) != Verdict::Denied
    }

    fn release(&self, party: &Party) -> Option<Change> {
        let pod = self
            .pod(party)
            .filter(|_| side::quarantined(self.case, party))?;
        let key = self.view().config().key("quarantine");
        let sentence = format!("Ends the quarantine of {}.", party.name);
        Some(Change::label(pod, key, None, sentence))
    }

    /// Ways to open one side: by label where a label closed it, else by the
    /// NetworkPolicy that did, else by a new one, which always works.
    fn ways(&self, direction: PolicyType) -> Vec<Way> {
        let subject = match direction {
            PolicyType::Ingress => self.to,
            PolicyType::Egress => self.from,
        };
        let policies = side::policies(self.case, subject);
        let mut by_label = false;
        let mut netpol: Option<Key> = None;
        for policy in policies.iter().filter(|p| p.isolates && !p.staged) {
            if policy.rules(direction).is_none() {
                continue;
            }
            match &policy.origin {
                Origin::Label { .. } => by_label = true,
                Origin::NetworkPolicy {
                    namespace,
                    name,
                    closed: false,
                } if netpol.is_none() => netpol = Some((namespace.clone(), name.clone())),
                _ => {}
            }
        }
        let label = self
            .by_label(direction)
            .filter(|way| by_label && !way.is_empty());
        let rule = netpol.map(|policy| vec![self.by_rule(direction, policy)]);
        let policy = self.by_policy(direction).map(|change| vec![change]);
        [label, rule, policy].into_iter().flatten().collect()
    }

    fn by_label(&self, direction: PolicyType) -> Option<Way> {
        match (self.pod(self.from), self.pod(self.to)) {
            (Some(caller), Some(callee)) => self.by_call(caller, callee),
            (None, Some(callee)) if direction == PolicyType::Ingress => {
                let (word, whom) = match self.from.kind {
                    PartyKind::Node => ("all_nodes", "traffic from other nodes"),
                    _ => ("outside_cluster", "callers from outside the cluster"),
                };
                let sentence = format!("Admits {whom} to {}.", self.to.name);
                Some(vec![self.admit(callee, word, sentence)])
            }
            _ => None,
        }
    }

    fn admit(&self, callee: &PodView<'_>, word: &str, sentence: String) -> Change {
        let key = format!("{}/{word}", self.view().config().callers_prefix);
        Change::label(callee, key, Some("true".into()), sentence)
    }

    /// The caller's label, and the callee's consent if it comes from elsewhere.
    fn by_call(&self, caller: &PodView<'_>, callee: &PodView<'_>) -> Option<Way> {
        let view = self.view();
        let config = view.config();
        let (from, to) = (&view.groups[caller.group], &view.groups[callee.group]);
        let same = from.namespace == to.namespace;
        let key = match same {
            true => format!("{}/{}", config.egress_prefix, to.service),
            false => format!("{}.{}/{}", to.namespace, config.egress_prefix, to.service),
        };
        let current = from.labels.get(&key);
        let value = self.value(current.map(String::as_str), to.namespace, &to.service)?;
        let mut way = Way::new();
        if current != Some(&value) {
            let sentence = format!(
                "Lets {} call {} on {}; set it where the pods are made, in their template.",
                from.workload(),
                to.workload(),
                self.port
            );
            way.push(Change::label(caller, key, Some(value), sentence));
        }
        let admitted = |word: &str| {
            let key = format!("{}/{word}", config.callers_prefix);
            let namespace = view.namespace(to.namespace);
            labels::is_true(to.labels, &key) || labels::is_true(namespace, &key)
        };
        if !same && !admitted(from.namespace) && !admitted("any_namespace") {
            let sentence = format!(
                "Admits callers of namespace {} that list {}.",
                from.namespace, to.service
            );
            way.push(self.admit(callee, from.namespace, sentence));
        }
        Some(way)
    }

    /// The label value that adds the port to what is listed now; `None` if no value can.
    fn value(&self, current: Option<&str>, namespace: &str, service: &str) -> Option<String> {
        let view = self.view();
        let declared = view.declared(namespace, service);
        let current = current.and_then(|v| labels::Value::parse(v).ok());
        let asked = self.port.with_ports();
        let asked = asked.map(|protocol| PortRef::Number(protocol, self.port.port));
        let covered = declared.contains(self.port.protocol, self.port.port);
        let mut list = match current {
            None | Some(labels::Value::Declared) if covered => return Some("true".into()),
            None => Vec::new(),
            Some(labels::Value::Declared) => view.declared_list(namespace, service),
            Some(labels::Value::List(list)) if list.is_empty() && covered => {
                return Some("true".into());
            }
            Some(labels::Value::List(list)) => list,
        };
        let asked = asked?;
        if !list.contains(&asked) {
            list.push(asked);
        }
        let parts: Vec<String> = list.iter().map(ToString::to_string).collect();
        // A label's value holds 63 characters.
        Some(parts.join("_")).filter(|v| v.len() <= 63)
    }

    fn by_rule(&self, direction: PolicyType, policy: Key) -> Change {
        let sentence = format!(
            "Adds a rule to {}/{}: {}",
            policy.0,
            policy.1,
            self.allows()
        );
        Change::Rule {
            rule: self.rule(direction),
            policy,
            sentence,
        }
    }

    fn allows(&self) -> String {
        let ports = match self.port.with_ports() {
            Some(_) => self.port.to_string(),
            None => "everything, since a rule for ICMP can have no ports,".into(),
        };
        format!("{} may send {ports} to {}.", self.from.name, self.to.name)
    }

    fn rule(&self, direction: PolicyType) -> Rule {
        let port = self.port.with_ports().map(|protocol| NetworkPolicyPort {
            protocol,
            port: Some(IntOrString::Int(self.port.port.into())),
            end_port: None,
        });
        let ports = port.into_iter().collect();
        match direction {
            PolicyType::Ingress => Rule::Ingress(IngressRule {
                from: self.peers(self.from, self.to),
                ports,
            }),
            PolicyType::Egress => Rule::Egress(EgressRule {
                to: self.peers(self.to, self.from),
                ports,
            }),
        }
    }

    fn peers(&self, peer: &Party, subject: &Party) -> Vec<Peer> {
        let block = |cidr: IpNet| Peer {
            ip_block: Some(IpBlock {
                cidr,
                except: Vec::new(),
            }),
            ..Peer::default()
        };
        let Some(pod) = self.pod(peer) else {
            return match peer.address {
                Some(ip) => vec![block(IpNet::from(ip))],
                None => everywhere().map(block).into(),
            };
        };
        let elsewhere = self
            .pod(subject)
            .is_some_and(|s| s.key.namespace != pod.key.namespace);
        let namespace = elsewhere.then(|| {
            let name = (
                "kubernetes.io/metadata.name".into(),
                pod.key.namespace.clone(),
            );
            LabelSelector {
                match_labels: [name].into(),
                ..LabelSelector::default()
            }
        });
        vec![Peer {
            pod_selector: Some(self.selector(pod)),
            namespace_selector: namespace,
            ip_block: None,
        }]
    }

    /// The pods of a pod's service; of its namespace if it carries no label that says more.
    fn selector(&self, pod: &PodView<'_>) -> LabelSelector {
        let labels = self.view().groups[pod.group].labels;
        let keys = &self.view().config().service_labels;
        let named = keys.iter().find_map(|k| labels.get_key_value(k));
        let match_labels = match named {
            Some((key, value)) => [(key.clone(), value.clone())].into(),
            None => {
                let volatile = |k: &str| k.ends_with("-hash") || k.contains("ringfence.dev/");
                let stable = labels.iter().filter(|(k, _)| !volatile(k));
                stable.map(|(k, v)| (k.clone(), v.clone())).collect()
            }
        };
        LabelSelector {
            match_labels,
            ..LabelSelector::default()
        }
    }

    fn by_policy(&self, direction: PolicyType) -> Option<Change> {
        let (subject, peer) = match direction {
            PolicyType::Ingress => (self.to, self.from),
            PolicyType::Egress => (self.from, self.to),
        };
        let pod = self.pod(subject)?;
        let way = match direction {
            PolicyType::Ingress => "from",
            PolicyType::Egress => "to",
        };
        let service = &self.view().groups[pod.group].service;
        let name = format!("allow-{service}-{way}-{}", peer.name);
        let mut spec = NetworkPolicySpec {
            pod_selector: self.selector(pod),
            policy_types: vec![direction],
            ..NetworkPolicySpec::default()
        };
        match self.rule(direction) {
            Rule::Ingress(rule) => spec.ingress.push(rule),
            Rule::Egress(rule) => spec.egress.push(rule),
        }
        let metadata = Meta {
            name: object_name(&name),
            namespace: pod.key.namespace.clone(),
            ..Meta::default()
        };
        let policy = Box::new(NetworkPolicy { metadata, spec });
        let sentence = format!("Adds a NetworkPolicy: {}", self.allows());
        Some(Change::Policy { policy, sentence })
    }
}

/// Every address of both families.
fn everywhere() -> [IpNet; 2] {
    let v4 = IpNet::new_assert(IpAddr::from([0; 4]), 0);
    let v6 = IpNet::new_assert(IpAddr::from([0_u16; 8]), 0);
    [v4, v6]
}

/// A valid object name that resembles the text.
fn object_name(text: &str) -> String {
    let safe = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() => c,
        _ => '-',
    };
    let name: String = text.chars().map(safe).take(200).collect();
    name.trim_matches('-').to_owned()
}
