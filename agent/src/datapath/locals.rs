//! Map `LOCALS`: the slots of this node's endpoints by address, link-local addresses included. It
//! is derived from `ENDPOINTS` and is rebuilt after a restart.

use std::collections::BTreeMap;

use ringfence_ebpf::abi::{Addr, Endpoint};

use super::error::DatapathError;
use super::maps::Maps;

/// Returns the addresses of an endpoint.
fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = Addr> + use<> {
    let all = [endpoint.v4, endpoint.v6, endpoint.link_local];
    all.into_iter().filter(|addr| *addr != Addr::UNSPECIFIED)
}

/// Adds the addresses of the endpoint in a slot.
pub(super) fn add(maps: &mut Maps, slot: u32, endpoint: &Endpoint) -> Result<(), DatapathError> {
    addresses(endpoint).try_for_each(|addr| maps.set_local(addr, slot))
}

/// Removes the addresses of an endpoint that is gone or whose pod is: an endpoint on another node
/// may have them by now.
pub(super) fn remove(maps: &mut Maps, slot: u32, endpoint: &Endpoint) -> Result<(), DatapathError> {
    addresses(endpoint).try_for_each(|addr| maps.unset_local(addr, slot))
}

/// Makes the map match the occupied slots, even if an earlier agent left it incomplete.
pub(super) fn restore<'e>(
    maps: &mut Maps,
    endpoints: impl Iterator<Item = (u32, &'e Endpoint)>,
) -> Result<(), DatapathError> {
    let wanted: BTreeMap<Addr, u32> = endpoints
        .flat_map(|(slot, endpoint)| addresses(endpoint).map(move |addr| (addr, slot)))
        .collect();
    let held: BTreeMap<Addr, u32> = maps.locals()?.into_iter().collect();
    for (addr, slot) in &held {
        if !wanted.contains_key(addr) {
            maps.unset_local(*addr, *slot)?;
        }
    }
    for (addr, slot) in wanted {
        if held.get(&addr) != Some(&slot) {
            maps.set_local(addr, slot)?;
        }
    }
    Ok(())
}
