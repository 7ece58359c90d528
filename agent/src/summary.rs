//! Reports about all objects. Nothing that is in force depends on them, so they are computed after
//! a pass, and for a large cluster not after every change.

use std::collections::BTreeSet;

use ringfence_policy::index::Index;
use ringfence_policy::problems::Problem;

use crate::discover::{Sandbox, Unguarded};

/// Why a pod on the host network can't be guarded.
const HOST_NETWORK: &str =
    "host network: it shares the node's network and has no interface of its own";

/// What `status` and metrics report about a source's objects.
#[derive(Clone, Default, Debug)]
pub struct Summary {
    /// Parts of objects that can't be used, one per line.
    pub problems: Vec<String>,
    /// The same, as pairs of object and field.
    pub problem_fields: BTreeSet<(String, String)>,
    /// The cluster's pod ranges, aggregated to as few as possible.
    pub pod_ranges: Vec<String>,
    /// Pods on the host network, which share the node's interfaces and so can't be filtered.
    pub host_network: Vec<Unguarded>,
}

impl Summary {
    /// Inspects every object.
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
