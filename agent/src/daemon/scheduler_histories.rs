//! Random histories of events and passes. Their oracle tells the same rules as a sequence of waits,
//! in which whatever isn't listened to stays where it is.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Milliseconds from the event before, and the event.
type Coming = (u64, Event);
/// How long a pass takes in milliseconds, and its outcome.
type Passes = (u64, Pass);

const EVERY: [Event; 5] = [
    Event::Stop,
    Event::Recorded,
    Event::Device,
    Event::Changed,
    Event::Source,
];

/// A pass that was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Made {
    order: Order,
    began: Instant,
    ended: Instant,
    pass: Pass,
}

/// The clock, the events to come, and how passes go.
struct Simulation {
    now: Instant,
    coming: VecDeque<(Instant, Event)>,
    /// Events that have arrived and nobody has heard.
    waiting: BTreeSet<Event>,
    passes: Vec<Passes>,
    made: Vec<Made>,
}

impl Simulation {
    fn new(start: Instant, events: &[Coming], passes: &[Passes]) -> Self {
        let mut at = start;
        let last = (10_000, Event::Stop);
        let all = events.iter().chain([&last]).zip(1..);
        // Each event has its own microsecond, so that none meets another one or a deadline.
        let coming = all.map(|((gap, event), n)| {
            at += Duration::from_millis(*gap);
            (at + Duration::from_micros(n), *event)
        });
        Self {
            now: start,
            coming: coming.collect(),
            waiting: BTreeSet::new(),
            passes: passes.to_vec(),
            made: Vec::new(),
        }
    }

    fn arrive(&mut self) {
        while let Some((_, event)) = self.coming.pop_front_if(|(at, _)| *at <= self.now) {
            self.waiting.insert(event);
        }
    }

    /// Waits for one of these events, until this time at most.
    fn hear(&mut self, kinds: &[Event], until: Instant) -> Option<Event> {
        loop {
            self.arrive();
            let heard = self.waiting.iter().find(|event| kinds.contains(event));
            if let Some(event) = heard.copied() {
                self.waiting.remove(&event);
                return Some(event);
            }
            match self.coming.front() {
                Some((at, _)) if *at <= until => self.now = *at,
                _ => {
                    self.now = self.now.max(until);
                    return None;
                }
            }
        }
    }

    fn pass(&mut self, order: Order) -> Pass {
        let (takes, pass) = self.passes[self.made.len() % self.passes.len()];
        let began = self.now;
        self.now += Duration::from_millis(takes);
        self.made.push(Made {
            order,
            began,
            ended: self.now,
            pass,
        });
        pass
    }

    /// Waits for events related to the first one. Reports whether a record ended the wait.
    fn debounce(&mut self, first: Event) -> bool {
        let deadline = self.now + PATIENCE;
        while self.now < deadline {
            let quiet = (self.now + QUIET).min(deadline);
            match self.hear(&[first, Event::Recorded, Event::Source], quiet) {
                Some(Event::Recorded) => {
                    self.now += WRITTEN;
                    return true;
                }
                Some(event) if event == first => {}
                _ => return false,
            }
        }
        false
    }
}

/// Retries wait twice as long each, until a pass needs none.
fn longer(backoff: Duration, pass: Pass) -> Duration {
    match pass.retry {
        true => (backoff * 2).min(PERIOD),
        false => RETRY,
    }
}

/// The oracle.
fn expected(mut sim: Simulation) -> Vec<Made> {
    let mut next = sim.now;
    let mut backoff = RETRY;
    let (mut since, mut look, mut recorded) = (None, Look::All, false);
    loop {
        let pass = sim.pass(Order {
            since,
            look,
            recorded,
        });
        let ended = sim.now;
        let delay = match pass {
            Pass {
                unsettled: true, ..
            } => QUIET,
            Pass { retry: true, .. } => backoff,
            _ => PERIOD,
        };
        if look == Look::All {
            next = ended + delay;
            backoff = longer(backoff, pass);
        } else {
            next = next.min(ended + delay);
        }
        (since, look, recorded) = (None, Look::All, false);
        let event = sim.hear(&EVERY, next);
        if matches!(
            event,
            Some(Event::Recorded | Event::Device | Event::Changed)
        ) {
            since = Some(sim.now);
            backoff = RETRY;
        }
        match event {
            Some(Event::Stop) => return sim.made,
            Some(Event::Source) if sim.now < next => look = Look::Source,
            Some(Event::Recorded) => {
                sim.now += WRITTEN;
                recorded = true;
            }
            Some(Event::Device) if sim.now - ended >= PATIENCE => {}
            Some(event @ (Event::Device | Event::Changed)) => recorded = sim.debounce(event),
            Some(Event::Source) | None => {}
        }
    }
}

/// Runs the scheduler. `eager`: it hears at once of events that arrive during a pass.
fn scheduled(mut sim: Simulation, eager: bool) -> Vec<Made> {
    let mut scheduler = Scheduler::new(sim.now);
    let mut step = scheduler.due(sim.now);
    loop {
        step = match step {
            Step::Stop => return sim.made,
            Step::Wait(until) => {
                assert!(sim.now < until, "a wait that is over");
                assert!(until <= sim.now + PERIOD, "a wait beyond the period");
                match sim.hear(&EVERY, until) {
                    Some(event) => scheduler.hear(event, sim.now),
                    None => scheduler.due(sim.now),
                }
            }
            Step::Pass(order) => {
                let pass = sim.pass(order);
                sim.arrive();
                if eager {
                    for event in std::mem::take(&mut sim.waiting) {
                        let step = scheduler.hear(event, sim.now);
                        assert!(matches!(step, Step::Wait(_)), "two passes at once");
                    }
                }
                scheduler.ended(pass, sim.now)
            }
        };
    }
}

/// Returns the moment, or the end of the pass that ran then.
fn free(made: &[Made], at: Instant) -> Instant {
    let running = made.iter().find(|one| one.began <= at && at < one.ended);
    running.map_or(at, |one| one.ended)
}

/// Returns whether a pass begins from `from` on in time after `due`, which looks at everything
/// unless `source`. The pass that runs then may be followed at once by one of what the API server
/// sent, before the scheduler hears of anything else.
fn follows(made: &[Made], from: Instant, due: Instant, source: bool) -> bool {
    let latest = free(made, free(made, due)) + PATIENCE + WRITTEN;
    made.iter()
        .any(|one| (from..=latest).contains(&one.began) && (source || one.order.look == Look::All))
}

fn event() -> impl Strategy<Value = Coming> {
    let gap = prop_oneof![4 => 0..60_u64, 2 => 0..600_u64, 1 => 0..9000_u64];
    (gap, prop::sample::select(EVERY[1..].to_vec()))
}

fn passes() -> impl Strategy<Value = Passes> {
    let takes = prop_oneof![4 => 1..30_u64, 1 => 1..2000_u64];
    let outcome = (prop::bool::weighted(0.2), prop::bool::weighted(0.4));
    (takes, outcome).prop_map(|(takes, (unsettled, retry))| {
        let pass = Pass {
            unsettled,
            waits: false,
            retry,
        };
        (takes, pass)
    })
}

proptest! {
    #[test]
    fn any_history_leads_to_the_passes_that_a_sequence_of_waits_makes(
        events in vec(event(), 0..60),
        passes in vec(passes(), 1..8),
    ) {
        let start = Instant::now();
        let sim = || Simulation::new(start, &events, &passes);
        prop_assert_eq!(scheduled(sim(), true), expected(sim()));
    }

    #[test]
    fn every_event_is_followed_by_a_pass_and_every_failed_pass_by_a_retry_in_time(
        events in vec(event(), 0..60),
        passes in vec(passes(), 1..8),
        eager in any::<bool>(),
    ) {
        let start = Instant::now();
        let sim = || Simulation::new(start, &events, &passes);
        let made = scheduled(sim(), eager);
        for (at, event) in sim().coming {
            let source = event == Event::Source;
            let stop = event == Event::Stop;
            prop_assert!(stop || follows(&made, at, at, source), "{event:?} at {at:?}");
        }
        let (end, _) = sim().coming[events.len()];
        let mut backoff = RETRY;
        for one in made.iter().filter(|one| one.order.look == Look::All) {
            if one.order.since.is_some() {
                backoff = RETRY;
            }
            let delay = match one.pass {
                Pass { unsettled: true, .. } => QUIET,
                Pass { retry: true, .. } => backoff,
                _ => PERIOD,
            };
            backoff = longer(backoff, one.pass);
            let due = one.ended + delay;
            let ends = end <= free(&made, free(&made, due)) + PATIENCE + WRITTEN;
            prop_assert!(ends || follows(&made, one.ended, due, false), "{one:?}");
        }
    }
}
