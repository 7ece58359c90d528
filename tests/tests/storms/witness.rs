//! What traffic did while something else went on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Between two packets of a stream.
const PAUSE: Duration = Duration::from_millis(5);

/// How long a storm lasts: so many seconds, or what the environment says.
pub(crate) fn lasting(seconds: u64) -> Duration {
    let said = std::env::var("RINGFENCE_STORM_SECONDS").ok();
    let said = said.map(|text| text.parse().expect("RINGFENCE_STORM_SECONDS is a number"));
    Duration::from_secs(said.unwrap_or(seconds))
}

/// Shared by all threads of a storm.
#[derive(Default)]
pub(crate) struct Witness {
    stop: AtomicBool,
    /// What went on as it had begun.
    pub(crate) old: AtomicU64,
    /// What was begun anew.
    pub(crate) new: AtomicU64,
    /// What was denied.
    pub(crate) denied: AtomicU64,
}

impl Witness {
    pub(crate) fn runs(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Counts, and rests.
    pub(crate) fn pause(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
}

/// Ends the traffic also where something panics: else nobody would.
pub(crate) struct Curtain<'a>(pub(crate) &'a Witness);

impl Drop for Curtain<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}
