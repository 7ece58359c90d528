//! How long a watch waits after each fault, depending on what the fault implies about the server.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;
use super::fault::Fault;
use super::pace::Pace;

/// Agents whose server is back, or has forgotten their place in its history, come back spread over
/// this time, not all at once.
pub(super) const TOGETHER: Duration = Duration::from_secs(1);
/// After this time without faults, the waits of a watch start over.
const CALM: Duration = Duration::from_secs(60);
/// A server that is back may refuse requests that it will grant later, until it has loaded its
/// authorization rules.
const FINDING_ITSELF: Duration = Duration::from_secs(30);

/// Recent faults, as far as waits depend on them.
#[derive(Debug)]
pub(super) struct Waits {
    pace: Pace,
    backoff: Backoff,
    last_fault: Option<Instant>,
    /// The server couldn't be reached, and has given no answer since except that it is busy.
    is_away: bool,
    /// When the server started to answer after an outage.
    back: Option<Instant>,
    /// When the server had last forgotten the watch's place.
    last_gone: Option<Instant>,
}

impl Waits {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            backoff: Backoff::new(pace.backoff),
            last_fault: None,
            is_away: false,
            back: None,
            last_gone: None,
        }
    }

    /// Returns how long to wait after a fault.
    pub(super) fn after(&mut self, fault: Fault) -> Duration {
        if self.last_fault.is_some_and(|last| last.elapsed() > CALM) {
            self.backoff.reset();
        }
        match fault {
            Fault::Unreached => self.is_away = true,
            Fault::Busy => {}
            // The length of the outage is unrelated to how long the server refuses.
            Fault::Answered | Fault::Gone => {
                if std::mem::take(&mut self.is_away) {
                    self.backoff.reset();
                    self.back = Some(Instant::now());
                }
            }
        }
        match fault {
            Fault::Unreached => self.backoff.wait().min(self.pace.unreached),
            // A place that is lost repeatedly isn't the result of an outage.
            Fault::Gone if !self.was_gone() => {
                TOGETHER.min(self.pace.backoff[0]).mul_f64(fastrand::f64())
            }
            Fault::Answered if self.finds_itself() => {
                self.backoff.wait().min(self.pace.unreached / 2)
            }
            Fault::Gone | Fault::Answered | Fault::Busy => self.backoff.wait(),
        }
    }

    /// Records that the wait after the last fault is over.
    pub(super) fn waited(&mut self) {
        self.last_fault = Some(Instant::now());
    }

    /// Records that the place was lost, and reports whether it was lost recently before.
    fn was_gone(&mut self) -> bool {
        let last = self.last_gone.replace(Instant::now());
        last.is_some_and(|at| at.elapsed() <= CALM)
    }

    fn finds_itself(&self) -> bool {
        self.back.is_some_and(|at| at.elapsed() < FINDING_ITSELF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the wait after the last of some faults.
    fn longest(waits: &mut Waits, faults: &[Fault]) -> Duration {
        let mut last = Duration::ZERO;
        for fault in faults {
            last = waits.after(*fault);
            waits.waited();
        }
        last
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_after_an_outage_is_followed_soon_and_for_half_a_minute() {
        let pace = Pace::default();
        let mut waits = Waits::new(pace);
        let cap = pace.unreached / 2;
        assert!(longest(&mut waits, &[Fault::Unreached; 9]) <= pace.unreached);
        // Busy is no answer: the server isn't back.
        assert!(longest(&mut waits, &[Fault::Busy]) >= pace.backoff[1] / 2);
        assert!(longest(&mut waits, &[Fault::Answered]) <= pace.backoff[0]);
        assert!(longest(&mut waits, &[Fault::Answered; 9]) <= cap);
        tokio::time::advance(FINDING_ITSELF).await;
        assert!(longest(&mut waits, &[Fault::Answered; 9]) > cap);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_no_outage_came_before_is_waited_out_longer_and_longer() {
        let mut waits = Waits::new(Pace::default());
        assert!(longest(&mut waits, &[Fault::Answered; 9]) > Duration::from_secs(10));
        tokio::time::advance(2 * CALM).await;
        let first = longest(&mut waits, &[Fault::Answered]);
        assert!(first <= Pace::default().backoff[0], "{first:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_lost_once_is_listed_anew_at_once_and_again_later() {
        let pace = Pace::default();
        let mut waits = Waits::new(pace);
        longest(&mut waits, &[Fault::Unreached; 9]);
        assert!(longest(&mut waits, &[Fault::Gone]) <= pace.backoff[0]);
        assert!(longest(&mut waits, &[Fault::Gone; 9]) > TOGETHER);
    }
}
