//! Connections that are closed unserved: each is counted, and they are logged at most once a
//! minute.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounterVec, Opts};

/// Interval between two log lines about one listener.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// A listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// `--metrics-addr`.
    Metrics,
    /// `--health-addr`.
    Health,
    /// `--socket`.
    Socket,
    /// `--api-addr`.
    Api,
}

impl Door {
    /// All listeners.
    pub const ALL: [Self; 4] = [Self::Metrics, Self::Health, Self::Socket, Self::Api];

    /// Returns the name used in the metric and the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Health => "health",
            Self::Socket => "socket",
            Self::Api => "api",
        }
    }
}

/// Why a connection is closed unserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The client, or all clients together, hold as many connections as they may.
    Full,
    /// No complete request came in time, or the answer wasn't read in time.
    Slow,
    /// The data is no request, or is too large.
    Malformed,
    /// The client is a pod under quarantine.
    Quarantine,
    /// The client isn't in `--metrics-from`.
    NotListed,
    /// The client has a link-local address.
    LinkLocal,
    /// The connection couldn't be accepted: the process or the machine is out of files or memory.
    NoResources,
    /// The client is a user other than root.
    NotRoot,
    /// The client opens more connections per second than it may.
    TooOften,
    /// The client aborted the TLS handshake, for example because it doesn't trust the agent's
    /// certificate or doesn't support TLS 1.3.
    Handshake,
    /// The client presented no certificate.
    NoCertificate,
    /// The client's certificate is from none of the authorities of `--api-client-ca`.
    UnknownAuthority,
    /// The client's certificate has expired, or isn't valid yet.
    ExpiredCertificate,
    /// The client's certificate can't be used for another reason.
    BadCertificate,
    /// No name of the client's certificate is an `--api-client-name`.
    NameNotListed,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 15] = [
        Self::Full,
        Self::Slow,
        Self::Malformed,
        Self::Quarantine,
        Self::NotListed,
        Self::LinkLocal,
        Self::NoResources,
        Self::NotRoot,
        Self::TooOften,
        Self::Handshake,
        Self::NoCertificate,
        Self::UnknownAuthority,
        Self::ExpiredCertificate,
        Self::BadCertificate,
        Self::NameNotListed,
    ];

    /// Returns the name used in the metric and the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Slow => "slow",
            Self::Malformed => "malformed",
            Self::Quarantine => "quarantine",
            Self::NotListed => "not_listed",
            Self::LinkLocal => "link_local",
            Self::NoResources => "no_resources",
            Self::NotRoot => "not_root",
            Self::TooOften => "too_often",
            Self::Handshake => "handshake",
            Self::NoCertificate => "no_certificate",
            Self::UnknownAuthority => "unknown_authority",
            Self::ExpiredCertificate => "expired_certificate",
            Self::BadCertificate => "bad_certificate",
            Self::NameNotListed => "name_not_listed",
        }
    }

    /// Reports whether the reason can occur on a listener.
    const fn is_of(self, door: Door) -> bool {
        match self {
            Self::Full | Self::Slow | Self::Malformed | Self::NoResources => true,
            Self::Quarantine | Self::LinkLocal => {
                matches!(door, Door::Metrics | Door::Health | Door::Api)
            }
            Self::NotListed => matches!(door, Door::Metrics | Door::Health),
            Self::NotRoot => matches!(door, Door::Socket),
            Self::TooOften
            | Self::Handshake
            | Self::NoCertificate
            | Self::UnknownAuthority
            | Self::ExpiredCertificate
            | Self::BadCertificate
            | Self::NameNotListed => matches!(door, Door::Api),
        }
    }
}

/// The counters of all listeners.
#[derive(Debug)]
pub struct Refused {
    counters: IntCounterVec,
    told: Mutex<[Told; Door::ALL.len()]>,
}

/// The state of the log about one listener.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    at: Option<Instant>,
    /// Refusals since the last log line.
    since: u64,
}

impl Refused {
    /// Creates counters at zero; fails only if a name here is malformed.
    pub fn new() -> prometheus::Result<Self> {
        let opts = Opts::new(
            "ringfence_clients_refused_total",
            "Connections to the agent that were closed unserved, by listener and reason.",
        );
        let counters = IntCounterVec::new(opts, &["listener", "reason"])?;
        for door in Door::ALL {
            for reason in Reason::ALL.into_iter().filter(|reason| reason.is_of(door)) {
                counters.with_label_values(&[door.name(), reason.name()]);
            }
        }
        Ok(Self {
            counters,
            told: Mutex::default(),
        })
    }

    /// Returns a handle on the same counters, for a registry.
    pub fn counters(&self) -> IntCounterVec {
        self.counters.clone()
    }

    /// Counts a refusal.
    pub fn note(&self, door: Door, reason: Reason) {
        let values = [door.name(), reason.name()];
        self.counters.with_label_values(&values).inc();
        if let Some(count) = self.is_to_be_told(door, Instant::now()) {
            tracing::warn!(
                listener = door.name(),
                reason = reason.name(),
                "{count} connections closed unserved; reported at most once a minute"
            );
        }
    }

    /// Returns the number of refusals since the last log line, if another line is due.
    fn is_to_be_told(&self, door: Door, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = &mut told[door as usize];
        told.since += 1;
        let is_due = |at: Instant| now.saturating_duration_since(at) >= TELL_AGAIN;
        told.at.is_none_or(is_due).then(|| {
            told.at = Some(now);
            std::mem::take(&mut told.since)
        })
    }

    /// Returns the number of refusals of one kind.
    #[cfg(test)]
    pub(crate) fn count(&self, door: Door, reason: Reason) -> u64 {
        let values = [door.name(), reason.name()];
        self.counters.with_label_values(&values).get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_and_the_log_hears_of_them_once_a_minute() {
        let refused = Refused::new().unwrap();
        let now = Instant::now();
        let tell = |after| refused.is_to_be_told(Door::Metrics, now + after);
        assert_eq!(tell(Duration::ZERO), Some(1));
        for _ in 0..9_999 {
            assert_eq!(tell(Duration::from_secs(59)), None);
        }
        let other = refused.is_to_be_told(Door::Health, now);
        assert_eq!(other, Some(1), "another listener's");
        assert_eq!(tell(TELL_AGAIN), Some(10_000));
        assert_eq!(tell(TELL_AGAIN), None);

        refused.note(Door::Metrics, Reason::Full);
        assert_eq!(refused.count(Door::Metrics, Reason::Full), 1);
        assert_eq!(refused.count(Door::Metrics, Reason::Slow), 0);
    }
}
