//! Who can reach whom, and what a change of manifests does to that.
//!
//! Nothing is looked up pod by pod: [`judge`] works out each kind of pod once, a
//! row or column ([`unit`]) counts its pods by kind, and a cell is computed when
//! it is read, so that a matrix of thousands takes no more room than its names.

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

/// What a row or column is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// One pod.
    #[default]
    Pod,
    /// All pods of one `namespace/service`.
    Workload,
}

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// One character of a cell each.
    pub ports: Vec<PortSpec>,
    /// Callers: `ns/pod`, `ns/service`, `ns`, an address or a CIDR. None are all pods.
    pub from: Vec<String>,
    /// Callees, likewise.
    pub to: Vec<String>,
    /// Addresses and CIDRs that are callers and callees beside these.
    pub peers: Vec<String>,
    /// What pods are collapsed to.
    pub by: By,
}

/// Why there is no matrix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// A name that isn't known, or that isn't one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A peer that is a name.
    #[error("{0:?} is neither an address nor a CIDR")]
    Peer(String),
    /// More ports than cells hold.
    #[error("{0} ports are asked for: at most 64 at once")]
    Ports(usize),
}

/// Which side of a call a cell is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What the callee's ingress allows.
    Ingress,
    /// What the caller's egress allows.
    Egress,
    /// What both allow.
    Allowed,
}

/// For each caller and callee one character a port: `.` allowed, `X` denied, `~`
/// allowed between some of their pods and addresses only, or over one family of addresses.
///
/// What a staged policy would deny counts as allowed. Of an address only the
/// pod's side is asked, and between two addresses nothing: that cell is absent.
///
/// As JSON `{"ports":[…],"pods":[…],"ingress":{CALLER:{CALLEE:"..X"}},"egress":…,
/// "allowed":…}`; `pods` are the names of all rows and columns, sorted.
#[derive(Debug)]
pub struct Matrix {
    ports: Vec<PortSpec>,
    snapshot: Snapshot,
    judge: Judge,
    units: Units,
}

impl Matrix {
    /// Computes the matrix of all live pods that aren't in a node's network,
    /// through the very decision that the datapath takes. Pods without an
    /// address, and workloads that stand for their pods, get one of 240.0.0.0/4
    /// that belongs to no CIDR.
    ///
    /// # Errors
    /// A name that isn't known or an address that isn't one, and more than 64 ports.
    pub fn compute(index: &Index, query: &Query) -> Result<Self, MatrixError> {
        let snapshot = Snapshot::new(index);
        let judge = Self::judge(&snapshot, query)?;
        let wanted = unit::Wanted::parse(query)?;
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

    /// As asked for.
    pub fn ports(&self) -> &[PortSpec] {
        &self.ports
    }

    /// Names of callers, in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &str> {
        self.units.rows.iter().map(Unit::name)
    }

    /// Names of callees, in order.
    pub fn columns(&self) -> impl ExactSizeIterator<Item = &str> {
        self.units.columns.iter().map(Unit::name)
    }

    /// Whether a row and a column are the same pod or workload.
    pub fn is_self(&self, row: usize, column: usize) -> bool {
        self.units.rows[row].is(&self.units.columns[column])
    }

    /// One cell; `None` between addresses.
    pub fn cell(&self, row: usize, column: usize, part: Part) -> Option<Cell> {
        let (from, to) = (&self.units.rows[row], &self.units.columns[column]);
        unit::cell(&self.snapshot, &self.judge, from, to, part)
    }

    /// Whether there is any cell.
    pub fn judges(&self) -> bool {
        let columns = 0..self.units.columns.len();
        let has_cell = |row, column| self.cell(row, column, Part::Allowed).is_some();
        (0..self.units.rows.len()).any(|row| columns.clone().any(|column| has_cell(row, column)))
    }

    /// Whether any call is allowed but those of a pod or workload to itself.
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

/// The address of `of` that a packet between the two would carry: of a family that both have.
pub(crate) fn address_between(of: &[IpAddr], peer: &[IpAddr]) -> Option<Addr> {
    let shared = |ip: &&IpAddr| peer.iter().any(|p| p.is_ipv4() == ip.is_ipv4());
    let ip = of.iter().find(shared).or(of.first())?;
    Some(Addr::from(*ip))
}
