//! Four large clusters, made to be measured.
//!
//! They look like clusters that people run: namespaces of teams, applications
//! in two versions, ReplicaSets' hashes in the labels, two containers a pod.
//! [`count`] checks that they are what they claim to be. Objects come one at a
//! time, so that the generator's own memory isn't measured with the index's.

pub mod count;
mod edges;
mod grid;
mod mesh;
mod parts;
mod rules;
#[cfg(test)]
mod tests;

use ringfence_policy::model::{Object, ObjectError, Parsed};
use serde_json::Value;

/// The node whose pods are compiled; 100 pods run on it, as on every other.
pub const NODE: &str = "node-0";

/// One of the clusters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cluster {
    /// Monzo-shaped: 1,600 services in 12,000 pods, 9,300 calls between them
    /// listed in labels, a monitor and an edge proxy besides.
    Mesh,
    /// 30,000 pods under 30,000 policies, with 6,000 distinct label sets.
    Dense,
    /// 102,000 pods under 75,000 policies.
    Huge,
    /// As many pods as that, under as few policies as in [`Self::Dense`], three a
    /// pod; for `cargo xtask bench cluster`.
    Wide,
}

impl Cluster {
    /// Those that the compiler's benches measure, smallest first.
    pub const ALL: [Self; 3] = [Self::Mesh, Self::Dense, Self::Huge];

    /// As it is called on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Dense => "dense",
            Self::Huge => "huge",
            Self::Wide => "wide",
        }
    }

    /// Its objects, the same and in the same order every time: namespaces and
    /// nodes, cluster DNS, pods, policies.
    pub fn objects(self) -> Box<dyn Iterator<Item = Value>> {
        match self {
            Self::Mesh => Box::new(mesh::objects()),
            Self::Dense => Box::new(grid::DENSE.objects()),
            Self::Huge => Box::new(grid::HUGE.objects()),
            Self::Wide => Box::new(grid::WIDE.objects()),
        }
    }

    /// Its objects, read as the agent reads them.
    ///
    /// # Errors
    /// An object doesn't parse, which is the generator's fault.
    pub fn parsed(self) -> impl Iterator<Item = Result<Object, ObjectError>> {
        self.objects()
            .filter_map(|value| match Object::from_value(value) {
                Ok(Parsed::Object(object)) => Some(Ok(*object)),
                Ok(Parsed::Ignored) => None,
                Err(error) => Some(Err(error)),
            })
    }
}
