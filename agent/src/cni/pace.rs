//! Limits how often the plugin's entry is put back.

use std::time::{Duration, Instant};

/// The wait after the first time.
const SHORTEST: Duration = Duration::from_millis(100);
/// The longest wait, however often somebody removes the entry.
const LONGEST: Duration = Duration::from_secs(10);
/// If the entry stayed for this long, it is put back at once again.
const CALM: Duration = Duration::from_secs(60);

/// Puts the entry back at once the first time, then after a wait that doubles each time, so that
/// two tools with conflicting goals don't keep each other busy.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<(Instant, Duration)>,
}

impl Pace {
    /// Returns how long to wait before the entry may be put back.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        match self.last {
            Some((at, rest)) => (at + rest).saturating_duration_since(now),
            None => Duration::ZERO,
        }
    }

    /// Records that the entry was put back.
    pub(super) fn note(&mut self, now: Instant) {
        let rest = match self.last {
            Some((at, rest)) if now.saturating_duration_since(at) < CALM => (rest * 2).min(LONGEST),
            _ => SHORTEST,
        };
        self.last = Some((now, rest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_always_takes_the_entry_out_sees_it_put_back_ever_more_slowly() {
        let start = Instant::now();
        let (mut pace, mut now, mut times) = (Pace::default(), start, 0);
        assert_eq!(pace.wait(now), Duration::ZERO);
        while now < start + Duration::from_secs(600) {
            now += pace.wait(now);
            pace.note(now);
            times += 1;
        }
        assert!((60..75).contains(&times), "{times}");
        assert_eq!(pace.wait(now), LONGEST);
        now += CALM;
        pace.note(now);
        assert_eq!(pace.wait(now), SHORTEST);
    }
}
