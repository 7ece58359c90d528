//! Time limits of a watch.

use std::time::Duration;

/// Time limits of a watch.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The server ends a watch after this long, and the watch is resumed. One without data for 5 s
    /// longer than that counts as dead.
    pub watch: Duration,
    /// A list without data for this long is started again.
    pub stall: Duration,
    /// Interval between checks whether a kind is still absent.
    pub recheck: Duration,
    /// A kind counts as gone once the server has reported its absence for this long.
    pub certain: Duration,
    /// The first and the longest wait after a fault, doubled with each fault, with jitter.
    pub backoff: [Duration; 2],
    /// Upper limit of the wait if the server couldn't be reached, since a retry costs it nothing.
    pub unreached: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            watch: Duration::from_secs(120),
            stall: Duration::from_secs(60),
            recheck: Duration::from_secs(4),
            certain: Duration::from_secs(30),
            backoff: [Duration::from_millis(500), Duration::from_secs(30)],
            unreached: Duration::from_secs(4),
        }
    }
}
