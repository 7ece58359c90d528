//! How peers and groups of pods find each other without trying every pair.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use crate::{
    index::{Index, groups::GroupId, spaces::NAMESPACE_NAME},
    intern::Text,
};

use super::peer::{Base, Block, Namespaces};

/// What finds a peer.
pub(super) enum Place<'p> {
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

/// Where a base is to be looked for.
pub(super) fn place(base: &Base) -> Place<'_> {
    match base {
        Base::Pods(both) => match (both.1.required().next(), space(&both.0)) {
            (Some((key, value)), _) => Place::Label(key, value),
            (None, Some(namespace)) => Place::Space(namespace),
            (None, None) => Place::Others,
        },
        Base::Service {
            namespace, service, ..
        } => Place::Service(namespace, service),
        Base::Label { key, value, .. } => Place::Label(key, value),
        Base::Block(block) => Place::Block(block),
        Base::Addresses(addresses) => Place::Addresses(addresses),
        Base::Nodes(_) => Place::ByNode,
        Base::Outside => Place::Outside,
        Base::AllNodes => Place::AllNodes,
    }
}

/// The one namespace that a selection can mean.
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

/// Groups that a base may name: all that carry its rarest required label, or
/// are in a namespace that it selects; every group if it requires neither.
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

/// So few candidates that to look for a shorter list would take longer.
const FEW: usize = 64;

/// Groups of the namespaces that are selected; `None` if all are.
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
