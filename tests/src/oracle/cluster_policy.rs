//! ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2), rule by rule.

use serde_json::Value;

use super::address::Cidr;
use super::object::{annotations, field, labels, list, name, named_port, namespace, text};
use super::selector::selects;
use super::{Case, Direction, Oracle, cluster_valid};

/// Where a policy stands: above the NetworkPolicies or below them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// Asked first.
    Admin,
    /// Asked where nothing else decides.
    Baseline,
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Action {
    /// Allowed, and nobody else is asked.
    Accept,
    /// Denied, and nobody else is asked.
    Deny,
    /// The rest of the tier isn't asked.
    Pass,
}

/// What is said of one direction of a probe, every tier asked by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Opinions {
    /// The first rule of the Admin tier that matches.
    pub admin: Option<Action>,
    /// NetworkPolicies and label allowlists: whether they allow it. None if
    /// none of them isolates the pod.
    pub policies: Option<bool>,
    /// The first rule of the Baseline tier that matches.
    pub baseline: Option<Action>,
}

impl Opinions {
    /// One tier after the other; who decides ends it.
    pub(super) fn allow(self) -> bool {
        match self.admin {
            Some(Action::Accept) => return true,
            Some(Action::Deny) => return false,
            Some(Action::Pass) | None => {}
        }
        let below = self.baseline != Some(Action::Deny);
        self.policies.unwrap_or(below)
    }
}

impl Oracle<'_> {
    /// The first rule of a tier that matches; staged policies count only in
    /// the "what if they were enforced" reading.
    pub(super) fn tier(&self, tier: Tier, case: &Case<'_>, with_staged: bool) -> Option<Action> {
        let mut policies: Vec<&Value> = self
            .of_kind("ClusterNetworkPolicy")
            .filter(|p| cluster_valid::tier(p).unwrap_or(Tier::Admin) == tier)
            .filter(|p| with_staged || !is_staged(p))
            .filter(|p| self.is_subject(p, case.pod))
            .collect();
        policies.sort_by_key(|p| (cluster_valid::priority(p).unwrap_or(0), name(p)));
        policies.iter().find_map(|p| self.first_match(p, case))
    }

    /// Whether a policy is about a pod; every pod, if it can't be told.
    fn is_subject(&self, policy: &Value, pod: &Value) -> bool {
        let subject = &policy["spec"]["subject"];
        !cluster_valid::subject_fits(subject) || self.is_pod_of(subject, pod)
    }

    /// Whether `namespaces` or `pods` of a subject or peer select a pod.
    fn is_pod_of(&self, chosen: &Value, pod: &Value) -> bool {
        let home = self.namespace_labels(namespace(pod));
        if let Some(spaces) = field(chosen, "namespaces") {
            return selects(spaces, &home);
        }
        // Without a selector for namespaces it means all of them.
        field(chosen, "pods").is_some_and(|pods| {
            selects(&pods["namespaceSelector"], &home)
                && selects(&pods["podSelector"], &labels(pod))
        })
    }

    /// What the first rule of a policy that matches does. A policy that
    /// doesn't parse denies everything in the directions it is about.
    fn first_match(&self, policy: &Value, case: &Case<'_>) -> Option<Action> {
        if !cluster_valid::is_valid(policy) {
            return closes(policy, case.direction).then_some(Action::Deny);
        }
        let (rules, peers) = match case.direction {
            Direction::Ingress => ("/spec/ingress", "/from"),
            Direction::Egress => ("/spec/egress", "/to"),
        };
        let about_whom = &policy["spec"]["subject"];
        let about_strangers = cluster_valid::is_newer("subject", about_whom);
        list(policy, rules).iter().find_map(|rule| {
            let action = cluster_valid::action(rule)?;
            // A rule of a newer API is closed, and so is one about nobody knows whom:
            // it accepts nothing, and what it would pass on is denied.
            let unread = cluster_valid::is_newer(cluster_valid::rule_of(&peers[1..]), rule);
            match (unread || about_strangers, action) {
                (true, Action::Accept) => None,
                (true, _) => (unread || self.matches(rule, peers, case)).then_some(Action::Deny),
                (false, action) => self.matches(rule, peers, case).then_some(action),
            }
        })
    }

    fn matches(&self, rule: &Value, peers: &str, case: &Case<'_>) -> bool {
        let protocols = list(rule, "/protocols");
        let what = protocols.is_empty() || protocols.iter().any(|p| is_protocol(p, case));
        what && list(rule, peers).iter().any(|p| self.is_the_peer(p, case))
    }

    fn is_the_peer(&self, peer: &Value, case: &Case<'_>) -> bool {
        if let Some(selector) = field(peer, "nodes") {
            return self.of_kind("Node").any(|node| {
                let shown = list(node, "/status/addresses").iter();
                let mut shown = shown.map(|a| text(a, "/address").parse());
                selects(selector, &labels(node)) && shown.any(|ip| ip == Ok(case.peer))
            });
        }
        // By address alone, so pods' addresses too.
        let networks = list(peer, "/networks").iter().filter_map(Value::as_str);
        let mut networks = networks.filter_map(Cidr::parse);
        // Nothing resolves `domainNames`, so such a peer matches nothing.
        networks.any(|n| n.contains(case.peer))
            || case.peer_pod.is_some_and(|pod| self.is_pod_of(peer, pod))
    }
}

fn is_staged(policy: &Value) -> bool {
    annotations(policy).get("ringfence.dev/mode") == Some(&"audit")
}

/// The directions of a policy that doesn't parse: those in which it has rules,
/// or both, since what it would have had can't be known.
fn closes(policy: &Value, direction: Direction) -> bool {
    let has = |way| !list(policy, way).is_empty();
    let (ingress, egress) = (has("/spec/ingress"), has("/spec/egress"));
    match direction {
        Direction::Ingress => ingress || !egress,
        Direction::Egress => egress || !ingress,
    }
}

fn is_protocol(entry: &Value, case: &Case<'_>) -> bool {
    if let Some(wanted) = field(entry, "destinationNamedPort").and_then(Value::as_str) {
        let named = |pod| named_port(pod, wanted, case.protocol);
        return case.destination().and_then(named) == Some(case.port);
    }
    let protocols = [("tcp", 6), ("udp", 17), ("sctp", 132)];
    protocols.iter().any(|(key, number)| {
        let given = field(entry, key).filter(|_| *number == case.protocol);
        given.is_some_and(|given| match field(given, "destinationPort") {
            None => true,
            Some(port) => is_port(port, case.port),
        })
    })
}

fn is_port(wanted: &Value, asked: u16) -> bool {
    let asked = Some(u64::from(asked));
    let at = |path| wanted.pointer(path).and_then(Value::as_u64);
    match at("/number") {
        Some(number) => asked == Some(number),
        None => at("/range/start") <= asked && asked <= at("/range/end"),
    }
}
