//! What pods allow each class of addresses, computed once per kind of pod.
//!
//! No verdict can distinguish pods that have equal rulesets and whose addresses have equal
//! classes. They form one kind, and all look-ups are done by kind.

use std::collections::HashMap;

use ringfence_ebpf::{
    abi::{Addr, Buffer, Direction, EndpointRules, Grant, PortKey},
    verdict::{self, PolicyTables},
};

use super::peer::Exempt;
use crate::{
    ports::PortSpec,
    snapshot::{self, Pod, Seen, Snapshot},
    tables::Tables,
};

/// One bit per requested port.
pub(super) type Mask = u64;

/// The number of bits in a mask.
pub(super) const MAX_PORTS: usize = Mask::BITS as usize;

/// Index of a kind of pod.
pub(super) type KindId = usize;

/// What each kind of pod allows each class.
#[derive(Debug)]
pub(super) struct Judge {
    /// The mask of all ports.
    pub(super) full: Mask,
    sides: Vec<Side>,
    kinds: Vec<Kind>,
    /// The kind of each pod in the snapshot.
    pub(super) of_pods: Vec<KindId>,
}

/// Pods that no verdict can distinguish.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    /// The sides for ingress and egress.
    sides: [usize; 2],
    /// The side for egress to the node that runs the pod.
    to_node: usize,
    seen: Vec<Seen>,
}

/// The ports that one direction allows by class.
#[derive(Debug)]
struct Side {
    /// Classes with a different mask from class 0, sorted.
    by_class: Vec<(u32, Mask)>,
    otherwise: Mask,
}

impl Judge {
    pub(super) fn new(snapshot: &Snapshot, ports: &[PortSpec]) -> Self {
        let mut judge = Self {
            full: (0..ports.len()).fold(0, |mask, n| mask | 1 << n),
            sides: Vec::new(),
            kinds: Vec::new(),
            of_pods: Vec::new(),
        };
        let mut sides = HashMap::new();
        let mut kinds = HashMap::new();
        for pod in &snapshot.pods {
            let mut side = |rules: EndpointRules, direction: Direction| {
                let key = (direction as u8, content(&rules, direction));
                *sides.entry(key).or_insert_with(|| {
                    let side = Side::new(&snapshot.tables, &rules, direction, ports);
                    judge.sides.push(side);
                    judge.sides.len() - 1
                })
            };
            let rules = pod.policy.rules();
            let kind = Kind {
                sides: [Direction::Ingress, Direction::Egress].map(|d| side(rules, d)),
                to_node: side(pod.policy.exempt_rules(), Direction::Egress),
                seen: pod.seen.clone(),
            };
            let id = *kinds.entry(kind).or_insert_with_key(|kind| {
                judge.kinds.push(kind.clone());
                judge.kinds.len() - 1
            });
            judge.of_pods.push(id);
        }
        judge
    }

    /// Returns what the callee's ingress and the caller's egress allow between different pods of
    /// two kinds, over each address family.
    pub(super) fn pairs(
        &self,
        from: KindId,
        to: KindId,
    ) -> impl Iterator<Item = (Option<bool>, [Mask; 2])> {
        let (from, to) = (&self.kinds[from], &self.kinds[to]);
        let allow = |side: usize, class: Option<u32>| {
            class.map_or(0, |class| self.sides[side].allows(class))
        };
        snapshot::carried(&from.seen, &to.seen).map(move |carried| {
            let [of_from, of_to] = carried.classes;
            let allowed = [allow(to.sides[0], of_from), allow(from.sides[1], of_to)];
            (carried.is_v4, allowed)
        })
    }

    /// Returns what a kind's ingress allows from addresses of a class, or its egress to them.
    pub(super) fn at(&self, kind: KindId, direction: usize, class: u32, exempt: Exempt) -> Mask {
        let kind = &self.kinds[kind];
        match (exempt, direction) {
            (Exempt::No, direction) => self.sides[kind.sides[direction]].allows(class),
            (Exempt::Node, 1) => self.sides[kind.to_node].allows(class),
            (Exempt::Itself | Exempt::Node, _) => self.full,
        }
    }
}

/// Returns the parts of an endpoint's policy that affect one direction.
fn content(policy: &EndpointRules, direction: Direction) -> (u32, u32) {
    let (ruleset, flags) = match direction {
        Direction::Ingress => (
            policy.ingress,
            EndpointRules::INGRESS_ISOLATED | EndpointRules::INGRESS_STAGED,
        ),
        Direction::Egress => (
            policy.egress,
            EndpointRules::EGRESS_ISOLATED | EndpointRules::EGRESS_STAGED,
        ),
    };
    (ruleset, policy.flags & (flags | EndpointRules::QUARANTINE))
}

impl Side {
    fn new(
        tables: &Tables,
        rules: &EndpointRules,
        direction: Direction,
        ports: &[PortSpec],
    ) -> Self {
        if rules.flags & EndpointRules::QUARANTINE != 0 {
            return Self {
                by_class: Vec::new(),
                otherwise: 0,
            };
        }
        // Packets that a staged policy would deny are allowed.
        let mask = |grant: Grant| {
            let tables = Granted { tables, grant };
            let allowed = |p: &PortSpec| {
                let peer = Addr::UNSPECIFIED;
                let found =
                    verdict::policy(&tables, 0, rules, direction, &peer, p.protocol, p.port);
                found != verdict::Policy::Deny
            };
            let ports = ports.iter().enumerate();
            ports.fold(0, |mask, (n, port)| mask | Mask::from(allowed(port)) << n)
        };
        let (ruleset, _) = content(rules, direction);
        let otherwise = mask(tables.granted(ruleset, 0));
        let rules = tables.rules.range((ruleset, 0)..=(ruleset, u32::MAX));
        let by_class = rules.map(|((_, class), grant)| (*class, mask(*grant)));
        Self {
            by_class: by_class.filter(|(_, mask)| *mask != otherwise).collect(),
            otherwise,
        }
    }

    fn allows(&self, class: u32) -> Mask {
        let found = self.by_class.binary_search_by_key(&class, |entry| entry.0);
        found.map_or(self.otherwise, |at| self.by_class[at].1)
    }
}

/// Tables in which every peer has the same grant: yields the datapath's decision for one class.
struct Granted<'t> {
    tables: &'t Tables,
    grant: Grant,
}

impl PolicyTables for Granted<'_> {
    fn class(&self, _: Buffer, _: &Addr) -> u32 {
        0
    }

    fn grant(&self, _: Buffer, _: u32, _: u32) -> Grant {
        self.grant
    }

    fn port(&self, key: &PortKey, port: u16) -> bool {
        self.tables.port(key, port)
    }
}

/// Reports whether a node that shows an address is the one that runs a pod.
pub(crate) fn is_own_node(pod: &Pod, nodes: &[crate::intern::Text]) -> bool {
    pod.node.as_ref().is_some_and(|node| nodes.contains(node))
}
