//! What each ruleset grants each class.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_ebpf::abi::Grant;

use crate::{
    ports::{self, Ports, Ranges},
    tables::Tables,
};

use super::{
    classes::ClassIds,
    ids,
    peer::Peer,
    ruleset::{Content, Grants},
};

/// Ports of enforced, and of enforced and staged policies.
type Pair = (Ports, Ports);

/// Fills rules and port sets.
pub(super) fn fill(
    tables: &mut Tables,
    rulesets: &BTreeMap<&Content, u32>,
    peers: &[&Peer],
    classes: &ClassIds,
) {
    let index: BTreeMap<&Peer, usize> = peers.iter().enumerate().map(|(i, p)| (*p, i)).collect();
    let mut holding: Vec<Vec<u32>> = vec![Vec::new(); peers.len()];
    for (set, id) in classes.all() {
        for i in set {
            holding[*i as usize].push(id);
        }
    }
    let mut pairs: BTreeMap<(u32, u32), Pair> = BTreeMap::new();
    for (content, id) in rulesets {
        for (class, pair) in by_class(content, &index, &holding, classes) {
            pairs.insert((*id, class), pair);
        }
    }
    let sets = pairs.values().flat_map(|(a, b)| [a.ranges(), b.ranges()]);
    let sets: BTreeSet<&Ranges> = sets.filter(|r| !r.is_empty()).collect();
    let sets = ids::assign(sets.into_iter().map(|r| (r, ids::of(r))), &ids::BLOCKS);
    let id = |ports: &Ports| ports.id(sets.get(ports.ranges()).copied().unwrap_or(0));
    for (key, (enforced, staged)) in &pairs {
        let (enforced, staged) = (id(enforced), id(staged));
        tables.rules.insert(*key, Grant { enforced, staged });
    }
    for (ranges, set) in sets {
        for ((protocol, block), bits) in ports::blocks(ranges) {
            tables.ports.insert((set, protocol, block), bits);
        }
    }
}

/// Non-empty grants of a ruleset by class.
fn by_class(
    content: &Content,
    index: &BTreeMap<&Peer, usize>,
    holding: &[Vec<u32>],
    classes: &ClassIds,
) -> BTreeMap<u32, Pair> {
    let anyone = (
        content.enforced.anyone.clone(),
        content.staged.anyone.clone(),
    );
    let mut found: BTreeMap<u32, Pair> = BTreeMap::new();
    if !anyone.0.is_empty() || !anyone.1.is_empty() {
        let every = classes.all().map(|(_, id)| id).chain([0]);
        found.extend(every.map(|id| (id, anyone.clone())));
    }
    let mut add = |grants: &Grants, half: fn(&mut Pair) -> &mut Ports| {
        for (peer, ports) in &grants.peers {
            for class in &holding[index[peer]] {
                half(found.entry(*class).or_default()).add(ports);
            }
        }
    };
    add(&content.enforced, |pair| &mut pair.0);
    add(&content.staged, |pair| &mut pair.1);
    found
}
