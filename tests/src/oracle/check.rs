//! The compiler's answers beside the oracle's: the one file that knows both.

use std::net::IpAddr;

use ringfence_ebpf::abi::{Direction, EndpointRules};
use ringfence_ebpf::verdict::{self, Policy};
use ringfence_policy::config::Config;
use ringfence_policy::index::{Index, PodKey, Scope};
use ringfence_policy::model::{Object, ObjectError, Parsed};
use ringfence_policy::tables::{EndpointPolicy, Tables};
use serde_json::Value;

use super::{End, Expected, Oracle, Probe, Verdict};
use crate::random::shrink::shrink;

/// Whose pods are judged: those of one node, or everybody's.
pub type View<'a> = Option<&'a str>;

/// Feeds an object to the index as the agent would: of a policy that doesn't
/// parse its closed form.
///
/// # Errors
/// The object's, if it is anything else that doesn't parse.
pub fn apply(index: &mut Index, object: &Value) -> Result<(), Box<ObjectError>> {
    match Object::from_value(object.clone()) {
        Ok(Parsed::Object(object)) => index.apply(*object),
        Ok(Parsed::Ignored) => {}
        Err(error) if error.closed.is_some() => {
            index.apply_closed(&error);
        }
        Err(error) => return Err(Box::new(error)),
    }
    Ok(())
}

/// An index of all objects, applied in order.
///
/// # Errors
/// As [`apply`].
pub fn index(objects: &[Value]) -> Result<Index, Box<ObjectError>> {
    let mut index = Index::new(Config::default());
    objects.iter().try_for_each(|o| apply(&mut index, o))?;
    Ok(index)
}

/// The tables of what an index holds.
pub fn tables_of(index: &Index, view: View<'_>) -> Tables {
    let scope = view.map_or(Scope::Everything, |node| Scope::Node(node.to_owned()));
    index.compile(&scope)
}

/// The tables of objects, applied in order.
///
/// # Errors
/// As [`apply`].
pub fn compile(objects: &[Value], view: View<'_>) -> Result<Tables, Box<ObjectError>> {
    Ok(tables_of(&index(objects)?, view))
}

/// What the tables say of a packet at one endpoint.
pub fn judge(
    tables: &Tables,
    endpoint: &PodKey,
    direction: Direction,
    peer: IpAddr,
    (protocol, port): (u8, u16),
) -> Verdict {
    let policy = tables.endpoints.get(endpoint);
    let half = policy.map(EndpointPolicy::rules);
    by_half(tables, half, direction, peer, (protocol, port))
}

/// The same of a packet to or from the pod's own node, and to itself behind a Service.
pub fn judge_exempt(
    tables: &Tables,
    endpoint: &PodKey,
    direction: Direction,
    peer: IpAddr,
    traffic: (u8, u16),
) -> Verdict {
    let policy = tables.endpoints.get(endpoint);
    let half = policy.map(EndpointPolicy::exempt_rules);
    by_half(tables, half, direction, peer, traffic)
}

fn by_half(
    tables: &Tables,
    half: Option<EndpointRules>,
    direction: Direction,
    peer: IpAddr,
    (protocol, port): (u8, u16),
) -> Verdict {
    let Some(half) = half else {
        return Verdict::NotManaged;
    };
    match verdict::policy(tables, 0, &half, direction, &peer.into(), protocol, port) {
        Policy::Allow => Verdict::Allow,
        Policy::Audit => Verdict::Audit,
        Policy::Deny => Verdict::Deny,
    }
}

/// The key of the endpoint at an end of a probe.
pub fn endpoint<'a>(tables: &'a Tables, end: &End) -> Option<&'a PodKey> {
    let (namespace, name) = end.pod.as_ref()?;
    let mut keys = tables.endpoints.keys();
    keys.find(|key| key.namespace == *namespace && key.name == *name)
}

/// What the tables say of both ends of a probe.
pub fn answer(tables: &Tables, probe: &Probe) -> Expected {
    answer_by(tables, probe, judge)
}

/// The same where NetworkPolicies and allowlists don't count.
pub fn answer_exempt(tables: &Tables, probe: &Probe) -> Expected {
    answer_by(tables, probe, judge_exempt)
}

type Judge = fn(&Tables, &PodKey, Direction, IpAddr, (u8, u16)) -> Verdict;

fn answer_by(tables: &Tables, probe: &Probe, judge: Judge) -> Expected {
    let traffic = (probe.protocol, probe.port);
    let ask = |subject, direction, peer: &End| match endpoint(tables, subject) {
        None => Verdict::NotManaged,
        Some(key) => judge(tables, key, direction, peer.address, traffic),
    };
    Expected {
        ingress: ask(&probe.to, Direction::Ingress, &probe.from),
        egress: ask(&probe.from, Direction::Egress, &probe.to),
    }
}

/// The oracle of a view.
pub fn oracle<'a>(objects: &'a [Value], view: View<'a>) -> Oracle<'a> {
    match view {
        Some(node) => Oracle::of_node(objects, node),
        None => Oracle::of_cluster(objects),
    }
}

/// Endpoints whose quarantine flag isn't what their labels say.
pub fn wrong_quarantine(objects: &[Value], tables: &Tables) -> Vec<PodKey> {
    let oracle = Oracle::of_cluster(objects);
    let wrong = tables.endpoints.iter().filter(|(key, policy)| {
        let flag = policy.flags & EndpointRules::QUARANTINE != 0;
        flag != oracle.quarantined(&key.namespace, &key.name)
    });
    wrong.map(|(key, _)| key.clone()).collect()
}

/// Whether oracle and compiler disagree about a probe: what either says.
pub fn disagreement(
    objects: &[Value],
    view: View<'_>,
    probe: &Probe,
) -> Result<Option<(Expected, Expected)>, Box<ObjectError>> {
    let expected = oracle(objects, view).verdict(probe);
    let given = answer(&compile(objects, view)?, probe);
    Ok((expected != given).then_some((expected, given)))
}

/// A disagreement as a person wants to see it: the smallest cluster that shows
/// it, one object a line, and both opinions of it.
pub fn report(seed: u64, objects: &[Value], view: View<'_>, probe: &Probe) -> String {
    let spoilt = |objects: &[Value]| objects.iter().filter(|o| super::is_invalid(o)).count();
    let at_most = spoilt(objects);
    let managed = |of: Expected| [of.ingress, of.egress].map(|v| v != Verdict::NotManaged);
    let whole = managed(oracle(objects, view).verdict(probe));
    let shows = |left: &[Value]| {
        // Else it ends at a pod that has lost its address: another matter.
        managed(oracle(left, view).verdict(probe)) == whole
            && spoilt(left) <= at_most
            && matches!(disagreement(left, view, probe), Ok(Some(_)))
    };
    let left = shrink(objects, shows);
    let opinions = match disagreement(&left, view, probe) {
        Ok(Some((oracle, tables))) => format!("oracle: {oracle:?}\ntables: {tables:?}"),
        other => format!("it vanished in shrinking: {other:?}"),
    };
    let lines: Vec<String> = left.iter().map(|o| format!("- {o}")).collect();
    format!(
        "seed {seed}, view {view:?}\n{}\n{opinions}\n{}",
        describe(probe),
        lines.join("\n")
    )
}

/// A probe in one line.
pub fn describe(probe: &Probe) -> String {
    let end = |end: &End| match &end.pod {
        Some((namespace, name)) => format!("{namespace}/{name} ({})", end.address),
        None => end.address.to_string(),
    };
    let (from, to) = (end(&probe.from), end(&probe.to));
    format!(
        "{from} -> {to}, protocol {} port {}",
        probe.protocol, probe.port
    )
}
