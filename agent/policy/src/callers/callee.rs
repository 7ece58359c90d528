//! What one kind of the service's pods allows each class of addresses.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_ebpf::{
    abi::{Direction, EndpointRules, PortSet},
    verdict::PolicyTables as _,
};

use crate::{
    compile::policy::Policy,
    model::Protocol,
    ports::Ports,
    snapshot::Seen,
    tables::{EndpointPolicy, Tables},
};

/// Pods of the service with identical policies and address classes.
#[derive(Debug)]
pub(super) struct Callee {
    /// Positions in the snapshot.
    pub(super) pods: Vec<usize>,
    pub(super) policy: EndpointPolicy,
    pub(super) seen: Vec<Seen>,
    /// In evaluation order.
    pub(super) policies: Vec<Policy>,
}

impl Callee {
    pub(super) fn is_quarantined(&self) -> bool {
        self.policy.flags & EndpointRules::QUARANTINE != 0
    }
}

/// The ports allowed now, and once staged policies are enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) now: Ports,
    pub(crate) enforced: Ports,
}

impl Allowed {
    pub(super) fn all() -> Self {
        Self {
            now: Ports::all(),
            enforced: Ports::all(),
        }
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.now.add(&more.now);
        self.enforced.add(&more.enforced);
    }

    pub(crate) fn both(&self, with: &Self) -> Self {
        Self {
            now: self.now.both(&with.now),
            enforced: self.enforced.both(&with.enforced),
        }
    }

    pub(super) fn is_within(&self, other: &Self) -> bool {
        super::within(&self.now, &other.now) && super::within(&self.enforced, &other.enforced)
    }
}

/// Reads port sets back out of the tables.
pub(crate) struct Reader<'t> {
    tables: &'t Tables,
    sets: BTreeMap<u32, Ports>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(tables: &'t Tables) -> Self {
        Self {
            tables,
            sets: BTreeMap::new(),
        }
    }

    /// Returns the ports an endpoint allows a class in one direction.
    pub(crate) fn allowed(
        &mut self,
        policy: &EndpointPolicy,
        direction: Direction,
        class: u32,
    ) -> Allowed {
        if policy.flags & EndpointRules::QUARANTINE != 0 {
            return Allowed::default();
        }
        let (ruleset, isolated, staged) = match direction {
            Direction::Ingress => (
                policy.ingress,
                EndpointRules::INGRESS_ISOLATED,
                EndpointRules::INGRESS_STAGED,
            ),
            Direction::Egress => (
                policy.egress,
                EndpointRules::EGRESS_ISOLATED,
                EndpointRules::EGRESS_STAGED,
            ),
        };
        let grant = self.tables.grant(0, ruleset, class);
        let mut allowed = Allowed::all();
        if policy.flags & isolated != 0 {
            allowed.now = self.set(grant.enforced);
            allowed.enforced = allowed.now.clone();
        }
        if policy.flags & staged != 0 {
            allowed.enforced = self.set(grant.staged).both(&allowed.now);
        }
        allowed
    }

    fn set(&mut self, id: u32) -> Ports {
        if let Some(known) = self.sets.get(&id) {
            return known.clone();
        }
        let mut ports = Ports::default();
        if id & PortSet::OTHER != 0 {
            ports = Ports::all();
            let with_ports = Protocol::ALL.iter();
            with_ports.for_each(|p| ports.subtract(&Ports::whole(*p)));
        }
        for protocol in Protocol::ALL {
            if id & PortSet::whole(protocol.iana()) != 0 {
                ports.add(&Ports::whole(protocol));
            } else if id & PortSet::BLOCKS != 0 {
                let set = id & PortSet::BLOCKS;
                let number = u16::from(protocol.iana());
                let blocks = (set, number, 0)..=(set, number, u16::MAX);
                for ((.., block), bits) in self.tables.ports.range(blocks) {
                    ports.add_block(protocol, *block, bits);
                }
            }
        }
        self.sets.insert(id, ports.clone());
        ports
    }

    /// Returns every class that an address has or may have.
    pub(super) fn classes(&self) -> BTreeSet<u32> {
        let exact = self.tables.classes.values();
        let all = exact.chain(self.tables.cidrs.values()).chain(&[0]);
        all.copied().collect()
    }
}
