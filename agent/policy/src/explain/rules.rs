//! Rules and policies that a fix adds.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    index::{PodEntry, spaces::NAMESPACE_NAME},
    model::{
        EgressRule, IngressRule, IntOrString, IpBlock, LabelSelector, Meta, NetworkPolicy,
        NetworkPolicyPort, NetworkPolicySpec, Peer, PolicyType,
    },
};

use super::{
    Party,
    change::{Change, Key, Rule},
    fix::Call,
};

/// Labels that controllers set on each pod, or on the pods of one version; the next pod won't
/// have the same value.
const VOLATILE: [&str; 8] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "controller-uid",
    "job-name",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
];

impl Call<'_, '_> {
    pub(super) fn by_rule(&self, direction: PolicyType, policy: Key) -> Change {
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
        let subject = self.pod(subject).map(|(_, s)| &s.traits.namespace);
        let elsewhere = subject.is_some_and(|namespace| *namespace != pod.traits.namespace);
        vec![Peer {
            pod_selector: Some(self.selector(pod)),
            namespace_selector: elsewhere.then(|| by_name(&pod.traits.namespace)),
            ip_block: None,
        }]
    }

    /// Returns a selector for the pods of a pod's service, or for its namespace if the pod has no
    /// label that is more specific.
    pub(super) fn selector(&self, pod: &PodEntry) -> LabelSelector {
        let config = &self.index().config;
        let labels = &pod.traits.labels;
        let named = config.service_labels.iter();
        let named = named.filter_map(|key| Some((key, labels.get(key)?)));
        let match_labels = match named.into_iter().find(|(_, value)| !value.is_empty()) {
            Some((key, value)) => [(key.clone(), value.as_ref().to_owned())].into(),
            None => {
                let volatile = |k: &str| k.ends_with("-hash") || VOLATILE.contains(&k);
                let stable = labels
                    .iter()
                    .filter(|(k, _)| !volatile(k) && !config.owns(k));
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

    /// Adds a new NetworkPolicy for those of the service's pods that `within` also selects.
    pub(super) fn by_policy(
        &self,
        direction: PolicyType,
        within: Option<&LabelSelector>,
        staged: bool,
    ) -> Option<Change> {
        let (subject, peer) = match direction {
            PolicyType::Ingress => (self.to, self.from),
            PolicyType::Egress => (self.from, self.to),
        };
        let (_, pod) = self.pod(subject)?;
        let mut pod_selector = self.selector(pod);
        if let Some(within) = within {
            let LabelSelector {
                match_labels,
                match_expressions,
            } = within.clone();
            // The pod has all of these labels, so no two can conflict.
            pod_selector.match_labels.extend(match_labels);
            pod_selector.match_expressions.extend(match_expressions);
        }
        let mut spec = NetworkPolicySpec {
            pod_selector,
            policy_types: vec![direction],
            ..NetworkPolicySpec::default()
        };
        match self.rule(direction) {
            Rule::Ingress(rule) => spec.ingress.push(rule),
            Rule::Egress(rule) => spec.egress.push(rule),
        }
        let namespace = pod.traits.namespace.as_ref().to_owned();
        let name = format!(
            "allow-{}-{}-{}",
            pod.traits.service,
            way(direction),
            peer.name
        );
        let is_free = |name: &str| self.index().policy(&namespace, name).is_none();
        let mode = staged.then(|| (self.index().config.key("mode"), "audit".to_owned()));
        let metadata = Meta {
            name: object_name(&name, is_free),
            namespace,
            annotations: mode.into_iter().collect(),
            ..Meta::default()
        };
        let policy = Box::new(NetworkPolicy { metadata, spec });
        let kind = if staged {
            "staged NetworkPolicy"
        } else {
            "NetworkPolicy"
        };
        let sentence = format!("Adds a {kind}: {}", self.allows());
        Some(Change::Policy { policy, sentence })
    }
}

pub(super) fn way(direction: PolicyType) -> &'static str {
    match direction {
        PolicyType::Ingress => "from",
        PolicyType::Egress => "to",
    }
}

/// Selects a namespace by name.
pub(super) fn by_name(namespace: &str) -> LabelSelector {
    let name = (NAMESPACE_NAME.to_owned(), namespace.to_owned());
    LabelSelector {
        match_labels: [name].into(),
        ..LabelSelector::default()
    }
}

/// Returns every address of both families.
pub(super) fn everywhere() -> [IpNet; 2] {
    let v4 = IpNet::new_assert(IpAddr::from([0; 4]), 0);
    let v6 = IpNet::new_assert(IpAddr::from([0_u16; 8]), 0);
    [v4, v6]
}

/// Returns a valid object name that resembles the text and isn't taken: a new object with the
/// name of an existing one would replace it.
pub(super) fn object_name(text: &str, is_free: impl Fn(&str) -> bool) -> String {
    let safe = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() => c,
        _ => '-',
    };
    let name: String = text.chars().map(safe).take(200).collect();
    let name = name.trim_matches('-').to_owned();
    let numbered = (2_u64..).map(|n| format!("{name}-{n}"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    names.find(|name| is_free(name)).unwrap_or(name)
}
