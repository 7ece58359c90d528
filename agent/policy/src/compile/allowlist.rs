//! Label allowlists as policies of a group.
//!
//! A call is a property of the caller: its egress labels open the callee's
//! ingress and, where the caller's egress is closed, its egress as well: by
//! whatever policy it is closed, so that a mode only ever tightens.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::{
    labels::{self, Mode, PortRef, Target, Value, What},
    model::{IntOrString, Protocol, Service},
    ports::Ports,
    selector::{Labels, Selector},
    view::{Group, View},
};

use super::{
    peer::Base,
    policy::{Origin, Policy, Rule, RuleName, Who, named_grants},
};

/// The label allowlists in force for a group.
pub(super) fn of(view: &View<'_>, group: &Group<'_>) -> Vec<Policy> {
    let namespace = view.namespace(group.namespace);
    let mode = |word: &str| {
        let key = view.config().key(word);
        let (mode, decider) = Mode::of(view.config(), &key, namespace, group.labels);
        let origin = Origin::label(key, decider);
        (mode != Mode::Off).then_some((origin, mode == Mode::Audit))
    };
    let ingress = mode("ingress").map(|(origin, staged)| Policy {
        origin,
        staged,
        isolates: true,
        ingress: Some(ingress(view, group)),
        egress: None,
    });
    ingress
        .into_iter()
        .chain(egress_policies(view, group, mode("egress")))
        .collect()
}

/// What a mode adds is the isolation, and with it the way to DNS. The labels
/// themselves grant whatever the mode is.
fn egress_policies(
    view: &View<'_>,
    group: &Group<'_>,
    mode: Option<(Origin, bool)>,
) -> Vec<Policy> {
    let policy = |origin, staged, isolates, rules| Policy {
        origin,
        staged,
        isolates,
        ingress: None,
        egress: Some(rules),
    };
    let mut calls = calls(view, group);
    let dns = Rule {
        name: RuleName::Dns,
        grants: dns(view),
    };
    match mode {
        Some((origin, false)) => {
            calls.push(dns);
            vec![policy(origin, false, true, calls)]
        }
        Some((origin, true)) => vec![
            policy(Origin::EgressLabels, false, false, calls),
            policy(origin, true, true, vec![dns]),
        ],
        None if calls.is_empty() => Vec::new(),
        None => vec![policy(Origin::EgressLabels, false, false, calls)],
    }
}

fn ingress(view: &View<'_>, callee: &Group<'_>) -> Vec<Rule> {
    let config = view.config();
    let here = callee.namespace;
    let admits = Admits::of(view, callee);
    let mut rules = Vec::new();
    let services = std::iter::once((&config.egress_prefix, &callee.service));
    let types = callee
        .kind
        .iter()
        .map(|k| (&config.egress_groups_prefix, k));
    for (prefix, name) in services.chain(types) {
        let own = format!("{prefix}/{name}");
        callers(view, callee, &own, &[Some(here)], &mut rules);
        let other = format!("{here}.{prefix}/{name}");
        callers(view, callee, &other, &admits.namespaces(here), &mut rules);
    }
    for (admitted, word, base) in [
        (admits.outside, OUTSIDE, Base::Outside),
        (admits.nodes, NODES, Base::AllNodes),
    ] {
        if admitted {
            rules.push(Rule {
                name: RuleName::Callee(format!("{}/{word}", config.callers_prefix)),
                grants: vec![(base.into(), Ports::all())],
            });
        }
    }
    rules
}

const ANY_NAMESPACE: &str = "any_namespace";
const OUTSIDE: &str = "outside_cluster";
const NODES: &str = "all_nodes";

/// Whom a callee admits beyond its own namespace.
struct Admits<'a> {
    listed: BTreeSet<&'a str>,
    any: bool,
    outside: bool,
    nodes: bool,
}

impl<'a> Admits<'a> {
    fn of(view: &'a View<'_>, callee: &'a Group<'_>) -> Self {
        let prefix = &view.config().callers_prefix;
        let read = |labels: &'a Labels| {
            labels
                .keys()
                .filter(|key| labels::is_true(labels, key))
                .filter_map(|key| key.strip_prefix(prefix.as_str())?.strip_prefix('/'))
        };
        let namespace = view.namespace(callee.namespace);
        let mut listed: BTreeSet<_> = read(namespace).chain(read(callee.labels)).collect();
        Self {
            any: listed.remove(ANY_NAMESPACE),
            outside: listed.remove(OUTSIDE),
            nodes: listed.remove(NODES),
            listed,
        }
    }

    /// Namespaces whose callers are admitted; `None` is any.
    fn namespaces(&self, own: &'a str) -> Vec<Option<&'a str>> {
        if self.any {
            return vec![None];
        }
        let mut all = self.listed.clone();
        all.insert(own);
        all.into_iter().map(Some).collect()
    }
}

/// A rule for each value in which callers carry a label.
fn callers(
    view: &View<'_>,
    callee: &Group<'_>,
    key: &str,
    namespaces: &[Option<&str>],
    rules: &mut Vec<Rule>,
) {
    for text in view.egress_values(key) {
        let ports = match Value::parse(text) {
            Ok(Value::Declared) => view.declared(callee.namespace, &callee.service),
            Ok(Value::List(list)) => own_ports(callee, &list),
            Err(_) => continue,
        };
        let grant = |namespace: &Option<&str>| {
            let base = Base::Label {
                namespace: namespace.map(str::to_owned),
                key: key.to_owned(),
                value: text.to_owned(),
            };
            (base.into(), ports.clone())
        };
        rules.push(Rule {
            name: RuleName::Caller(key.to_owned(), text.to_owned()),
            grants: namespaces.iter().map(grant).collect(),
        });
    }
}

/// Listed ports of the pod itself; a name stands for every protocol it is declared for.
fn own_ports(callee: &Group<'_>, list: &[PortRef]) -> Ports {
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

fn calls(view: &View<'_>, caller: &Group<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (key, text) in caller.labels {
        let Some(Ok(target)) = Target::parse(view.config(), key) else {
            continue;
        };
        let Ok(value) = Value::parse(text) else {
            continue;
        };
        rules.push(Rule {
            name: RuleName::Caller(key.clone(), text.clone()),
            grants: call_grants(view, caller, &target, &value),
        });
    }
    rules
}

fn call_grants(
    view: &View<'_>,
    caller: &Group<'_>,
    target: &Target<'_>,
    value: &Value,
) -> Vec<(Who, Ports)> {
    let namespace = target.namespace.unwrap_or(caller.namespace);
    // A type is taken service by service: `"true"` means other ports for each.
    let services: Vec<(&str, Option<&str>)> = match target.what {
        What::Service(service) => vec![(service, None)],
        What::Type(kind) => {
            let of_type = view.services_of(namespace, kind);
            of_type.map(|s| (s.as_str(), Some(kind))).collect()
        }
    };
    let mut grants = Vec::new();
    for (service, kind) in services {
        let base = Base::Service {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            kind: kind.map(str::to_owned),
        };
        match value {
            Value::Declared => grants.push((base.into(), view.declared(namespace, service))),
            Value::List(list) => listed_grants(view, &base, list, &mut grants),
        }
    }
    grants
}

fn listed_grants(view: &View<'_>, base: &Base, list: &[PortRef], grants: &mut Vec<(Who, Ports)>) {
    let mut numbers = Ports::default();
    for port in list {
        match port {
            PortRef::Number(protocol, n) => numbers.add(&Ports::one(*protocol, *n)),
            PortRef::Name(name) => {
                for protocol in Protocol::ALL {
                    grants.extend(named_grants(view, base, name, protocol));
                }
            }
        }
    }
    grants.push((base.clone().into(), numbers));
}

/// The way to cluster DNS, which no caller has to list.
fn dns(view: &View<'_>) -> Vec<(Who, Ports)> {
    let (namespace, name) = view.config().dns();
    let mut port_53 = Ports::one(Protocol::Udp, 53);
    port_53.add(&Ports::one(Protocol::Tcp, 53));
    let key = (namespace.to_owned(), name.to_owned());
    let Some(service) = view.index.services.get(&key) else {
        let pods = Base::pods_in(namespace, Selector::equals("k8s-app", "kube-dns"));
        return vec![(pods.into(), port_53)];
    };
    let mut grants = Vec::new();
    for base in behind(view, service) {
        let mut ports = port_53.clone();
        for port in &service.spec.ports {
            match &port.target_port {
                None => ports.add(&Ports::one(port.protocol, port.port)),
                Some(IntOrString::Int(n)) => {
                    let number = u16::try_from(*n).unwrap_or(port.port);
                    ports.add(&Ports::one(port.protocol, number));
                }
                Some(IntOrString::String(name)) => {
                    grants.extend(named_grants(view, &base, name, port.protocol));
                }
            }
        }
        grants.push((base.into(), ports));
    }
    let mut ports = Ports::default();
    for port in &service.spec.ports {
        ports.add(&Ports::one(port.protocol, port.port));
    }
    let addresses = service.addresses().into_iter().map(Base::address);
    grants.extend(addresses.map(|base| (base.into(), ports.clone())));
    grants
}

/// Whoever is behind a Service: its selector's pods or, without one, its EndpointSlices' addresses.
fn behind(view: &View<'_>, service: &Service) -> Vec<Base> {
    let meta = &service.metadata;
    if !service.spec.selector.is_empty() {
        let selector = Selector::from(&service.spec.selector);
        return vec![Base::pods_in(&meta.namespace, selector)];
    }
    let label = "kubernetes.io/service-name";
    let slices = view.index.slices.values().filter(|slice| {
        slice.metadata.namespace == meta.namespace
            && slice.metadata.labels.get(label) == Some(&meta.name)
    });
    let addresses = slices.flat_map(|s| &s.endpoints).flat_map(|e| &e.addresses);
    let addresses: BTreeSet<IpNet> = addresses
        .filter_map(|a| a.parse().ok().map(|ip: std::net::IpAddr| IpNet::from(ip)))
        .collect();
    addresses
        .into_iter()
        .map(|net| Base::block(net, &[]))
        .collect()
}
