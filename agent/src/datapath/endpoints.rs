//! Endpoints in their slots: who sits where, under which id and epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_ebpf::abi::{Addr, Endpoint, EndpointWorld, World, capacity};
use ringfence_policy::index::PodKey;
use ringfence_policy::tables::{EndpointPolicy, Tables};

use super::Interface;
use super::cut::{close, is_closed};
use super::error::DatapathError;
use super::fields::AgentField;
use super::locals;
use super::maps::{Maps, Raw, map_error};
use super::names::Names;
use super::seat::{CLOSED, Seat, identity, owner, probes, same_policy, side};
use crate::runtime::FoundBy;

/// All occupied slots.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) seats: BTreeMap<u32, Seat>,
}

/// What a pod and its interface should be in the map.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) interface: &'a Interface,
    pub(super) policy: &'a EndpointPolicy,
    pub(super) workload: u32,
    pub(super) raised: bool,
}

impl Endpoints {
    /// What the pinned map holds.
    pub(super) fn dump(maps: &mut Maps) -> Result<Self, DatapathError> {
        let mut seats = BTreeMap::new();
        for slot in 1..capacity::ENDPOINTS {
            let Raw(endpoint) = maps
                .endpoints
                .get(&slot, 0)
                .map_err(|error| map_error("reading", "ENDPOINTS", &error))?;
            if endpoint.ifindex != 0 {
                let seat = Seat {
                    endpoint,
                    pod: None,
                    last: None,
                    name: format!("interface {}", endpoint.ifindex),
                    by: FoundBy::Pin,
                    carried: false,
                };
                seats.insert(slot, seat);
            }
        }
        let open = seats.iter().filter(|(_, seat)| !is_closed(&seat.endpoint));
        locals::restore(maps, open.map(|(slot, seat)| (*slot, &seat.endpoint)))?;
        Ok(Self { seats })
    }

    /// Interfaces that have a slot.
    pub(super) fn interfaces(&self) -> BTreeSet<u32> {
        self.seats
            .values()
            .map(|seat| seat.endpoint.ifindex)
            .collect()
    }

    /// The interfaces that discovery found, under their present names, and
    /// those that it didn't find this time though interface and pod are there:
    /// an unreadable namespace must not close a pod.
    ///
    /// After a restart the pinned slots know better than what pods claim: a device stays
    /// with the pod that had it, unless the pod runtime says otherwise.
    pub(super) fn with_retained(
        &self,
        tables: &Tables,
        found: &[Interface],
        present: &BTreeMap<u32, String>,
    ) -> Vec<Interface> {
        let mut all: Vec<Interface> = found
            .iter()
            .filter(|one| one.by.is_certain() || !self.was_anothers(one, tables))
            .filter_map(|interface| {
                let name = present.get(&interface.ifindex)?.clone();
                let interface = interface.clone();
                Some(Interface { name, ..interface })
            })
            .collect();
        let mut devices: BTreeSet<u32> = all.iter().map(|one| one.ifindex).collect();
        let mut pods: BTreeSet<PodKey> = all.iter().map(|one| one.pod.clone()).collect();
        for seat in self.seats.values() {
            let ifindex = seat.endpoint.ifindex;
            let (Some(pod), Some(name)) = (owner(seat, tables), present.get(&ifindex)) else {
                continue;
            };
            if devices.contains(&ifindex) || pods.contains(&pod) {
                continue;
            }
            devices.insert(ifindex);
            pods.insert(pod.clone());
            all.push(Interface {
                pod,
                ifindex,
                name: name.clone(),
                mac: seat.endpoint.mac.octets(),
                by: seat.by,
            });
        }
        all
    }

    /// Whether a slot from before this process says that the device is another pod's.
    fn was_anothers(&self, interface: &Interface, tables: &Tables) -> bool {
        self.slot_of(interface.ifindex)
            .and_then(|slot| self.seats.get(&slot))
            .filter(|seat| seat.pod.is_none())
            .and_then(|seat| owner(seat, tables))
            .is_some_and(|pod| pod != interface.pod)
    }

    /// Who sits in which slot.
    pub(super) fn seated(&self) -> Vec<(u32, Endpoint)> {
        let seats = self.seats.iter();
        seats.map(|(slot, seat)| (*slot, seat.endpoint)).collect()
    }

    /// Occupied slots.
    pub(super) fn len(&self) -> usize {
        self.seats.len()
    }

    /// Frees the slot of an interface that has vanished.
    pub(super) fn free(&mut self, maps: &mut Maps, ifindex: u32) -> Result<(), DatapathError> {
        if let Some(slot) = self.slot_of(ifindex) {
            maps.set_endpoint(slot, &Endpoint::default())?;
            if let Some(seat) = self.seats.remove(&slot) {
                locals::remove(maps, slot, &seat.endpoint)?;
            }
        }
        Ok(())
    }

    /// Writes one world's half of every endpoint. Endpoints whose pod is gone
    /// are closed: an interface that is still there may still have a process.
    ///
    /// Returns the interfaces for which there is no room.
    pub(super) fn write(
        &mut self,
        maps: &mut Maps,
        world: World,
        wanted: &[Wanted<'_>],
        pickup_until: u64,
    ) -> Result<Vec<(PodKey, DatapathError)>, DatapathError> {
        let mut refused = Vec::new();
        for one in wanted {
            match self.place(maps, one, pickup_until) {
                Ok(slot) => self.write_half(maps, slot, world, one.policy.half(), one)?,
                Err(error @ DatapathError::NoSlot { .. }) => {
                    refused.push((one.interface.pod.clone(), error));
                }
                Err(error) => return Err(error),
            }
        }
        let present: BTreeSet<u32> = wanted.iter().map(|one| one.interface.ifindex).collect();
        for (slot, seat) in &mut self.seats {
            if !present.contains(&seat.endpoint.ifindex) {
                close(maps, *slot, seat, world)?;
            }
        }
        Ok(refused)
    }

    /// Gives those a slot that have none: closed, whatever becomes of their policy.
    /// Who finds no slot is told by [`Endpoints::write`].
    pub(super) fn seat(
        &mut self,
        maps: &mut Maps,
        wanted: &[Wanted<'_>],
        pickup_until: u64,
    ) -> Result<(), DatapathError> {
        for one in wanted {
            let seat = self.seat_of(one.interface.ifindex);
            let is_seated = seat
                .is_some_and(|seat| seat.taken_by(&one.interface.pod, &identity(one)).is_some());
            if !is_seated {
                match self.place(maps, one, pickup_until) {
                    Ok(_) | Err(DatapathError::NoSlot { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// The slot of a wanted endpoint; a new one starts closed in both worlds.
    fn place(
        &mut self,
        maps: &mut Maps,
        wanted: &Wanted<'_>,
        pickup_until: u64,
    ) -> Result<u32, DatapathError> {
        let mut endpoint = identity(wanted);
        if let Some(slot) = self.slot_of(wanted.interface.ifindex) {
            if let Some(seat) = self.seats.get_mut(&slot)
                && let Some(merged) = seat.taken_by(&wanted.interface.pod, &endpoint)
            {
                if merged != seat.endpoint || seat.pod.is_none() {
                    locals::add(maps, slot, &merged)?;
                }
                if merged != seat.endpoint {
                    maps.set_endpoint(slot, &merged)?;
                    seat.endpoint = merged;
                }
                seat.pod = Some(wanted.interface.pod.clone());
                seat.name.clone_from(&wanted.interface.name);
                seat.by = wanted.interface.by;
                return Ok(slot);
            }
            // Another pod, or other addresses: nothing of the old one is inherited.
            self.free(maps, wanted.interface.ifindex)?;
        }
        let slot = self.free_slot(wanted.interface)?;
        let next = maps.agent(AgentField::NextEndpoint)?.max(1);
        maps.set_agent(AgentField::NextEndpoint, next + 1)?;
        endpoint.id = u32::try_from(next).map_err(|_| DatapathError::NoId)?;
        endpoint.worlds = [CLOSED, CLOSED];
        endpoint.pickup_until = pickup_until;
        locals::add(maps, slot, &endpoint)?;
        maps.set_endpoint(slot, &endpoint)?;
        let seat = Seat {
            endpoint,
            pod: Some(wanted.interface.pod.clone()),
            last: None,
            name: wanted.interface.name.clone(),
            by: wanted.interface.by,
            carried: false,
        };
        self.seats.insert(slot, seat);
        Ok(slot)
    }

    fn slot_of(&self, ifindex: u32) -> Option<u32> {
        probes(ifindex).find(|slot| {
            self.seats
                .get(slot)
                .is_some_and(|seat| seat.endpoint.ifindex == ifindex)
        })
    }

    fn seat_of(&self, ifindex: u32) -> Option<&Seat> {
        self.seats.get(&self.slot_of(ifindex)?)
    }

    fn free_slot(&self, interface: &Interface) -> Result<u32, DatapathError> {
        probes(interface.ifindex)
            .find(|slot| !self.seats.contains_key(slot))
            .ok_or_else(|| DatapathError::NoSlot {
                interface: interface.name.clone(),
                ifindex: interface.ifindex,
            })
    }

    fn write_half(
        &mut self,
        maps: &mut Maps,
        slot: u32,
        world: World,
        mut half: EndpointWorld,
        wanted: &Wanted<'_>,
    ) -> Result<(), DatapathError> {
        let Some(seat) = self.seats.get_mut(&slot) else {
            return Ok(());
        };
        let (this, other) = (side(world), side(world ^ 1));
        // Both halves end with the same epoch: the standby's is raised, then
        // the levelled one takes it over.
        let current = seat.endpoint.worlds[other].epoch;
        half.epoch = if wanted.raised {
            current.wrapping_add(1)
        } else {
            current
        };
        let mut endpoint = seat.endpoint;
        endpoint.worlds[this] = half;
        endpoint.tiers[this] = wanted.policy.tiers;
        endpoint.workload = wanted.workload;
        if endpoint != seat.endpoint {
            maps.set_endpoint(slot, &endpoint)?;
            seat.endpoint = endpoint;
        }
        Ok(())
    }

    /// Whether the wanted endpoints sit in their slots with the policy that they
    /// should have, and the others are closed, all of it in both worlds.
    pub(super) fn are_settled(&self, wanted: &[Wanted<'_>]) -> bool {
        let present: BTreeSet<u32> = wanted.iter().map(|one| one.interface.ifindex).collect();
        let others = self.seats.values();
        let mut others = others.filter(|seat| !present.contains(&seat.endpoint.ifindex));
        wanted.iter().all(|one| self.is_settled(one))
            && others.all(|seat| seat.pod.is_none() && is_closed(&seat.endpoint))
    }

    fn is_settled(&self, wanted: &Wanted<'_>) -> bool {
        let seat = self.seat_of(wanted.interface.ifindex);
        let policy = wanted.policy.half();
        seat.is_some_and(|seat| {
            seat.pod.as_ref() == Some(&wanted.interface.pod)
                && seat.endpoint.workload == wanted.workload
                && seat.taken_by(&wanted.interface.pod, &identity(wanted)) == Some(seat.endpoint)
                && seat.endpoint.tiers == [wanted.policy.tiers; 2]
                && seat
                    .endpoint
                    .worlds
                    .iter()
                    .all(|half| same_policy(half, &policy))
        })
    }

    /// Addresses of the endpoints that one world has under quarantine.
    pub(super) fn quarantined(&self, world: World) -> Vec<IpAddr> {
        let seats = self.seats.values().map(|seat| &seat.endpoint);
        let quarantined = seats
            .filter(|endpoint| endpoint.worlds[side(world)].flags & EndpointWorld::QUARANTINE != 0);
        quarantined.flat_map(addresses).collect()
    }
}

pub(super) fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> + use<> {
    let both = [endpoint.v4, endpoint.v6].into_iter();
    both.filter(|addr| *addr != Addr::UNSPECIFIED)
        .map(IpAddr::from)
}

/// Joins tables and interfaces: the pods of both.
pub(super) fn wanted<'a>(
    maps: &mut Maps,
    names: &mut Names,
    tables: &'a Tables,
    interfaces: &'a [Interface],
    raised: &dyn Fn(&PodKey) -> bool,
) -> Result<Vec<Wanted<'a>>, DatapathError> {
    interfaces
        .iter()
        .filter_map(|interface| Some((interface, tables.endpoints.get(&interface.pod)?)))
        .map(|(interface, policy)| {
            Ok(Wanted {
                interface,
                policy,
                workload: names.id(maps, &policy.workload)?,
                raised: raised(&interface.pod),
            })
        })
        .collect()
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;
