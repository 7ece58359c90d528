//! What is said of all objects: nothing that is in force depends on it, so it is
//! worked out afterwards, and of a large cluster not after every change.

use std::collections::BTreeSet;

use ringfence_policy::index::Index;
use ringfence_policy::problems::Problem;

use crate::discover::{Sandbox, Unguarded};
use crate::state::HOST_NETWORK;

/// What `status` and metrics say of a source's objects.
#[derive(Clone, Default, Debug)]
pub struct Summary {
    /// What can't be used as it stands, one a line.
    pub problems: Vec<String>,
    /// The same as object and field.
    pub problem_fields: BTreeSet<(String, String)>,
    /// The cluster's pod ranges, as few as say it.
    pub pod_ranges: Vec<String>,
    /// Pods that are the node, so that nothing can stand between.
    pub host_network: Vec<Unguarded>,
}

impl Summary {
    /// Looks at every object.
    pub fn of(index: &Index, node: &str) -> Self {
        let found = index.problems();
        let text = |p: &Problem| format!("{}: {}: {}", p.object, p.key_or_field, p.message);
        let field = |p: &Problem| (p.object.clone(), p.key_or_field.clone());
        let pods = index.pods_on_host_network().into_iter();
        let host = pods.filter(|pod| pod.node() == Some(node));
        let host_network = host.map(|pod| Unguarded {
            pod: pod.key(),
            reason: HOST_NETWORK.into(),
            sandbox: Sandbox::There,
        });
        Self {
            problems: found.iter().map(text).collect(),
            problem_fields: found.iter().map(field).collect(),
            pod_ranges: index.pod_ranges().iter().map(ToString::to_string).collect(),
            host_network: host_network.collect(),
        }
    }
}
