//! What a change of manifests opens and closes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{index::Index, ports::PortSpec, snapshot::Snapshot};

use super::{
    Cell, Matrix, MatrixError, Part, Query,
    judge::Mask,
    peer::{self, Spot},
    unit::{Block, Pods, Selection, Unit, Units},
};

/// The calls that a change opens and closes.
///
/// Cells are compared as a whole: a change from `X` to `~` or `.`, or from `~` to `.`, opens
/// something. If some pods or addresses were allowed before and some are now, the pods and
/// addresses that exist on both sides are compared individually. A row or column that exists on
/// one side only has no calls on the other; calls between its own pods aren't listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The requested ports.
    pub ports: Vec<PortSpec>,
    /// Calls allowed after the change but not before, sorted by caller and callee.
    pub opens: Vec<Edge>,
    /// Calls allowed before the change but not after, in the same order.
    pub closes: Vec<Edge>,
    /// Rows and columns that exist only after the change.
    pub added: Vec<String>,
    /// Rows and columns that existed only before the change.
    pub removed: Vec<String>,
    /// Whether there is any cell after the change.
    #[serde(skip)]
    pub judges: bool,
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// The caller.
    pub from: String,
    /// The callee.
    pub to: String,
    /// The ports that change.
    pub ports: Vec<PortSpec>,
}

impl Difference {
    /// Compares what two sets of objects allow.
    ///
    /// # Errors
    /// See [`Matrix::compute`]; a name only has to match on one side.
    pub fn compute(before: &Index, after: &Index, query: &Query) -> Result<Self, MatrixError> {
        let snapshots = [Snapshot::new(before), Snapshot::new(after)];
        let wanted = Selection::parse(query)?;
        wanted.check(&[&snapshots[0], &snapshots[1]])?;
        let matrix = |snapshot: Snapshot| {
            let judge = Matrix::judge(&snapshot, query)?;
            let units = Units::new(&snapshot, &judge, &wanted, query.by);
            Ok::<_, MatrixError>(Matrix::of(snapshot, judge, units, query))
        };
        let [before, after] = snapshots;
        Ok(Compared::new(&matrix(before)?, &matrix(after)?).difference())
    }
}

/// The same row or column on both sides.
struct Line<'m> {
    name: &'m str,
    /// Its number on each side.
    at: [Option<usize>; 2],
}

struct Compared<'m> {
    sides: [&'m Matrix; 2],
    rows: Vec<Line<'m>>,
    columns: Vec<Line<'m>>,
    /// The position, after the change, of each pod that existed before.
    moved: Vec<Option<usize>>,
    /// The kinds of addresses of each peer, before and after.
    spots: BTreeMap<&'m str, Vec<Spot>>,
}

impl<'m> Compared<'m> {
    fn new(before: &'m Matrix, after: &'m Matrix) -> Self {
        let pods = after.snapshot.pods.iter().enumerate();
        let places: BTreeMap<&str, usize> = pods.map(|(at, pod)| (&*pod.name, at)).collect();
        let pods = before.snapshot.pods.iter();
        let both = [&before.snapshot, &after.snapshot];
        let units = before.units.rows.iter().chain(&before.units.columns);
        let peers = units.filter_map(|unit| match unit {
            Unit::Peer(Block { name, net, .. }) => Some((name.as_str(), peer::spots(&both, net))),
            Unit::Pods(_) => None,
        });
        Self {
            sides: [before, after],
            rows: lines(before.rows(), after.rows()),
            columns: lines(before.columns(), after.columns()),
            moved: pods.map(|pod| places.get(&*pod.name).copied()).collect(),
            spots: peers.collect(),
        }
    }

    fn difference(&self) -> Difference {
        let ports = &self.sides[0].ports;
        let mut difference = Difference {
            ports: ports.clone(),
            added: self.on_one_side(1),
            removed: self.on_one_side(0),
            judges: self.sides[1].judges(),
            ..Difference::default()
        };
        for row in &self.rows {
            for column in &self.columns {
                let [opens, closes] = self.compare(row, column);
                let edge = |mask: Mask| Edge {
                    from: row.name.to_owned(),
                    to: column.name.to_owned(),
                    ports: listed(ports, mask),
                };
                difference.opens.extend((opens != 0).then(|| edge(opens)));
                difference
                    .closes
                    .extend((closes != 0).then(|| edge(closes)));
            }
        }
        difference
    }

    fn on_one_side(&self, side: usize) -> Vec<String> {
        let lines = self.rows.iter().chain(&self.columns);
        let alone = lines.filter(|line| line.at[side].is_some() && line.at[1 - side].is_none());
        let names: BTreeSet<&str> = alone.map(|line| line.name).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    /// Returns the ports that open and those that close.
    fn compare(&self, row: &Line<'_>, column: &Line<'_>) -> [Mask; 2] {
        let cell = |side: usize| {
            let (row, column) = (row.at[side]?, column.at[side]?);
            let matrix = self.sides[side];
            Some((
                matrix.cell(row, column, Part::Allowed)?,
                matrix.is_self(row, column),
            ))
        };
        let nothing = Cell { all: 0, any: 0 };
        let (before, after) = match (cell(0), cell(1)) {
            (Some((before, _)), Some((after, _))) => (before, after),
            (Some((before, false)), None) => (before, nothing),
            (None, Some((after, false))) => (nothing, after),
            _ => return [0, 0],
        };
        let more = |than: Cell, now: Cell| now.any & !than.any | now.all & !than.all;
        let mut changes = [more(before, after), more(after, before)];
        let some = |cell: Cell| cell.any & !cell.all;
        let unclear = some(before) & some(after);
        if unclear != 0 {
            let [opens, closes] = self.compare_parts(row, column);
            changes[0] |= opens & unclear;
            changes[1] |= closes & unclear;
        }
        changes
    }

    /// Does the same as [`Compared::compare`] for each pod and each address that exists before
    /// and after.
    fn compare_parts(&self, row: &Line<'_>, column: &Line<'_>) -> [Mask; 2] {
        let (Some(row), Some(column)) = (row.at[0], column.at[0]) else {
            return [0, 0];
        };
        let units = &self.sides[0].units;
        match (&units.rows[row], &units.columns[column]) {
            (Unit::Pods(from), Unit::Pods(to)) => self.compare_pods(from, to),
            (Unit::Peer(from), Unit::Pods(to)) => self.compare_spots(to, from, 0),
            (Unit::Pods(from), Unit::Peer(to)) => self.compare_spots(from, to, 1),
            (Unit::Peer(_), Unit::Peer(_)) => [0, 0],
        }
    }

    /// Returns the positions of a pod before and after.
    fn both(&self, pod: usize) -> Option<[usize; 2]> {
        Some([pod, self.moved[pod]?])
    }

    fn compare_pods(&self, from: &Pods, to: &Pods) -> [Mask; 2] {
        let mut changes = [0, 0];
        for from in from.pods.iter().filter_map(|pod| self.both(*pod)) {
            for to in to.pods.iter().filter_map(|pod| self.both(*pod)) {
                if from != to {
                    let [before, after] = [0, 1].map(|side| self.families(side, from, to));
                    for (before, after) in before.into_iter().zip(after) {
                        changes[0] |= after & !before;
                        changes[1] |= before & !after;
                    }
                }
            }
        }
        changes
    }

    /// Returns the ports allowed on a side between two pods over IPv4 and over IPv6; none for a
    /// family in which either pod has no address.
    fn families(&self, side: usize, from: [usize; 2], to: [usize; 2]) -> [Mask; 2] {
        let judge = &self.sides[side].judge;
        let [from, to] = [from, to].map(|places| judge.of_pods[places[side]]);
        let mut allowed = [0, 0];
        for (is_v4, [ingress, egress]) in judge.pairs(from, to) {
            allowed[usize::from(is_v4 == Some(false))] |= ingress & egress;
        }
        allowed
    }

    /// `direction` is 0 for the pods' ingress and 1 for their egress.
    fn compare_spots(&self, pods: &Pods, peer: &Block, direction: usize) -> [Mask; 2] {
        let mut changes = [0, 0];
        let spots = self.spots.get(peer.name.as_str());
        for places in pods.pods.iter().filter_map(|pod| self.both(*pod)) {
            for spot in spots.into_iter().flatten() {
                let [before, after] = [0, 1].map(|side| {
                    let Matrix {
                        snapshot, judge, ..
                    } = self.sides[side];
                    let at = places[side];
                    let exempt = spot.exempt(side, &snapshot.pods[at]);
                    let class = spot.sights[side].class;
                    judge.at(judge.of_pods[at], direction, class, exempt)
                });
                changes[0] |= after & !before;
                changes[1] |= before & !after;
            }
        }
        changes
    }
}

/// Returns both sides' names, sorted, each with its number on each side.
fn lines<'m>(
    before: impl Iterator<Item = &'m str>,
    after: impl Iterator<Item = &'m str>,
) -> Vec<Line<'m>> {
    let mut all: BTreeMap<&str, [Option<usize>; 2]> = BTreeMap::new();
    for (at, name) in before.enumerate() {
        all.entry(name).or_default()[0] = Some(at);
    }
    for (at, name) in after.enumerate() {
        all.entry(name).or_default()[1] = Some(at);
    }
    let lines = all.into_iter();
    lines.map(|(name, at)| Line { name, at }).collect()
}

fn listed(ports: &[PortSpec], mask: Mask) -> Vec<PortSpec> {
    let set = ports.iter().enumerate().filter(|(n, _)| mask >> n & 1 == 1);
    set.map(|(_, port)| *port).collect()
}
