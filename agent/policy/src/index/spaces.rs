//! Data about each namespace: its labels, its groups, its services.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    config::Config, intern::HashMap, intern::Text, labels::Target, model::Protocol, ports::Ports,
    selector::Labels,
};

use super::{
    groups::{self, GroupId},
    journal::Fact,
    pods::{PodTraits, Pools},
};

/// The label with its name that every Namespace carries.
pub(crate) const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Reference counts of items.
type Counted<K> = BTreeMap<K, u32>;

/// One namespace, known by its object or by its pods.
#[derive(Clone, Debug, Default)]
pub(crate) struct Space {
    /// Includes [`NAMESPACE_NAME`].
    pub(crate) labels: Labels,
    pub(super) has_object: bool,
    /// Sorted.
    pub(crate) groups: Vec<GroupId>,
    /// Groups of each service, sorted.
    services: HashMap<Text, Vec<GroupId>>,
    /// Ports that the pods of each service declare.
    declared: BTreeMap<Text, Counted<(Protocol, u16)>>,
    /// Services by type.
    types: BTreeMap<Text, Counted<Text>>,
}

impl Space {
    /// Returns the groups of a service, sorted.
    pub(crate) fn of_service(&self, service: &str) -> &[GroupId] {
        self.services.get(service).map_or(&[], Vec::as_slice)
    }
}

/// All namespaces, and the egress labels in use in all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spaces {
    by_name: HashMap<Text, Space>,
    /// Values in use of each egress label, and the namespaces that use them.
    values: HashMap<Text, BTreeMap<Text, Counted<Text>>>,
}

impl Spaces {
    /// Returns a namespace.
    pub(crate) fn get(&self, name: &str) -> Option<&Space> {
        self.by_name.get(name)
    }

    /// Returns all namespaces, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Text, &Space)> {
        self.by_name.iter()
    }

    /// Returns the meaning of `"true"` for a service: the ports that its pods declare, or
    /// everything if there are none.
    pub(crate) fn declared(&self, namespace: &str, service: &str) -> Ports {
        let mut ports = Ports::default();
        for (protocol, number) in self.declared_list(namespace, service) {
            ports.add(&Ports::one(protocol, number));
        }
        if ports.is_empty() {
            Ports::all()
        } else {
            ports
        }
    }

    /// Returns the ports that a service's pods declare, sorted.
    pub(crate) fn declared_list(
        &self,
        namespace: &str,
        service: &str,
    ) -> impl Iterator<Item = (Protocol, u16)> + '_ {
        let space = self.by_name.get(namespace);
        let declared = space.and_then(|s| s.declared.get(service));
        declared.into_iter().flat_map(|ports| ports.keys().copied())
    }

    /// Returns the services of a type, sorted.
    pub(crate) fn services_of(&self, namespace: &str, kind: &str) -> impl Iterator<Item = &Text> {
        let space = self.by_name.get(namespace);
        let services = space.and_then(|s| s.types.get(kind));
        services.into_iter().flat_map(Counted::keys)
    }

    /// Returns the values in use of an egress label, sorted, and the namespaces of their pods.
    pub(crate) fn egress_values(
        &self,
        key: &str,
    ) -> impl Iterator<Item = (&Text, impl Iterator<Item = &Text>)> {
        let values = self.values.get(key).into_iter().flatten();
        values.map(|(value, namespaces)| (value, namespaces.keys()))
    }

    /// Returns the namespaces whose pods carry an egress label with a value, sorted.
    pub(crate) fn carriers(&self, key: &str, value: &str) -> impl Iterator<Item = &Text> {
        let values = self.values.get(key);
        let carriers = values.and_then(|values| values.get(value));
        carriers.into_iter().flat_map(Counted::keys)
    }

    /// Sets the labels of a namespace's object, or removes the object; returns whether the labels
    /// changed.
    pub(super) fn set_labels(
        &mut self,
        pools: &mut Pools,
        name: &str,
        labels: Option<&BTreeMap<String, String>>,
    ) -> bool {
        let has_object = labels.is_some();
        let mut labels = labels.cloned().unwrap_or_default();
        labels.insert(NAMESPACE_NAME.to_owned(), name.to_owned());
        let labels = pools.labels(&labels);
        let name = pools.texts.get(name);
        let space = self.by_name.entry(Arc::clone(&name)).or_default();
        space.has_object = has_object;
        let changed = space.labels != labels;
        space.labels = labels;
        self.forget_if_unknown(&name);
        changed
    }

    fn forget_if_unknown(&mut self, name: &Text) {
        let unknown = |s: &Space| !s.has_object && s.groups.is_empty();
        if self.by_name.get(name).is_some_and(unknown) {
            self.by_name.remove(name);
        }
    }

    /// Adds a group that has pods now.
    pub(super) fn add_group(
        &mut self,
        config: &Config,
        pools: &mut Pools,
        id: GroupId,
        traits: &PodTraits,
        changed: &mut impl FnMut(Fact),
    ) {
        if !self.by_name.contains_key(&traits.namespace) {
            self.set_labels_of_unknown(pools, &traits.namespace);
        }
        let space = self
            .by_name
            .entry(Arc::clone(&traits.namespace))
            .or_default();
        groups::insert(&mut space.groups, id);
        let of_service = space.services.entry(Arc::clone(&traits.service));
        groups::insert(of_service.or_default(), id);
        let namespace = || traits.namespace.as_ref().into();
        for port in traits.ports.iter() {
            let ports = space
                .declared
                .entry(Arc::clone(&traits.service))
                .or_default();
            if add(ports, (port.protocol, port.number)) {
                changed(Fact::Declared(namespace(), traits.service.as_ref().into()));
            }
        }
        if let Some(kind) = &traits.kind {
            let services = space.types.entry(Arc::clone(kind)).or_default();
            if add(services, Arc::clone(&traits.service)) {
                changed(Fact::Type(namespace(), kind.as_ref().into()));
            }
        }
        for (key, value) in traits.labels.iter() {
            if Target::parse(config, key).is_some() {
                let values = self.values.entry(Arc::clone(key)).or_default();
                let namespaces = values.entry(Arc::clone(value)).or_default();
                if add(namespaces, Arc::clone(&traits.namespace)) {
                    Fact::values(key, &traits.namespace)
                        .into_iter()
                        .for_each(&mut *changed);
                }
            }
        }
    }

    fn set_labels_of_unknown(&mut self, pools: &mut Pools, name: &Text) {
        let labels = BTreeMap::from([(NAMESPACE_NAME.to_owned(), name.as_ref().to_owned())]);
        let space = Space {
            labels: pools.labels(&labels),
            ..Space::default()
        };
        self.by_name.insert(Arc::clone(name), space);
    }

    /// Removes a group that has no pods left.
    pub(super) fn remove_group(
        &mut self,
        id: GroupId,
        traits: &PodTraits,
        changed: &mut impl FnMut(Fact),
    ) {
        let Some(space) = self.by_name.get_mut(&traits.namespace) else {
            return;
        };
        groups::remove(&mut space.groups, id);
        if let Some(groups) = space.services.get_mut(&traits.service) {
            groups::remove(groups, id);
            if groups.is_empty() {
                space.services.remove(&traits.service);
            }
        }
        let namespace = || traits.namespace.as_ref().into();
        for port in traits.ports.iter() {
            let port = (port.protocol, port.number);
            if take(&mut space.declared, &traits.service, &port) {
                changed(Fact::Declared(namespace(), traits.service.as_ref().into()));
            }
        }
        if let Some(kind) = &traits.kind
            && take(&mut space.types, kind, &traits.service)
        {
            changed(Fact::Type(namespace(), kind.as_ref().into()));
        }
        for (key, value) in traits.labels.iter() {
            if self.take_value(key, value, &traits.namespace) {
                Fact::values(key, &traits.namespace)
                    .into_iter()
                    .for_each(&mut *changed);
            }
        }
        self.forget_if_unknown(&traits.namespace);
    }

    /// Decrements the count of a value in a namespace; returns whether it was the last.
    fn take_value(&mut self, key: &Text, value: &Text, namespace: &Text) -> bool {
        let Some(values) = self.values.get_mut(key) else {
            return false;
        };
        let last = take(values, value, namespace);
        if values.is_empty() {
            self.values.remove(key);
        }
        last
    }
}

/// Increments a count; returns whether it is the first.
fn add<K: Ord>(counted: &mut Counted<K>, key: K) -> bool {
    let count = counted.entry(key).or_insert(0);
    *count += 1;
    *count == 1
}

/// Decrements the count of one of an owner's items; returns whether it was the last.
fn take<O: Ord, K: Ord>(all: &mut BTreeMap<O, Counted<K>>, of: &O, key: &K) -> bool {
    let Some(counted) = all.get_mut(of) else {
        return false;
    };
    let Some(count) = counted.get_mut(key) else {
        return false;
    };
    *count -= 1;
    let last = *count == 0;
    if last {
        counted.remove(key);
        if counted.is_empty() {
            all.remove(of);
        }
    }
    last
}
