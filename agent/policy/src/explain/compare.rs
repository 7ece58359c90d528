//! Comparison of all calls before and after a change.
//!
//! Two snapshots are compared port by port and over both families: all pairs of pods, and pods
//! with addresses outside the cluster. Indistinguishable pods form one kind, and pairs in which
//! neither side changes are skipped, so the cost depends on the change rather than on the size of
//! the cluster.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    rc::Rc,
};

use ringfence_ebpf::abi::Direction;

use crate::{
    callers::callee::{Allowed, Reader},
    index::groups::PodId,
    intern::Text,
    matrix::{is_own_node, peer},
    ports::Ports,
    snapshot::{self, Pod, Seen, Snapshot},
    tables::{EndpointPolicy, Tables},
};

use super::{
    Case,
    effect::Asked,
    party::{self, PartyKind},
    rules::everywhere,
};

/// The maximum number of pairs of kinds that are compared.
const MOST_PAIRS: usize = 500_000;

/// Pods of one workload that are indistinguishable both before and after.
struct Kind<'s> {
    workload: &'s str,
    policies: [&'s EndpointPolicy; 2],
    seen: [&'s [Seen]; 2],
    /// One of the pods, and their number.
    pods: (PodId, usize),
    /// The nodes that run them.
    nodes: BTreeSet<Option<&'s Text>>,
    /// Whether its addresses aren't known and may be of either family.
    is_made_up: bool,
    one: &'s Pod,
}

impl Kind<'_> {
    fn changes(&self) -> bool {
        let content = |policy: &EndpointPolicy| {
            let whole = (policy.ingress, policy.egress, policy.flags);
            (whole, policy.tiers)
        };
        let [before, after] = self.policies.map(content);
        // Ids are hashes of content, so an unchanged id means unchanged content.
        before != after || self.seen[0] != self.seen[1]
    }

    fn has_family(&self, is_v4: bool) -> bool {
        self.is_made_up || self.seen[0].iter().any(|seen| seen.is_v4 == is_v4)
    }
}

/// Groups pods into kinds. No change adds or removes a pod, so both snapshots list the same ones.
fn kinds<'s>(before: &'s Snapshot, after: &'s Snapshot) -> Vec<Kind<'s>> {
    let mut places = HashMap::new();
    let mut kinds: Vec<Kind<'s>> = Vec::new();
    let others: HashMap<PodId, &Pod> = after.pods.iter().map(|pod| (pod.id, pod)).collect();
    for pod in &before.pods {
        let Some(other) = others.get(&pod.id) else {
            continue;
        };
        let content = |p: &'s Pod| {
            let EndpointPolicy { tiers, .. } = p.policy;
            let whole = (p.policy.ingress, p.policy.egress, p.policy.flags);
            (whole, (tiers.ingress, tiers.egress), &p.seen)
        };
        let workload = pod.policy.workload.as_str();
        let own = before.index.addresses_of(pod.id);
        let is_made_up = own
            .iter()
            .any(|ip| before.index.made_up.contains(&(*ip).into()));
        let key = (workload, content(pod), content(other), is_made_up);
        let place = *places.entry(key).or_insert(kinds.len());
        if place == kinds.len() {
            kinds.push(Kind {
                workload,
                policies: [&pod.policy, &other.policy],
                seen: [&pod.seen, &other.seen],
                pods: (pod.id, 0),
                nodes: BTreeSet::new(),
                is_made_up,
                one: pod,
            });
        }
        kinds[place].pods.1 += 1;
        kinds[place].nodes.insert(pod.node.as_ref());
    }
    kinds
}

/// Addresses that belong to no pod and are equivalent for every pod, before and after.
pub(super) struct Spot {
    pub(super) ip: IpAddr,
    name: String,
    pub(super) is_outside: bool,
    nodes: Vec<Text>,
    classes: [u32; 2],
}

fn spots(before: &Case<'_>, after: &Case<'_>) -> Vec<Spot> {
    let mut known = BTreeSet::new();
    let mut spots = Vec::new();
    let both: [&Snapshot; 2] = [before, after];
    for net in everywhere() {
        for addr in peer::stretches(&both, &net) {
            let [one, other] = [before.sight(&addr), after.sight(&addr)];
            let is_made_up = before.index.made_up.contains(&addr);
            if one.pod.is_some() || is_made_up {
                continue;
            }
            let ip = IpAddr::from(addr);
            let classes = [one.class, other.class];
            let party = party::by_address(before, ip);
            let key = (
                classes,
                ip.is_ipv4(),
                one.nodes.clone(),
                party.workload.clone(),
            );
            if known.insert(key) {
                spots.push(Spot {
                    ip,
                    is_outside: party.kind == PartyKind::Outside,
                    name: party.workload,
                    nodes: one.nodes,
                    classes,
                });
            }
        }
    }
    spots
}

/// Cached answers from one snapshot.
struct Side<'t> {
    reader: Reader<'t>,
    known: HashMap<(u32, u32, u32), Rc<Allowed>>,
}

impl<'t> Side<'t> {
    fn new(tables: &'t Tables) -> Self {
        Self {
            reader: Reader::new(tables),
            known: HashMap::new(),
        }
    }

    fn allowed(
        &mut self,
        policy: &EndpointPolicy,
        direction: Direction,
        class: u32,
    ) -> Rc<Allowed> {
        let (ruleset, way) = match direction {
            Direction::Ingress => (policy.ingress, 0),
            Direction::Egress => (policy.egress, 1 << 31),
        };
        let key = (ruleset, policy.flags | way, class);
        if let Some(known) = self.known.get(&key) {
            return Rc::clone(known);
        }
        let found = Rc::new(self.reader.allowed(policy, direction, class));
        self.known.insert(key, Rc::clone(&found));
        found
    }
}

/// Ports by caller and callee.
pub(super) type Pairs = BTreeMap<(String, String), Ports>;

/// The changes found.
pub(super) struct Comparison<'c> {
    asked: &'c Asked,
    sides: [Side<'c>; 2],
    pub(super) opens: Pairs,
    pub(super) closes: Pairs,
    /// Pairs of `opens` other than the requested call.
    pub(super) elsewhere: BTreeSet<(String, String)>,
    /// Whether some pairs weren't compared.
    pub(super) partly: bool,
    pairs: usize,
}

impl<'c> Comparison<'c> {
    pub(super) fn of(before: &'c Case<'_>, after: &'c Case<'_>, asked: &'c Asked) -> Self {
        let kinds = kinds(before, after);
        let mut work = Self {
            asked,
            sides: [Side::new(&before.tables), Side::new(&after.tables)],
            opens: BTreeMap::new(),
            closes: BTreeMap::new(),
            elsewhere: BTreeSet::new(),
            partly: false,
            pairs: 0,
        };
        work.partly = !(work.pods(&kinds) && work.spots(&kinds, &spots(before, after)));
        work
    }

    /// Counts a pair; returns whether the limit still allows it.
    fn has_room(&mut self) -> bool {
        self.pairs += 1;
        self.pairs <= MOST_PAIRS
    }

    /// Compares all pairs of pods in which one side changes; returns whether it compared them
    /// all.
    fn pods(&mut self, kinds: &[Kind<'_>]) -> bool {
        let changed: Vec<bool> = kinds.iter().map(Kind::changes).collect();
        for (a, from) in kinds.iter().enumerate() {
            let all = if changed[a] { 0..kinds.len() } else { 0..0 };
            let others = (0..kinds.len()).filter(|b| !changed[a] && changed[*b]);
            for b in all.chain(others) {
                // A pod always reaches itself.
                if a == b && from.pods.1 == 1 {
                    continue;
                }
                if !self.has_room() {
                    return false;
                }
                self.pair(from, &kinds[b]);
            }
        }
        true
    }

    fn pair(&mut self, from: &Kind<'_>, to: &Kind<'_>) {
        let [before, after] = [0, 1].map(|side| {
            let carried = snapshot::carried(from.seen[side], to.seen[side]);
            let both = carried.map(|carried| {
                let [caller, callee] = carried.classes;
                let (Some(caller), Some(callee)) = (caller, callee) else {
                    return Allowed::default();
                };
                let side_of = &mut self.sides[side];
                let ingress = side_of.allowed(to.policies[side], Direction::Ingress, caller);
                let egress = side_of.allowed(from.policies[side], Direction::Egress, callee);
                ingress.both(&egress)
            });
            both.collect::<Vec<_>>()
        });
        let asked = self.asked;
        let is_asked = asked.from.is_workload(from.workload) && asked.to.is_workload(to.workload);
        for (before, after) in before.iter().zip(&after) {
            self.note((from.workload, to.workload), is_asked, before, after);
        }
    }

    /// Compares pods with all non-pod addresses, in both directions; returns whether it compared
    /// them all.
    fn spots(&mut self, kinds: &[Kind<'_>], spots: &[Spot]) -> bool {
        for kind in kinds {
            let changes = kind.changes();
            for spot in spots {
                let is_same = !changes && spot.classes[0] == spot.classes[1];
                if is_same || !kind.has_family(spot.ip.is_ipv4()) {
                    continue;
                }
                if !self.has_room() {
                    return false;
                }
                self.spot(kind, spot);
            }
        }
        true
    }

    fn spot(&mut self, kind: &Kind<'_>, spot: &Spot) {
        let asked = self.asked;
        let (pod, other) = (kind.workload, spot.name.as_str());
        let is_own = is_own(kind, spot);
        for direction in [Direction::Ingress, Direction::Egress] {
            if is_own && direction == Direction::Ingress {
                continue;
            }
            let [before, after] = [0, 1].map(|side| {
                let (policy, class) = (kind.policies[side], spot.classes[side]);
                let side = &mut self.sides[side];
                match is_own {
                    true => side.allowed(&exempt(policy), direction, class),
                    false => side.allowed(policy, direction, class),
                }
            });
            let (names, is_asked) = match direction {
                Direction::Ingress => (
                    (other, pod),
                    asked.from.is_spot(spot) && asked.to.is_workload(pod),
                ),
                Direction::Egress => (
                    (pod, other),
                    asked.from.is_workload(pod) && asked.to.is_spot(spot),
                ),
            };
            self.note(names, is_asked, &before, &after);
        }
    }

    fn note(
        &mut self,
        (from, to): (&str, &str),
        is_asked: bool,
        before: &Allowed,
        after: &Allowed,
    ) {
        if before == after {
            return;
        }
        let mut opened = more(after, before);
        if is_asked {
            opened.subtract(&self.asked.ports);
        }
        let closed = more(before, after);
        if !is_asked && !opened.is_empty() {
            self.elsewhere.insert((from.to_owned(), to.to_owned()));
        }
        for (ports, into) in [(opened, &mut self.opens), (closed, &mut self.closes)] {
            if !ports.is_empty() {
                let names = (from.to_owned(), to.to_owned());
                into.entry(names).or_default().add(&ports);
            }
        }
    }
}

/// Returns the ports that one allows and the other doesn't, now or once staged policies are
/// enforced.
fn more(one: &Allowed, than: &Allowed) -> Ports {
    let (mut now, mut enforced) = (one.now.clone(), one.enforced.clone());
    now.subtract(&than.now);
    enforced.subtract(&than.enforced);
    now.add(&enforced);
    now
}

/// Returns the policy that applies towards a pod's own node.
fn exempt(policy: &EndpointPolicy) -> EndpointPolicy {
    let rules = policy.exempt_rules();
    EndpointPolicy {
        ingress: rules.ingress,
        egress: rules.egress,
        flags: rules.flags,
        ..EndpointPolicy::default()
    }
}

/// Reports whether the node at an address runs all pods of a kind. They reach each other
/// regardless of policy, except where ClusterNetworkPolicies deny the pods' packets to the node.
fn is_own(kind: &Kind<'_>, spot: &Spot) -> bool {
    kind.nodes.len() == 1 && is_own_node(kind.one, &spot.nodes)
}
