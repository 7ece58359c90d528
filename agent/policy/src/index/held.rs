//! Policies whose newest form isn't in force, and label allowlists that aren't in force, because
//! their namespace's share of the tables has no room for them.
//!
//! The compiler decides which ones (`compile/shares.rs`). The decisions are stored here, so that
//! queries about a pod return what is in force.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    intern::{HashMap, Text},
    selector::Labels,
};

use super::{Index, Key, journal::Fact, policies::StoredPolicy, room::NamespaceUsage};

/// The key under which ClusterNetworkPolicies are listed in place of a namespace.
pub(crate) const CLUSTER: &str = "";

/// A unit of admission: all of it is in force or none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Unit {
    /// A policy, by name.
    Policy(Text),
    /// The egress labels of the pods of a service.
    Calls(Text),
    /// The labels by which the namespace's pods call a workload (namespace, service), as far as
    /// they affect that workload's ingress.
    Callers(Text, Text),
}

/// Policies and labels that are held back, and the last admitted forms of policies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// By namespace and name: the last form that there was room for, which is in force instead;
    /// `None` if there is none, so that the pods are closed.
    forms: BTreeMap<Text, BTreeMap<Text, Option<StoredPolicy>>>,
    /// Labels that grant nothing, by the namespace of the pods that carry them.
    labels: BTreeMap<Text, BTreeSet<Unit>>,
    /// ClusterNetworkPolicies that are closed.
    clusters: BTreeSet<Text>,
    /// Forms that were replaced by heavier ones since the last update of the compiler.
    replaced: HashMap<Key, StoredPolicy>,
    /// A compiler shares out capacity, so replaced forms have to be kept.
    listening: bool,
    /// Bytes of policies' texts.
    texts: NamespaceUsage,
    /// Incremented whenever the set of forms in force in place of others changes.
    pub(super) changes: u64,
}

/// The form of a policy that is in force for pods that it selects.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form<'a> {
    /// The newest form.
    Newest(&'a StoredPolicy),
    /// The last form that there was room for.
    Last(&'a StoredPolicy),
    /// The closed form: it isolates its pods in its directions and allows nothing.
    Closed(&'a StoredPolicy),
}

impl Held {
    pub(super) fn form(&self, namespace: &str, name: &str) -> Option<Option<&StoredPolicy>> {
        let own = self.forms.get(namespace)?;
        own.get(name).map(Option::as_ref)
    }

    /// Reports whether a NetworkPolicy is held back.
    pub(super) fn is_form_held(&self, namespace: &str, name: &str) -> bool {
        self.form(namespace, name).is_some()
    }

    /// Returns every form that is in force in place of a newer one without room.
    pub(super) fn last_forms(&self) -> impl Iterator<Item = (&str, &str, &StoredPolicy)> {
        let all = self.forms.iter();
        let all = all.flat_map(|(ns, own)| own.iter().map(move |(n, form)| (ns, n, form)));
        all.filter_map(|(ns, name, form)| Some((&**ns, &**name, form.as_ref()?)))
    }

    /// Returns every policy that is held back, and whether an earlier form is in force.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Text, &Text, bool)> {
        let all = self.forms.iter();
        all.flat_map(|(ns, own)| own.iter().map(move |(n, form)| (ns, n, form.is_some())))
    }

    /// Returns the ClusterNetworkPolicies that are held back.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Text> {
        self.clusters.iter()
    }

    /// Returns the labels that are held back, and the namespace of the pods that carry them.
    pub(crate) fn labels(&self) -> impl Iterator<Item = (&Text, &Unit)> {
        let all = self.labels.iter();
        all.flat_map(|(space, own)| own.iter().map(move |unit| (space, unit)))
    }

    /// Reports whether some labels of a namespace are held back and grant nothing.
    pub(crate) fn holds_labels(&self, namespace: &str, unit: &Unit) -> bool {
        let own = self.labels.get(namespace);
        own.is_some_and(|own| own.contains(unit))
    }

    /// Reports whether a ClusterNetworkPolicy is closed.
    pub(crate) fn holds_cluster(&self, name: &str) -> bool {
        self.clusters.contains(name)
    }

    /// Returns the namespaces with units that are held back.
    pub(crate) fn spaces(&self) -> impl Iterator<Item = &Text> {
        self.forms.keys().chain(self.labels.keys())
    }

    /// Returns the units of a namespace that are held back.
    pub(crate) fn of(&self, namespace: &str) -> impl Iterator<Item = Unit> {
        let own = self.forms.get(namespace).into_iter();
        let clusters = self.clusters.iter().filter(move |_| namespace == CLUSTER);
        let policies = own.flat_map(BTreeMap::keys).chain(clusters);
        let labels = self.labels.get(namespace).into_iter().flatten();
        let policies = policies.map(|name| Unit::Policy(Text::clone(name)));
        policies.chain(labels.cloned())
    }

    /// Reports whether a unit is held back.
    pub(crate) fn is_held(&self, space: &Text, unit: &Unit) -> bool {
        match unit {
            Unit::Policy(name) if &**space == CLUSTER => self.holds_cluster(name),
            Unit::Policy(name) => self.form(space, name).is_some(),
            labels => self.holds_labels(space, labels),
        }
    }

    /// Returns the weight of the form that could stay in force instead of the newest.
    pub(crate) fn last_weight(&self, space: &Text, unit: &Unit) -> Option<u32> {
        let Unit::Policy(name) = unit else {
            return None;
        };
        let form = match self.form(space, name) {
            Some(held) => held,
            None => self.replaced.get(&(Text::clone(space), Text::clone(name))),
        };
        form.map(|form| form.weight)
    }

    pub(super) fn bound(&mut self, bytes: usize) {
        self.texts.bound(bytes);
    }

    /// Reports whether there is room for the text of a policy's new form.
    pub(super) fn keeps(&self, key: &Key, new: &StoredPolicy, old: Option<&StoredPolicy>) -> bool {
        let old = old.map_or(0, StoredPolicy::bytes);
        self.texts.has(&key.0, old, new.bytes())
    }

    /// Records a policy's new form; `old` is the form that it replaces.
    pub(super) fn put(&mut self, key: &Key, new: &StoredPolicy, old: Option<StoredPolicy>) {
        let before = old.as_ref().map_or(0, StoredPolicy::bytes);
        self.texts.count(&key.0, before, new.bytes());
        let old = old.filter(|old| self.listening && !old.closed && old.weight < new.weight);
        if let Some(old) = old {
            self.replaced.entry(key.clone()).or_insert(old);
        }
    }

    /// Records a form of a policy that is new to this index, but was in force in an earlier agent.
    pub(super) fn recall(&mut self, key: &Key, form: StoredPolicy) {
        self.replaced.insert(key.clone(), form);
    }

    /// Records the deletion of a ClusterNetworkPolicy.
    pub(super) fn delete_cluster(&mut self, name: &str) {
        self.clusters.remove(name);
    }

    /// Records the deletion of a policy.
    pub(super) fn delete(&mut self, key: &Key, old: &StoredPolicy) {
        self.texts.count(&key.0, old.bytes(), 0);
        self.replaced.remove(key);
        if self.form(&key.0, &key.1).is_some() {
            self.changes += 1;
            remove(&mut self.forms, &key.0, &key.1);
        }
    }

    /// Starts to keep replaced forms, until the next update of the compiler.
    pub(crate) fn listen(&mut self) {
        self.listening = true;
        self.replaced.clear();
    }
}

fn remove<V>(all: &mut BTreeMap<Text, BTreeMap<Text, V>>, namespace: &str, name: &str) {
    if let Some(own) = all.get_mut(namespace) {
        own.remove(name);
        if own.is_empty() {
            all.remove(namespace);
        }
    }
}

impl Index {
    /// Limits the total size of NetworkPolicies' texts to this many bytes.
    ///
    /// One namespace may use up to three quarters; an equal share is open to it even if the total
    /// is exhausted. Of a policy without room, only its subjects and directions are kept: its pods
    /// are closed until the policy is applied again with room for it.
    #[must_use]
    pub fn with_room_for_texts(mut self, bytes: usize) -> Self {
        self.held.bound(bytes);
        self
    }

    /// Returns the form of a policy that is in force for pods with these labels; `None` if it
    /// doesn't select them.
    pub(crate) fn form<'a>(
        &'a self,
        (namespace, name): (&str, &str),
        newest: &'a StoredPolicy,
        labels: &Labels,
    ) -> Option<Form<'a>> {
        let selects =
            |p: &StoredPolicy| !p.subjects.rules_out(labels) && p.subjects.matches(labels);
        match self.held.form(namespace, name) {
            None => selects(newest).then_some(Form::Newest(newest)),
            Some(Some(last)) if selects(last) => Some(Form::Last(last)),
            Some(_) => selects(newest).then_some(Form::Closed(newest)),
        }
    }

    /// Holds a unit back. With `keep`, the last form of a policy stays in force if it is known;
    /// otherwise its pods are closed.
    pub(crate) fn hold(&mut self, space: &Text, unit: &Unit, keep: bool) {
        let name = match unit {
            Unit::Policy(name) if &**space != CLUSTER => name,
            _ => return self.hold_whole(space, unit, true),
        };
        let key = (Text::clone(space), Text::clone(name));
        let own = self.held.forms.entry(key.0.clone()).or_default();
        let before = own.get(&key.1).map(Option::is_some);
        let form = match own.remove(&key.1) {
            Some(form) => form,
            None => self.held.replaced.remove(&key),
        };
        let form = form.filter(|_| keep);
        let now = form.is_some();
        own.insert(key.1.clone(), form);
        if before != Some(now) {
            self.held.changes += 1;
            self.journal.note(|j| &mut j.policies, key);
        }
    }

    /// Puts a unit in force in its newest form.
    pub(crate) fn release(&mut self, space: &Text, unit: &Unit) {
        let name = match unit {
            Unit::Policy(name) if &**space != CLUSTER => name,
            _ => return self.hold_whole(space, unit, false),
        };
        if self.held.form(space, name).is_some() {
            remove(&mut self.held.forms, space, name);
            self.held.changes += 1;
            let key = (Text::clone(space), Text::clone(name));
            self.journal.note(|j| &mut j.policies, key);
        }
    }

    /// Holds back or releases labels or a ClusterNetworkPolicy, which have no earlier form.
    fn hold_whole(&mut self, space: &Text, unit: &Unit, hold: bool) {
        if self.held.is_held(space, unit) == hold {
            return;
        }
        let about = match unit {
            Unit::Policy(name) => {
                match hold {
                    true => self.held.clusters.insert(Text::clone(name)),
                    false => self.held.clusters.remove(name),
                };
                let name = Text::clone(name);
                self.journal.note(|j| &mut j.cluster_policies, name);
                return;
            }
            Unit::Calls(service) => (space, service),
            Unit::Callers(namespace, service) => (namespace, service),
        };
        let own = self.held.labels.entry(Text::clone(space)).or_default();
        match hold {
            true => own.insert(unit.clone()),
            false => own.remove(unit),
        };
        if own.is_empty() {
            self.held.labels.remove(space);
        }
        let fact = Fact::Room(about.0.as_ref().into(), about.1.as_ref().into());
        self.journal.note(|j| &mut j.facts, fact);
    }
}
