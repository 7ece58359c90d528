//! Open files: how many the agent may have, and how many of them its clients may use.
//!
//! Besides clients, the agent holds some 50 for maps and programs, ten connections to the API
//! server, and a link for each hook: two per pod and two per device. If clients could use those up,
//! passes would fail and new pods would stay open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::api::{self, remote};
use crate::web::{self, Bounds};

/// Files reserved for the agent's own work, on a node of some 200 pods.
const OWN: u64 = 512;

/// The most that all clients together hold: the connections of each listener, and one more per
/// listener that is being closed.
const CLIENTS: u64 = {
    let held = web::METRICS.total + web::HEALTH.total + api::BOUNDS.total + remote::BOUNDS.total;
    held as u64 + 4
};

/// The process's limit of open files, raised as far as it may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Files {
    limit: u64,
}

impl Files {
    /// Raises the soft limit to the hard one. Logs a warning if that fails, or if the limit is
    /// still small.
    pub fn raise() -> Self {
        let raise = || {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        };
        if let Err(errno) = raise() {
            tracing::warn!("can't raise the limit of open files: {errno}");
        }
        // If the limit can't be read, Linux's default is assumed.
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        if limit < OWN + CLIENTS {
            tracing::warn!(
                "only {limit} files may be open, which is few for a node with many pods; \
                 raise the limit (RLIMIT_NOFILE) to {} or more",
                2 * (OWN + CLIENTS)
            );
        }
        Self { limit }
    }

    /// Scales a listener's bounds so that all clients together hold at most a quarter of all files.
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
