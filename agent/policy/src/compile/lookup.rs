//! Finds candidate peers for groups of pods and vice versa, without trying every pair.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use crate::{
    index::{Index, groups::GroupId, spaces::NAMESPACE_NAME},
    intern::Text,
};

use super::peer::{Base, Block, Namespaces};

/// The key under which a peer is looked up.
pub(super) enum LookupKey<'p> {
    Label(&'p Text, &'p Text),
    Service(&'p Text, &'p Text),
    Space(&'p Text),
    Others,
    Outside,
    AllNodes,
    ByNode,
    Block(&'p Arc<Block>),
    Addresses(&'p BTreeSet<IpAddr>),
}

/// Returns the key under which a base is looked up.
pub(super) fn lookup_key(base: &Base) -> LookupKey<'_> {
    match base {
        Base::Pods(both) => match (both.1.required().next(), space(&both.0)) {
            (Some((key, value)), _) => LookupKey::Label(key, value),
            (None, Some(namespace)) => LookupKey::Space(namespace),
            (None, None) => LookupKey::Others,
        },
        Base::Service {
            namespace, service, ..
        } => LookupKey::Service(namespace, service),
        Base::Label { key, value, .. } => LookupKey::Label(key, value),
        Base::Block(block) => LookupKey::Block(block),
        Base::Addresses(addresses) => LookupKey::Addresses(addresses),
        Base::Nodes(_) => LookupKey::ByNode,
        Base::Outside => LookupKey::Outside,
        Base::AllNodes => LookupKey::AllNodes,
    }
}

/// Returns the namespace if a selection can mean only one.
fn space(namespaces: &Namespaces) -> Option<&Text> {
    match namespaces {
        Namespaces::Name(name) => Some(name),
        Namespaces::Selected(selector) => {
            let mut required = selector.required();
            let by_name = required.find(|(key, _)| ***key == *NAMESPACE_NAME);
            by_name.map(|(_, name)| name)
        }
    }
}

/// Returns the groups that a base may select: those that carry its rarest required label, or those
/// in the namespaces that it selects; every group if it requires neither.
pub(super) fn candidates(index: &Index, base: &Base) -> Vec<GroupId> {
    match base {
        Base::Pods(both) => {
            let labels = both.1.alternatives();
            let by_label = labels.map(|(key, values)| {
                let lists = values
                    .iter()
                    .map(|value| index.groups.with_label(key, value));
                lists.collect::<Vec<_>>()
            });
            let size = |lists: &Vec<&[GroupId]>| lists.iter().map(|list| list.len()).sum::<usize>();
            let rarest = by_label.min_by_key(size);
            let few = rarest.as_ref().is_some_and(|lists| size(lists) < FEW);
            let by_space = (!few).then(|| in_spaces(index, &both.0)).flatten();
            let lists = rarest.into_iter().chain(by_space);
            match lists.min_by_key(size) {
                Some(lists) => lists.concat(),
                None => index.groups.alive().collect(),
            }
        }
        Base::Service {
            namespace, service, ..
        } => {
            let space = index.spaces.get(namespace);
            space.map_or_else(Vec::new, |s| s.of_service(service).to_vec())
        }
        Base::Label { key, value, .. } => index.groups.with_label(key, value).to_vec(),
        Base::Block(_) | Base::Addresses(_) | Base::Nodes(_) | Base::Outside | Base::AllNodes => {
            Vec::new()
        }
    }
}

/// Below this many candidates, searching for a shorter list would take longer.
const FEW: usize = 64;

/// Returns the groups of the selected namespaces; `None` if all are selected.
fn in_spaces<'i>(index: &'i Index, namespaces: &Namespaces) -> Option<Vec<&'i [GroupId]>> {
    let of = |name: &Text| index.spaces.get(name).map_or(&[][..], |s| &s.groups);
    if let Some(name) = space(namespaces) {
        return Some(vec![of(name)]);
    }
    let Namespaces::Selected(selector) = namespaces else {
        return None;
    };
    let selected = index.spaces.iter();
    let selected = selected.filter(|(_, space)| selector.matches(&space.labels));
    (!selector.is_empty()).then(|| selected.map(|(_, s)| s.groups.as_slice()).collect())
}
