//! Determines which pods without an interface are just starting or ending and need no attention.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ringfence_policy::index::PodKey;

use crate::discover::{Sandbox, Sought, Unguarded};

/// How long the pod runtime, the network plugin and the API server may disagree about the start or
/// the end of a pod.
const GRACE: Duration = Duration::from_secs(30);

/// Pods that are known to be starting or ending.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// Since when no sandbox is found for each pod; none if there was none in the first pass.
    since: BTreeMap<PodKey, Option<Instant>>,
    /// Pods that have no network yet, or no longer.
    pending: BTreeSet<PodKey>,
    /// Whether the first pass is over: a sandbox missing after that has just disappeared, or its
    /// pod is new.
    looked: bool,
}

impl Settling {
    /// Evaluates what discovery reported about pods without an interface.
    ///
    /// A pod that shows no address has no network yet, and one whose sandbox is gone no longer has
    /// any, however long that lasts. For other pods the runtime may be a few seconds ahead of the
    /// API server or behind it; a pod that has been without a sandbox for longer, or since before
    /// this agent started, has a network that this node doesn't see.
    pub(super) fn look(&mut self, unguarded: &[Unguarded], wanted: &[Sought], now: Instant) {
        let wanted: BTreeMap<&PodKey, &Sought> =
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

    /// Reports whether a pod has no network yet, or no longer.
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

    fn wanted(name: &str, address: bool, ends: bool) -> Sought {
        Sought {
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
        // The API server shows that it has a network, but no sandbox is found for a long time.
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
        // Except for a pod that has no network yet.
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
