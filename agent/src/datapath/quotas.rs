//! What the kernel can't take back itself: it counts what it puts into `FLOWS` and
//! takes out of it, but nobody sees a flow expire, or an endpoint leave. Now and then
//! the agent counts who is left, and writes the difference down in a map of its own.
//! What is gone from the tables that push nobody out (`FLOWS_MORE`, `CLAIMS`) it removes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ringfence_ebpf::abi::{Addr, Claim, Endpoint, Flow, FlowKey, Quota};
use ringfence_ebpf::conntrack::{self, Clock};

use super::error::DatapathError;
use super::maps::{Maps, Table as _, entries, map_error};
use super::{Datapath, buckets};

/// Flows that an endpoint keeps before it is worth while to see which of them
/// are left: counting them reads all flows of the node.
const MANY: u32 = Quota::REPLIED / 2;
/// How many more it must have put in since the last look, unless it is full.
const MORE: u32 = Quota::REPLIED / 8;
/// Between two looks: a change of policy must not wait for one each time.
const PERIOD: Duration = Duration::from_secs(10);

/// What the last look found.
#[derive(Default)]
pub(super) struct Settled {
    at: Option<Instant>,
    /// [`Quota::replied`] by endpoint id.
    replied: BTreeMap<u32, u32>,
}

impl Datapath {
    /// Takes expired flows off the quotas that have grown. Costs a read per
    /// endpoint, and one of all flows only where a quota has grown much.
    pub(super) fn settle_quotas(&mut self) -> Result<(), DatapathError> {
        if self.settled.at.is_some_and(|at| at.elapsed() < PERIOD) {
            return Ok(());
        }
        self.settled.at = Some(Instant::now());
        let mut grown = Vec::new();
        let before = std::mem::take(&mut self.settled.replied);
        let seated: Vec<(u32, Endpoint)> = self.endpoints.seated();
        // All of them together have the quota of an endpoint that there isn't.
        let all = (Quota::NODE, Endpoint::default());
        for (slot, endpoint) in seated.iter().copied().chain([all]) {
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
        let there = seated.iter().map(|(_, endpoint)| endpoint.id).collect();
        collect_flows(&mut self.maps, &there, clock)?;
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

/// Removes what lies in `FLOWS_MORE` for nobody: that table pushes nothing out. A flow
/// that comes to life again between the look and the removal is decided anew.
fn collect_flows(
    maps: &mut Maps,
    there: &BTreeSet<u32>,
    clock: Clock,
) -> Result<(), DatapathError> {
    for (key, flow) in entries("FLOWS_MORE", &maps.flows_more)? {
        if conntrack::expired(&flow, clock) || !there.contains(&key.endpoint) {
            maps.flows_more
                .take(&key)
                .map_err(|error| map_error("removing from", "FLOWS_MORE", &error))?;
        }
    }
    Ok(())
}

/// Removes the claims of endpoints that have left. Whoever claims such an address at
/// that very moment may have to claim it once more.
fn collect_claims(maps: &mut Maps, there: &BTreeSet<u32>) -> Result<(), DatapathError> {
    let claims = entries("CLAIMS", &maps.claims)?;
    for addr in left(claims, there) {
        maps.claims
            .take(&addr)
            .map_err(|error| map_error("removing from", "CLAIMS", &error))?;
    }
    Ok(())
}

/// Addresses that endpoints which have left had claimed.
fn left(claims: Vec<(Addr, Claim)>, there: &BTreeSet<u32>) -> Vec<Addr> {
    let left = |(_, claim): &(Addr, Claim)| !there.contains(&claim.endpoint);
    claims
        .into_iter()
        .filter(left)
        .map(|(addr, _)| addr)
        .collect()
}

/// Whether a quota of this endpoint counts so many flows, and so many more than
/// at the last look, that it is worth while to see which of them are left.
fn has_grown(quota: &Quota, endpoint: &Endpoint, gone: u32, last: Option<u32>) -> bool {
    let counts = |flows: u32, least| (least..u32::MAX / 2).contains(&flows);
    let kept = quota.replied.wrapping_sub(gone);
    let more = last.is_none_or(|last| counts(quota.replied.wrapping_sub(last), MORE));
    let full = match endpoint.id {
        // That of all together: from here on some may get less than they could have.
        0 => Quota::ALL_REPLIED / 2,
        _ => Quota::REPLIED,
    };
    quota.endpoint == endpoint.id && (counts(kept, full) || counts(kept, MANY) && more)
}

/// Live flows by endpoint id, of endpoints that are there: the kernel takes the ways
/// of others.
fn live(flows: Vec<(FlowKey, Flow)>, there: &BTreeSet<u32>, clock: Clock) -> BTreeMap<u32, u32> {
    let mut live = BTreeMap::new();
    for (key, flow) in flows {
        if !conntrack::expired(&flow, clock) && there.contains(&key.endpoint) {
            *live.entry(key.endpoint).or_default() += 1;
        }
    }
    live
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_that_counts_few_flows_or_is_anothers_is_left_alone() {
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
    fn flows_past_their_timeout_and_those_of_endpoints_that_left_are_gone() {
        let flow = |last_seen| Flow {
            last_seen,
            timeout: 30,
            ..Flow::EMPTY
        };
        let key = |endpoint| FlowKey {
            endpoint,
            ..FlowKey::default()
        };
        let clock = Clock {
            now: 10_000,
            second: 100,
        };
        let flows = vec![
            (key(1), flow(7_000)),
            (key(1), flow(6_999)),
            (key(2), flow(10_001)),
            (key(3), flow(10_001)),
        ];
        let there = BTreeSet::from([1, 2]);
        assert_eq!(live(flows, &there, clock), BTreeMap::from([(1, 1), (2, 1)]));
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
