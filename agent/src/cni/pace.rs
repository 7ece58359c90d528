//! How fast the plugin's entry is put back.

use std::time::{Duration, Instant};

/// After the first time.
const SHORTEST: Duration = Duration::from_millis(100);
/// However often somebody takes it out.
const LONGEST: Duration = Duration::from_secs(10);
/// Left alone for so long, it is put back at once again.
const CALM: Duration = Duration::from_secs(60);

/// The first time at once, then each time after twice as long, so that two tools that
/// want different things don't keep each other busy.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<(Instant, Duration)>,
}

impl Pace {
    /// How long to wait before the entry may be put back.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        match self.last {
            Some((at, rest)) => (at + rest).saturating_duration_since(now),
            None => Duration::ZERO,
        }
    }

    /// It was put back.
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
