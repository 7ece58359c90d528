//! Rows and columns, and the cells between them.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::{
    select::{self, Name, NameError},
    snapshot::Snapshot,
};

use super::{
    By, MatrixError, Part, Query,
    judge::{Judge, KindId, Mask},
    peer::{self, Spot},
};

/// The parsed selection of rows and columns.
#[derive(Debug)]
pub(super) struct Selection {
    from: Vec<Name>,
    to: Vec<Name>,
    peers: Vec<(IpNet, String)>,
}

impl Selection {
    pub(super) fn parse(query: &Query) -> Result<Self, MatrixError> {
        let names = |texts: &[String]| -> Result<Vec<Name>, NameError> {
            texts.iter().map(|text| Name::parse(text)).collect()
        };
        let peer = |text: &String| match select::addresses(text)? {
            Some(net) => Ok((net, text.clone())),
            None => Err(MatrixError::Peer(text.clone())),
        };
        Ok(Self {
            from: names(&query.from)?,
            to: names(&query.to)?,
            peers: query.peers.iter().map(peer).collect::<Result<_, _>>()?,
        })
    }

    /// Fails if a name matches nothing in any of the snapshots.
    pub(super) fn check(&self, snapshots: &[&Snapshot]) -> Result<(), NameError> {
        for name in self.from.iter().chain(&self.to) {
            let mut found = snapshots.iter().map(|snapshot| name.pods(snapshot));
            let mut faults = Vec::new();
            let known = found.any(|found| found.map_err(|fault| faults.push(fault)).is_ok());
            if let (false, Some(fault)) = (known, faults.pop()) {
                return Err(fault);
            }
        }
        Ok(())
    }
}

/// Rows and columns.
#[derive(Debug)]
pub(super) struct Units {
    pub(super) rows: Vec<Unit>,
    pub(super) columns: Vec<Unit>,
}

/// A row or column.
#[derive(Debug)]
pub(super) enum Unit {
    Pods(Pods),
    Peer(Block),
}

/// A pod, or pods of one workload.
#[derive(Debug)]
pub(super) struct Pods {
    pub(super) name: String,
    /// Equal for a row and a column that are the same pod or workload.
    number: usize,
    /// Positions in the snapshot, sorted.
    pub(super) pods: Vec<usize>,
    /// The number of pods of each kind.
    kinds: Vec<(KindId, usize)>,
}

/// A block of addresses.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) name: String,
    pub(super) net: IpNet,
    spots: Vec<Spot>,
}

impl Units {
    pub(super) fn new(snapshot: &Snapshot, judge: &Judge, wanted: &Selection, by: By) -> Self {
        let pods = snapshot.pods.iter();
        let names = pods.map(|pod| match by {
            By::Pod => pod.name.as_str(),
            By::Workload => pod.policy.workload.as_str(),
        });
        let names: Vec<&str> = names.collect();
        let numbers: BTreeSet<&str> = names.iter().copied().collect();
        let numbers: BTreeMap<&str, usize> = numbers.into_iter().zip(0..).collect();
        let side = |filters: &[Name]| {
            let mut by_number: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for at in chosen(snapshot, filters) {
                by_number.entry(numbers[names[at]]).or_default().push(at);
            }
            let pods = by_number.into_iter().map(|(number, pods)| {
                Unit::Pods(Pods {
                    name: names[pods[0]].to_owned(),
                    number,
                    kinds: count(judge, &pods),
                    pods,
                })
            });
            pods.chain(peers(snapshot, filters, &wanted.peers))
                .collect()
        };
        Self {
            rows: side(&wanted.from),
            columns: side(&wanted.to),
        }
    }
}

/// Returns the pods that the filters select. A filter that matches nothing here matches in
/// another snapshot.
fn chosen(snapshot: &Snapshot, filters: &[Name]) -> BTreeSet<usize> {
    if filters.is_empty() {
        return (0..snapshot.pods.len()).collect();
    }
    let found = filters.iter().filter_map(|f| f.pods(snapshot).ok());
    found.flatten().collect()
}

fn peers(snapshot: &Snapshot, filters: &[Name], more: &[(IpNet, String)]) -> Vec<Unit> {
    let own = filters.iter().filter_map(|f| match f {
        Name::Addresses(net, text) => Some((*net, text.clone())),
        Name::Namespace(_) | Name::Pods(_) => None,
    });
    let mut all: Vec<Unit> = Vec::new();
    for (net, name) in own.chain(more.iter().cloned()) {
        if all.iter().all(|known| known.name() != name) {
            let spots = peer::spots(&[snapshot], &net);
            all.push(Unit::Peer(Block { name, net, spots }));
        }
    }
    all
}

fn count(judge: &Judge, pods: &[usize]) -> Vec<(KindId, usize)> {
    let mut kinds: BTreeMap<KindId, usize> = BTreeMap::new();
    for pod in pods {
        *kinds.entry(judge.of_pods[*pod]).or_default() += 1;
    }
    kinds.into_iter().collect()
}

impl Unit {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Pods(pods) => &pods.name,
            Self::Peer(peer) => &peer.name,
        }
    }

    /// Reports whether both are the same pod or workload.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pods(a), Self::Pods(b)) => a.number == b.number,
            _ => false,
        }
    }
}

/// The ports allowed between two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Allowed between all of their pods and addresses.
    pub(super) all: Mask,
    /// Allowed between any of them.
    pub(super) any: Mask,
}

impl Cell {
    fn none_yet(full: Mask) -> Self {
        Self { all: full, any: 0 }
    }

    fn add(&mut self, mask: Mask) {
        self.all &= mask;
        self.any |= mask;
    }

    /// Reports whether any port is allowed anywhere.
    pub fn is_open(self) -> bool {
        self.any != 0
    }

    /// Returns one port's character.
    pub fn port(self, n: usize) -> char {
        match (self.all >> n & 1, self.any >> n & 1) {
            (1, _) => '.',
            (_, 1) => '~',
            _ => 'X',
        }
    }

    /// Appends one character for each of the first `ports` ports.
    pub fn write(self, ports: usize, to: &mut String) {
        to.extend((0..ports).map(|n| self.port(n)));
    }
}

/// Computes the cell of a row and a column.
pub(super) fn cell(
    snapshot: &Snapshot,
    judge: &Judge,
    from: &Unit,
    to: &Unit,
    part: Part,
) -> Option<Cell> {
    Some(match (from, to) {
        (Unit::Pods(from), Unit::Pods(to)) => between(judge, from, to, part),
        (Unit::Peer(from), Unit::Pods(to)) => {
            let ingress = (0, part != Part::Egress);
            with(snapshot, judge, (to, from), ingress)
        }
        (Unit::Pods(from), Unit::Peer(to)) => {
            let egress = (1, part != Part::Ingress);
            with(snapshot, judge, (from, to), egress)
        }
        (Unit::Peer(_), Unit::Peer(_)) => return None,
    })
}

/// Combines all pairs from two lists of pods: different pods kind by kind, and each pod with
/// itself, which is always allowed.
fn between(judge: &Judge, from: &Pods, to: &Pods, part: Part) -> Cell {
    let mut cell = Cell::none_yet(judge.full);
    let mut both = Vec::new();
    if from.number == to.number {
        let shared = from
            .pods
            .iter()
            .filter(|p| to.pods.binary_search(p).is_ok());
        let shared: Vec<usize> = shared.copied().collect();
        both = count(judge, &shared);
        if !shared.is_empty() {
            cell.add(judge.full);
        }
    }
    for (a, n) in &from.kinds {
        for (b, m) in &to.kinds {
            let same = both.iter().find(|(kind, _)| a == b && kind == a);
            if n * m > same.map_or(0, |(_, pods)| *pods) {
                for (_, [ingress, egress]) in judge.pairs(*a, *b) {
                    cell.add(match part {
                        Part::Ingress => ingress,
                        Part::Egress => egress,
                        Part::Allowed => ingress & egress,
                    });
                }
            }
        }
    }
    cell
}

/// Combines all pairs of pods and addresses; a side that isn't evaluated allows everything.
fn with(
    snapshot: &Snapshot,
    judge: &Judge,
    (pods, peer): (&Pods, &Block),
    (direction, asked): (usize, bool),
) -> Cell {
    let mut cell = Cell::none_yet(judge.full);
    if !asked {
        cell.add(judge.full);
        return cell;
    }
    for at in &pods.pods {
        for spot in &peer.spots {
            let exempt = spot.exempt(0, &snapshot.pods[*at]);
            let kind = judge.of_pods[*at];
            cell.add(judge.at(kind, direction, spot.sights[0].class, exempt));
        }
    }
    cell
}
