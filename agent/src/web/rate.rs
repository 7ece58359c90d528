//! Limits how often each client may start a TLS handshake, which costs up to a millisecond of a CPU
//! before anything is known about the client. Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Burst of handshakes of one client.
const BURST: u32 = 64;
/// Average interval between two handshakes of a client.
const EACH: Duration = Duration::from_micros(62_500);
/// Burst of handshakes of all clients together.
const BURST_OF_ALL: u32 = 512;
/// Average interval of all clients together: at most a quarter of a CPU.
const EACH_OF_ALL: Duration = Duration::from_micros(3_906);
/// Maximum number of clients that are tracked. Those whose bucket is full are dropped first.
const CLIENTS: usize = 4096;

/// Recent use.
#[derive(Debug, Default)]
pub(super) struct Rate {
    all: Bucket,
    clients: HashMap<IpAddr, Bucket>,
}

impl Rate {
    /// Takes one handshake; returns false if the client or all clients together have reached their
    /// limit.
    pub(super) fn take(&mut self, client: IpAddr, now: Instant) -> bool {
        if self.clients.len() >= CLIENTS {
            self.clients.retain(|_, bucket| !bucket.is_full(now));
        }
        let is_new = !self.clients.contains_key(&client);
        if is_new && self.clients.len() >= CLIENTS {
            return false;
        }
        let bucket = self.clients.entry(client).or_default();
        // In this order: a client over its own limit takes nothing from the shared budget.
        bucket.take(now, BURST, EACH) && self.all.take(now, BURST_OF_ALL, EACH_OF_ALL)
    }
}

/// A token bucket, represented by the time at which it is full again; none if it is full.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    owes_until: Option<Instant>,
}

impl Bucket {
    fn take(&mut self, now: Instant, burst: u32, each: Duration) -> bool {
        let owes_until = self.owes_until.map_or(now, |until| until.max(now)) + each;
        let fits = owes_until.saturating_duration_since(now) <= each * burst;
        if fits {
            self.owes_until = Some(owes_until);
        }
        fits
    }

    fn is_full(self, now: Instant) -> bool {
        self.owes_until.is_none_or(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    fn taken(rate: &mut Rate, client: IpAddr, now: Instant, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(rate.take(client, now))).sum()
    }

    #[test]
    fn a_client_has_its_burst_then_sixteen_a_second_and_takes_nothing_from_others() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        assert_eq!(taken(&mut rate, client(1), start, 10_000), BURST);
        assert_eq!(taken(&mut rate, client(2), start, 5), 5);
        let later = start + Duration::from_secs(1);
        assert_eq!(taken(&mut rate, client(1), later, 10_000), 16);
        let much_later = start + Duration::from_secs(60);
        assert_eq!(taken(&mut rate, client(1), much_later, 10_000), BURST);
    }

    #[test]
    fn all_clients_together_cost_no_more_than_a_part_of_a_cpu() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        let mut sum = 0;
        for number in 0..1000 {
            sum += taken(&mut rate, client(number), start, 2);
        }
        assert_eq!(sum, BURST_OF_ALL);
        let later = start + Duration::from_secs(1);
        let second: u32 = (0..1000)
            .map(|number| taken(&mut rate, client(number), later, 1))
            .sum();
        assert!((250..=257).contains(&second), "{second}");
    }

    #[test]
    fn a_bounded_number_of_clients_is_remembered() {
        let (mut rate, mut now) = (Rate::default(), Instant::now());
        for number in 0..20_000 {
            now += Duration::from_micros(10);
            rate.take(client(number), now);
            assert!(rate.clients.len() <= CLIENTS);
        }
        let later = now + Duration::from_secs(60);
        assert!(rate.take(client(1_000_000), later));
    }
}
