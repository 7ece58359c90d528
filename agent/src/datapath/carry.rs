//! Carries endpoints over from another version's tables. Each keeps its slot, which tags in flight
//! refer to, and its id, which its connections refer to, but nothing of its policy.

use std::path::Path;

use ringfence_ebpf::abi::{Endpoint, EndpointRules};

use super::catalog::MapName;
use super::endpoints::Endpoints;
use super::error::DatapathError;
use super::maps::Maps;
use super::occupant::{CLOSED, Occupant, same_policy};
use super::raw::Heads;
use crate::runtime::FoundBy;

impl Endpoints {
    /// Adds the endpoints found in the folder of another version, closed until their policy is
    /// written. Returns how many were added.
    pub(super) fn carry(
        &mut self,
        maps: &mut Maps,
        (version, folder): (u32, &Path),
    ) -> Result<usize, DatapathError> {
        if version < Endpoint::SINCE {
            return Ok(0);
        }
        let Some(mut theirs) = Heads::open::<Endpoint>(folder, MapName::Endpoints, Endpoint::HEAD)?
        else {
            return Ok(0);
        };
        let mut came = 0;
        for slot in 1..theirs.len() {
            let their: Endpoint = theirs.get(slot)?;
            if their.ifindex != 0 && self.carry_one(maps, slot, &their)? {
                came += 1;
            }
        }
        Ok(came)
    }

    /// Carries one endpoint over. Of two endpoints on one device, the newer one is valid. Either
    /// way a new epoch starts here, so that every connection is decided again.
    fn carry_one(
        &mut self,
        maps: &mut Maps,
        slot: u32,
        their: &Endpoint,
    ) -> Result<bool, DatapathError> {
        if let Some((slot, own)) = self.on_device(their.ifindex) {
            if own.id >= their.id {
                let raised = Endpoint {
                    rules: own.rules.map(|rules| EndpointRules {
                        epoch: after(&[own, *their]),
                        ..rules
                    }),
                    ..own
                };
                maps.set_endpoint(slot, &raised)?;
                if let Some(occupant) = self.slots.get_mut(&slot) {
                    occupant.endpoint = raised;
                }
                return Ok(false);
            }
            self.free(maps, their.ifindex)?;
        }
        if self.slots.contains_key(&slot) {
            // Another device occupies the slot here: this endpoint starts over in another slot.
            return Ok(false);
        }
        let endpoint = carried(their);
        maps.set_endpoint(slot, &endpoint)?;
        let is_gone = their.rules.iter().any(|rules| same_policy(rules, &CLOSED));
        let occupant = Occupant {
            last: None,
            endpoint,
            pod: None,
            name: format!("interface {}", endpoint.ifindex),
            by: FoundBy::Pin,
            carried: !is_gone,
        };
        self.slots.insert(slot, occupant);
        Ok(true)
    }

    /// Opens a pick-up window for all endpoints.
    pub(super) fn pick_up(&mut self, maps: &mut Maps, until: u64) -> Result<(), DatapathError> {
        for (slot, occupant) in &mut self.slots {
            let endpoint = Endpoint {
                pickup_until: until,
                ..occupant.endpoint
            };
            maps.set_endpoint(*slot, &endpoint)?;
            occupant.endpoint = endpoint;
        }
        Ok(())
    }

    fn on_device(&self, ifindex: u32) -> Option<(u32, Endpoint)> {
        let mut slots = self.slots.iter();
        let occupant = slots.find(|(_, occupant)| occupant.endpoint.ifindex == ifindex);
        occupant.map(|(slot, occupant)| (*slot, occupant.endpoint))
    }
}

/// Returns another version's endpoint without its policy.
fn carried(their: &Endpoint) -> Endpoint {
    let closed = EndpointRules {
        epoch: after(&[*their]),
        ..CLOSED
    };
    Endpoint {
        flags: 0,
        rules: [closed; 2],
        tiers: Default::default(),
        ..*their
    }
}

/// Returns an epoch that none of these endpoints has had.
fn after(endpoints: &[Endpoint]) -> u32 {
    let both = endpoints.iter().flat_map(|one| one.rules);
    let newest = both.map(|rules| rules.epoch).max();
    newest.map_or(0, |epoch| epoch.wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_keeps_its_id_and_nothing_of_its_policy() {
        let rules = |epoch| EndpointRules {
            ingress: 7,
            egress: 8,
            flags: 0,
            epoch,
        };
        let their = Endpoint {
            id: 9,
            rules: [rules(3), rules(4)],
            pickup_until: 5,
            flags: 1,
            ..Endpoint::default()
        };
        let here = carried(&their);
        let closed = EndpointRules { epoch: 5, ..CLOSED };
        assert_eq!(here.rules, [closed; 2]);
        assert_eq!((here.id, here.pickup_until, here.flags), (9, 5, 0));
    }
}
