//! The smallest change that allows a denied call.
//!
//! Each side that denies has ways to be opened, the best first. Combinations
//! are tried on a copy of the index in that order, so that what is offered works.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    compile::policy::{Origin, Place},
    index::{Index, PodEntry, groups::PodId, spaces::NAMESPACE_NAME},
    labels::{self, PortRef},
    model::{
        EgressRule, IngressRule, IntOrString, IpBlock, LabelSelector, Meta, NetworkPolicy,
        NetworkPolicyPort, NetworkPolicySpec, Peer, PolicyType,
    },
    ports::PortSpec,
};

use super::{
    Case, Ends, Fix, Party, Side, Verdict,
    change::{self, Change, Key, Rule},
    party::PartyKind,
    side, yaml,
};

/// One way to open one side.
type Way = Vec<Change>;

/// Tries ways until one makes the call better than `now`.
pub(super) fn find(
    case: &Case<'_>,
    ends: &Ends<'_>,
    now: Verdict,
    egress: &Side,
    ingress: &Side,
) -> Vec<Fix> {
    let &Ends { from, to, port, .. } = ends;
    let call = Call {
        case,
        from,
        to,
        port,
        ends,
        now,
    };
    let cut_off: Way = [from, to]
        .into_iter()
        .filter_map(|p| call.release(p))
        .collect();
    let to_blame = |side: &Side| side.verdict == now;
    let mut outgoing = vec![Way::new()];
    let mut incoming = vec![Way::new()];
    if to_blame(egress) {
        outgoing.extend(call.ways(PolicyType::Egress));
    }
    if to_blame(ingress) {
        incoming.extend(call.ways(PolicyType::Ingress));
    }
    for out in &outgoing {
        for into in &incoming {
            let mut changes = cut_off.clone();
            for change in out.iter().chain(into) {
                if !changes.contains(change) {
                    changes.push(change.clone());
                }
            }
            if !changes.is_empty() && call.works(case.given, &changes) {
                return change::write(case.given, &changes);
            }
        }
    }
    Vec::new()
}

pub(super) struct Call<'c, 'a> {
    pub(super) case: &'c Case<'a>,
    pub(super) from: &'c Party,
    pub(super) to: &'c Party,
    pub(super) port: &'c PortSpec,
    ends: &'c Ends<'c>,
    /// What it is to become better than.
    now: Verdict,
}

impl<'c, 'a> Call<'c, 'a> {
    pub(super) fn index(&self) -> &'c Index {
        &self.case.index
    }

    pub(super) fn pod(&self, party: &Party) -> Option<(PodId, &'c PodEntry)> {
        let id = party.pod?;
        Some((id, self.index().entry(id)?))
    }

    /// Whether the call is better off once the changes are made. Pods keep their
    /// indexes: no change adds or removes one.
    fn works(&self, index: &Index, changes: &[Change]) -> bool {
        let mut index = index.clone();
        for change in changes {
            change.apply(&mut index);
        }
        let case = Case::new(&index);
        let (egress, ingress) = side::both(&case, self.ends);
        egress.verdict.max(ingress.verdict) < self.now
    }

    fn release(&self, party: &Party) -> Option<Change> {
        let pod = self
            .pod(party)
            .filter(|_| side::quarantined(self.case, party))?;
        let key = self.index().config.key("quarantine");
        let sentence = format!("Ends the quarantine of {}.", party.name);
        Some(Change::label(pod, key, None, sentence))
    }

    /// Ways to open one side: by label where a label closed it, else by the
    /// NetworkPolicy that did, else by a new one; each also after the
    /// ClusterNetworkPolicies that deny it accept it.
    fn ways(&self, direction: PolicyType) -> Vec<Way> {
        let subject = match direction {
            PolicyType::Ingress => self.to,
            PolicyType::Egress => self.from,
        };
        let policies = self.case.policies(subject);
        let mut by_label = false;
        let mut netpol: Option<Key> = None;
        let mut clusters = Vec::new();
        for policy in &policies {
            let counts = !policy.staged || self.now == Verdict::Audited;
            if !counts || policy.rules(direction).is_none() {
                continue;
            }
            match (&policy.origin, policy.place) {
                (
                    Origin::ClusterNetworkPolicy {
                        name,
                        closed: false,
                    },
                    _,
                ) => {
                    clusters.push(name.as_ref().to_owned());
                }
                (_, Place::Network { isolates: false }) => {}
                (Origin::Label { .. }, _) => by_label = true,
                (
                    Origin::NetworkPolicy {
                        namespace,
                        name,
                        closed: false,
                    },
                    _,
                ) if netpol.is_none() && self.is_own(subject, namespace, name) => {
                    netpol = Some((namespace.as_ref().to_owned(), name.as_ref().to_owned()));
                }
                _ => {}
            }
        }
        let label = self
            .by_label(direction)
            .filter(|way| by_label && !way.is_empty());
        let rule = netpol.map(|policy| vec![self.by_rule(direction, policy)]);
        let policy = self.by_policy(direction).map(|change| vec![change]);
        let plain: Vec<Way> = [label, rule, policy].into_iter().flatten().collect();
        let accepting = clusters
            .into_iter()
            .filter_map(|name| Some(vec![self.by_cluster(direction, name)?]));
        plain.into_iter().chain(accepting).collect()
    }

    fn by_label(&self, direction: PolicyType) -> Option<Way> {
        match (self.pod(self.from), self.pod(self.to)) {
            (Some(caller), Some(callee)) => self.by_call(caller, callee),
            (None, Some(callee)) if direction == PolicyType::Ingress => {
                let (word, whom) = match self.from.kind {
                    PartyKind::Node => ("all_nodes", "traffic from other nodes"),
                    // A pod, whose own labels say whom it calls.
                    PartyKind::Unknown => return None,
                    _ => ("outside_cluster", "callers from outside the cluster"),
                };
                let sentence = format!("Admits {whom} to {}.", self.to.name);
                Some(vec![self.admit(callee, word, sentence)])
            }
            _ => None,
        }
    }

    fn admit(&self, callee: (PodId, &PodEntry), word: &str, sentence: String) -> Change {
        let key = format!("{}/{word}", self.index().config.callers_prefix);
        Change::label(callee, key, Some("true".into()), sentence)
    }

    /// The caller's label, and the callee's consent if it comes from elsewhere.
    fn by_call(&self, caller: (PodId, &PodEntry), callee: (PodId, &PodEntry)) -> Option<Way> {
        let config = &self.index().config;
        let (from, to) = (&caller.1.shape, &callee.1.shape);
        let same = from.namespace == to.namespace;
        let key = match same {
            true => format!("{}/{}", config.egress_prefix, to.service),
            false => format!("{}.{}/{}", to.namespace, config.egress_prefix, to.service),
        };
        let current = from.labels.get(&key);
        let current = current.map(|value| &**value);
        let value = self.value(current, &to.namespace, &to.service)?;
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
            let namespace = self.index().namespace(&to.namespace);
            labels::is_true(&to.labels, &key) || labels::is_true(&namespace, &key)
        };
        if !same && !admitted(&from.namespace) && !admitted("any_namespace") {
            let sentence = format!(
                "Admits callers of namespace {} that list {}.",
                from.namespace, to.service
            );
            way.push(self.admit(callee, &from.namespace, sentence));
        }
        Some(way)
    }

    /// The label value that adds the port to what is listed now; `None` if no value can.
    fn value(&self, current: Option<&str>, namespace: &str, service: &str) -> Option<String> {
        let spaces = &self.index().spaces;
        let declared = spaces.declared(namespace, service);
        let current = current.and_then(|v| labels::Value::parse(v).ok());
        let asked = self.port.with_ports();
        let asked = asked.map(|protocol| PortRef::Number(protocol, self.port.port));
        let covered = declared.contains(self.port.protocol, self.port.port);
        let mut list = match current {
            None | Some(labels::Value::Declared) if covered => return Some("true".into()),
            None => Vec::new(),
            Some(labels::Value::Declared) => spaces
                .declared_list(namespace, service)
                .map(|(protocol, port)| PortRef::Number(protocol, port))
                .collect(),
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

    pub(super) fn allows(&self) -> String {
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
        let (_, pod) = pod;
        let subject = self.pod(subject).map(|(_, s)| &s.shape.namespace);
        let elsewhere = subject.is_some_and(|namespace| *namespace != pod.shape.namespace);
        vec![Peer {
            pod_selector: Some(self.selector(pod)),
            namespace_selector: elsewhere.then(|| by_name(&pod.shape.namespace)),
            ip_block: None,
        }]
    }

    /// The pods of a pod's service; of its namespace if it carries no label that says more.
    pub(super) fn selector(&self, pod: &PodEntry) -> LabelSelector {
        let labels = &pod.shape.labels;
        let keys = &self.index().config.service_labels;
        let named = keys.iter().find_map(|k| Some((k, labels.get(k)?)));
        let match_labels = match named {
            Some((key, value)) => [(key.clone(), value.as_ref().to_owned())].into(),
            None => {
                let volatile = |k: &str| k.ends_with("-hash") || k.contains("ringfence.dev/");
                let stable = labels.iter().filter(|(k, _)| !volatile(k));
                stable
                    .map(|(k, v)| (k.as_ref().to_owned(), v.as_ref().to_owned()))
                    .collect()
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
        let (_, pod) = self.pod(subject)?;
        let way = match direction {
            PolicyType::Ingress => "from",
            PolicyType::Egress => "to",
        };
        let service = &pod.shape.service;
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
            name: yaml::object_name(&name),
            namespace: pod.shape.namespace.as_ref().to_owned(),
            ..Meta::default()
        };
        let policy = Box::new(NetworkPolicy { metadata, spec });
        let sentence = format!("Adds a NetworkPolicy: {}", self.allows());
        Some(Change::Policy { policy, sentence })
    }
}

/// Selects the namespace of a name.
pub(super) fn by_name(namespace: &str) -> LabelSelector {
    let name = (NAMESPACE_NAME.to_owned(), namespace.to_owned());
    LabelSelector {
        match_labels: [name].into(),
        ..LabelSelector::default()
    }
}

/// Every address of both families.
pub(super) fn everywhere() -> [IpNet; 2] {
    let v4 = IpNet::new_assert(IpAddr::from([0; 4]), 0);
    let v6 = IpNet::new_assert(IpAddr::from([0_u16; 8]), 0);
    [v4, v6]
}
