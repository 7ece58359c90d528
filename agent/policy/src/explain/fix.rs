//! Search for the smallest change that allows a denied call.
//!
//! Each denying side can be opened in several ways, listed best first. Combinations are tried in
//! that order on a copy of the index, and their effect on all other calls is compared. The search
//! returns the first combination without side effects, or else the one that closes the least.

use crate::{
    compile::policy::{Origin, Policy, Rank},
    index::{Index, PodEntry, groups::PodId},
    labels::{self, PortRef},
    model::{LabelSelector, PolicyType, Tier},
    ports::PortSpec,
};

use super::{
    Case, Ends, Fix, Party, Side, Verdict,
    change::{self, Change, Key},
    effect::{self, Asked, Effect},
    party::{self, PartyKind},
    side,
    trace::Decision,
};

/// One way to open one side.
type Way = Vec<Change>;

/// The maximum number of combinations tried: each one compiles the whole cluster.
const MOST_TRIES: usize = 24;

/// Tries ways until one improves the call over `now` without side effects; returns the best one
/// found, or `None` if no way improves the call.
pub(super) fn find(
    case: &Case<'_>,
    ends: &Ends<'_>,
    now: Verdict,
    egress: &Side,
    ingress: &Side,
) -> Option<(Vec<Fix>, Effect)> {
    let &Ends { from, to, port, .. } = ends;
    let call = Call {
        case,
        from,
        to,
        port,
        ends,
        now,
    };
    let mut best: Option<(Way, Effect)> = None;
    for changes in call.candidates(egress, ingress).iter().take(MOST_TRIES) {
        let Some(effect) = call.effect(changes) else {
            continue;
        };
        let is_less = |(_, known): &(Way, Effect)| effect.badness() < known.badness();
        if best.as_ref().is_none_or(is_less) {
            let is_own = effect.is_own();
            best = Some((changes.clone(), effect));
            if is_own {
                break;
            }
        }
    }
    best.map(|(changes, effect)| (change::write(case.given, &changes), effect))
}

pub(super) struct Call<'c, 'a> {
    pub(super) case: &'c Case<'a>,
    pub(super) from: &'c Party,
    pub(super) to: &'c Party,
    pub(super) port: &'c PortSpec,
    ends: &'c Ends<'c>,
    /// The verdict to improve on.
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

    /// Returns the combinations that may open both sides, best first.
    fn candidates(&self, egress: &Side, ingress: &Side) -> Vec<Way> {
        let ends = [self.from, self.to].into_iter();
        let cut_off: Way = ends.filter_map(|party| self.release(party)).collect();
        let to_blame = |side: &Side| side.verdict == self.now;
        let mut outgoing = vec![Way::new()];
        let mut incoming = vec![Way::new()];
        if to_blame(egress) {
            outgoing.extend(self.ways(PolicyType::Egress));
        }
        if to_blame(ingress) {
            incoming.extend(self.ways(PolicyType::Ingress));
        }
        // A caller's label may open both sides; no other change does.
        let is_enough = |way: &Way, other: &Way, is_to_blame: bool| {
            let by_label = |way: &Way| way.iter().any(|c| matches!(c, Change::Label { .. }));
            !is_to_blame || !way.is_empty() || by_label(other) || !cut_off.is_empty()
        };
        let mut found: Vec<Way> = Vec::new();
        for out in &outgoing {
            for into in &incoming {
                let fits = is_enough(out, into, to_blame(egress))
                    && is_enough(into, out, to_blame(ingress));
                let mut changes = cut_off.clone();
                for change in out.iter().chain(into) {
                    if !changes.contains(change) {
                        changes.push(change.clone());
                    }
                }
                if fits && !changes.is_empty() && !found.contains(&changes) {
                    found.push(changes);
                }
            }
        }
        found
    }

    /// Returns the side effects of the changes; `None` if they don't improve the call over every
    /// family. Pods keep their ids: no change adds or removes a pod.
    fn effect(&self, changes: &[Change]) -> Option<Effect> {
        let given = self.case.given;
        if !changes.iter().all(|change| change.is_valid(given)) {
            return None;
        }
        let mut index = given.clone();
        for change in changes {
            change.apply(&mut index);
        }
        let after = Case::new(&index);
        let calls = party::by_family(&after, self.from, self.to);
        let works = calls.iter().all(|(from, to)| {
            let ends = Ends {
                from,
                to,
                ..*self.ends
            };
            let (egress, ingress) = side::both(&after, &ends);
            egress.verdict.max(ingress.verdict) < self.now
        });
        let asked = Asked::new(self.from, self.to, self.port);
        works.then(|| effect::compare(self.case, &after, &asked))
    }

    fn release(&self, party: &Party) -> Option<Change> {
        let pod = self
            .pod(party)
            .filter(|_| side::quarantined(self.case, party))?;
        let key = self.index().config.key("quarantine");
        let sentence = format!("Ends the quarantine of {}.", party.name);
        Some(Change::label(pod, key, None, sentence))
    }

    /// Returns the ways to open one side: by label if a label closed it, otherwise by a rule in
    /// the NetworkPolicy that closed it, otherwise by a new policy. If a ClusterNetworkPolicy
    /// denies the call, only an earlier rule opens it, except that the Baseline tier doesn't
    /// apply to pods isolated by a NetworkPolicy.
    fn ways(&self, direction: PolicyType) -> Vec<Way> {
        let (subject, peer) = match direction {
            PolicyType::Ingress => (self.to, self.from),
            PolicyType::Egress => (self.from, self.to),
        };
        let policies = self.case.policies(subject);
        let counted = policies
            .iter()
            .filter(|policy| !policy.staged || self.now == Verdict::Audited);
        let counted: Vec<&Policy> = counted.collect();
        let mut ways = Vec::new();
        let denied =
            match side::decision(self.case, (subject, peer), &counted, direction, self.port) {
                Decision::Denied(Policy { origin, rank, .. }, _) => Some((origin, *rank)),
                _ => None,
            };
        if denied.is_none_or(|(_, rank)| rank == Rank::Tier(Tier::Baseline)) {
            ways.extend(self.network_ways(direction, subject, &counted));
        }
        if let Some((
            Origin::ClusterNetworkPolicy {
                name,
                closed: false,
            },
            _,
        )) = denied
        {
            let accepting = [
                self.by_cluster(direction, name),
                self.before_cluster(direction, name),
            ];
            ways.extend(accepting.into_iter().flatten().map(|change| vec![change]));
        }
        ways
    }

    fn network_ways(
        &self,
        direction: PolicyType,
        subject: &Party,
        policies: &[&Policy],
    ) -> Vec<Way> {
        let isolating = policies.iter().filter(|policy| {
            policy.rules(direction).is_some() && policy.rank == Rank::Network { isolates: true }
        });
        let mut by_label = false;
        let mut netpol: Option<Key> = None;
        let mut within: Vec<LabelSelector> = Vec::new();
        // A new policy closes nothing for pods that a similar policy already isolates.
        let staged = self.now == Verdict::Audited && isolating.clone().all(|policy| policy.staged);
        for policy in isolating {
            by_label |= matches!(policy.origin, Origin::Label { .. });
            within.extend(self.selected_by(subject, &policy.origin));
            if let Origin::NetworkPolicy {
                namespace,
                name,
                closed: false,
            } = &policy.origin
                && netpol.is_none()
                && self.is_own(subject, namespace, name)
            {
                netpol = Some((namespace.as_ref().to_owned(), name.as_ref().to_owned()));
            }
        }
        let label = self
            .by_label(direction)
            .filter(|way| by_label && !way.is_empty());
        let rule = netpol.map(|policy| vec![self.by_rule(direction, policy)]);
        let new = [None].into_iter().chain(within.iter().map(Some));
        let new = new.filter_map(|within| self.by_policy(direction, within, staged));
        let first = [label, rule].into_iter().flatten();
        first.chain(new.map(|change| vec![change])).collect()
    }

    /// Returns the selector of the pods that a policy isolates.
    fn selected_by(&self, subject: &Party, origin: &Origin) -> Option<LabelSelector> {
        match origin {
            Origin::NetworkPolicy {
                namespace, name, ..
            } => Some(self.index().policy(namespace, name)?.spec().pod_selector),
            Origin::Label {
                key,
                on_namespace: false,
            } => {
                let (_, pod) = self.pod(subject)?;
                let value = pod.traits.labels.get(key)?;
                Some(LabelSelector {
                    match_labels: [(key.clone(), value.as_ref().to_owned())].into(),
                    ..LabelSelector::default()
                })
            }
            _ => None,
        }
    }

    fn by_label(&self, direction: PolicyType) -> Option<Way> {
        match (self.pod(self.from), self.pod(self.to)) {
            (Some(caller), Some(callee)) => self.by_call(direction, caller, callee),
            (None, Some(callee)) if direction == PolicyType::Ingress => {
                let (word, whom) = match self.from.kind {
                    PartyKind::Node => ("all_nodes", "traffic from other nodes"),
                    // A pod, whose own labels determine which services it calls.
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

    /// Returns the caller's label and, for the callee's side, the callee's consent if the caller
    /// is in another namespace.
    fn by_call(
        &self,
        direction: PolicyType,
        caller: (PodId, &PodEntry),
        callee: (PodId, &PodEntry),
    ) -> Option<Way> {
        let config = &self.index().config;
        let (from, to) = (&caller.1.traits, &callee.1.traits);
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
        let asks = direction == PolicyType::Ingress && !same;
        if asks && !admitted(&from.namespace) && !admitted("any_namespace") {
            let sentence = format!(
                "Admits callers of namespace {} that list {}.",
                from.namespace, to.service
            );
            way.push(self.admit(callee, &from.namespace, sentence));
        }
        Some(way)
    }

    /// Returns the label value that adds the port to the current list; `None` if no value can.
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
        // A label value holds at most 63 characters.
        Some(parts.join("_")).filter(|v| v.len() <= 63)
    }
}
