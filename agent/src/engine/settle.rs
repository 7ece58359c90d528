//! Which pods without an interface only start or end: nobody has to look into those.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ringfence_policy::index::PodKey;

use crate::discover::{Sandbox, Unguarded, Wanted};

/// How long the pod runtime, the network plugin and the API server may be apart about
/// the start or the end of a pod.
const GRACE: Duration = Duration::from_secs(30);

/// Pods that start or end, as far as that is known.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// Since when no sandbox of each is found; none if that was so at the first look.
    since: BTreeMap<PodKey, Option<Instant>>,
    /// Those that have no network yet, or any more.
    pending: BTreeSet<PodKey>,
    /// The first look is done: what is missing from then on was there, or is new.
    looked: bool,
}

impl Settling {
    /// Takes in what discovery has said of pods that it found no interface for.
    ///
    /// A pod that shows no address has no network yet, and one whose sandbox has gone has
    /// none any more, for however long. For others the runtime may be some seconds ahead of
    /// the API server, or behind it; who has been without a sandbox for longer, or since
    /// before this agent, has a network that this node doesn't show.
    pub(super) fn look(&mut self, unguarded: &[Unguarded], wanted: &[Wanted], now: Instant) {
        let wanted: BTreeMap<&PodKey, &Wanted> =
            wanted.iter().map(|wanted| (&wanted.pod, wanted)).collect();
        let mut since = BTreeMap::new();
        self.pending.clear();
        for one in unguarded {
            let (ends, shows) = wanted
                .get(&one.pod)
                .map_or((false, true), |pod| (pod.ends, !pod.addresses.is_empty()));
            let is_pending = match one.sandbox {
                Sandbox::There => false,
                Sandbox::Gone => true,
                Sandbox::NotFound => {
                    let began = match self.since.get(&one.pod) {
                        Some(before) => *before,
                        None => self.looked.then_some(now),
                    };
                    since.insert(one.pod.clone(), began);
                    let is_new = began.is_some_and(|began| now.duration_since(began) < GRACE);
                    ends || !shows || is_new
                }
            };
            if is_pending {
                self.pending.insert(one.pod.clone());
            }
        }
        self.since = since;
        self.looked = true;
    }

    /// Whether a pod has no network yet, or any more.
    pub(super) fn is_pending(&self, pod: &PodKey) -> bool {
        self.pending.contains(pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> PodKey {
        PodKey {
            name: name.into(),
            ..PodKey::default()
        }
    }

    fn wanted(name: &str, address: bool, ends: bool) -> Wanted {
        Wanted {
            pod: key(name),
            uid: name.into(),
            addresses: address.then(|| [10, 0, 0, 1].into()).into_iter().collect(),
            ends,
        }
    }

    fn without(name: &str, sandbox: Sandbox) -> Unguarded {
        Unguarded {
            pod: key(name),
            reason: "why".into(),
            sandbox,
        }
    }

    #[test]
    fn a_pod_that_starts_or_ends_is_nothing_to_look_into() {
        let now = Instant::now();
        let mut settling = Settling::default();
        settling.look(&[], &[], now);
        let wanted = [
            wanted("starts", false, false),
            wanted("is ahead", true, false),
            wanted("ends", true, true),
            wanted("has ended", true, false),
        ];
        let missing = [
            without("starts", Sandbox::NotFound),
            without("is ahead", Sandbox::NotFound),
            without("ends", Sandbox::NotFound),
            without("has ended", Sandbox::Gone),
        ];
        settling.look(&missing, &wanted, now);
        assert!(missing.iter().all(|one| settling.is_pending(&one.pod)));
        // The API server shows that it has a network, and none is found for long.
        let later = now + GRACE;
        settling.look(&missing, &wanted, later);
        for one in &missing {
            let pending = one.pod != key("is ahead");
            assert_eq!(settling.is_pending(&one.pod), pending, "{}", one.pod);
        }
    }

    #[test]
    fn a_pod_whose_sandbox_may_be_there_is_told_at_once() {
        let now = Instant::now();
        let mut settling = Settling::default();
        settling.look(&[], &[], now);
        let wanted = [wanted("a", false, true)];
        settling.look(&[without("a", Sandbox::There)], &wanted, now);
        assert!(!settling.is_pending(&key("a")));
    }

    #[test]
    fn what_an_agent_finds_without_a_sandbox_at_its_start_is_told_at_once() {
        let now = Instant::now();
        let missing = [without("a", Sandbox::NotFound)];
        let mut settling = Settling::default();
        for _ in 0..2 {
            settling.look(&missing, &[wanted("a", true, false)], now);
            assert!(!settling.is_pending(&key("a")));
        }
        // But for one that has no network yet.
        let mut settling = Settling::default();
        settling.look(&missing, &[wanted("a", false, false)], now);
        assert!(settling.is_pending(&key("a")));
    }

    #[test]
    fn a_sandbox_that_was_found_again_begins_anew() {
        let now = Instant::now();
        let (missing, wanted) = (
            [without("a", Sandbox::NotFound)],
            [wanted("a", true, false)],
        );
        let mut settling = Settling::default();
        settling.look(&[], &wanted, now);
        settling.look(&missing, &wanted, now);
        settling.look(&[], &wanted, now + GRACE);
        settling.look(&missing, &wanted, now + GRACE);
        assert!(settling.is_pending(&key("a")));
    }
}
