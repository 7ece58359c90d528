//! Reconciles quotas with reality. The kernel counts what it inserts into and removes from
//! `CONNECTIONS`, but it doesn't notice when a connection expires or an endpoint goes away. From
//! time to time the agent counts what is left and writes the difference into a map of its own. It
//! also removes dead entries from the tables that don't evict any (`CONN_OVERFLOW`, `CLAIMS`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ringfence_ebpf::abi::{Addr, Claim, Connection, ConnectionKey, Endpoint, Quota};
use ringfence_ebpf::conntrack::{self, Clock};

use super::catalog::MapName;
use super::error::DatapathError;
use super::maps::{Maps, Table as _, entries, map_error};
use super::{Datapath, buckets};

/// Number of connections of an endpoint from which it is worth checking which of them are left:
/// counting them reads all connections of the node.
const MANY: u32 = Quota::REPLIED / 2;
/// How many more it must have added since the last check, unless its quota is used up.
const MORE: u32 = Quota::REPLIED / 8;
/// Interval between checks: a policy change must not wait for one each time.
const PERIOD: Duration = Duration::from_secs(10);

/// Results of the last check.
#[derive(Default)]
pub(super) struct Settled {
    at: Option<Instant>,
    /// [`Quota::replied`] by endpoint id.
    replied: BTreeMap<u32, u32>,
}

impl Datapath {
    /// Subtracts expired connections from the quotas that have grown. Costs one read per endpoint;
    /// all connections are read only if a quota has grown a lot.
    pub(super) fn reconcile_quotas(&mut self) -> Result<(), DatapathError> {
        if self.settled.at.is_some_and(|at| at.elapsed() < PERIOD) {
            return Ok(());
        }
        self.settled.at = Some(Instant::now());
        let mut grown = Vec::new();
        let before = std::mem::take(&mut self.settled.replied);
        let occupied: Vec<(u32, Endpoint)> = self.endpoints.occupied();
        // The quota of all endpoints together is stored under an endpoint that doesn't exist.
        let all = (Quota::NODE, Endpoint::default());
        for (slot, endpoint) in occupied.iter().copied().chain([all]) {
            let quota = self.maps.quota(slot)?;
            let last = before.get(&endpoint.id).copied();
            if let Some(last) = last {
                self.settled.replied.insert(endpoint.id, last);
            }
            if has_grown(&quota, &endpoint, self.maps.gone(slot)?, last) {
                grown.push((slot, quota));
            }
        }
        let clock = self.clock()?;
        let there = occupied.iter().map(|(_, endpoint)| endpoint.id).collect();
        collect_connections(&mut self.maps, &there, clock)?;
        collect_claims(&mut self.maps, &there)?;
        if grown.is_empty() {
            return Ok(());
        }
        let live = live(buckets::replied(&self.maps)?, &there, clock);
        for (slot, quota) in grown {
            let left = match slot {
                Quota::NODE => live.values().sum(),
                _ => live.get(&quota.endpoint).copied().unwrap_or_default(),
            };
            self.maps.set_gone(slot, quota.replied.wrapping_sub(left))?;
            self.settled.replied.insert(quota.endpoint, quota.replied);
        }
        Ok(())
    }
}

/// Removes entries from `CONN_OVERFLOW` that are no longer of use, since that table evicts
/// nothing. A connection that revives between check and removal is decided again.
fn collect_connections(
    maps: &mut Maps,
    there: &BTreeSet<u32>,
    clock: Clock,
) -> Result<(), DatapathError> {
    for (key, connection) in entries(MapName::ConnOverflow, &maps.conn_overflow)? {
        if conntrack::expired(&connection, clock) || !there.contains(&key.endpoint) {
            maps.conn_overflow
                .take(&key)
                .map_err(|error| map_error("removing from", MapName::ConnOverflow, &error))?;
        }
    }
    Ok(())
}

/// Removes the claims of endpoints that are gone. An endpoint that claims such an address at the
/// same moment may have to claim it again.
fn collect_claims(maps: &mut Maps, there: &BTreeSet<u32>) -> Result<(), DatapathError> {
    let claims = entries(MapName::Claims, &maps.claims)?;
    for addr in left(claims, there) {
        maps.claims
            .take(&addr)
            .map_err(|error| map_error("removing from", MapName::Claims, &error))?;
    }
    Ok(())
}

/// Returns the addresses claimed by endpoints that are gone.
fn left(claims: Vec<(Addr, Claim)>, there: &BTreeSet<u32>) -> Vec<Addr> {
    let left = |(_, claim): &(Addr, Claim)| !there.contains(&claim.endpoint);
    claims
        .into_iter()
        .filter(left)
        .map(|(addr, _)| addr)
        .collect()
}

/// Reports whether an endpoint's quota counts so many connections, and so many more than at the
/// last check, that it is worth checking which of them are left.
fn has_grown(quota: &Quota, endpoint: &Endpoint, gone: u32, last: Option<u32>) -> bool {
    let counts = |connections: u32, least| (least..u32::MAX / 2).contains(&connections);
    let kept = quota.replied.wrapping_sub(gone);
    let more = last.is_none_or(|last| counts(quota.replied.wrapping_sub(last), MORE));
    let full = match endpoint.id {
        // The quota of all together: above this, some endpoints may get less than their own quota.
        0 => Quota::ALL_REPLIED / 2,
        _ => Quota::REPLIED,
    };
    quota.endpoint == endpoint.id && (counts(kept, full) || counts(kept, MANY) && more)
}

/// Returns the number of live connections by endpoint id. Endpoints that are gone are left out:
/// the kernel reuses the ways of their connections.
fn live(
    connections: Vec<(ConnectionKey, Connection)>,
    there: &BTreeSet<u32>,
    clock: Clock,
) -> BTreeMap<u32, u32> {
    let mut live = BTreeMap::new();
    for (key, connection) in connections {
        if !conntrack::expired(&connection, clock) && there.contains(&key.endpoint) {
            *live.entry(key.endpoint).or_default() += 1;
        }
    }
    live
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_that_counts_few_connections_or_is_anothers_is_left_alone() {
        let endpoint = Endpoint {
            id: 7,
            ..Endpoint::default()
        };
        let quota = |endpoint, replied| Quota {
            endpoint,
            replied,
            ..Quota::default()
        };
        let grown = |quota, gone, last| has_grown(&quota, &endpoint, gone, last);
        assert!(grown(quota(7, MANY), 0, None));
        assert!(!grown(quota(7, MANY), 1, None));
        assert!(!grown(quota(7, 1), 2, None), "fewer than none");
        assert!(!grown(quota(8, MANY), 0, None));
        assert!(!grown(quota(7, MANY), 0, Some(MANY - MORE + 1)));
        assert!(grown(quota(7, MANY), 0, Some(MANY - MORE)));
        assert!(!grown(quota(7, MANY), 0, Some(MANY + 1)), "it fell");
        let full = quota(7, Quota::REPLIED);
        assert!(grown(full, 0, Some(Quota::REPLIED)), "it lets nobody in");
        let all = |replied| {
            let quota = quota(0, replied);
            has_grown(&quota, &Endpoint::default(), 0, Some(replied))
        };
        assert!(!all(Quota::REPLIED), "there is room for many more");
        assert!(all(Quota::ALL_REPLIED / 2));
    }

    #[test]
    fn connections_past_their_timeout_and_those_of_endpoints_that_left_are_gone() {
        let connection = |last_seen| Connection {
            last_seen,
            timeout: 30,
            ..Connection::EMPTY
        };
        let key = |endpoint| ConnectionKey {
            endpoint,
            ..ConnectionKey::default()
        };
        let clock = Clock {
            now: 10_000,
            second: 100,
        };
        let connections = vec![
            (key(1), connection(7_000)),
            (key(1), connection(6_999)),
            (key(2), connection(10_001)),
            (key(3), connection(10_001)),
        ];
        let there = BTreeSet::from([1, 2]);
        assert_eq!(
            live(connections, &there, clock),
            BTreeMap::from([(1, 1), (2, 1)])
        );
    }

    #[test]
    fn claims_of_endpoints_that_left_are_collected() {
        let addr = |last| Addr::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        let claim = |endpoint| Claim { endpoint, slot: 9 };
        let claims = vec![
            (addr(1), claim(1)),
            (addr(2), claim(2)),
            (addr(3), claim(3)),
        ];
        assert_eq!(left(claims, &BTreeSet::from([1, 3])), [addr(2)]);
    }
}
