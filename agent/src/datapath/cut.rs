//! What only takes: endpoints without a pod, and what is put in force though the tables
//! can't be written.

use std::collections::BTreeMap;

use ringfence_ebpf::abi::{Endpoint, EndpointWorld, World};
use ringfence_policy::index::PodKey;
use ringfence_policy::tables::Tables;

use super::Interface;
use super::endpoints::Endpoints;
use super::error::DatapathError;
use super::locals;
use super::maps::Maps;
use super::seat::{CLOSED, Seat, cut, same_policy, side};

impl Endpoints {
    /// Puts what only takes in force in both worlds, with no table written for it:
    /// pods in quarantine are cut off, and endpoints without a pod are closed.
    pub(super) fn cut_off(
        &mut self,
        maps: &mut Maps,
        tables: &Tables,
        interfaces: &[Interface],
    ) -> Result<(), DatapathError> {
        let pods = interfaces.iter().map(|one| (one.ifindex, &one.pod));
        let pods: BTreeMap<u32, &PodKey> = pods.collect();
        for (slot, seat) in &mut self.seats {
            let pod = pods.get(&seat.endpoint.ifindex);
            let policy = pod.and_then(|pod| tables.endpoints.get(*pod));
            let endpoint = cut(&seat.endpoint, policy);
            if endpoint != seat.endpoint {
                maps.set_endpoint(*slot, &endpoint)?;
                seat.endpoint = endpoint;
            }
            if policy.is_none() {
                seat.leave();
            }
        }
        Ok(())
    }

    /// Pods whose endpoints are closed though the tables have policy for them.
    pub(super) fn closed(&self, tables: &Tables, active: World) -> Vec<PodKey> {
        let is_closed = |seat: &&Seat| same_policy(&seat.endpoint.worlds[side(active)], &CLOSED);
        let closed = self.seats.values().filter(is_closed);
        let pods = closed.filter_map(|seat| seat.pod.clone());
        pods.filter(|pod| tables.endpoints.contains_key(pod))
            .collect()
    }
}

/// Closes one world's half of an endpoint whose pod is gone.
pub(super) fn close(
    maps: &mut Maps,
    slot: u32,
    seat: &mut Seat,
    world: World,
) -> Result<(), DatapathError> {
    let (this, other) = (side(world), side(world ^ 1));
    let already = same_policy(&seat.endpoint.worlds[other], &CLOSED);
    let current = seat.endpoint.worlds[other].epoch;
    let epoch = if already {
        current
    } else {
        current.wrapping_add(1)
    };
    let mut endpoint = seat.endpoint;
    endpoint.worlds[this] = EndpointWorld { epoch, ..CLOSED };
    if endpoint != seat.endpoint {
        maps.set_endpoint(slot, &endpoint)?;
        seat.endpoint = endpoint;
        locals::remove(maps, slot, &endpoint)?;
    }
    seat.leave();
    Ok(())
}

/// Whether it was closed since its pod is gone.
pub(super) fn is_closed(endpoint: &Endpoint) -> bool {
    let halves = &endpoint.worlds;
    halves.iter().all(|half| same_policy(half, &CLOSED))
}
