//! NetworkPolicy v1, rule by rule.

use serde_json::Value;

use super::address::Cidr;
use super::object::{
    annotations, field, labels, list, named_port, namespace, protocol_number, text,
};
use super::selector::selects;
use super::{Case, Direction, Opinion, Oracle, valid};

impl Oracle<'_> {
    /// What a policy says; None if it doesn't concern the pod and direction.
    pub(super) fn network_policy(&self, policy: &Value, case: &Case<'_>) -> Option<Opinion> {
        if namespace(policy) != namespace(case.pod) {
            return None;
        }
        let fault = valid::fault(policy);
        // An object that doesn't parse closes what it would have guarded.
        let whole_namespace = fault == Some(valid::Fault::PodSelector);
        let subject = whole_namespace || selects(&policy["spec"]["podSelector"], &labels(case.pod));
        let concerned = match fault {
            None => in_force(policy, case.direction),
            Some(_) => closed_way(policy, case.direction),
        };
        (subject && concerned).then(|| Opinion {
            staged: annotations(policy).get("ringfence.dev/mode") == Some(&"audit"),
            isolates: true,
            allows: fault.is_none() && self.some_rule_allows(policy, case),
        })
    }

    fn some_rule_allows(&self, policy: &Value, case: &Case<'_>) -> bool {
        let (rules, peers) = match case.direction {
            Direction::Ingress => ("/spec/ingress", "/from"),
            Direction::Egress => ("/spec/egress", "/to"),
        };
        // Corner 12: no rules allow nothing; a rule's empty list means any.
        list(policy, rules).iter().any(|rule| {
            let (peers, ports) = (list(rule, peers), list(rule, "/ports"));
            let who = peers.is_empty() || peers.iter().any(|p| self.is_peer(p, policy, case));
            let what = ports.is_empty() || ports.iter().any(|p| is_port(p, case));
            who && what
        })
    }

    fn is_peer(&self, peer: &Value, policy: &Value, case: &Case<'_>) -> bool {
        if let Some(block) = field(peer, "ipBlock") {
            // Corners 4 and 5: by address alone, whoever holds it; an
            // exception narrows this block only.
            let inside = |text| Cidr::parse(text).is_some_and(|c| c.contains(case.peer));
            let excepted = list(block, "/except")
                .iter()
                .any(|e| e.as_str().is_some_and(inside));
            return inside(text(block, "/cidr")) && !excepted;
        }
        let Some(pod) = case.peer_pod else {
            return false;
        };
        // Corner 11: both selectors must match; without one for namespaces it
        // is the policy's own.
        let home = match field(peer, "namespaceSelector") {
            None => namespace(pod) == namespace(policy),
            Some(selector) => selects(selector, &self.namespace_labels(namespace(pod))),
        };
        let chosen = match field(peer, "podSelector") {
            None => true,
            Some(selector) => selects(selector, &labels(pod)),
        };
        home && chosen
    }
}

/// Corner 13: without types it is about ingress, and about egress if it has
/// egress rules.
fn in_force(policy: &Value, direction: Direction) -> bool {
    let types = list(policy, "/spec/policyTypes");
    match direction {
        Direction::Ingress => types.is_empty() || types.iter().any(|t| t == "Ingress"),
        Direction::Egress if types.is_empty() => !list(policy, "/spec/egress").is_empty(),
        Direction::Egress => types.iter().any(|t| t == "Egress"),
    }
}

/// The directions that a policy closes which doesn't parse: those that it
/// names, or both, since what it would have had can't be known.
fn closed_way(policy: &Value, direction: Direction) -> bool {
    let types = list(policy, "/spec/policyTypes");
    types.is_empty() || in_force(policy, direction)
}

fn is_port(port: &Value, case: &Case<'_>) -> bool {
    if protocol_number(text(port, "/protocol")) != Some(case.protocol) {
        return false;
    }
    let asked = u64::from(case.port);
    match field(port, "port") {
        // Corner 7: no port means all ports of that protocol.
        None => true,
        Some(Value::String(wanted)) => case.destination().is_some_and(|pod| {
            // Corner 6: name and protocol must both match.
            named_port(pod, wanted, case.protocol) == Some(case.port)
        }),
        Some(first) => {
            let first = first.as_u64().unwrap_or(0);
            let last = field(port, "endPort").and_then(Value::as_u64);
            (first..=last.unwrap_or(first)).contains(&asked)
        }
    }
}
