//! Counters of the traffic that runs beside a test.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// The pause between two packets of a stream.
const PAUSE: Duration = Duration::from_millis(5);

/// Returns how long a storm lasts: this many seconds, unless the environment overrides it.
pub(crate) fn lasting(seconds: u64) -> Duration {
    let said = std::env::var("RINGFENCE_STORM_SECONDS").ok();
    let said = said.map(|text| text.parse().expect("RINGFENCE_STORM_SECONDS is a number"));
    Duration::from_secs(said.unwrap_or(seconds))
}

/// Counters shared by all threads of a storm.
#[derive(Default)]
pub(crate) struct Witness {
    stop: AtomicBool,
    /// Exchanges on old connections.
    pub(crate) old: AtomicU64,
    /// New connections.
    pub(crate) new: AtomicU64,
    /// Denied packets.
    pub(crate) denied: AtomicU64,
}

impl Witness {
    pub(crate) fn runs(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Counts, and pauses.
    pub(crate) fn pause(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
}

/// Ends the traffic even if something panics; nothing else would.
pub(crate) struct Curtain<'a>(pub(crate) &'a Witness);

impl Drop for Curtain<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}
