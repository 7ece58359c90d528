//! Random small clusters, made to provoke what implementations of NetworkPolicy get wrong.
//! A third of them have ClusterNetworkPolicies too. All vocabularies are tiny, so that
//! selectors, services, ports and CIDRs overlap all the time.

mod cluster_features;
mod cluster_policies;
mod dice;
pub mod features;
mod labels;
pub mod mutate;
mod pods;
mod policies;
mod probes;
pub mod shrink;
mod topology;

pub use cluster_policies::{everybody, policy as cluster_policy, rule as cluster_rule};
pub use dice::Dice;
pub use policies::rule;
use serde_json::Value;

use crate::oracle::Probe;

/// The node whose pods are judged.
pub const NODE: &str = "node-a";

/// A cluster and what to ask it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What it was made from.
    pub seed: u64,
    /// Kubernetes objects.
    pub objects: Vec<Value>,
    /// Packets to judge.
    pub probes: Vec<Probe>,
}

/// The cluster of a seed.
pub fn cluster(seed: u64) -> Cluster {
    let mut dice = Dice::new(seed);
    let objects = objects(&mut dice);
    let probes = probes::probes(&mut dice, &objects);
    Cluster {
        seed,
        objects,
        probes,
    }
}

fn objects(dice: &mut Dice) -> Vec<Value> {
    let spaces = topology::choose_namespaces(dice);
    let mut objects = topology::namespaces(dice, &spaces);
    objects.extend(topology::nodes(dice));
    objects.extend(pods::pods(dice, &spaces));
    objects.extend(topology::dns(dice, &spaces));
    let tiers = dice.chance(35);
    if dice.chance(if tiers { 50 } else { 30 }) {
        // Without modes policies alone decide.
        objects.iter_mut().for_each(labels::without_modes);
    }
    let wanted = if tiers {
        dice.between(1, 4)
    } else {
        dice.between(3, 8)
    };
    for number in 0..wanted {
        let space = *dice.choose(&spaces);
        let policy = policies::policy(dice, space, &format!("np-{number}"), &objects);
        objects.push(policy);
    }
    if tiers {
        for number in 0..dice.between(2, 5) {
            // Names in another order than that in which they come.
            let name = format!("{}-{number}", dice.pick(&["cnp", "bnp", "dnp"]));
            objects.push(cluster_policies::policy(dice, &name, &objects));
        }
    }
    if dice.chance(30) {
        policies::stage_most(dice, &mut objects);
    }
    objects.extend(topology::doors(dice, &spaces));
    objects
}

/// More packets to ask of a cluster, by dice of one's own.
pub fn more_probes(dice: &mut Dice, objects: &[Value]) -> Vec<Probe> {
    probes::probes(dice, objects)
}
