//! When a pass is made, and what it examines: a function of events and the time, without I/O.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::engine::{Look, Pass};

/// Interval between passes if nothing happens: the positions of the hooks are verified again, and
/// changes whose events were lost are found.
pub(super) const PERIOD: Duration = Duration::from_secs(5);
/// How long to wait after an event for related events.
const QUIET: Duration = Duration::from_millis(50);
/// Delay of the first retry; doubles up to [`PERIOD`].
const RETRY: Duration = Duration::from_millis(50);
/// Maximum time that a continuous stream of events delays a pass.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long it takes to write a record of the pod runtime once its file exists.
const WRITTEN: Duration = Duration::from_millis(2);

/// A reason to make a pass, or to end. The order is that in which events are handled that arrived
/// while none could be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Event {
    /// The process is to end.
    Stop,
    /// The pod runtime has recorded something, or a pod waits for its policy.
    Recorded,
    /// A network device of the node has changed.
    Device,
    /// Something else may have changed, or somebody has asked for a pass.
    Changed,
    /// The API server has sent something. Such an event is complete.
    Source,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Wait for an event, until this time at most.
    Wait(Instant),
    /// Make a pass.
    Pass(Order),
    /// End.
    Stop,
}

/// A pass to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Order {
    /// When the first event arrived that triggered the pass.
    pub(super) since: Option<Instant>,
    /// What it examines.
    pub(super) look: Look,
    /// A record triggered it, which may be the plugin's first.
    pub(super) recorded: bool,
}

impl Order {
    /// Reports whether the pass answers those who asked for one before it started.
    pub(super) fn answers(&self, pass: Pass) -> bool {
        self.look == Look::All && !pass.unsettled
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing has happened since the last pass.
    Idle,
    /// Events related to the first one put off the pass until `quiet`, but not beyond `deadline`.
    Gathering {
        first: Event,
        quiet: Instant,
        deadline: Instant,
    },
    /// The pod runtime writes a record: its first process starts a few milliseconds later.
    Writing { until: Instant },
    /// A pass is due at once.
    Ready(Look),
    /// A pass is being made.
    Passing(Look),
    /// The process ends.
    Stopped,
}

/// Decides when passes are made. One pass runs at a time; each [`Step::Pass`] is followed by
/// [`Scheduler::ended`].
#[derive(Debug)]
pub(super) struct Scheduler {
    state: State,
    /// When the first event arrived that the next pass is for; none if none has, or only from the
    /// API server, whose events carry their own time.
    since: Option<Instant>,
    /// When everything is examined again, regardless of events from the API server.
    next: Instant,
    /// Delay of the next retry.
    backoff: Duration,
    /// When the last pass ended.
    ended: Instant,
    /// Events to be handled after the next pass or the one being made.
    later: BTreeSet<Event>,
}

impl Scheduler {
    /// Creates a scheduler whose first pass is due.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            state: State::Idle,
            since: None,
            next: now,
            backoff: RETRY,
            ended: now,
            later: BTreeSet::new(),
        }
    }

    /// Handles an event.
    pub(super) fn hear(&mut self, event: Event, now: Instant) -> Step {
        self.take(event, now);
        self.due(now)
    }

    /// Handles the time until which [`Step::Wait`] said to wait. Nothing happens if it is earlier.
    pub(super) fn due(&mut self, now: Instant) -> Step {
        let (at, look) = match self.state {
            State::Idle => (self.next, Look::All),
            State::Gathering { quiet, .. } => (quiet, Look::All),
            State::Writing { until } => (until, Look::All),
            State::Ready(look) => (now, look),
            // Its end is the next step, whenever that is.
            State::Passing(_) => return Step::Wait(now + PERIOD),
            State::Stopped => return Step::Stop,
        };
        if now < at {
            return Step::Wait(at);
        }
        let recorded = matches!(self.state, State::Writing { .. });
        self.state = State::Passing(look);
        Step::Pass(Order {
            since: self.since.take(),
            look,
            recorded,
        })
    }

    /// Handles the end of the pass.
    pub(super) fn ended(&mut self, pass: Pass, now: Instant) -> Step {
        let State::Passing(look) = self.state else {
            return self.due(now);
        };
        let delay = if pass.unsettled {
            // Longer than the debounce time of a file.
            QUIET
        } else if pass.retry {
            self.backoff
        } else {
            PERIOD
        };
        let at = now + delay;
        match look {
            Look::All => {
                self.next = at;
                self.backoff = if pass.retry {
                    (self.backoff * 2).min(PERIOD)
                } else {
                    RETRY
                };
            }
            Look::Source => self.next = self.next.min(at),
        }
        self.ended = now;
        self.state = State::Idle;
        for event in std::mem::take(&mut self.later) {
            self.take(event, now);
        }
        self.due(now)
    }

    fn take(&mut self, event: Event, now: Instant) {
        self.state = match (self.state, event) {
            (State::Stopped, _) | (State::Idle, Event::Stop) => State::Stopped,
            (State::Idle, Event::Recorded) => {
                self.begin(now);
                State::Writing {
                    until: now + WRITTEN,
                }
            }
            (State::Idle, Event::Device) => {
                self.begin(now);
                // A new device may carry packets within milliseconds, so there is no delay. On a
                // node whose devices change all the time, related events are handled together.
                if now.saturating_duration_since(self.ended) < PATIENCE {
                    gather(event, now)
                } else {
                    State::Ready(Look::All)
                }
            }
            (State::Idle, Event::Changed) => {
                self.begin(now);
                gather(event, now)
            }
            // It isn't debounced: related events wait while the pass runs. A stream of them must
            // not put off the look at everything.
            (State::Idle, Event::Source) if now < self.next => State::Ready(Look::Source),
            (State::Idle | State::Gathering { .. }, Event::Source) => State::Ready(Look::All),
            (State::Gathering { .. }, Event::Recorded) => State::Writing {
                until: now + WRITTEN,
            },
            (
                State::Gathering {
                    first, deadline, ..
                },
                event,
            ) if event == first => State::Gathering {
                first,
                quiet: (now + QUIET).min(deadline),
                deadline,
            },
            (busy, event) => {
                self.later.insert(event);
                busy
            }
        };
    }

    /// Notes the first event of a pass. Something is new, so retries begin anew.
    const fn begin(&mut self, now: Instant) {
        self.since = Some(now);
        self.backoff = RETRY;
    }
}

fn gather(first: Event, now: Instant) -> State {
    State::Gathering {
        first,
        quiet: now + QUIET,
        deadline: now + PATIENCE,
    }
}

#[cfg(test)]
#[path = "scheduler_histories.rs"]
mod histories;
#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
