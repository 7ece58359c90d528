//! Waits after faults.

use std::time::Duration;

/// Exponential backoff with jitter between half and all of each wait: agents that lost a server
/// together don't come back together.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    /// Creates a backoff with the given first and longest wait.
    pub const fn new([first, last]: [Duration; 2]) -> Self {
        Self {
            first,
            last,
            next: first,
        }
    }

    /// Starts over from the first wait.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// Returns the next wait.
    pub fn wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.last);
        whole / 2 + (whole / 2).mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_last_and_begin_again_after_a_reset() {
        let mut backoff = Backoff::new([100, 400].map(Duration::from_millis));
        for whole in [100, 200, 400, 400] {
            let wait = backoff.wait().as_millis();
            assert!((whole / 2..=whole).contains(&wait), "{wait} of {whole}");
        }
        backoff.reset();
        assert!(backoff.wait().as_millis() <= 100);
    }

    #[test]
    fn no_two_agents_wait_the_same() {
        let agent = || Backoff::new([100, 400].map(Duration::from_millis));
        let waits: Vec<_> = (0..20).map(|_| agent().wait()).collect();
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }
}
