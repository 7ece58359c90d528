//! Endpoints of another version's tables, in these: the same slot, which tags in flight
//! name, the same id, under which their connections are, and nothing of their policy.

use std::path::Path;

use ringfence_ebpf::abi::{Endpoint, EndpointWorld};

use super::endpoints::Endpoints;
use super::error::DatapathError;
use super::maps::Maps;
use super::raw::Heads;
use super::seat::{CLOSED, Seat, same_policy};
use crate::runtime::FoundBy;

impl Endpoints {
    /// Seats what a folder of another version has seated, closed until their policy is
    /// written. Returns how many came.
    pub(super) fn carry(
        &mut self,
        maps: &mut Maps,
        (version, folder): (u32, &Path),
    ) -> Result<usize, DatapathError> {
        if version < Endpoint::SINCE {
            return Ok(0);
        }
        let Some(mut theirs) = Heads::open::<Endpoint>(folder, "ENDPOINTS", Endpoint::HEAD)? else {
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

    /// Of two endpoints on one device the one that came later is there. Either way no
    /// connection is of the epoch that begins here: it is decided once more.
    fn carry_one(
        &mut self,
        maps: &mut Maps,
        slot: u32,
        their: &Endpoint,
    ) -> Result<bool, DatapathError> {
        if let Some((slot, own)) = self.on_device(their.ifindex) {
            if own.id >= their.id {
                let raised = Endpoint {
                    worlds: own.worlds.map(|half| EndpointWorld {
                        epoch: after(&[own, *their]),
                        ..half
                    }),
                    ..own
                };
                maps.set_endpoint(slot, &raised)?;
                if let Some(seat) = self.seats.get_mut(&slot) {
                    seat.endpoint = raised;
                }
                return Ok(false);
            }
            self.free(maps, their.ifindex)?;
        }
        if self.seats.contains_key(&slot) {
            // Another device has it here: this one starts anew, in another slot.
            return Ok(false);
        }
        let endpoint = carried(their);
        maps.set_endpoint(slot, &endpoint)?;
        let is_gone = their.worlds.iter().any(|half| same_policy(half, &CLOSED));
        let seat = Seat {
            last: None,
            endpoint,
            pod: None,
            name: format!("interface {}", endpoint.ifindex),
            by: FoundBy::Pin,
            carried: !is_gone,
        };
        self.seats.insert(slot, seat);
        Ok(true)
    }

    /// Opens a pick-up window for all that are seated.
    pub(super) fn pick_up(&mut self, maps: &mut Maps, until: u64) -> Result<(), DatapathError> {
        for (slot, seat) in &mut self.seats {
            let endpoint = Endpoint {
                pickup_until: until,
                ..seat.endpoint
            };
            maps.set_endpoint(*slot, &endpoint)?;
            seat.endpoint = endpoint;
        }
        Ok(())
    }

    fn on_device(&self, ifindex: u32) -> Option<(u32, Endpoint)> {
        let mut seats = self.seats.iter();
        let seat = seats.find(|(_, seat)| seat.endpoint.ifindex == ifindex);
        seat.map(|(slot, seat)| (*slot, seat.endpoint))
    }
}

/// Another version's endpoint without what that version's policy says of it.
fn carried(their: &Endpoint) -> Endpoint {
    let closed = EndpointWorld {
        epoch: after(&[*their]),
        ..CLOSED
    };
    Endpoint {
        flags: 0,
        worlds: [closed; 2],
        tiers: Default::default(),
        ..*their
    }
}

/// An epoch that none of them has had.
fn after(endpoints: &[Endpoint]) -> u32 {
    let halves = endpoints.iter().flat_map(|one| one.worlds);
    let newest = halves.map(|half| half.epoch).max();
    newest.map_or(0, |epoch| epoch.wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_keeps_its_id_and_nothing_of_its_policy() {
        let half = |epoch| EndpointWorld {
            ingress: 7,
            egress: 8,
            flags: 0,
            epoch,
        };
        let their = Endpoint {
            id: 9,
            worlds: [half(3), half(4)],
            pickup_until: 5,
            flags: 1,
            ..Endpoint::default()
        };
        let here = carried(&their);
        let closed = EndpointWorld { epoch: 5, ..CLOSED };
        assert_eq!(here.worlds, [closed; 2]);
        assert_eq!((here.id, here.pickup_until, here.flags), (9, 5, 0));
    }
}
