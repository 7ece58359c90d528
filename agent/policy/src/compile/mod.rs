//! Policies to tables.
//!
//! 1. [`policy`]: what applies to each group of pods in scope, NetworkPolicies
//!    and label allowlists in one form.
//! 2. [`ruleset`]: their union per direction, one value per distinct content.
//! 3. [`classes`]: which peers each address and each prefix matches.
//! 4. Here: ids, and what each ruleset grants each class.

mod allowlist;
mod classes;
mod grants;
mod ids;
mod netpol;
pub(crate) mod peer;
pub(crate) mod policy;
pub(crate) mod ruleset;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use ringfence_ebpf::abi::{Addr, EndpointWorld, Identity};

use crate::{
    labels,
    selector::Labels,
    tables::{EndpointPolicy, Tables},
    view::{Owner, PodView, View},
};

use classes::Classes;
use peer::Peer;
use ruleset::{Content, Under};

/// Compiles a view into tables.
pub(crate) fn compile(view: &View<'_>) -> Tables {
    let netpols = policy::netpols(view);
    let groups: BTreeSet<usize> = in_scope(view).map(|p| p.group).collect();
    let under: BTreeMap<usize, Under> = groups
        .into_iter()
        .map(|group| (group, Under::new(&policy::of(view, &netpols, group))))
        .collect();
    let contents: BTreeSet<&Content> = under.values().flat_map(Under::contents).collect();
    let peers: BTreeSet<&Peer> = contents.iter().flat_map(|c| c.peers()).collect();
    let peers: Vec<&Peer> = peers.into_iter().collect();
    let classes = Classes::new(view, &peers);
    let class_ids = classes.ids(&peers);
    let rulesets = ids::assign(contents.iter().map(|c| (*c, ids::of(c))), &ids::PLAIN);

    let mut tables = Tables::default();
    grants::fill(&mut tables, &rulesets, &peers, &class_ids);
    for (prefix, set) in &classes.prefixes {
        tables.cidrs.insert(*prefix, class_ids.get(set));
    }
    for (addr, set) in &classes.exact {
        tables.classes.insert(*addr, class_ids.get(set));
    }
    for pod in in_scope(view) {
        let under = &under[&pod.group];
        let id = |content: &Option<Content>| content.as_ref().map_or(0, |c| rulesets[c]);
        let group = &view.groups[pod.group];
        let policy = EndpointPolicy {
            workload: group.workload(),
            addresses: pod.addresses.clone(),
            ingress: id(&under.ingress),
            egress: id(&under.egress),
            flags: under.flags | quarantine(view, group.labels),
        };
        tables.endpoints.insert(pod.key.clone(), policy);
    }
    tables.identities = identities(view);
    tables
}

fn in_scope<'v, 'a>(view: &'v View<'a>) -> impl Iterator<Item = &'v PodView<'a>> {
    view.pods.iter().filter(|p| p.in_scope)
}

fn quarantine(view: &View<'_>, labels: &Labels) -> u32 {
    match labels::is_true(labels, &view.config().key("quarantine")) {
        true => EndpointWorld::QUARANTINE,
        false => 0,
    }
}

fn identities(view: &View<'_>) -> BTreeMap<Addr, (String, u32)> {
    let name = |owner: &Owner| match owner {
        Owner::Pod(i) => (view.groups[view.pods[*i].group].workload(), 0),
        Owner::Node { this: false } => ("node".to_owned(), Identity::IS_NODE),
        Owner::Node { this: true } => {
            let flags = Identity::IS_NODE | Identity::IS_THIS_NODE;
            ("node".to_owned(), flags)
        }
    };
    let owners = view.owners.iter();
    owners.map(|(addr, owner)| (*addr, name(owner))).collect()
}
