//! Changes that only restrict: closing endpoints without a pod, and what is put in force even if
//! the tables can't be written.

use std::collections::BTreeMap;

use ringfence_ebpf::abi::{Buffer, Endpoint, EndpointRules};
use ringfence_policy::index::PodKey;
use ringfence_policy::tables::Tables;

use super::Interface;
use super::endpoints::Endpoints;
use super::error::DatapathError;
use super::locals;
use super::maps::Maps;
use super::occupant::{CLOSED, Occupant, cut, same_policy, side};

impl Endpoints {
    /// Puts restrictions in force in both buffers without writing a table: cuts off pods under
    /// quarantine, and closes endpoints without a pod.
    pub(super) fn cut_off(
        &mut self,
        maps: &mut Maps,
        tables: &Tables,
        interfaces: &[Interface],
    ) -> Result<(), DatapathError> {
        let pods = interfaces.iter().map(|one| (one.ifindex, &one.pod));
        let pods: BTreeMap<u32, &PodKey> = pods.collect();
        for (slot, occupant) in &mut self.slots {
            let pod = pods.get(&occupant.endpoint.ifindex);
            let policy = pod.and_then(|pod| tables.endpoints.get(*pod));
            let endpoint = cut(&occupant.endpoint, policy);
            if endpoint != occupant.endpoint {
                maps.set_endpoint(*slot, &endpoint)?;
                occupant.endpoint = endpoint;
            }
            if policy.is_none() {
                occupant.leave();
            }
        }
        Ok(())
    }

    /// Returns the pods whose endpoints are closed even though the tables have policy for them.
    pub(super) fn closed(&self, tables: &Tables, active: Buffer) -> Vec<PodKey> {
        let is_closed =
            |occupant: &&Occupant| same_policy(&occupant.endpoint.rules[side(active)], &CLOSED);
        let closed = self.slots.values().filter(is_closed);
        let pods = closed.filter_map(|occupant| occupant.pod.clone());
        pods.filter(|pod| tables.endpoints.contains_key(pod))
            .collect()
    }
}

/// Closes the rules of one buffer of an endpoint whose pod is gone.
pub(super) fn close(
    maps: &mut Maps,
    slot: u32,
    occupant: &mut Occupant,
    buffer: Buffer,
) -> Result<(), DatapathError> {
    let (this, other) = (side(buffer), side(buffer ^ 1));
    let already = same_policy(&occupant.endpoint.rules[other], &CLOSED);
    let current = occupant.endpoint.rules[other].epoch;
    let epoch = if already {
        current
    } else {
        current.wrapping_add(1)
    };
    let mut endpoint = occupant.endpoint;
    endpoint.rules[this] = EndpointRules { epoch, ..CLOSED };
    if endpoint != occupant.endpoint {
        maps.set_endpoint(slot, &endpoint)?;
        occupant.endpoint = endpoint;
        locals::remove(maps, slot, &endpoint)?;
    }
    occupant.leave();
    Ok(())
}

/// Reports whether an endpoint was closed because its pod is gone.
pub(super) fn is_closed(endpoint: &Endpoint) -> bool {
    let both = &endpoint.rules;
    both.iter().all(|rules| same_policy(rules, &CLOSED))
}
