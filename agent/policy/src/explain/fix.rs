//! The smallest change that allows a denied call.
//!
//! Each side that denies has ways to be opened, the best first. Combinations are tried on
//! a copy of the index in that order, and what they do to all other calls is compared:
//! the first that does nothing else is offered, or else the one that closes least.

use crate::{
    compile::policy::{Origin, Place, Policy},
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

/// So many combinations are tried: each is the whole cluster compiled once.
const MOST_TRIES: usize = 24;

/// Tries ways until one makes the call better than `now` and does nothing else; none where
/// no way makes it better.
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

    /// What may open both sides, the best first.
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
        // A caller's label may open both sides; nothing else does.
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

    /// What else the changes do; `None` if they don't make the call better over every
    /// family. Pods keep their indexes: no change adds or removes one.
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

    /// Ways to open one side: by label where a label closed it, else by the NetworkPolicy
    /// that did, else by a new one. Where a ClusterNetworkPolicy denies it, only another
    /// rule before that does, but that pods which a NetworkPolicy isolates are out of the
    /// Baseline's reach.
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
                Decision::Denied(Policy { origin, place, .. }, _) => Some((origin, *place)),
                _ => None,
            };
        if denied.is_none_or(|(_, place)| place == Place::Tier(Tier::Baseline)) {
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
            policy.rules(direction).is_some() && policy.place == Place::Network { isolates: true }
        });
        let mut by_label = false;
        let mut netpol: Option<Key> = None;
        let mut within: Vec<LabelSelector> = Vec::new();
        // A new policy closes nothing for pods that one like it isolates already.
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

    /// How the pods are selected that a policy isolates.
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
                let value = pod.shape.labels.get(key)?;
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

    /// The caller's label, and for the callee's side its consent if the caller comes from
    /// elsewhere.
    fn by_call(
        &self,
        direction: PolicyType,
        caller: (PodId, &PodEntry),
        callee: (PodId, &PodEntry),
    ) -> Option<Way> {
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
}
