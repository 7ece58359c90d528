//! Endpoints in their slots, with their ids and epochs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_ebpf::abi::{Addr, Buffer, Endpoint, EndpointRules, capacity};
use ringfence_policy::index::PodKey;
use ringfence_policy::tables::{EndpointPolicy, Tables};

use super::Interface;
use super::catalog::MapName;
use super::cut::{close, is_closed};
use super::error::DatapathError;
use super::fields::AgentField;
use super::locals;
use super::maps::{Maps, Raw, map_error};
use super::names::Names;
use super::occupant::{CLOSED, Occupant, identity, owner, probes, same_policy, side};
use crate::runtime::FoundBy;

/// All occupied slots.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) slots: BTreeMap<u32, Occupant>,
}

/// A pod and its interface as they should be in the map.
#[derive(Clone, Debug)]
pub(super) struct Desired<'a> {
    pub(super) interface: &'a Interface,
    pub(super) policy: &'a EndpointPolicy,
    pub(super) workload: u32,
    pub(super) raised: bool,
}

impl Endpoints {
    /// Reads the endpoints from the pinned map.
    pub(super) fn dump(maps: &mut Maps) -> Result<Self, DatapathError> {
        let mut slots = BTreeMap::new();
        for slot in 1..capacity::ENDPOINTS {
            let Raw(endpoint) = maps
                .endpoints
                .get(&slot, 0)
                .map_err(|error| map_error("reading", MapName::Endpoints, &error))?;
            if endpoint.ifindex != 0 {
                let occupant = Occupant {
                    endpoint,
                    pod: None,
                    last: None,
                    name: format!("interface {}", endpoint.ifindex),
                    by: FoundBy::Pin,
                    carried: false,
                };
                slots.insert(slot, occupant);
            }
        }
        let open = slots
            .iter()
            .filter(|(_, occupant)| !is_closed(&occupant.endpoint));
        locals::restore(
            maps,
            open.map(|(slot, occupant)| (*slot, &occupant.endpoint)),
        )?;
        Ok(Self { slots })
    }

    /// Returns the interfaces that have a slot.
    pub(super) fn interfaces(&self) -> BTreeSet<u32> {
        self.slots
            .values()
            .map(|occupant| occupant.endpoint.ifindex)
            .collect()
    }

    /// Returns the interfaces that discovery found, under their current names, and those that it
    /// didn't find this time even though interface and pod exist: an unreadable namespace must not
    /// close a pod.
    ///
    /// After a restart the pinned slots are more reliable than pods' claims: a device stays with
    /// the pod that had it, unless the pod runtime reports another one.
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
        for occupant in self.slots.values() {
            let ifindex = occupant.endpoint.ifindex;
            let (Some(pod), Some(name)) = (owner(occupant, tables), present.get(&ifindex)) else {
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
                mac: occupant.endpoint.mac.octets(),
                by: occupant.by,
            });
        }
        all
    }

    /// Reports whether a slot from before this process belongs to another pod than this interface.
    fn was_anothers(&self, interface: &Interface, tables: &Tables) -> bool {
        self.slot_of(interface.ifindex)
            .and_then(|slot| self.slots.get(&slot))
            .filter(|occupant| occupant.pod.is_none())
            .and_then(|occupant| owner(occupant, tables))
            .is_some_and(|pod| pod != interface.pod)
    }

    /// Returns the occupied slots with their endpoints.
    pub(super) fn occupied(&self) -> Vec<(u32, Endpoint)> {
        let slots = self.slots.iter();
        slots
            .map(|(slot, occupant)| (*slot, occupant.endpoint))
            .collect()
    }

    /// Returns the number of occupied slots.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Frees the slot of an interface that has vanished.
    pub(super) fn free(&mut self, maps: &mut Maps, ifindex: u32) -> Result<(), DatapathError> {
        if let Some(slot) = self.slot_of(ifindex) {
            maps.set_endpoint(slot, &Endpoint::default())?;
            if let Some(occupant) = self.slots.remove(&slot) {
                locals::remove(maps, slot, &occupant.endpoint)?;
            }
        }
        Ok(())
    }

    /// Writes the rules of one buffer for every endpoint. Endpoints whose pod is gone are closed:
    /// a process may still be using an interface that still exists.
    ///
    /// Returns the interfaces for which no slot is free.
    pub(super) fn write(
        &mut self,
        maps: &mut Maps,
        buffer: Buffer,
        wanted: &[Desired<'_>],
        pickup_until: u64,
    ) -> Result<Vec<(PodKey, DatapathError)>, DatapathError> {
        let mut refused = Vec::new();
        for one in wanted {
            match self.place(maps, one, pickup_until) {
                Ok(slot) => self.write_rules(maps, slot, buffer, one.policy.rules(), one)?,
                Err(error @ DatapathError::NoSlot { .. }) => {
                    refused.push((one.interface.pod.clone(), error));
                }
                Err(error) => return Err(error),
            }
        }
        let present: BTreeSet<u32> = wanted.iter().map(|one| one.interface.ifindex).collect();
        for (slot, occupant) in &mut self.slots {
            if !present.contains(&occupant.endpoint.ifindex) {
                close(maps, *slot, occupant, buffer)?;
            }
        }
        Ok(refused)
    }

    /// Assigns slots to endpoints that have none. They start closed, so that they are guarded even
    /// if their policy can't be written. [`Endpoints::write`] reports endpoints that find no slot.
    pub(super) fn occupant(
        &mut self,
        maps: &mut Maps,
        wanted: &[Desired<'_>],
        pickup_until: u64,
    ) -> Result<(), DatapathError> {
        for one in wanted {
            let occupant = self.occupant_of(one.interface.ifindex);
            let is_placed = occupant.is_some_and(|occupant| {
                occupant
                    .taken_by(&one.interface.pod, &identity(one))
                    .is_some()
            });
            if !is_placed {
                match self.place(maps, one, pickup_until) {
                    Ok(_) | Err(DatapathError::NoSlot { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Returns the slot of an endpoint; a new endpoint starts closed in both buffers.
    fn place(
        &mut self,
        maps: &mut Maps,
        wanted: &Desired<'_>,
        pickup_until: u64,
    ) -> Result<u32, DatapathError> {
        let mut endpoint = identity(wanted);
        if let Some(slot) = self.slot_of(wanted.interface.ifindex) {
            if let Some(occupant) = self.slots.get_mut(&slot)
                && let Some(merged) = occupant.taken_by(&wanted.interface.pod, &endpoint)
            {
                if merged != occupant.endpoint || occupant.pod.is_none() {
                    locals::add(maps, slot, &merged)?;
                }
                if merged != occupant.endpoint {
                    maps.set_endpoint(slot, &merged)?;
                    occupant.endpoint = merged;
                }
                occupant.pod = Some(wanted.interface.pod.clone());
                occupant.name.clone_from(&wanted.interface.name);
                occupant.by = wanted.interface.by;
                return Ok(slot);
            }
            // Another pod, or different addresses: nothing of the old endpoint is inherited.
            self.free(maps, wanted.interface.ifindex)?;
        }
        let slot = self.free_slot(wanted.interface)?;
        let next = maps.agent(AgentField::NextEndpoint)?.max(1);
        maps.set_agent(AgentField::NextEndpoint, next + 1)?;
        endpoint.id = u32::try_from(next).map_err(|_| DatapathError::NoId)?;
        endpoint.rules = [CLOSED, CLOSED];
        endpoint.pickup_until = pickup_until;
        locals::add(maps, slot, &endpoint)?;
        maps.set_endpoint(slot, &endpoint)?;
        let occupant = Occupant {
            endpoint,
            pod: Some(wanted.interface.pod.clone()),
            last: None,
            name: wanted.interface.name.clone(),
            by: wanted.interface.by,
            carried: false,
        };
        self.slots.insert(slot, occupant);
        Ok(slot)
    }

    fn slot_of(&self, ifindex: u32) -> Option<u32> {
        probes(ifindex).find(|slot| {
            self.slots
                .get(slot)
                .is_some_and(|occupant| occupant.endpoint.ifindex == ifindex)
        })
    }

    fn occupant_of(&self, ifindex: u32) -> Option<&Occupant> {
        self.slots.get(&self.slot_of(ifindex)?)
    }

    fn free_slot(&self, interface: &Interface) -> Result<u32, DatapathError> {
        probes(interface.ifindex)
            .find(|slot| !self.slots.contains_key(slot))
            .ok_or_else(|| DatapathError::NoSlot {
                interface: interface.name.clone(),
                ifindex: interface.ifindex,
            })
    }

    fn write_rules(
        &mut self,
        maps: &mut Maps,
        slot: u32,
        buffer: Buffer,
        mut rules: EndpointRules,
        wanted: &Desired<'_>,
    ) -> Result<(), DatapathError> {
        let Some(occupant) = self.slots.get_mut(&slot) else {
            return Ok(());
        };
        let (this, other) = (side(buffer), side(buffer ^ 1));
        // The rules of both buffers end up with the same epoch: that of the standby buffer is
        // raised, and the other buffer takes it over when it is brought up to date.
        let current = occupant.endpoint.rules[other].epoch;
        rules.epoch = if wanted.raised {
            current.wrapping_add(1)
        } else {
            current
        };
        let mut endpoint = occupant.endpoint;
        endpoint.rules[this] = rules;
        endpoint.tiers[this] = wanted.policy.tiers;
        endpoint.workload = wanted.workload;
        if endpoint != occupant.endpoint {
            maps.set_endpoint(slot, &endpoint)?;
            occupant.endpoint = endpoint;
        }
        Ok(())
    }

    /// Reports whether the desired endpoints are in their slots with the desired policy and all
    /// others are closed, in both buffers.
    pub(super) fn are_in_force(&self, wanted: &[Desired<'_>]) -> bool {
        let present: BTreeSet<u32> = wanted.iter().map(|one| one.interface.ifindex).collect();
        let others = self.slots.values();
        let mut others = others.filter(|occupant| !present.contains(&occupant.endpoint.ifindex));
        wanted.iter().all(|one| self.is_in_force(one))
            && others.all(|occupant| occupant.pod.is_none() && is_closed(&occupant.endpoint))
    }

    fn is_in_force(&self, wanted: &Desired<'_>) -> bool {
        let occupant = self.occupant_of(wanted.interface.ifindex);
        let policy = wanted.policy.rules();
        occupant.is_some_and(|occupant| {
            occupant.pod.as_ref() == Some(&wanted.interface.pod)
                && occupant.endpoint.workload == wanted.workload
                && occupant.taken_by(&wanted.interface.pod, &identity(wanted))
                    == Some(occupant.endpoint)
                && occupant.endpoint.tiers == [wanted.policy.tiers; 2]
                && occupant
                    .endpoint
                    .rules
                    .iter()
                    .all(|rules| same_policy(rules, &policy))
        })
    }

    /// Returns the addresses of endpoints that are under quarantine in a buffer.
    pub(super) fn quarantined(&self, buffer: Buffer) -> Vec<IpAddr> {
        let slots = self.slots.values().map(|occupant| &occupant.endpoint);
        let quarantined = slots
            .filter(|endpoint| endpoint.rules[side(buffer)].flags & EndpointRules::QUARANTINE != 0);
        quarantined.flat_map(addresses).collect()
    }
}

pub(super) fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> + use<> {
    let both = [endpoint.v4, endpoint.v6].into_iter();
    both.filter(|addr| *addr != Addr::UNSPECIFIED)
        .map(IpAddr::from)
}

/// Joins tables and interfaces: returns the pods that occur in both.
pub(super) fn wanted<'a>(
    maps: &mut Maps,
    names: &mut Names,
    tables: &'a Tables,
    interfaces: &'a [Interface],
    raised: &dyn Fn(&PodKey) -> bool,
) -> Result<Vec<Desired<'a>>, DatapathError> {
    interfaces
        .iter()
        .filter_map(|interface| Some((interface, tables.endpoints.get(&interface.pod)?)))
        .map(|(interface, policy)| {
            Ok(Desired {
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
