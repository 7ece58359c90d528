//! The class and the identity of each address.

use std::{collections::BTreeSet, sync::Arc};

use ringfence_ebpf::abi::{Addr, Identity, ServiceKey};

use crate::{
    index::{
        Index, Owner, Scope,
        groups::GroupId,
        owners::{NodeClaim, ServiceClaim},
        pods::PodTraits,
    },
    intern::{HashMap, HashSet, Text},
    prefix::{self, Prefix, V6_ROOT},
};

use super::{
    State,
    classes::{ClassSlot, NO_CLASS},
    covers::{self, Covered, Recovered},
    peer::Base,
    peers::{Member, PeerId},
};

/// The classes found for addresses and prefixes, before classes have ids.
#[derive(Debug, Default)]
pub(super) struct Placed {
    addresses: Vec<(Addr, Option<ClassSlot>)>,
    cidrs: Vec<(Prefix, Option<ClassSlot>)>,
    /// Classes of groups under prefixes, computed once.
    classes: HashMap<(GroupId, Option<Prefix>, bool), ClassSlot>,
    names: HashMap<GroupId, Text>,
}

impl State {
    /// Recomputes the classes of prefixes, if the blocks in use have changed, and adds the
    /// addresses that this or other peers by address affect.
    pub(super) fn cover_anew(&mut self, index: &Index, addresses: &mut HashSet<Addr>) {
        if std::mem::take(&mut self.peers.nodes_changed) {
            // In pods' ranges only these addresses are distinguished from the outside.
            addresses.extend(index.owners.of_nodes());
            addresses.extend(index.ranges.balancers());
        }
        let Recovered { all, apart } = self.cover(index);
        // Made-up addresses match no block except whole families, whatever covers them.
        let made_up = index.made_up.iter();
        addresses.extend(made_up.filter(|addr| covers::within(&all, addr)));
        let classed = &self.writer.tables.classes;
        for range in all {
            addresses.extend(classed.range(range).map(|(addr, _)| *addr));
        }
        if !apart.is_empty() {
            let owned = index.owners.all();
            addresses.extend(owned.filter(|addr| covers::within(&apart, addr)));
        }
    }

    /// Recomputes the classes of the prefixes affected by added or removed blocks; returns the
    /// addresses whose coverage changed.
    pub(super) fn cover(&mut self, index: &Index) -> Recovered {
        let touched = self.peers.take_touched();
        let mut anew = Recovered::default();
        if !touched.is_empty() {
            for region in covers::regions(touched, self.prefixes.len()) {
                anew.extend(self.cover_region(index, &region));
            }
        }
        anew
    }

    fn cover_region(&mut self, index: &Index, region: &Prefix) -> Recovered {
        let shorter = region.1.checked_sub(1);
        let above = shorter.and_then(|len| prefix::longest(&self.prefixes, &region.0, len));
        let above = above.map(|(prefix, known)| (*prefix, known.clone()));
        let mut old = match region {
            &V6_ROOT => std::mem::take(&mut self.prefixes),
            region => {
                let within = self.prefixes.range(prefix::within(region));
                let within: Vec<Prefix> = within.map(|(prefix, _)| *prefix).collect();
                let taken = within.into_iter();
                taken
                    .filter_map(|prefix| self.prefixes.remove_entry(&prefix))
                    .collect()
            }
        };
        let covered = above
            .clone()
            .map(|(prefix, (covered, _))| (prefix, covered));
        let mut now = covers::prefixes(&self.peers, &index.ranges, region, covered);
        old.extend(above.clone());
        let changed = covers::covered_anew(&old, &now);
        if let Some((prefix, _)) = above {
            old.remove(&prefix);
            now.remove(&prefix);
        }
        for (prefix, (covered, slot)) in old {
            match now.remove(&prefix) {
                Some(same) if same == covered => {
                    self.prefixes.insert(prefix, (covered, slot));
                    continue;
                }
                Some(other) => self.add_prefix(prefix, other),
                None => self.placed.cidrs.push((prefix, None)),
            }
            if let Some(id) = self.writer.tables.cidrs.get(&prefix) {
                self.classes.leave(*id);
            }
        }
        for (prefix, covered) in now {
            self.add_prefix(prefix, covered);
        }
        changed
    }

    fn add_prefix(&mut self, prefix: Prefix, covered: Covered) {
        let slot = self.classes.find(covered.plain.clone());
        self.classes.enter(slot);
        self.placed.cidrs.push((prefix, Some(slot)));
        self.prefixes.insert(prefix, (covered, slot));
    }

    /// Finds the class and the identity of every address.
    pub(super) fn rebuild(&mut self, scope: &Scope, index: &Index) {
        for addr in index.owners.all() {
            self.classify(scope, index, addr);
        }
        // Addresses of pods and nodes are already classified.
        let others = index.owners.of_services().chain(index.ranges.balancers());
        let others: BTreeSet<Addr> = others.collect();
        for addr in others.iter().filter(|addr| index.owner(addr).is_none()) {
            self.classify(scope, index, *addr);
        }
    }

    /// Finds the class and the identity of an address.
    pub(super) fn classify(&mut self, scope: &Scope, index: &Index, addr: Addr) {
        let found = prefix::longest(&self.prefixes, &addr, 128);
        let prefix = found.map(|(prefix, _)| *prefix);
        let by_prefix = found.map_or(NO_CLASS, |(_, (_, slot))| *slot);
        let owner = index.owner(&addr);
        let services = index.owners.services(&addr);
        self.writer.services(addr, &ports(addr, services));
        let unlisted = match services.iter().any(ServiceClaim::is_unlisted) {
            true => Identity::IS_UNLISTED,
            false => 0,
        };
        let flag = |flag: u32| {
            if services.is_empty() {
                0
            } else {
                flag | unlisted
            }
        };
        let class = owner.and_then(|owner| match owner {
            Owner::Pod(id) => {
                let group = index.group_of(id)?;
                let traits = index.groups.traits(group);
                let name = self.name(group, traits);
                let flags = flag(Identity::IS_CLAIMED);
                self.writer.identity(addr, Some((name, flags)));
                let claims = index.owners.nodes(&addr);
                let made_up = index.made_up.contains(&addr);
                Some(self.class_of_pod(index, (group, traits), (prefix, made_up), claims))
            }
            Owner::Node(claims) => {
                let this = is_this(scope, claims);
                let this_node = if this { Identity::IS_THIS_NODE } else { 0 };
                let flags = Identity::IS_NODE | this_node | flag(Identity::IS_SERVICE);
                let identity = (self.names.get("node"), flags);
                self.writer.identity(addr, Some(identity));
                Some(self.class_of_node(index, prefix, this, claims))
            }
        });
        if class.is_none() {
            let first = services.first();
            let identity = first.map(|first| (Arc::clone(&first.name), flag(Identity::IS_SERVICE)));
            self.writer.identity(addr, identity);
        }
        let class = match class {
            None if index.ranges.is_balancer(&addr) => {
                Some(self.class_of_node(index, prefix, true, &[]))
            }
            class => class,
        };
        // An address that its prefix already describes needs no entry of its own.
        let class = class.filter(|class| *class != by_prefix);
        if let Some(class) = class {
            self.classes.enter(class);
        }
        if let Some(id) = self.writer.tables.classes.get(&addr) {
            self.classes.leave(*id);
        }
        self.placed.addresses.push((addr, class));
    }

    fn name(&mut self, group: GroupId, traits: &PodTraits) -> Text {
        let known = self.placed.names.entry(group);
        let name = known.or_insert_with(|| self.names.get(traits.workload().as_str()));
        Arc::clone(name)
    }

    fn covering(&self, prefix: Option<Prefix>) -> &[PeerId] {
        let covered = prefix.and_then(|prefix| self.prefixes.get(&prefix));
        covered.map_or(&[], |(covered, _)| &covered.by)
    }

    fn class_of_pod(
        &mut self,
        index: &Index,
        (group, traits): (GroupId, &PodTraits),
        (prefix, made_up): (Option<Prefix>, bool),
        claims: &[NodeClaim],
    ) -> ClassSlot {
        let known = self.placed.classes.get(&(group, prefix, made_up));
        if let (Some(class), true) = (known, claims.is_empty()) {
            return *class;
        }
        let by_address = self.peers.by_node(index, false, claims);
        let by_address = self.covering(prefix).iter().chain(&by_address);
        let fitting = by_address.filter_map(|id| {
            let peer = &self.peers.get(*id)?.peer;
            let somewhere = match &peer.base {
                Base::Block(block) => !block.is_whole(),
                base => matches!(base, Base::Addresses(_)),
            };
            let number = peer.number(traits)?;
            (!made_up || !somewhere).then_some((*id, number))
        });
        let naming = self.peers.naming(group).iter().copied();
        let set: Vec<Member> = naming.chain(fitting).collect();
        let class = self.classes.find(set);
        if claims.is_empty() {
            self.placed.classes.insert((group, prefix, made_up), class);
        }
        class
    }

    fn class_of_node(
        &mut self,
        index: &Index,
        prefix: Option<Prefix>,
        this: bool,
        claims: &[NodeClaim],
    ) -> ClassSlot {
        let by_node = self.peers.by_node(index, this, claims);
        let by_address = self.covering(prefix).iter().chain(&by_node);
        let plain = by_address.filter(|id| {
            let known = self.peers.get(**id);
            known.is_some_and(|known| known.peer.named.is_none())
        });
        let all = plain.chain(self.peers.of_node(this));
        let set: Vec<Member> = all.map(|id| (*id, None)).collect();
        self.classes.find(set)
    }

    /// Writes the results, now that all classes have ids.
    pub(super) fn write_placed(&mut self) {
        let placed = std::mem::take(&mut self.placed);
        for (addr, class) in placed.addresses {
            let class = class.map(|slot| self.classes.id(slot));
            self.writer.class(addr, class);
        }
        for (prefix, class) in placed.cidrs {
            let class = class.map(|slot| self.classes.id(slot));
            self.writer.cidr(prefix, class);
        }
    }
}

/// Returns the union of the ports that Services have at an address. If two Services share a port,
/// kube-proxy applies whichever rule it wrote first, in no defined order: the caller's egress is
/// decided on the backend that it picks.
fn ports(addr: Addr, services: &[ServiceClaim]) -> BTreeSet<ServiceKey> {
    let all = services.iter().flat_map(|claim| claim.ports.iter());
    let key = |(protocol, port): &(u16, u16)| ServiceKey {
        addr,
        protocol: *protocol,
        port: *port,
    };
    all.map(key).collect()
}

/// Reports whether the claims say that an address belongs to the node being compiled for.
fn is_this(scope: &Scope, claims: &[NodeClaim]) -> bool {
    let Scope::Node(name) = scope else {
        return false;
    };
    claims
        .iter()
        .any(|claim| claim.node.as_deref() == Some(name))
}
