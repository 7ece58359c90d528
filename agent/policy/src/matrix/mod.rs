//! Who can reach whom, and how a change of manifests affects that.
//!
//! Nothing is looked up pod by pod: [`judge`] evaluates each kind of pod once, a row or column
//! ([`unit`]) counts its pods by kind, and a cell is computed when it is read. A matrix of
//! thousands therefore takes no more memory than its names.

mod diff;
mod judge;
pub(crate) mod peer;
mod unit;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ringfence_ebpf::abi::Addr;
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeStruct},
};

use crate::{index::Index, ports::PortSpec, select::NameError, snapshot::Snapshot};

pub use diff::{Difference, Edge};
pub use unit::Cell;

pub(crate) use judge::is_own_node;
use judge::{Judge, MAX_PORTS};
use unit::{Unit, Units};

/// What a row or column represents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// One pod.
    #[default]
    Pod,
    /// All pods of one `namespace/service`.
    Workload,
}

/// The parameters of a matrix.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// The ports, each one character of a cell.
    pub ports: Vec<PortSpec>,
    /// Callers: `ns/pod`, `ns/service`, `ns`, an address or a CIDR. If empty, all pods.
    pub from: Vec<String>,
    /// Callees, in the same form.
    pub to: Vec<String>,
    /// Addresses and CIDRs that are added to both callers and callees.
    pub peers: Vec<String>,
    /// How pods are grouped.
    pub by: By,
}

/// The reason a matrix can't be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// A name that isn't known or isn't valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A peer that is a name rather than an address.
    #[error("{0:?} is neither an address nor a CIDR")]
    Peer(String),
    /// More ports than a cell holds.
    #[error("{0} ports are asked for: at most 64 at once")]
    Ports(usize),
}

/// The side of a call that a cell describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The callee's ingress.
    Ingress,
    /// The caller's egress.
    Egress,
    /// Both together.
    Allowed,
}

/// For each caller and callee one character per port: `.` allowed, `X` denied, `~` allowed only
/// between some of their pods and addresses, or only over one address family.
///
/// Packets that a staged policy would deny count as allowed. If one end is an address, only the
/// pod's side is evaluated; between two addresses there is no cell.
///
/// As JSON `{"ports":[…],"pods":[…],"ingress":{CALLER:{CALLEE:"..X"}},"egress":…, "allowed":…}`;
/// `pods` are the names of all rows and columns, sorted.
#[derive(Debug)]
pub struct Matrix {
    ports: Vec<PortSpec>,
    snapshot: Snapshot,
    judge: Judge,
    units: Units,
}

impl Matrix {
    /// Computes the matrix of all live pods outside the nodes' network namespaces, with the same
    /// decision function as the datapath. Pods without an address, and workloads that represent
    /// their pods, get an address from 240.0.0.0/4 that belongs to no CIDR.
    ///
    /// # Errors
    /// If a name isn't known, an address isn't valid, or there are more than 64 ports.
    pub fn compute(index: &Index, query: &Query) -> Result<Self, MatrixError> {
        let snapshot = Snapshot::new(index);
        let judge = Self::judge(&snapshot, query)?;
        let wanted = unit::Selection::parse(query)?;
        wanted.check(&[&snapshot])?;
        let units = Units::new(&snapshot, &judge, &wanted, query.by);
        Ok(Self::of(snapshot, judge, units, query))
    }

    fn judge(snapshot: &Snapshot, query: &Query) -> Result<Judge, MatrixError> {
        match query.ports.len() {
            many if many > MAX_PORTS => Err(MatrixError::Ports(many)),
            _ => Ok(Judge::new(snapshot, &query.ports)),
        }
    }

    fn of(snapshot: Snapshot, judge: Judge, units: Units, query: &Query) -> Self {
        Self {
            ports: query.ports.clone(),
            snapshot,
            judge,
            units,
        }
    }

    /// Returns the requested ports.
    pub fn ports(&self) -> &[PortSpec] {
        &self.ports
    }

    /// Returns the names of callers, in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &str> {
        self.units.rows.iter().map(Unit::name)
    }

    /// Returns the names of callees, in order.
    pub fn columns(&self) -> impl ExactSizeIterator<Item = &str> {
        self.units.columns.iter().map(Unit::name)
    }

    /// Reports whether a row and a column are the same pod or workload.
    pub fn is_self(&self, row: usize, column: usize) -> bool {
        self.units.rows[row].is(&self.units.columns[column])
    }

    /// Returns one cell; `None` between addresses.
    pub fn cell(&self, row: usize, column: usize, part: Part) -> Option<Cell> {
        let (from, to) = (&self.units.rows[row], &self.units.columns[column]);
        unit::cell(&self.snapshot, &self.judge, from, to, part)
    }

    /// Reports whether there is any cell.
    pub fn judges(&self) -> bool {
        let columns = 0..self.units.columns.len();
        let has_cell = |row, column| self.cell(row, column, Part::Allowed).is_some();
        (0..self.units.rows.len()).any(|row| columns.clone().any(|column| has_cell(row, column)))
    }

    /// Reports whether any call is allowed other than those of a pod or workload to itself.
    pub fn is_open(&self) -> bool {
        let columns = 0..self.units.columns.len();
        let open = |row, column| {
            let cell = self.cell(row, column, Part::Allowed);
            cell.is_some_and(Cell::is_open) && !self.is_self(row, column)
        };
        (0..self.units.rows.len()).any(|row| columns.clone().any(|column| open(row, column)))
    }
}

impl Serialize for Matrix {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut names: Vec<&str> = self.rows().chain(self.columns()).collect();
        names.sort_unstable();
        names.dedup();
        let cells = |part| Cells { matrix: self, part };
        let mut members = s.serialize_struct("Matrix", 5)?;
        members.serialize_field("ports", &self.ports)?;
        members.serialize_field("pods", &names)?;
        members.serialize_field("ingress", &cells(Part::Ingress))?;
        members.serialize_field("egress", &cells(Part::Egress))?;
        members.serialize_field("allowed", &cells(Part::Allowed))?;
        members.end()
    }
}

/// All cells of one part, row by row.
struct Cells<'m> {
    matrix: &'m Matrix,
    part: Part,
}

impl Serialize for Cells<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let Self { matrix, part } = *self;
        let names = matrix.rows().enumerate();
        s.collect_map(names.map(|(row, name)| (name, Row { matrix, part, row })))
    }
}

struct Row<'m> {
    matrix: &'m Matrix,
    part: Part,
    row: usize,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let ports = self.matrix.ports.len();
        let mut text = String::with_capacity(ports);
        let mut row = s.serialize_map(None)?;
        for (column, name) in self.matrix.columns().enumerate() {
            if let Some(cell) = self.matrix.cell(self.row, column, self.part) {
                text.clear();
                cell.write(ports, &mut text);
                row.serialize_entry(name, &text)?;
            }
        }
        row.end()
    }
}

/// Returns the address of `of` that a packet between the two would carry: one of a family that
/// both have, otherwise the first.
pub(crate) fn address_between(of: &[IpAddr], peer: &[IpAddr]) -> Option<Addr> {
    let shared = |ip: &&IpAddr| peer.iter().any(|p| p.is_ipv4() == ip.is_ipv4());
    let ip = of.iter().find(shared).or(of.first())?;
    Some(Addr::from(*ip))
}
