//! The connections' clock: kernel ticks, which a program can read at no cost.

use aya::programs::{TestRun as _, TestRunOptions};
use nix::time::{ClockId, clock_getres};
use ringfence_ebpf::conntrack::Clock;

use super::error::{DatapathError, chain};
use super::{Datapath, load};

/// The tick rate of this kernel (`CONFIG_HZ`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ticks(u32);

impl Ticks {
    /// Derives the rate from the resolution of the coarse clocks, which is one tick.
    pub(super) fn of_this_kernel() -> Result<Self, DatapathError> {
        let error = |message: String| DatapathError::Program {
            operation: "asking how fast the kernel ticks".to_owned(),
            message,
        };
        let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
            .map_err(|errno| error(errno.to_string()))?;
        let nanoseconds = u32::try_from(tick.tv_nsec()).unwrap_or_default();
        Self::of(nanoseconds).ok_or_else(|| error(format!("one tick is {nanoseconds} ns")))
    }

    /// Derives the rate from the length of a tick, which may be rounded.
    const fn of(nanoseconds: u32) -> Option<Self> {
        const SECOND: u32 = 1_000_000_000;
        if nanoseconds == 0 || nanoseconds > SECOND {
            return None;
        }
        Some(Self((SECOND + nanoseconds / 2) / nanoseconds))
    }

    /// Returns the number of ticks per second.
    pub(super) const fn per_second(self) -> u32 {
        self.0
    }
}

impl Datapath {
    /// Returns the current time of the connections' clock, as the hooks read it.
    pub(super) fn clock(&mut self) -> Result<Clock, DatapathError> {
        let error = |message| DatapathError::Program {
            operation: "reading the connections' clock".to_owned(),
            message,
        };
        load::program(self.links.ebpf(), load::CLOCK)?
            .test_run(TestRunOptions {
                data_in: Some(&[0; 14]),
                ..TestRunOptions::new()
            })
            .map_err(|failed| error(chain(&failed)))?;
        Ok(Clock {
            now: self.maps.ticks()?,
            second: u64::from(self.ticks.per_second()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_that_linux_can_be_built_with_is_found_from_its_tick() {
        for rate in [100, 250, 300, 1000, 1024] {
            assert_eq!(Ticks::of(1_000_000_000 / rate), Some(Ticks(rate)));
        }
        assert_eq!(Ticks::of(3_333_333), Some(Ticks(300)));
        assert_eq!(Ticks::of(0), None);
        assert_eq!(Ticks::of(u32::MAX), None);
    }
}
