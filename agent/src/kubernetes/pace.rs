//! How patient a watch is.

use std::time::Duration;

/// How patient a watch is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The server ends a watch after so long, and it is resumed. One of which
    /// nothing comes for 5 s longer is taken for dead.
    pub watch: Duration,
    /// A list of which nothing comes for so long begins anew.
    pub stall: Duration,
    /// Whether a kind is still absent is asked so often.
    pub recheck: Duration,
    /// A kind that was there counts as gone once the server has said so for so long.
    pub certain: Duration,
    /// The first wait after a fault, doubled with each up to the last; jittered.
    pub backoff: [Duration; 2],
    /// No wait is longer where the server couldn't be reached: that costs it nothing.
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
