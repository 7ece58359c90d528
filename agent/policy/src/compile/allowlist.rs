//! Label allowlists as policies of a group.
//!
//! A call is a property of the caller: its egress labels open the callee's ingress and, where the
//! caller's egress is closed, the caller's egress as well. This holds whichever policy closes it,
//! so a mode only ever tightens.

use std::collections::BTreeSet;

use crate::{
    index::pods::PodTraits,
    intern::Text,
    labels::{Mode, PortRef, Target, Value, What},
    model::{Action, Protocol},
    ports::Ports,
    select,
    selector::Labels,
};

use super::{
    peer::Base,
    policy::{Facts, Origin, Policy, Rank, Rule, RuleName, Who, named_grant},
};

/// Returns the label allowlists in force for a group.
pub(super) fn of(facts: &Facts<'_>, group: &PodTraits) -> Vec<Policy> {
    let namespace = facts.namespace(&group.namespace);
    let mode = |word: &str| {
        let key = facts.config().key(word);
        let (mode, decider) = Mode::of(facts.config(), &key, &namespace, &group.labels);
        let origin = Origin::label(key, decider);
        (mode != Mode::Off).then_some((origin, mode == Mode::Audit))
    };
    let ingress = mode("ingress").map(|(origin, staged)| Policy {
        origin,
        staged,
        rank: Rank::Network { isolates: true },
        ingress: Some(ingress(facts, group)),
        egress: None,
    });
    ingress
        .into_iter()
        .chain(egress_policies(facts, group, mode("egress")))
        .collect()
}

/// Returns the egress policies of a group. A mode adds isolation and, with it, the way to DNS. The
/// labels themselves grant in every mode.
fn egress_policies(
    facts: &Facts<'_>,
    group: &PodTraits,
    mode: Option<(Origin, bool)>,
) -> Vec<Policy> {
    let policy = |origin, staged, isolates, rules| Policy {
        origin,
        staged,
        rank: Rank::Network { isolates },
        ingress: None,
        egress: Some(rules),
    };
    let mut calls = calls(facts, group);
    let dns = || Rule {
        name: RuleName::Dns,
        action: Action::Accept,
        grants: facts.dns().to_vec(),
    };
    match mode {
        Some((origin, false)) => {
            calls.push(dns());
            vec![policy(origin, false, true, calls)]
        }
        Some((origin, true)) => vec![
            policy(Origin::EgressLabels, false, false, calls),
            policy(origin, true, true, vec![dns()]),
        ],
        None if calls.is_empty() => Vec::new(),
        None => vec![policy(Origin::EgressLabels, false, false, calls)],
    }
}

fn ingress(facts: &Facts<'_>, callee: &PodTraits) -> Vec<Rule> {
    let config = facts.config();
    let here = &callee.namespace;
    let namespace = facts.namespace(here);
    let admits = Admits::of(&config.callers_prefix, &namespace, &callee.labels);
    let mut rules = Vec::new();
    let services = std::iter::once((&config.egress_prefix, &callee.service));
    let types = callee
        .kind
        .iter()
        .map(|k| (&config.egress_groups_prefix, k));
    for (prefix, name) in services.chain(types) {
        let own = format!("{prefix}/{name}");
        callers(facts, callee, &own, &[Some(&**here)], &mut rules);
        let other = format!("{here}.{prefix}/{name}");
        callers(facts, callee, &other, &admits.namespaces(here), &mut rules);
    }
    for (admitted, word, base) in [
        (admits.outside, OUTSIDE, Base::Outside),
        (admits.nodes, NODES, Base::AllNodes),
    ] {
        if admitted {
            rules.push(Rule {
                name: RuleName::Callee(format!("{}/{word}", config.callers_prefix)),
                action: Action::Accept,
                grants: vec![(base.into(), Ports::all())],
            });
        }
    }
    if admits.outside {
        doors(facts, callee, &mut rules);
    }
    rules
}

/// Adds the rules for calls from outside that other nodes forward. Nodes forward them with a source
/// address of their own, and nothing distinguishes those packets from other node traffic. So a
/// callee that admits the outside also admits nodes, on the ports that it has behind such a Service
/// and on no others.
fn doors(facts: &Facts<'_>, callee: &PodTraits, rules: &mut Vec<Rule>) {
    let key = format!("{}/{OUTSIDE}", facts.config().callers_prefix);
    for service in facts.doors(&callee.namespace) {
        if !select::is_behind(service, callee) {
            continue;
        }
        let mut ports = Ports::default();
        for port in &service.spec.ports {
            if let Some(number) = port.target(|name| callee.named(name, port.protocol)) {
                ports.add(&Ports::one(port.protocol, number));
            }
        }
        rules.push(Rule {
            name: RuleName::Door(key.clone(), service.metadata.name.clone()),
            action: Action::Accept,
            grants: vec![(Base::AllNodes.into(), ports)],
        });
    }
}

const ANY_NAMESPACE: &str = "any_namespace";
const OUTSIDE: &str = "outside_cluster";
const NODES: &str = "all_nodes";

/// What a callee admits besides its own namespace.
struct Admits<'a> {
    listed: BTreeSet<&'a str>,
    any: bool,
    outside: bool,
    nodes: bool,
}

impl<'a> Admits<'a> {
    fn of(prefix: &str, namespace: &'a Labels, callee: &'a Labels) -> Self {
        let read = |labels: &'a Labels| {
            let set = labels.iter().filter(|(_, value)| ***value == *"true");
            set.filter_map(|(key, _)| key.strip_prefix(prefix)?.strip_prefix('/'))
        };
        let mut listed: BTreeSet<_> = read(namespace).chain(read(callee)).collect();
        Self {
            any: listed.remove(ANY_NAMESPACE),
            outside: listed.remove(OUTSIDE),
            nodes: listed.remove(NODES),
            listed,
        }
    }

    /// Returns the namespaces whose callers are admitted; `None` means any.
    fn namespaces(&self, own: &'a str) -> Vec<Option<&'a str>> {
        if self.any {
            return vec![None];
        }
        let mut all = self.listed.clone();
        all.insert(own);
        all.into_iter().map(Some).collect()
    }
}

/// Adds a rule for each value with which callers carry a label.
fn callers(
    facts: &Facts<'_>,
    callee: &PodTraits,
    key: &str,
    namespaces: &[Option<&str>],
    rules: &mut Vec<Rule>,
) {
    let name: Text = key.into();
    for (text, used) in facts.egress_values(key, namespaces) {
        let ports = match Value::parse(text) {
            Ok(Value::Declared) => facts.declared(&callee.namespace, &callee.service),
            Ok(Value::List(list)) => own_ports(callee, &list),
            Err(_) => continue,
        };
        let grant = |namespace: &Option<&str>| {
            let base = Base::Label {
                namespace: namespace.map(Text::from),
                key: Text::clone(&name),
                value: Text::clone(text),
            };
            (base.into(), ports.clone())
        };
        rules.push(Rule {
            name: RuleName::Caller(key.to_owned(), text.as_ref().to_owned()),
            action: Action::Accept,
            grants: used.iter().map(grant).collect(),
        });
    }
}

/// Returns the listed ports of the pod itself; a name means every protocol it is declared for.
fn own_ports(callee: &PodTraits, list: &[PortRef]) -> Ports {
    let mut ports = Ports::default();
    for port in list {
        match port {
            PortRef::Number(protocol, n) => ports.add(&Ports::one(*protocol, *n)),
            PortRef::Name(name) => {
                for protocol in Protocol::ALL {
                    if let Some(n) = callee.named(name, protocol) {
                        ports.add(&Ports::one(protocol, n));
                    }
                }
            }
        }
    }
    ports
}

fn calls(facts: &Facts<'_>, caller: &PodTraits) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (key, text) in caller.labels.iter() {
        let Some(Ok(target)) = Target::parse(facts.config(), key) else {
            continue;
        };
        let Ok(value) = Value::parse(text) else {
            continue;
        };
        rules.push(Rule {
            name: RuleName::Caller(key.as_ref().to_owned(), text.as_ref().to_owned()),
            action: Action::Accept,
            grants: call_grants(facts, caller, &target, &value),
        });
    }
    rules
}

fn call_grants(
    facts: &Facts<'_>,
    caller: &PodTraits,
    target: &Target<'_>,
    value: &Value,
) -> Vec<(Who, Ports)> {
    let namespace = target.namespace.unwrap_or(&caller.namespace);
    // A type is resolved service by service: `"true"` means different ports for each.
    let services: Vec<(Text, Option<&str>)> = match target.what {
        What::Service(service) => vec![(service.into(), None)],
        What::Type(kind) => {
            let of_type = facts.services_of(namespace, kind);
            of_type.map(|s| (Text::clone(s), Some(kind))).collect()
        }
    };
    let mut grants = Vec::new();
    for (service, kind) in services {
        let base = Base::Service {
            namespace: namespace.into(),
            service: Text::clone(&service),
            kind: kind.map(Text::from),
        };
        match value {
            Value::Declared => grants.push((base.into(), facts.declared(namespace, &service))),
            Value::List(list) => listed_grants(&base, list, &mut grants),
        }
    }
    grants
}

fn listed_grants(base: &Base, list: &[PortRef], grants: &mut Vec<(Who, Ports)>) {
    let mut numbers = Ports::default();
    for port in list {
        match port {
            PortRef::Number(protocol, n) => numbers.add(&Ports::one(*protocol, *n)),
            PortRef::Name(name) => {
                grants.extend(Protocol::ALL.map(|p| named_grant(base, name, p)));
            }
        }
    }
    grants.push((base.clone().into(), numbers));
}
