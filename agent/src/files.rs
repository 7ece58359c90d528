//! Open files: how many the agent may have, and how many of them its clients.
//!
//! Beside clients it holds some 50 for maps and programs, ten connections to the
//! API server, and a link for each hook: two a pod and two a device. Where clients
//! could take these, passes would fail and new pods stay open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::api::{self, remote};
use crate::web::{self, Bounds};

/// Files that the agent's own work may take on a node of some 200 pods.
const OWN: u64 = 512;

/// What all clients together hold at most: the connections of each listener, and
/// one more that is being closed.
const CLIENTS: u64 = {
    let held = web::METRICS.total + web::HEALTH.total + api::BOUNDS.total + remote::BOUNDS.total;
    held as u64 + 4
};

/// The process's own limit, raised as far as it may raise it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Files {
    limit: u64,
}

impl Files {
    /// Raises the soft limit to the hard one. One that can't be raised, or is small
    /// all the same, is warned of.
    pub fn raise() -> Self {
        let raise = || {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        };
        if let Err(errno) = raise() {
            tracing::warn!("the limit of open files can't be raised: {errno}");
        }
        // One that can't be told is taken for what Linux gives by default.
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        if limit < OWN + CLIENTS {
            tracing::warn!(
                "no more than {limit} files may be open, which is few for a node of many pods; \
                 raise the limit (RLIMIT_NOFILE) to {} or more",
                2 * (OWN + CLIENTS)
            );
        }
        Self { limit }
    }

    /// A listener's bounds such that all clients together hold a quarter of all
    /// files at most.
    pub fn bound(self, bounds: Bounds) -> Bounds {
        let share = (self.limit / 4).min(CLIENTS);
        let total = bounds.total as u64 * share / CLIENTS;
        let total = usize::try_from(total.max(1)).unwrap_or(bounds.total);
        Bounds {
            total,
            per_client: bounds.per_client.min(total),
            ..bounds
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_as_high_as_the_hard_one() {
        let files = Files::raise();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!((soft, files.limit), (hard, hard));
    }

    #[test]
    fn clients_leave_a_reserve_whatever_the_limit() {
        let all = [web::METRICS, web::HEALTH, api::BOUNDS, remote::BOUNDS];
        for limit in [64, 256, 1024, 1 << 20] {
            let bounds = all.map(|bounds| Files { limit }.bound(bounds));
            let held: usize = bounds.iter().map(|bounds| bounds.total).sum();
            assert!(held as u64 <= (limit / 4).max(4), "{held} of {limit}");
            assert!(bounds.iter().all(|b| (1..=b.total).contains(&b.per_client)));
        }
        assert_eq!(Files { limit: 1024 }.bound(web::METRICS), web::METRICS);
    }
}
