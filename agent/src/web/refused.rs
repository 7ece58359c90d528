//! Connections that are closed unserved: counted one by one, and told in the log
//! once a minute at most.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounterVec, Opts};

/// Between two lines of the log about one listener.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Where connections come in.
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
    /// Every one of them.
    pub const ALL: [Self; 4] = [Self::Metrics, Self::Health, Self::Socket, Self::Api];

    /// As the metric and the log name it.
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
    /// Its client, or all clients together, hold as many as they may.
    Full,
    /// No whole request came in time, or the answer wasn't read in time.
    Slow,
    /// What came is no request, or is too large.
    Malformed,
    /// Its client is a pod under quarantine.
    Quarantine,
    /// `--metrics-from` doesn't name its client.
    NotListed,
    /// Its client has a link-local address.
    LinkLocal,
    /// It couldn't be accepted: the process or the machine has no files or memory left.
    NoResources,
    /// Its client is another user than root.
    NotRoot,
    /// Its client opens more connections a second than it may.
    TooOften,
    /// The client broke the TLS handshake off, as one does that doesn't trust the
    /// agent's certificate, or speaks no TLS 1.3.
    Handshake,
    /// The client showed no certificate.
    NoCertificate,
    /// The client's certificate is of none of the authorities of `--api-client-ca`.
    UnknownAuthority,
    /// The client's certificate has expired, or isn't valid yet.
    ExpiredCertificate,
    /// The client's certificate can't be used for something else.
    BadCertificate,
    /// No name of the client's certificate is an `--api-client-name`.
    NameNotListed,
}

impl Reason {
    /// Every one of them.
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

    /// As the metric and the log name it.
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

    /// Whether connections at a door can end so.
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

/// The counters of all doors.
#[derive(Debug)]
pub struct Refused {
    counters: IntCounterVec,
    told: Mutex<[Told; Door::ALL.len()]>,
}

/// What the log was told about one door.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    at: Option<Instant>,
    /// Refusals since then.
    since: u64,
}

impl Refused {
    /// Counters at zero. Fails only if a name here is malformed.
    pub fn new() -> prometheus::Result<Self> {
        let opts = Opts::new(
            "ringfence_connections_refused_total",
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

    /// For a registry; a handle on the same counters.
    pub fn counters(&self) -> IntCounterVec {
        self.counters.clone()
    }

    /// One more.
    pub fn note(&self, door: Door, reason: Reason) {
        let values = [door.name(), reason.name()];
        self.counters.with_label_values(&values).inc();
        if let Some(count) = self.is_to_be_told(door, Instant::now()) {
            tracing::warn!(
                listener = door.name(),
                reason = reason.name(),
                "{count} connections closed unserved; said once a minute at most"
            );
        }
    }

    /// How many since the last line, where it is time for another.
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

    /// How many of one kind so far.
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
